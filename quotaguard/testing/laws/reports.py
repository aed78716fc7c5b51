"""The provider's stats endpoints for people: asked at home, read without surprises."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from quotaguard.errors import ProviderError
from quotaguard.quota.calls import Outcome, Report
from quotaguard.testing.hostile import CLUMSY
from quotaguard.testing.laws.identity import asked_at, echoes, unfolded
from quotaguard.testing.laws.subject import HOME, Subject

if TYPE_CHECKING:
    from quotaguard.providers import Provider

__all__ = ["reports"]


def reports(subject: Subject) -> None:
    """Each reader asks the vendor alone, with the key in headers, and reads or raises."""
    provider = subject.made()
    strange = sorted({*subject.reports, *subject.arguments} - set(provider.reports))
    if strange:
        do = f"it has {', '.join(sorted(provider.reports)) or 'none'}"
        subject.broken("reports", f"there is no report {strange[0]!r}", do=do)
    for name in provider.reports:
        _reader(subject, provider, name)


def _reader(subject: Subject, provider: Provider, name: str) -> None:
    report, again = (_made(subject, provider, name) for _ in "12")
    do = "a report's key names the endpoint and the arguments, and is hashable"
    if hash(report.key) != hash(again.key) or report.key != again.key:
        subject.broken("reports", f"two equal questions of {name!r} have two keys", do=do)
    asked = report.ask()
    asked_at(subject, "reports", asked, HOME, provider)
    if subject.keys[0].encode() in (asked.body or b""):
        what = f"the question of {name!r} has the key in its body"
        subject.broken("reports", what, do="send it in a header")
    if subject.keys[0] in repr(report):
        subject.broken("reports", f"repr() of the report {name!r} shows the key", do=do)
    _answers(subject, provider, name, report)


def _made(subject: Subject, provider: Provider, name: str) -> Report[Any]:
    told = subject.arguments.get(name, ())
    named = told if isinstance(told, Mapping) else {}
    given: Sequence[Any] = () if isinstance(told, Mapping) else tuple(told)
    try:
        return provider.reports[name](*given, **named)
    except Exception as error:  # noqa: BLE001 - that is the breach
        what = f"the reader {name!r} raised {type(error).__name__}: {error}"
        do = "give check_provider(arguments={" + repr(name) + ": (...)}) what it takes"
        subject.broken("reports", what, given=told, do=do, cause=error)


def _answers(subject: Subject, provider: Provider, name: str, report: Report[Any]) -> None:
    good = subject.reports.get(name, ())
    for answer in good:
        said = _read(subject, name, report, answer)
        if isinstance(said, ProviderError):
            what = f"a good answer of {name!r} is a {type(said).__name__}: {said}"
            subject.broken("reports", what, given=answer, do="read what the vendor documents")
        if repr(said) != repr(_read(subject, name, report, answer)):
            subject.broken("reports", "one answer has two records", given=answer, do="be pure")
    hostile = subject.hostile(f"reports {name}", good or None)
    wild = [hostile.outcome() for _ in range(subject.inputs // 4)]
    bodies = [answer.body for answer in good] or [b"{}"]
    wild += [Outcome(status, {}, bodies[0]) for status in range(300, 600)]
    wild += [Outcome(200, {}, body) for body in CLUMSY.values()]
    wild += echoes(subject.keys[0], good)
    for outcome in wild:
        said = _read(subject, name, report, outcome)
        if isinstance(said, ProviderError):
            if said.provider != provider.name or subject.keys[0] in unfolded(said):
                what = f"an error of {name!r} does not name the provider, or shows the key"
                subject.broken("reports", what, given=outcome, do="make errors by Faults")
        elif outcome.status >= 300:
            what = f"a {outcome.status} was read by {name!r}"
            subject.broken("reports", what, given=outcome, do="raise what the status says")


def _read(subject: Subject, name: str, report: Report[Any], outcome: Outcome) -> object:
    try:
        said: object = report.read(outcome)
    except ProviderError as error:
        return error
    except Exception as error:  # noqa: BLE001 - that is the breach
        what = f"the reader {name!r} raised {type(error).__name__}: {error}"
        do = "read by quotaguard.quota.answers.Faults.read, which raises StatsUnreadable"
        subject.broken("reports", what, given=outcome, do=do, cause=error)
    return said

"""What a stats answer may become: a reading, or an error of the declared kinds."""

from __future__ import annotations

import contextlib
import itertools
import math
import pickle
import time
import tracemalloc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quotaguard.errors import ProviderError, StatsForbidden
from quotaguard.quota.calls import Outcome
from quotaguard.quota.readings import Period, Reading, Usage
from quotaguard.testing.hostile import CLUMSY, WRONG, doubled, nodes, planted, told, without
from quotaguard.testing.laws.subject import Subject, reader_of, remainder

if TYPE_CHECKING:
    from quotaguard.providers import Provider
    from quotaguard.testing.hostile import Path

__all__ = [
    "ORDINARY",
    "Speed",
    "errors",
    "forbidden",
    "judged",
    "reading",
    "remains",
    "speed",
    "statuses",
]

SLOWEST = 0.05
"""Seconds of this thread's time for an ordinary answer; the goal is 0.001, the machine is busy."""

SLOWEST_LONG = 2.0
"""Seconds for the longest answers that a poll takes, 256 KiB of whatever is worst."""

MOST_MEMORY = 1024 * 1024
"""Bytes for an ordinary answer, of at most `ORDINARY` bytes."""

ORDINARY = 16 * 1024

MOST_NODES = 500
"""Values of one good answer in whose place something wrong is put."""


def reading(subject: Subject) -> None:
    """Every good answer is a reading of meters that there are."""
    provider = subject.made()
    do = "give check_provider answers that the vendor really sends, and read them"
    for answer in subject.answers:
        said = subject.read(answer, provider)
        if isinstance(said, ProviderError):
            what = f"a good answer is a {type(said).__name__}: {said}"
            subject.broken("reading", what, given=answer, do=do)
        judged(subject, "reading", said, answer, provider)
        if not said.usages:
            subject.broken("reading", "a good answer names no meter", given=answer, do=do)


def judged(subject: Subject, law: str, said: Reading, outcome: Outcome, provider: Provider) -> None:
    """Judge a reading by itself: integers, meters that there are, a period that is one."""
    fault = _fault_of(said, provider)
    if fault:
        do = "counts are integers from 0 upwards, limit=None is unlimited, and what cannot be "
        do += "read is left out: use quotaguard.quota.fields.whole and Period.parse"
        subject.broken(law, f"the reading {fault}", given=outcome, do=do)


def _fault_of(said: object, provider: Provider) -> str:
    if not isinstance(said, Reading):
        return f"is a {type(said).__name__}"
    usages: Mapping[str, object] = said.usages
    for name, usage in usages.items():
        if name not in provider.meters:
            return f"names the meter {name!r}, which is not declared"
        if not isinstance(usage, Usage):
            return f"has {usage!r} for {name}"
        counts = (usage.used, *(() if usage.limit is None else (usage.limit,)))
        if any(type(count) is not int or count < 0 for count in counts):
            return f"has used={usage.used!r} and limit={usage.limit!r} for {name}"
    return _fault_of_period(said.period)


def _fault_of_period(period: Period) -> str:
    try:
        starts, ends = period.starts_at, period.ends_at
    except (ValueError, OverflowError, OSError, TypeError):
        return "has a period whose ends are no dates that can be shown"
    if starts is not None and ends is not None and ends <= starts:
        return "has a period that ends before it starts"
    return "" if period.skew >= 0 and math.isfinite(period.skew) else "has no skew of its period"


def errors(subject: Subject) -> None:
    """Whatever the bytes are: a good reading, or a ProviderError that names the provider."""
    provider, hostile = subject.made(), subject.hostile("errors")
    for outcome in _many(subject, hostile.outcome):
        if reader_of(provider) != provider.read_stats:
            subject.read(outcome, provider, by=provider.read_stats)
        said = subject.read(outcome, provider)
        if isinstance(said, ProviderError):
            _declared(subject, said, outcome, provider)
        else:
            judged(subject, "errors", said, outcome, provider)


def _many(subject: Subject, make: Any) -> Iterator[Outcome]:  # noqa: ANN401 - makes outcomes
    for body in (*CLUMSY.values(), None):
        for status in (200, 403, 500):
            yield Outcome(status, {}, body)
    for _ in range(subject.inputs):
        yield make()


def _declared(subject: Subject, error: ProviderError, outcome: Outcome, provider: Provider) -> None:
    do = "make errors by quotaguard.quota.answers.Faults, with name, status and request id"
    if type(error) is ProviderError:
        what = "the error is a bare ProviderError, which does not say what is wrong"
        subject.broken("errors", what, given=outcome, do="raise one of its four kinds")
    if error.provider != provider.name:
        what = f"the error says that {error.provider!r} is at fault"
        subject.broken("errors", what, given=outcome, do=do)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - made a line above
    if str(again) != str(error):
        what = "the error is another one after pickling"
        subject.broken("errors", what, given=outcome, do=do)
    if len(str(error)) > 600:
        what = f"the error's text has {len(str(error)):,} characters, so it quotes the answer"
        subject.broken("errors", what, given=outcome, do=do)


def statuses(subject: Subject) -> None:
    """Redirects, refusals and faults are no readings, however good their body looks."""
    provider = subject.made()
    good = {answer.status for answer in subject.answers}
    do = "read statuses that are documented to carry a reading, raise for all others"
    for status in range(300, 600):
        for answer in subject.answers if status not in good else ():
            outcome = answer._replace(status=status)
            if not isinstance(subject.read(outcome, provider), ProviderError):
                subject.broken("statuses", f"a {status} was read", given=outcome, do=do)
    for status in sorted(good):
        outcome = Outcome(status, {"content-type": "text/html"}, CLUMSY["HTML"])
        if not isinstance(subject.read(outcome, provider), ProviderError):
            subject.broken("statuses", "a page of HTML was read", given=outcome, do=do)


def forbidden(subject: Subject) -> None:
    """401 and 403 without a word are StatsForbidden: somebody must look at the key."""
    provider = subject.made()
    for status in (401, 403):
        for body in (b"", b"{}", CLUMSY["HTML"]):
            outcome = Outcome(status, {}, body)
            said = subject.read(outcome, provider)
            if not isinstance(said, StatsForbidden):
                what = f"a {status} that says nothing is a {type(said).__name__}"
                do = "raise StatsForbidden: polls stop after three, and the user is told"
                subject.broken("forbidden", what, given=outcome, do=do)


# -- nothing bad raises the remainder -------------------------------------------


MEANT: Mapping[Any, str] = {None: "null", ...: "missing", -1: "-1"}
"""What a vendor may mean unlimited by, and how it is called among what is wrong."""


def remains(subject: Subject) -> None:
    """What is no count, or is not there, never leaves more units than the good answer."""
    provider = subject.made()
    free = {MEANT[each] for each in subject.unlimited}
    for answer in subject.answers:
        said = told(answer.body)
        good = subject.read(answer, provider)
        if not isinstance(good, Reading):
            continue
        for path, value in itertools.islice(nodes(said), MOST_NODES):
            for what, body in _spoilt(said, path, value):
                outcome = answer._replace(body=body)
                read = subject.read(outcome, provider)
                meter = _raised(good, read, free=what in free)
                if meter:
                    _tell(subject, meter, ".".join(map(str, path)), what, outcome)


def _spoilt(said: object, path: Path, value: object) -> Iterator[tuple[str, bytes]]:
    """Yield bodies in which one value is wrong, and how; a flag may be one or the other."""
    if isinstance(value, bool):
        return
    for what, raw in WRONG.items():
        if not (isinstance(value, list) and what == "a list"):
            yield what, planted(said, path, raw)
    yield "missing", without(said, path)
    if isinstance(path[-1], str):
        yield "there twice", doubled(said, path, b"0")
        yield "there twice, once large", doubled(said, path, b"999999999999")


def _raised(good: Reading, read: Reading | ProviderError, *, free: bool) -> str:
    """Return the meter of which more is left than before; *free*: it may be unlimited now."""
    for name, usage in read.usages.items() if isinstance(read, Reading) else ():
        before = good.usages.get(name)
        if before is None or (free and usage.limit is None):
            continue
        if remainder(usage) > remainder(before):
            return name
    return ""


def _tell(subject: Subject, meter: str, path: str, what: str, outcome: Outcome) -> None:
    do = "leave a meter out whose numbers are not right, or raise StatsUnreadable; where the "
    do += "vendor means unlimited by it, say so: unlimited=(None,) for null, (...,) for a "
    do += "limit that is left out, (-1,) for that number"
    subject.broken(
        "remains", f"with {path} {what} there is more left of {meter}", given=outcome, do=do
    )


# -- speed ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Speed:
    """Seconds of thread time per answer, and the most bytes that one took."""

    median: float
    longest: float
    memory: int


def speed(subject: Subject) -> Speed:
    """An answer is read in about a millisecond and a mebibyte, the worst ones too."""
    provider, hostile = subject.made(), subject.hostile("speed")
    ordinary = [*subject.answers, *(hostile.outcome() for _ in range(min(subject.inputs, 500)))]
    ordinary = [each for each in ordinary if len(each.body or b"") <= ORDINARY]
    times = sorted(_timed(subject, provider, each, SLOWEST) for each in ordinary)
    for body in CLUMSY.values():
        most = SLOWEST if len(body) <= ORDINARY else SLOWEST_LONG
        _timed(subject, provider, Outcome(200, {}, body), most)
    memory = max(_memory(provider, each) for each in ordinary[:50])
    if memory > MOST_MEMORY:
        what = f"an answer of at most {ORDINARY // 1024} KiB took {memory / 2**20:.1f} MiB"
        subject.broken("speed", what, do="parse once, and keep no copies")
    return Speed(times[len(times) // 2], times[-1], memory)


def _timed(subject: Subject, provider: Provider, outcome: Outcome, most: float) -> float:
    """Return the shortest time that the answer took, of up to three."""
    took = math.inf
    for _ in range(3):
        began = time.thread_time()
        with contextlib.suppress(Exception):  # another law's business
            reader_of(provider)(outcome)
        took = min(took, time.thread_time() - began)
        if took <= most:
            break
    else:
        what = f"an answer took {took:.2f} s of the processor, and {most:g} s are plenty"
        do = "read it in one pass; regular expressions on what the vendor sends get short pieces"
        subject.broken("speed", what, given=outcome, do=do)
    return took


def _memory(provider: Provider, outcome: Outcome) -> int:
    tracing = tracemalloc.is_tracing()
    if not tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with contextlib.suppress(Exception):  # another law's business
            reader_of(provider)(outcome)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        if not tracing:
            tracemalloc.stop()

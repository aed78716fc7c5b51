"""What calls may cost: prices before, bills after, and whose they are."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from quotaguard.quota.calls import Bill, Call, Outcome, Price
from quotaguard.testing.hostile import CLUMSY, HEADERS, WRONG, nodes, planted, told, without
from quotaguard.testing.laws.costs import fault_in, more_than
from quotaguard.testing.laws.subject import HOME, WALL, PaidCall, Subject

if TYPE_CHECKING:
    from quotaguard.providers import Provider
    from quotaguard.testing.hostile import Hostile

__all__ = ["bill", "doubt", "foreign", "most", "price"]

MOST_PAUSE = 3600.0
"""Seconds: a longer pause would park workers, it is a mistake or means the month."""

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", "", "\N{SNOWMAN}")
ORIGINS = (HOME, "https://other.example", "http://vendor.example", f"{HOME}:444", "", "null")
PATHS = ("/", "", "//", "/..", "/%2e%2e/", "/\N{SNOWMAN}", "/" + "a/" * 2000, "/\x00", "*")


def price(subject: Subject) -> None:
    """A call has a price of declared meters, or none; whatever it is, nothing is raised."""
    provider, hostile = subject.made(), subject.hostile("price")
    for paid in subject.calls(provider):
        _priced(subject, provider, paid.call)
        if _price(subject, provider, paid.call._replace(origin="https://other.example")):
            do = "compare call.origin with the origin of base_url"
            subject.broken("price", "a call of another host has a price", given=paid.call, do=do)
        for body in (None, b"", *CLUMSY.values(), *(hostile.body() for _ in range(50))):
            _price(subject, provider, paid.call._replace(body=body))
        streamed = paid.call._replace(body=None)
        if _price(subject, provider, streamed) is None:
            do = "price what is in doubt at its maximum: a stream's body cannot be looked at"
            subject.broken("price", "a body that is a stream makes it free", given=streamed, do=do)
    asked = provider.stats_request(WALL)
    poll = Call(asked.method, HOME, urlsplit(asked.url).path, MappingProxyType({}), asked.body)
    if _price(subject, provider, poll) is not None:
        what = "the stats poll itself has a price, so a guarded poll would wait for a poll"
        subject.broken("price", what, given=poll, do="price the metered paths alone")
    for call in _odd(subject, provider, hostile):
        _price(subject, provider, call)


def _odd(subject: Subject, provider: Provider, hostile: Hostile) -> Iterator[Call]:
    """Yield calls that nobody should make."""
    chance = random.Random(subject.seed)  # noqa: S311 - keeps no secret
    known = tuple(paid.call for paid in subject.calls(provider))
    paths = (*PATHS, *(call.path for call in known), *(f"{call.path}//x" for call in known))
    for _ in range(subject.inputs // 4):
        yield Call(
            chance.choice((*METHODS, *(call.method for call in known))),
            chance.choice(ORIGINS),
            chance.choice(paths),
            hostile.headers(),
            chance.choice((None, b"", hostile.body())),
        )


def _price(subject: Subject, provider: Provider, call: Call) -> Price | None:
    """Return the price, judged by itself."""
    try:
        said = provider.price(call)
    except Exception as error:  # noqa: BLE001 - that is the breach
        do = "return None for what has no meter; a fault here would reach the application's call"
        what = f"price() raised {type(error).__name__}: {error}"
        subject.broken("price", what, given=call, do=do, cause=error)
    if said is None:
        return None
    fault = fault_in(said.cost, provider.meters)
    if fault:
        do = "name declared meters only, with units from 0 upwards"
        subject.broken("price", f"the price {fault}", given=call, do=do)
    return said


def _priced(subject: Subject, provider: Provider, call: Call) -> Price:
    said = _price(subject, provider, call)
    if said is None:
        what = f"{call.method} {call.path} of check_provider(calls=...) has no price"
        do = "give it one, or give check_provider a call that is metered"
        subject.broken("price", what, given=call, do=do)
    if said.operation not in provider.operations:
        what = f"the operation {said.operation!r} of a price is not among its operations"
        subject.broken("price", what, given=call, do="name it in operations, with its cost")
    return said


# -- bills ------------------------------------------------------------------------


def bill(subject: Subject) -> None:
    """Any answer is billed in declared meters, or unknown; nothing is raised."""
    provider = subject.made()
    for paid in subject.calls(provider):
        hostile = subject.hostile("bill", paid.answers)
        for outcome in _answers(subject, paid, hostile):
            said = _bill(subject, provider, paid.call, outcome)
            if said.wants_body and outcome.body is not None:
                what = "a bill wants the body that it has just been given"
                subject.broken("bill", what, given=outcome, do="decide, or leave it unknown")
    strange = Call("GET", "https://other.example", "/", {}, None)
    for status in (200, 404, 500):
        _bill(subject, provider, strange, Outcome(status, {}, b"{}"))


def most(subject: Subject) -> None:
    """No answer costs more than was reserved: the quota was only asked for that."""
    provider = subject.made()
    for paid in subject.calls(provider):
        held = _priced(subject, provider, paid.call).cost
        hostile = subject.hostile("bill", paid.answers)
        for outcome in _answers(subject, paid, hostile):
            cost = _bill(subject, provider, paid.call, outcome).cost
            more = None if cost is None else more_than(cost, held, provider.meters)
            if more:
                do = "reserve the maximum in price(), and cap what the vendor claims at it; where "
                do += 'it may really cost more, that is counted and told: but=["most"]'
                what = f"a bill has more {more} than the call had reserved"
                subject.broken("most", what, given=outcome, do=do)


def _answers(subject: Subject, paid: PaidCall, hostile: Hostile) -> Iterator[Outcome]:
    yield from paid.answers
    bodies = (None, b"", *(answer.body for answer in paid.answers))
    for status in range(100, 600):
        for body in bodies if status % 100 < 40 else bodies[:2]:
            yield Outcome(status, {}, body)
    for name, values in HEADERS.items():
        for value in values:
            for status in (200, 403, 429, 503):
                yield Outcome(status, {name: value}, None)
    statuses = [answer.status for answer in paid.answers] + [402, 403, 429]
    for place, body in enumerate(CLUMSY.values()):
        yield Outcome(statuses[place % len(statuses)], {}, body)
    for place in range(subject.inputs // 2):
        outcome = hostile.outcome()
        # Half of them with a status by which the call is usually answered.
        usual = statuses[place // 2 % len(statuses)]
        yield outcome._replace(status=usual) if place % 2 else outcome


def _bill(subject: Subject, provider: Provider, call: Call, outcome: Outcome) -> Bill:
    """Return the bill, judged by itself."""
    try:
        said = provider.bill(call, outcome)
    except Exception as error:  # noqa: BLE001 - that is the breach
        what = f"bill() raised {type(error).__name__}: {error}"
        do = "return Bill(None) for what cannot be billed: unknown counts until a reading tells"
        subject.broken("bill", what, given=outcome, do=do, cause=error)
    fault = "" if said.cost is None else fault_in(said.cost, provider.meters)
    for evidence in said.evidence:
        strange = sorted(set(evidence.meters) - set(provider.meters))
        if strange:
            fault = f"has evidence about the meter {strange[0]!r}, which is not declared"
        elif evidence.kind not in ("exhausted", "pause", "doubt"):
            fault = f"has evidence of the kind {evidence.kind!r}"
        elif not 0 <= evidence.seconds <= MOST_PAUSE or math.isnan(evidence.seconds):
            fault = f"asks for a pause of {evidence.seconds!r} seconds, of at most an hour"
    if fault:
        do = "name declared meters only, and cap pauses (quotaguard.quota.answers.paused does)"
        subject.broken("bill", f"a bill {fault}", given=outcome, do=do)
    return said


def doubt(subject: Subject) -> None:
    """When in doubt it was billed: a body that is spoilt makes no call cheaper."""
    provider = subject.made()
    for paid in subject.calls(provider):
        for answer in paid.answers:
            good = _bill(subject, provider, paid.call, answer)
            if good.cost is None or not told(answer.body):
                continue
            for what, body in _spoilt(answer):
                outcome = answer._replace(body=body)
                said = _bill(subject, provider, paid.call, outcome)
                if said.cost is not None and more_than(good.cost, said.cost, provider.meters):
                    do = "Bill(None) where a count cannot be read: it holds the whole price"
                    subject.broken("doubt", f"{what} makes it cheaper", given=outcome, do=do)


def _spoilt(answer: Outcome) -> Iterator[tuple[str, bytes]]:
    said = told(answer.body)
    for path, value in nodes(said):
        if isinstance(value, bool | str):
            continue
        where = ".".join(map(str, path))
        for what, raw in WRONG.items():
            yield f"{where} {what}", planted(said, path, raw)
        yield f"{where} missing", without(said, path)
    yield "half a body", (answer.body or b"")[: len(answer.body or b"") // 2]


# -- keys -------------------------------------------------------------------------


def foreign(subject: Subject) -> None:
    """A call with another key is another account's, whatever it looks like."""
    provider, other = subject.made(), subject.made(key=subject.keys[1])
    mine, theirs = subject.key_headers(provider), subject.key_headers(other)
    cases = [paid.call for paid in subject.calls(provider)] or [Call("GET", HOME, "/")]
    do = "compare the key headers with the provider's own key, in constant time (Secret.matches)"
    for call in cases:
        if _foreign(subject, provider, call._replace(headers=mine)):
            subject.broken("foreign", "its own key is another's", given=call, do=do)
        shared = "keys" in subject.but  # then both are keys of one account
        if theirs and not shared and not _foreign(subject, provider, call._replace(headers=theirs)):
            subject.broken("foreign", "another key passes for its own", given=call, do=do)
        odd = ("", " ", "Basic", "Bearer", "Bearer \xe9\xff", "x" * 9000, "\x00", "Bearer a b c")
        for name in provider.key_headers:
            for said in odd:
                _foreign(subject, provider, call._replace(headers={name: said}))
        _foreign(subject, provider, call._replace(headers={}))


def _foreign(subject: Subject, provider: Provider, call: Call) -> bool:
    try:
        said = provider.foreign(call)
    except Exception as error:  # noqa: BLE001 - that is the breach
        do = "answer True for a key that cannot be compared"
        what = f"foreign() raised {type(error).__name__}: {error}"
        subject.broken("foreign", what, given=call, do=do, cause=error)
    if not isinstance(said, bool):
        subject.broken("foreign", f"foreign() says {said!r}", given=call, do="answer a bool")
    return said

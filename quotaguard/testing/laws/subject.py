"""The provider on trial: how to make it, what its vendor answers, how a breach is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from quotaguard.errors import ConfigError, ProviderError, StatsUnreadable
from quotaguard.quota.calls import Call, Outcome
from quotaguard.testing.hostile import Hostile

if TYPE_CHECKING:
    from quotaguard.providers import Provider
    from quotaguard.quota.readings import Reading, Usage

__all__ = [
    "HOME",
    "Answer",
    "BrokenLaw",
    "Judged",
    "Make",
    "Paid",
    "PaidCall",
    "Subject",
    "outcome_of",
]

HOME = "https://vendor.example"
"""Where the provider on trial lives, unless a law says otherwise. Nothing is sent."""

WALL = 1_700_000_000.0
"""Unix time at which it is asked for its poll."""

Answer = Outcome | tuple[int, Mapping[str, str], bytes] | Mapping[str, Any] | list[Any] | bytes
"""An answer: whole, as (status, headers, body), or the JSON or bytes of a 200."""

Paid = tuple[str, str, Any, Sequence[Any]]
"""A priced call: method, path, body (JSON, bytes or None), and answers to it.

An answer is an `Answer`, or a bare status.
"""


class Make(Protocol):
    """Makes the provider on trial; with ``account`` where it takes one."""

    def __call__(self, base_url: str, key: str, /, **named: str) -> Provider:
        """Return a new provider at *base_url* with *key*."""


class BrokenLaw(AssertionError):
    """A provider, a ledger or a store does what none may.

    law: its name, as ``check_provider(..., but=...)`` and the others take it. given: the input that
    showed it, None where there was none.
    """

    def __init__(self, message: str, law: str, given: object = None) -> None:
        super().__init__(message)
        self.law = law
        self.given = given

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.args[0], self.law, repr(self.given))


class Judged:
    """What is on trial, under one law at a time: *law*, and *kind*, whose law it is."""

    __slots__ = ()
    law: str

    @property
    def kind(self) -> str:
        """What it is, for people."""
        raise NotImplementedError

    def broken(self, what: str, *, do: str, cause: BaseException | None = None) -> NoReturn:
        """Say that the law is broken, and what to do."""
        lines = f"{self.kind} breaks the law {self.law!r}: {what}\n  to do: {do}"
        raise BrokenLaw(lines, self.law) from cause

    def require(self, held: object, what: str, *, do: str) -> None:
        """Say that the law is broken unless *held*."""
        if not held:
            self.broken(what, do=do)


class PaidCall(NamedTuple):
    """A priced call and the vendor's good answers to it."""

    call: Call
    answers: tuple[Outcome, ...]


def outcome_of(answer: Any) -> Outcome:  # noqa: ANN401 - an Answer, or a slip
    """Return *answer* as a provider is told it.

    Raises:
        ConfigError: it is none.
    """
    match answer:
        case Outcome():
            return answer
        case (int(status), Mapping() as headers, bytes() | None as body):
            lower = {name.lower(): value for name, value in headers.items()}
            return Outcome(status, MappingProxyType(lower), body)
        case int() if not isinstance(answer, bool):
            return Outcome(answer, MappingProxyType({}), b"")
        case bytes():
            return Outcome(200, MappingProxyType({}), answer)
        case Mapping() | list():
            return Outcome(200, MappingProxyType({}), json.dumps(answer).encode())
        case _:
            kind = type(answer).__name__
            msg = f"an answer is (status, headers, body), or the JSON of a 200, not a {kind}"
            raise ConfigError(msg)


def reader_of(provider: Provider) -> Callable[[Outcome], Reading]:
    """Return what reads the answer to a poll; some read it by what was asked."""
    return provider.stats_request(WALL).read or provider.read_stats


def shown(given: object) -> str:
    """Return an input as a failing test shows it: whole where it is short."""
    told = f"Outcome{tuple(given)}" if isinstance(given, Outcome) else repr(given)
    if isinstance(given, Call):
        told = f"Call{tuple(given)}"
    return told if len(told) <= 600 else f"{told[:400]} ... {told[-120:]}"


def remainder(usage: Usage) -> float:
    """Return the units that are left, infinity where the limit is none."""
    return float("inf") if usage.limit is None else max(0, usage.limit - usage.used)


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The provider on trial, and what it is tried with."""

    make: Make
    answers: tuple[Outcome, ...]
    paid: tuple[Paid, ...] = ()
    reports: Mapping[str, Sequence[Outcome]] = field(default_factory=dict)
    arguments: Mapping[str, Any] = field(default_factory=dict)
    unlimited: tuple[Any, ...] = ()
    but: frozenset[str] = frozenset()
    keys: tuple[str, str]
    inputs: int
    seed: int

    def made(self, base_url: str = HOME, key: str | None = None, **named: str) -> Provider:
        """Return a new provider, by default of the first key."""
        return self.make(base_url, self.keys[0] if key is None else key, **named)

    @property
    def kind(self) -> str:
        """The name of the provider's class."""
        return type(self.made()).__name__

    def hostile(self, law: str, good: Sequence[Outcome] | None = None) -> Hostile:
        """Return what makes hostile answers, by default of the good stats answers."""
        bodies = tuple(answer.body or b"" for answer in (self.answers if good is None else good))
        chance = random.Random(f"{self.seed} {law}")  # noqa: S311 - keeps no secret
        return Hostile(chance, bodies)

    def calls(self, provider: Provider) -> Iterator[PaidCall]:
        """Yield the priced calls as an application of this key would make them."""
        headers = dict(_lower(self.key_headers(provider)))
        for method, path, body, answers in self.paid:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            call = Call(method, HOME, path, MappingProxyType(headers), sent)
            yield PaidCall(call, tuple(outcome_of(answer) for answer in answers))

    def key_headers(self, provider: Provider) -> dict[str, str]:
        """Return the headers of the stats poll that carry the key."""
        asked = _lower(provider.stats_request(WALL).headers)
        return {name: said for name, said in asked.items() if name in provider.key_headers}

    def read(
        self,
        outcome: Outcome,
        provider: Provider,
        by: Callable[[Outcome], Reading] | None = None,
    ) -> Reading | ProviderError:
        """Return what the provider reads in a poll's answer, or the error that it declares.

        Raises:
            BrokenLaw: "errors", whichever law was being judged.
        """
        try:
            return (by or reader_of(provider))(outcome)
        except ProviderError as error:
            return error
        except Exception as error:  # noqa: BLE001 - that is the breach
            if "errors" in self.but:
                return StatsUnreadable(type(error).__name__, provider=provider.name)
            self.broken(
                "errors",
                f"read_stats raised {type(error).__name__}: {error}",
                given=outcome,
                do="raise StatsUnreadable for what cannot be read, whatever the bytes are; "
                "quotaguard.quota.strict and quotaguard.quota.fields read without surprises",
                cause=error,
            )

    def broken(
        self,
        law: str,
        what: str,
        *,
        do: str,
        given: object = None,
        cause: BaseException | None = None,
    ) -> NoReturn:
        """Say which law was broken, by what input, and what to do."""
        lines = [f"{self.kind} breaks the law {law!r}: {what}"]
        if given is not None:
            lines.append(f"  given: {shown(given)}")
        lines.append(f"  to do: {do}")
        raise BrokenLaw("\n".join(lines), law, given) from cause


def _lower(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.lower(): said for name, said in headers.items()}

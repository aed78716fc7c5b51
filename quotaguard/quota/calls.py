"""What an application sends: calls, their prices, their outcomes; and stats exchanges."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Generic, Literal, NamedTuple, TypeVar

from quotaguard.quota.readings import NOTHING, Amount, Reading, nothing

__all__ = [
    "Bill",
    "Call",
    "Cost",
    "Evidence",
    "Outcome",
    "Price",
    "Report",
    "StatsRequest",
]

T = TypeVar("T")

Cost = Mapping[str, Amount]
"""Units per meter: an estimate before the call, the actual after it."""


class Call(NamedTuple):
    """One HTTP request, as every client can tell it. Never logged, never kept.

    origin: ``https://host`` or ``https://host:port``, lower case, default ports left out.
    path: without the query, which is ignored.
    headers: names in lower case.
    body: the request's bytes, None where they are a stream.
    """

    # A tuple is made three times as fast as a dataclass, and every call makes one.
    method: str
    origin: str
    path: str
    headers: Mapping[str, str] = NOTHING
    body: bytes | None = None

    def __repr__(self) -> str:
        return f"Call(method={self.method!r}, origin={self.origin!r}, path={self.path!r})"


@dataclass(frozen=True, slots=True)
class Price:
    """What a call may cost at most, and under which name it is known."""

    operation: str
    cost: Cost


class Outcome(NamedTuple):
    """An answer to a call.

    headers: names in lower case.
    body: at most the first 256 KiB, decoded; None as long as it was not read.
    """

    status: int
    headers: Mapping[str, str] = NOTHING
    body: bytes | None = None

    def __repr__(self) -> str:
        return f"Outcome(status={self.status!r})"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an ordinary answer says about the quota.

    exhausted: the provider refused because *meters* are spent.
    pause: the provider asks for *seconds* without calls; says nothing of the quota.
    doubt: it may be the quota or not; the next reading tells, and is wanted now.
    """

    kind: Literal["exhausted", "pause", "doubt"]
    meters: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Bill:
    """What a call cost after all.

    cost: units that were spent, a meter left out spent nothing. None is unknown:
        counted as spent until a reading proves otherwise.
    wants_body: this bill is not final, the body decides; ask again with it.
    deferred: the provider will bill later without an answer to us (a webhook);
        the reservation outlives the call until the application settles it.
    """

    cost: Cost | None
    evidence: tuple[Evidence, ...] = ()
    wants_body: bool = False
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class StatsRequest:
    """The request of a stats poll or report. Its headers carry the key: never logged.

    again: what to send instead, once, where the answer is 401; it may take a new key
        from somewhere, and block. None: a refused key is refused.
    read: how a poll's answer is read where it depends on the question (a window of
        dates); raises `ProviderError` only. None: by `Provider.read_stats`.
    """

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=nothing, repr=False)
    body: bytes | None = field(default=None, repr=False)
    again: Callable[[], StatsRequest] | None = field(default=None, repr=False, compare=False)
    read: Callable[[Outcome], Reading] | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Report(Generic[T]):
    """A question to one of a provider's stats endpoints, and how to read the answer.

    key: names the endpoint and the arguments; equal keys have equal answers.
    ask: makes the request when it is sent. read: raises `ProviderError` only.
    A report never becomes a reading: it may tell of another period, or of a part.
    """

    key: tuple[Hashable, ...]
    ask: Callable[[], StatsRequest] = field(repr=False)
    read: Callable[[Outcome], T] = field(repr=False)

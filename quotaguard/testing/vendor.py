"""What every fake provider shares: knobs, scripted faults, and its life as a context."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from email.utils import formatdate
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from quotaguard.clock import Clock, SystemClock
from quotaguard.errors import ConfigError
from quotaguard.quota.readings import NOTHING
from quotaguard.testing.metering import Counting, Metering, Rules
from quotaguard.testing.server import Fault, LoopbackServer, Reply, Request
from quotaguard.testing.spoiling import WIRE, Spoil

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["FakeVendor", "Faults", "Knobs", "Script", "Scripted", "turned"]

Scripted = str | Reply | Fault | None
"""One step of a script: a fault by name, an answer of one's own, None for no fault."""

Faults = Iterable[Scripted] | Callable[[Request], Scripted]
"""Steps that are used up one per call, or a function that is asked for each call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knobs:
    """What every fake can be told. Times in seconds, counts in units of the main meter.

    quota: of the main meter; None is unlimited.
    used: already spent in this period when the fake starts.
    lag: how long a charge takes to show in the stats, by the clock.
    visible: every charge after exactly *lag*, or each after a random time up to it.
    other_rate: units per second that another consumer spends, by the clock.
    other_total: the most that it will spend, None without an end.
    overage: False refuses when the quota is spent, True goes on and bills.
    latency: real time before each answer; ends early when the fake does.
    key: the API key that is accepted.
    faults: one per priced call. stats_faults: one per stats poll.
    period: (start, end) as ISO 8601 texts, end exclusive; the calendar month in UTC
        by default. When the clock passes the end, counts start again from 0. A
        period that is over at the start stays as it is.
    clock: whose time lag, other consumers and the period follow.
    seed: of everything made up.
    """

    quota: int | None = 1000
    used: int = 0
    lag: float = 0.0
    visible: Literal["fixed", "random"] = "fixed"
    other_rate: float = 0.0
    other_total: int | None = None
    overage: bool = False
    latency: float = 0.0
    key: str = "test-key"
    faults: Faults = ()
    stats_faults: Faults = ()
    period: tuple[str, str] | None = None
    clock: Clock = field(default_factory=SystemClock)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("used", "lag", "other_rate", "latency"):
            if not getattr(self, name) >= 0:
                msg = f"{name} is a number from 0 upwards"
                raise ConfigError(msg)
        if self.visible not in {"fixed", "random"}:
            msg = f'visible is "fixed" or "random", not {self.visible!r}'
            raise ConfigError(msg)

    def rules(
        self, main: tuple[str, ...], quotas: Mapping[str, int | None], meters: Iterable[str]
    ) -> Rules:
        """Return how a fake with these knobs meters: *main* and its other *quotas*."""
        used = {meter: self.used if meter in main else 0 for meter in meters}
        return Rules(
            main=main,
            quotas={main[0]: self.quota, **quotas},
            used=used,
            hard=not self.overage,
            lag=self.lag,
            visible=self.visible,
            other_rate=self.other_rate,
            other_total=self.other_total,
            seed=self.seed,
        )


K = TypeVar("K", bound=Knobs)


def turned(kind: type[K], knobs: Mapping[str, Any]) -> K:
    """Return the knobs of a fake, turned as told.

    Raises:
        ConfigError: there is no such knob, or not that far.
    """
    known = sorted(each.name for each in fields(kind))
    for name in knobs:
        if name not in known:
            msg = f"this fake has no knob {name!r}; it has {', '.join(known)}"
            raise ConfigError(msg)
    given = {name: told for name, told in knobs.items() if name != "clock" or told is not None}
    return kind(**given)


class Script:
    """Faults to come: first those that were added, then those of the knob."""

    def __init__(self, faults: Faults, known: Collection[str]) -> None:
        self._known = known
        self._lock = threading.Lock()
        self._steps: deque[Scripted] = deque()
        self._asked: Callable[[Request], Scripted] | None = None
        self._endless: Iterator[Scripted] = iter(())
        if isinstance(faults, str):
            # A bare text is a sequence too, of letters.
            self.add([faults])
        elif isinstance(faults, Sequence):
            self.add(faults)
        elif callable(faults):
            self._asked = faults
        else:
            # It may have no end, like itertools.cycle; so it is not read ahead.
            self._endless = iter(faults)

    def add(self, steps: Iterable[Scripted]) -> None:
        """Put *steps* after those that are waiting.

        Raises:
            ConfigError: there is no fault of such a name.
        """
        checked = [self._check(step) for step in steps]
        with self._lock:
            self._steps.extend(checked)

    def next(self, request: Request) -> Scripted:
        """Return the step for *request*, None where it is answered as usual."""
        with self._lock:
            if self._steps:
                return self._steps.popleft()
            if self._asked is None:
                return self._check(next(self._endless, None))
        return self._check(self._asked(request))

    def _check(self, step: Scripted) -> Scripted:
        if step is None or isinstance(step, Reply | Fault) or step in self._known:
            return step
        msg = f"no fault is called {step!r}; there are {', '.join(sorted(self._known))}"
        raise ConfigError(msg)


class FakeVendor(ABC):
    """A provider on loopback, between the start and the end of a ``with``.

    Its counts can be looked at before, within and after. They are those of a
    `Metering`, or of what a fake has instead.
    """

    def __init__(
        self,
        knobs: Knobs,
        rules: Rules,
        scripts: Mapping[str, Script],
        counts: Counting | None = None,
    ) -> None:
        self._knobs = knobs
        self._main = rules.main[0]
        self._metering = Metering(rules, knobs.clock, knobs.period)
        self._counts: Counting = self._metering if counts is None else counts
        self._scripts = scripts
        self._server = LoopbackServer(self._answer)

    @property
    def url(self) -> str:
        """Where it listens: ``http://127.0.0.1:port``, for ``base_url=``.

        Raises:
            ConfigError: it was not started yet.
        """
        if not self._server.url:
            msg = "the fake listens only inside its with statement"
            raise ConfigError(msg)
        return self._server.url

    @property
    def true(self) -> Mapping[str, int]:
        """What was really charged in this period, by meter, other consumers included."""
        return MappingProxyType(self._counts.true())

    @property
    def shown(self) -> Mapping[str, int]:
        """What the stats would say now, by meter."""
        return MappingProxyType(self._counts.shown()[0])

    @property
    def past(self) -> tuple[Mapping[str, int], ...]:
        """What was really charged in the periods that have ended, oldest first."""
        return self._counts.past()

    @property
    def quota(self) -> int | None:
        """The quota of the main meter, None when it is unlimited."""
        return self._counts.quota(self._main)

    @property
    def requests(self) -> Counter[str]:
        """How many requests came, by path."""
        return self._server.requests

    @property
    @abstractmethod
    def polls(self) -> int:
        """How many requests the stats endpoint got."""

    def spend(self, count: int) -> int:
        """Let another consumer spend *count* units; return how many were accepted.

        Raises:
            ConfigError: *count* is below 0.
        """
        if count < 0:
            msg = "another consumer spends units from 0 upwards"
            raise ConfigError(msg)
        return self._counts.spend(count)

    def set_quota(self, quota: int | None) -> None:
        """Change the plan: another quota for the main meter, None for unlimited."""
        self._counts.set_quota(self._main, quota)

    def script(self, *faults: Scripted, stats: Iterable[Scripted] = ()) -> None:
        """Have the next priced calls, and the next *stats* polls, go wrong in this order.

        Raises:
            ConfigError: there is no fault of such a name.
        """
        self._scripts["calls"].add(faults)
        self._scripts["stats"].add(stats)

    statuses: Mapping[str, tuple[int, str, tuple[tuple[str, str], ...]]] = NOTHING
    """Faults that are an answer: status, message and headers."""

    stats_faults: Mapping[str, Spoil] = NOTHING
    """Faults of stats answers that spoil an honest one."""

    @abstractmethod
    def _route(self, request: Request) -> Reply | Fault:
        """Answer *request*, with `_spoiled` where a script may have a say."""

    @abstractmethod
    def _told(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> Reply:
        """Return the vendor's way to tell an error."""

    def _answer(self, request: Request) -> Reply | Fault:
        answer = self._route(request)
        if isinstance(answer, Fault):
            return replace(answer, reply=self._sent(answer.reply))
        return self._sent(answer)

    def _sent(self, reply: Reply) -> Reply:
        """Return an answer with the vendor's own date, after its latency."""
        headers = reply.headers
        if all(name.lower() != "date" for name, _ in headers):
            headers = (("Date", formatdate(self._metering.wall(), usegmt=True)), *headers)
        return replace(reply, headers=headers, delay=reply.delay + self._knobs.latency)

    def _spoiled(
        self, script: str, request: Request, honest: Callable[[Request], Reply]
    ) -> Reply | Fault:
        """Return what the next step of a script makes of the *honest* answer, which meters."""
        step = self._scripts[script].next(request)
        if step is None:
            return honest(request)
        if isinstance(step, Reply | Fault):
            return step
        if step in self.statuses:
            return self._told(*self.statuses[step])
        if step in self.stats_faults:
            reply = honest(request)
            return self.stats_faults[step](reply, self.url) if reply.status == 200 else reply
        name = step.removesuffix("-free")
        reply = honest(request) if name == step else self._told(200, "OK")
        return Fault(WIRE[name], reply)

    def __enter__(self) -> Self:
        if self._server.url:
            msg = "a fake is entered once; make another one"
            raise ConfigError(msg)
        self._server.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        used = self._counts.true()[self._main]
        quota = self.quota
        limit = "unlimited" if quota is None else f"{quota:,}"
        return f"<{type(self).__name__}: {self._main} {used:,}/{limit}, {self.polls} polls>"

"""How it behaves: the same answer to the same question, without a clock, from any thread."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import BuiltinFunctionType, BuiltinMethodType
from typing import TYPE_CHECKING, Any

from quotaguard.errors import ProviderError
from quotaguard.quota.calls import Call, Outcome
from quotaguard.testing.hostile import CLUMSY
from quotaguard.testing.laws.answers import ORDINARY
from quotaguard.testing.laws.subject import WALL, Subject, reader_of

if TYPE_CHECKING:
    from quotaguard.providers import Provider

__all__ = ["pure", "threads"]

CLOCKS = {"now", "utcnow", "today"}
"""Methods of datetime and date that ask a clock."""

IMPURE = {"time", "_random", "_socket", "_thread", "select", "posix", "nt", "_asyncio"}
"""Modules written in C that ask the time, throw dice, or reach out of the process."""

PASSES = {"get_ident", "allocate_lock", "fspath", "mktime", "gmtime", "struct_time"}
"""What these have that neither asks nor tells anybody."""

THREADS, ROUNDS, MOST_STEPS = 4, 20, 200

Question = Callable[["Provider"], object]
Asked = tuple[object, Question, object]
"""What was given, how it is asked, and the answer to it alone."""


def _questions(subject: Subject, count: int) -> Iterator[tuple[object, Question]]:
    """Yield what a provider is asked, in no good order: good, bad, good again."""
    provider, hostile = subject.made(), subject.hostile("pure")
    outcomes = [*subject.answers, *(hostile.outcome() for _ in range(count)), *subject.answers]
    outcomes += [Outcome(200, {}, body) for body in CLUMSY.values() if len(body) < ORDINARY]
    for outcome in outcomes:
        yield outcome, partial(_read, outcome)
    yield WALL, _asked
    for paid in subject.calls(provider):
        yield paid.call, partial(_priced, paid.call)
        for answer in (*paid.answers, Outcome(429, {"retry-after": "3"}, b"{}")):
            yield answer, partial(_billed, paid.call, answer)


def _asked(provider: Provider) -> object:
    return provider.stats_request(WALL)


def _priced(call: Call, provider: Provider) -> object:
    try:
        return provider.price(call), provider.foreign(call)
    except Exception as error:  # noqa: BLE001 - another law's business
        return type(error)


def _billed(call: Call, answer: Outcome, provider: Provider) -> object:
    try:
        return provider.bill(call, answer)
    except Exception as error:  # noqa: BLE001 - another law's business
        return type(error)


def _read(outcome: Outcome, provider: Provider) -> object:
    try:
        said = reader_of(provider)(outcome)
    except ProviderError as error:
        return type(error), str(error), error.status, error.code, error.path, error.retry_after
    except Exception as error:  # noqa: BLE001 - another law's business
        return type(error)
    return said.usages, said.period, repr(said.extra)


def pure(subject: Subject) -> None:
    """The same question has the same answer, today and from another instance, without a clock."""
    mine = subject.made()
    do = "keep nothing between two calls; now is an argument where it is needed (stats_request)"
    for given, ask in _questions(subject, min(subject.inputs, 300)):
        first, called = _watched(ask, mine)
        if called:
            what = f"it called {called}, and providers are pure: no clock, no chance, no I/O"
            subject.broken("pure", what, given=given, do=do)
        if ask(mine) != first or ask(subject.made()) != first:
            subject.broken("pure", "the same question has two answers", given=given, do=do)


def _watched(ask: Question, provider: Provider) -> tuple[object, str]:
    """Return the answer, and the first call that no pure function makes."""
    seen: list[str] = []

    def watch(_frame: object, event: str, called: Any) -> None:  # noqa: ANN401 - C functions
        if event == "c_call" and not seen and _impure(called):
            seen.append(f"{getattr(called, '__module__', None) or ''}.{called.__name__}")

    # What the collector calls (coverage tools and Hypothesis look at it) is not the provider's.
    collects = gc.isenabled()
    gc.disable()
    try:
        return _profiled(watch, ask, provider), seen[0] if seen else ""
    finally:
        if collects:
            gc.enable()


def _impure(called: Any) -> bool:  # noqa: ANN401 - whatever is written in C
    if not isinstance(called, BuiltinFunctionType | BuiltinMethodType):
        return False
    owner = called.__self__
    if isinstance(owner, type):
        return called.__name__ in CLOCKS and owner.__module__ == "datetime"
    module = called.__module__ or type(owner).__module__
    return module in IMPURE and called.__name__ not in PASSES


def threads(subject: Subject) -> None:
    """Asked from many threads at once it answers as it does alone."""
    provider = subject.made()
    asked = [(given, ask, ask(provider)) for given, ask in _questions(subject, 4)]
    for place, question in enumerate(asked):
        wrong = _interrupted(provider, question, asked[place - 1])
        if wrong is not None:
            break
    else:
        wrong = _stormed(provider, asked)
    if wrong is not None:
        what = "asked from several threads at once it answers otherwise than alone"
        do = "keep what one answer needs in local variables, not on the provider"
        subject.broken("threads", what, given=wrong, do=do)


def _interrupted(provider: Provider, one: Asked, other: Asked) -> object | None:
    """Ask *other* in another thread at every step of *one*; return what was answered wrongly."""
    given, ask, alone = one
    step, steps, patience = 0, 1, 1.0
    while step < min(steps, MOST_STEPS):
        meanwhile = _Meanwhile(step, partial(other[1], provider), patience)
        if _profiled(meanwhile, ask, provider) != alone:
            return given
        if meanwhile.said and meanwhile.said[0] != other[2]:
            return other[0]
        if not meanwhile.said:
            patience = 0.01
        step, steps = step + 1, meanwhile.came
    return None


class _Meanwhile:
    """Asks in another thread when the first one has come to a certain step.

    A step is the call of a function, or its return. A provider that has a lock of its own
    lets the other thread wait, which is its right.
    """

    def __init__(self, step: int, ask: Callable[[], object], patience: float) -> None:
        self.came = 0
        self.said: list[object] = []
        self._step = step
        self._ask = ask
        self._patience = patience

    def __call__(self, *_: object) -> None:
        self.came += 1
        if self.came == self._step + 1:
            thread = threading.Thread(target=self._asking, daemon=True)
            thread.start()
            thread.join(self._patience)

    def _asking(self) -> None:
        self.said.append(self._ask())


def _profiled(hook: Callable[..., None], ask: Question, provider: Provider) -> object:
    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        return ask(provider)
    finally:
        sys.setprofile(before)


def _stormed(provider: Provider, asked: Sequence[Asked]) -> object | None:
    """Ask everything from several threads, which change places as often as can be."""
    wrong: list[object] = []
    together = threading.Barrier(THREADS)

    def work(number: int) -> None:
        together.wait()
        for turn in range(ROUNDS):
            for place in range(len(asked)):
                # Each thread goes through them in an order of its own.
                given, ask, alone = asked[(place * (2 * number + 1) + turn) % len(asked)]
                if wrong:
                    return
                if ask(provider) != alone:
                    wrong.append(given)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    finally:
        sys.setswitchinterval(before)
    return wrong[0] if wrong else None

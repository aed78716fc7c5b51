"""The way in for functions: a decorator that reserves before a call and settles after it.

What kind of function it is given, it finds out once, when it decorates. A generator
reserves at its first step, and its units cover what is called inside its steps, never
what their consumer calls between two.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Coroutine, Generator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

import wrapt

from quotaguard.errors import ConfigError
from quotaguard.reservation import MISSING, Reservation

if TYPE_CHECKING:
    from quotaguard.quota.calls import Cost
    from quotaguard.quota.policy import Duration
    from quotaguard.spending import Spending

__all__ = ["Limit", "LimitOr"]

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
F_co = TypeVar("F_co", covariant=True)
AnyGenerator = TypeVar("AnyGenerator", bound=Generator[Any, Any, Any] | AsyncGenerator[Any, Any])
Function = TypeVar(
    "Function", bound="Callable[..., Any] | classmethod[Any, Any, Any] | staticmethod[Any, Any]"
)

Given = tuple[Any, ...]
Named = dict[str, Any]
Steps = Generator[Any, Any, Any]
AsyncSteps = AsyncGenerator[Any, Any]
Wrapper = Callable[[Callable[..., Any], Any, Given, Named], Any]
"""What wrapt calls: with the function, what it is bound to, the arguments without that."""


class LimitOr(Protocol[F_co]):
    """`Limit` with a fallback, as a type checker sees it: the result may be the fallback.

    A generator stays one, it yields the fallback's items. A function that is said to
    return an Iterator may be a generator or not: the wider type holds for both.
    """

    @overload
    def __call__(
        self, function: staticmethod[P, Coroutine[Any, Any, R]], /
    ) -> staticmethod[P, Coroutine[Any, Any, R | F_co]]: ...
    @overload
    def __call__(  # type: ignore[overload-overlap] # the first one takes those
        self, function: staticmethod[P, R], /
    ) -> staticmethod[P, R | F_co]: ...
    @overload
    def __call__(
        self, function: classmethod[T, P, Coroutine[Any, Any, R]], /
    ) -> classmethod[T, P, Coroutine[Any, Any, R | F_co]]: ...
    @overload
    def __call__(self, function: classmethod[T, P, R], /) -> classmethod[T, P, R | F_co]: ...
    @overload
    def __call__(
        self, function: Callable[P, Coroutine[Any, Any, R]], /
    ) -> Callable[P, Coroutine[Any, Any, R | F_co]]: ...
    @overload
    def __call__(self, function: Callable[P, AnyGenerator], /) -> Callable[P, AnyGenerator]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R | F_co]: ...


class Limit:
    """Guards functions: def, async def, methods, generators, async generators.

    operation: its name, or the units of a call. cost: tells them instead, from the
        call's arguments (without self or cls). What it raises is raised; nothing is
        reserved then.
    settle: tells what was spent, from what the function returned (None of an async
        generator). If it fails, the result is returned all the same, the estimate
        counts as unknown, and `Degraded` (state ``settle_failed``) is told.
    fallback: the result of a refused call; what can be called is called with the
        refusal, never awaited. A generator yields its items, those of None are none.

    Without *settle* a call that returns has cost the estimate. One that raises, is
    cancelled, or is a generator closed before its end, has cost nobody knows what. What
    guarded calls of the same account take inside the function comes out of its units.

    Raises (every call): Refusal: the function was not called, and there is no fallback.
        Refusals from inside the function are raised like any exception.

    Raises:
        ConfigError: an operation, meter or priority is not known, *max_wait* is no
            duration, *cost*, *settle* or *fallback* cannot work.
    """

    def __init__(
        self,
        spending: Spending,
        operation: str | Cost,
        /,
        *,
        cost: Callable[..., Cost] | None = None,
        settle: Callable[[Any], Cost] | None = None,
        priority: str = "normal",
        max_wait: Duration | None = None,
        fallback: Any = MISSING,  # noqa: ANN401 - whatever the user wants instead
    ) -> None:
        spending.rank(priority)
        wait = None if max_wait is None else spending.wait(max_wait)
        default = fallback if callable(fallback) else None
        for name, given in (("cost", cost), ("settle", settle), ("fallback", default)):
            plain = callable(given) and not _is(inspect.iscoroutinefunction, given)
            if given is not None and not plain:
                raise ConfigError(f"{name} is no plain function: it is called, never awaited")
        self.spending = spending
        self.cost = cost
        self.settle = settle
        self.fallback = fallback
        self._asked = priority, wait, fallback
        estimate = dict(spending.cost_of(operation))
        self.reserved = partial(Reservation, spending, estimate, *self._asked)

    def __call__(self, function: Function, /) -> Function:
        """Return *function*, guarded. Its name, signature and kind stay what they are.

        Raises:
            ConfigError: it is a class or no function, or it is a generator and the
                fallback has no items.
        """
        if isinstance(function, type):
            raise ConfigError(f"{function.__name__} is a class: decorate the methods that call")
        if not callable(function) and not isinstance(function, classmethod):
            raise ConfigError(f"a {type(function).__name__} is no function that can be guarded")
        making = next((made for kind, made in _KINDS.items() if _is(kind, function)), _function)
        guarded: Any = function
        return cast("Function", _Guarded(guarded, making(self, guarded)))

    def begin(self, function: Callable[..., Any], bound: object, given: Given, named: Named) -> Any:  # noqa: ANN401 - entered, it is itself or the fallback
        """Return the reservation of a call, not open yet."""
        if self.cost is None:
            return self.reserved()
        if bound is None and given and isinstance(given[0], type):
            given = _without_cls(function, given)
        return Reservation(self.spending, self.cost(*given, **named), *self._asked)

    def end(self, reservation: Reservation, result: object) -> None:
        """Settle with what *settle* says of *result*, or the estimate.

        It must not take the result from whoever paid for it. Where it fails, the
        reservation stays open, and so ends as unknown.
        """
        if self.settle is None:
            reservation.settle()
            return
        try:
            spent = self.settle(result)
        except Exception as error:  # noqa: BLE001 - the user's; its text may hold anything
            self._failed(f"settle raised {type(error).__name__}")
            return
        if spent is None:  # which would stand for the estimate
            self._failed("settle returned None")
            return
        try:
            reservation.settle(spent)
        except ConfigError as error:
            self._failed(str(error))

    def _failed(self, reason: str) -> None:
        self.spending.degraded("settle_failed", reason)


# -- kinds of functions ----------------------------------------------------------


def _function(limit: Limit, _: object) -> Wrapper:
    begin, reserved = limit.begin, None if limit.cost else limit.reserved
    end = limit.settle and limit.end

    def call(function: Callable[..., Any], bound: object, given: Given, named: Named) -> object:
        reservation = reserved() if reserved else begin(function, bound, given, named)
        with reservation as entered:
            if entered is not reservation:
                return entered  # refused: this is the fallback
            result = function(*given, **named)
            if end:
                end(reservation, result)
            else:
                reservation.settle()
            return result

    return call


def _coroutine(limit: Limit, guarded: object) -> Wrapper:
    begin, reserved = limit.begin, None if limit.cost else limit.reserved
    end = limit.settle and limit.end

    async def call(
        function: Callable[..., Any], bound: object, given: Given, named: Named
    ) -> object:
        reservation = reserved() if reserved else begin(function, bound, given, named)
        async with reservation as entered:
            if entered is not reservation:
                return entered  # refused: this is the fallback
            result = await function(*given, **named)
            if end:
                end(reservation, result)
            else:
                reservation.settle()
            return result

    return _named(call, guarded)


def _generator(limit: Limit, guarded: object) -> Wrapper:
    _check_items(limit.fallback, "__iter__")

    def steps(inner: Steps, begin: Callable[[], Any]) -> Steps:
        reservation = begin()
        entered = reservation.open()
        if entered is not reservation:
            return (yield from () if entered is None else entered)
        step, closing = partial(inner.send, None), False
        try:
            while True:
                with reservation.covering():
                    try:
                        item = step()
                    except StopIteration as last:
                        if not closing:
                            limit.end(reservation, last.value)
                        return last.value
                try:
                    sent = yield item
                except BaseException as error:  # noqa: BLE001 - it is thrown on
                    step, closing = partial(inner.throw, error), isinstance(error, GeneratorExit)
                else:
                    step = partial(inner.send, sent)
        except GeneratorExit:
            closing = True
            raise
        finally:
            del step  # it may keep an error alive, in whose traceback it is
            (reservation.forget if closing else reservation.close)()  # it may be a finalizer

    _named(steps, guarded)
    return partial(_begun, steps, limit)


def _async_generator(limit: Limit, guarded: object) -> Wrapper:
    _check_items(limit.fallback, "__iter__", "__aiter__")

    async def steps(inner: AsyncSteps, begin: Callable[[], Any]) -> AsyncSteps:
        reservation = begin()
        entered = await reservation.aopen()
        if entered is not reservation:
            async for item in _aiter(entered):
                yield item
            return
        step, closing = _first(inner), False
        try:
            while True:
                with reservation.covering():
                    try:
                        item = await step
                    except StopAsyncIteration:
                        if not closing:
                            limit.end(reservation, None)
                        return
                try:
                    sent = yield item
                except BaseException as error:  # noqa: BLE001 - it is thrown on
                    step, closing = inner.athrow(error), isinstance(error, GeneratorExit)
                else:
                    step = inner.asend(sent)
        except GeneratorExit:
            closing = True
            raise
        finally:
            del step  # it may keep an error alive, in whose traceback it is
            (reservation.forget if closing else reservation.close)()  # it may be a finalizer

    _named(steps, guarded)
    return partial(_begun, steps, limit)


def _begun(
    steps: Callable[..., Any],
    limit: Limit,
    function: Callable[..., Any],
    bound: object,
    given: Given,
    named: Named,
) -> object:
    """Return a generator that has done nothing yet. Wrong arguments are told now, as ever."""
    return steps(function(*given, **named), partial(limit.begin, function, bound, given, named))


_KINDS: dict[Callable[[Any], object], Callable[[Limit, object], Wrapper]] = {
    inspect.iscoroutinefunction: _coroutine,
    inspect.isgeneratorfunction: _generator,
    inspect.isasyncgenfunction: _async_generator,
}


def _is(kind: Callable[[Any], object], function: object) -> bool:
    """Whether *function*, or what is called when it is, is of this kind."""
    inner = function.__func__ if isinstance(function, classmethod | staticmethod) else function
    return bool(kind(inner) or kind(getattr(type(inner), "__call__", None)))  # noqa: B004 - its own


def _named(call: Function, guarded: object) -> Function:
    """Let *call* be told by the name of *guarded*, where it is never awaited or shown."""
    for name in ("__name__", "__qualname__"):
        setattr(call, name, getattr(guarded, name, type(guarded).__name__))
    return call


def _check_items(fallback: object, *verbs: str) -> None:
    if fallback is None or fallback is MISSING or callable(fallback):
        return
    if not any(hasattr(fallback, verb) for verb in verbs):
        raise ConfigError(
            f"a generator yields the items of its fallback, a {type(fallback).__name__} has none"
        )


def _first(inner: AsyncSteps) -> Coroutine[Any, Any, Any]:
    """Return the first step of *inner*, of which the event loop does not learn.

    At its end a loop closes all async generators that it knows, in any order. It shall
    close the outer one, which closes this one, and not both at once.
    """
    known = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return inner.asend(None)
    finally:
        sys.set_asyncgen_hooks(*known)


async def _aiter(items: Iterable[Any] | AsyncIterable[Any] | None) -> AsyncSteps:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
    else:
        for item in items or ():
            yield item


def _without_cls(function: Callable[..., Any], given: Given) -> Given:
    """Return the arguments of a class method without the class.

    From Python 3.13 on a classmethod does not bind what it decorates, it hands the
    class over like any argument.
    """
    for owner in given[0].__mro__:
        entry = vars(owner).get(function.__name__)
        made = getattr(entry, "__func__", None)
        if isinstance(entry, classmethod) and getattr(made, "__wrapped__", None) is function:
            return given[1:]
    return given


# -- what the user holds ---------------------------------------------------------


class _Bound(wrapt.BoundFunctionWrapper[..., Any]):
    """A guarded method of an object or a class. It is pickled with what it is bound to."""

    def __reduce_ex__(self, _: object) -> tuple[Any, ...]:
        bound = self._self_instance
        return getattr, (self._self_owner if bound is None else bound, self.__name__)


class _Guarded(wrapt.FunctionWrapper[..., Any]):
    """A guarded function. It is pickled by its name, like any function."""

    __bound_function_wrapper__ = _Bound

    def __reduce_ex__(self, _: object) -> str:
        return self.__qualname__

    def __copy__(self) -> _Guarded:
        return self

    def __deepcopy__(self, _: object) -> _Guarded:
        return self

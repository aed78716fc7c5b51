"""The trial of a provider: `check_provider` judges it by every law that the guard relies on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from quotaguard.errors import ConfigError
from quotaguard.testing.laws import LAWS, Speed, Subject, outcome_of
from quotaguard.testing.laws.answers import MEANT

if TYPE_CHECKING:
    from quotaguard.providers import Provider
    from quotaguard.testing.laws import Answer, Make, Paid

__all__ = ["Trial", "check_provider"]

KEYS = ("kit-key-5c1e", "kit-other-9b04")


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial that was passed.

    laws: their names. inputs: hostile answers that were read. median, longest: seconds
    of thread time per answer of ordinary size. memory: the most bytes that one took.
    """

    laws: tuple[str, ...]
    inputs: int
    median: float
    longest: float
    memory: int


def check_provider(
    make: Callable[..., Provider],
    /,
    *,
    stats: Sequence[Answer],
    calls: Iterable[Paid] = (),
    reports: Mapping[str, Sequence[Answer]] | None = None,
    arguments: Mapping[str, Any] | None = None,
    unlimited: Collection[Any] = (),
    but: Collection[str] = (),
    keys: tuple[str, str] = KEYS,
    inputs: int = 2000,
    seed: int = 0,
) -> Trial:
    """Judge a provider by every law that the guard relies on. Nothing is sent anywhere.

    ::

        def test_my_vendor() -> None:
            check_provider(
                lambda base_url, key: MyVendor(key, base_url=base_url),
                stats=[{"used": 120, "limit": 1000}],
                calls=[("POST", "/lookup", {"q": "x"}, [{"found": True}, 404])],
            )

    make: takes a base URL and a key, and ``account=`` where the class does; returns a
        new provider.
    stats: good answers of the stats endpoint: JSON (of a 200), bytes, or
        ``(status, headers, body)``. At least one with a limit is worth most.
    calls: metered calls: method, path below base_url, body (JSON, bytes or None) and
        answers to it, of which a bare number is a status.
    reports: good answers by the name of a reader. arguments: what the readers take, a
        tuple or a mapping by the reader's name.
    unlimited: what a limit is when the vendor means none: ``None``, ``-1``, and ``...``
        for one that is left out.
    but: laws that the provider breaks on purpose, by name.
    keys: two keys, where the class takes only those of a certain form.
    inputs: hostile answers that are made. seed: of everything made up.

    Raises:
        BrokenLaw: an AssertionError that says which law, by what input, what to do.
        ConfigError: check_provider itself was asked for what cannot be.
    """
    _check(stats, unlimited, but, keys)
    subject = Subject(
        make=cast("Make", make),
        answers=tuple(map(outcome_of, stats)),
        paid=tuple(calls),
        reports={name: tuple(map(outcome_of, said)) for name, said in (reports or {}).items()},
        arguments=arguments or {},
        unlimited=tuple(unlimited),
        but=frozenset(but),
        keys=keys,
        inputs=inputs,
        seed=seed,
    )
    judged = tuple(name for name in LAWS if name not in but)
    found = {name: LAWS[name](subject) for name in judged}
    speed = found.get("speed")
    took = speed if isinstance(speed, Speed) else Speed(0.0, 0.0, 0)
    return Trial(judged, inputs, took.median, took.longest, took.memory)


def _check(
    stats: object, unlimited: Collection[Any], but: Collection[str], keys: tuple[str, str]
) -> None:
    fault = ""
    unknown = sorted(set(but) - set(LAWS))
    if not isinstance(stats, list | tuple) or not stats:
        fault = "stats is a list of at least one good answer"
    elif isinstance(but, str) or unknown:
        fault = f"there is no law {but if isinstance(but, str) else unknown[0]!r}; but takes "
        fault += f"a list of {', '.join(LAWS)}"
    elif any(each not in MEANT for each in unlimited):
        fault = "unlimited holds None, -1 or ... and nothing else"
    elif len({*keys}) != 2:
        fault = "keys are two different ones"
    if fault:
        msg = f"check_provider: {fault}"
        raise ConfigError(msg)

"""Which accounts the environment names: keys, and what a provider needs beside them."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from quotaguard.errors import ConfigError

if TYPE_CHECKING:
    from quotaguard.providers import Provider

__all__ = ["VARIABLES", "Named", "named"]

VARIABLES: Mapping[str, tuple[str, ...]] = {
    "fullcontact": ("FULLCONTACT_API_KEY",),
    "octanist": ("OCTANIST_API_KEY",),
    "voxys": ("VOXYS_API_ACCESS_TOKEN", "VOXYS_ACCOUNT_ID", "VOXYS_FUNNEL_ID"),
    "segops": ("SEGOPS_API_KEY",),
}
"""What each provider cannot do without; the first one is the key."""


@dataclass(frozen=True, slots=True)
class Named:
    """One account that the environment names, or why it cannot be asked.

    fault: what is wrong with the variables, in words that quote no value.
    """

    name: str
    provider: Provider | None
    fault: str = ""


def named(environment: Mapping[str, str]) -> list[Named]:
    """Return the accounts whose key is in *environment*, in the order of `VARIABLES`."""
    set_ = {name: value.strip() for name, value in environment.items() if value.strip()}
    return [_named(name, set_) for name, needs in VARIABLES.items() if needs[0] in set_]


def _named(name: str, environment: Mapping[str, str]) -> Named:
    missing = [variable for variable in VARIABLES[name] if variable not in environment]
    if missing:
        return Named(name, None, f"{VARIABLES[name][0]} needs {', '.join(missing)} beside it")
    where = environment.get(f"{name.upper()}_BASE_URL")
    more: dict[str, Any] = {"base_url": where} if where else {}
    try:
        return Named(name, _MAKERS[name](environment, more))
    except (ConfigError, _Unreadable) as error:
        return Named(name, None, str(error))


class _Unreadable(Exception):
    """A variable holds something else than it should."""


def _class(name: str) -> Any:  # noqa: ANN401 - a provider's class
    module, _, kind = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"quotaguard.providers.{module}"), kind)


def _keyed(name: str) -> Callable[[Mapping[str, str], Mapping[str, Any]], Provider]:
    def make(environment: Mapping[str, str], more: Mapping[str, Any]) -> Provider:
        made: Provider = _class(name)(environment[VARIABLES[name][0]], **more)
        return made

    return make


def _voxys(environment: Mapping[str, str], more: Mapping[str, Any]) -> Provider:
    key, account, funnel = (environment[name] for name in VARIABLES["voxys"])
    numbers = []
    for variable, said in (("VOXYS_ACCOUNT_ID", account), ("VOXYS_FUNNEL_ID", funnel)):
        if not (said.isascii() and said.isdecimal()):
            raise _Unreadable(f"{variable} is not a whole number")
        numbers.append(int(said))
    settings = dict(more)
    if "VOXYS_LIMITS" in environment:
        settings["limits"] = _limits(environment["VOXYS_LIMITS"])
    for variable, setting in (("VOXYS_WINDOW", "window"), ("VOXYS_TIME_ZONE", "time_zone")):
        if variable in environment:
            settings[setting] = environment[variable]
    made: Provider = _class("voxys")(key, *numbers, **settings)
    return made


def _limits(said: str) -> dict[str, float]:
    """Return the limits in ``deals.created=500,value.won=1000.50``."""
    limits: dict[str, float] = {}
    for pair in said.split(","):
        meter, _, limit = pair.partition("=")
        try:
            limits[meter.strip()] = float(limit) if "." in limit else int(limit)
        except ValueError:
            msg = "VOXYS_LIMITS is not a list like deals.created=500,deals.won=50"
            raise _Unreadable(msg) from None
    return limits


_HOMES = {
    "fullcontact": "fullcontact:FullContact",
    "octanist": "octanist:Octanist",
    "voxys": "voxys:Voxys",
    "segops": "segops:SegOps",
}
_MAKERS: Mapping[str, Callable[[Mapping[str, str], Mapping[str, Any]], Provider]] = {
    **{name: _keyed(name) for name in ("fullcontact", "octanist", "segops")},
    "voxys": _voxys,
}

"""What your tests need of quotaguard: a clock that you move, providers that are fakes."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, overload

from quotaguard.errors import ConfigError
from quotaguard.spending import SWITCH
from quotaguard.testing.clock import FakeClock
from quotaguard.testing.conformance import Trial, check_provider
from quotaguard.testing.crowd import Crowd
from quotaguard.testing.laws import BrokenLaw
from quotaguard.testing.ledgers import LedgerTrial, check_ledger, check_store
from quotaguard.testing.simulated import SimulatedCall, SimulatedProvider
from quotaguard.testing.simulator import Simulator

if TYPE_CHECKING:
    from quotaguard.testing.fullcontact import FakeFullContact
    from quotaguard.testing.octanist import FakeOctanist
    from quotaguard.testing.segops import FakeSegOps
    from quotaguard.testing.vendor import FakeVendor
    from quotaguard.testing.voxys import FakeVoxys

__all__ = [
    "BrokenLaw",
    "Crowd",
    "FakeClock",
    "LedgerTrial",
    "SimulatedCall",
    "SimulatedProvider",
    "Simulator",
    "Trial",
    "check_ledger",
    "check_provider",
    "check_store",
    "disabled",
    "fake",
]

_FAKES = {
    "fullcontact": ("quotaguard.testing.fullcontact", "FakeFullContact"),
    "octanist": ("quotaguard.testing.octanist", "FakeOctanist"),
    "segops": ("quotaguard.testing.segops", "FakeSegOps"),
    "voxys": ("quotaguard.testing.voxys", "FakeVoxys"),
}


@overload
def fake(provider_name: Literal["fullcontact"], **knobs: Any) -> FakeFullContact: ...  # noqa: ANN401 - see Knobs


@overload
def fake(provider_name: Literal["octanist"], **knobs: Any) -> FakeOctanist: ...  # noqa: ANN401 - see Knobs


@overload
def fake(provider_name: Literal["segops"], **knobs: Any) -> FakeSegOps: ...  # noqa: ANN401 - see Knobs


@overload
def fake(provider_name: Literal["voxys"], **knobs: Any) -> FakeVoxys: ...  # noqa: ANN401 - see Knobs


@overload
def fake(provider_name: str, **knobs: Any) -> FakeVendor: ...  # noqa: ANN401 - see Knobs


def fake(provider_name: str, **knobs: Any) -> FakeVendor:
    """Return a fake provider: a context manager that serves HTTP on loopback.

    ::

        with fake("fullcontact", quota=100, overage=True) as vendor:
            guard = Guard(FullContact(api_key="test-key", base_url=vendor.url))
            ...
            assert vendor.true["person.enrichment.matches"] <= vendor.quota

    provider_name: ``fullcontact``, ``octanist``, ``segops``, ``voxys``.
    knobs: see `quotaguard.testing.vendor.Knobs` for those of every fake, and the
        vendor's own, such as `quotaguard.testing.octanist.OctanistKnobs`.

    Raises:
        ConfigError: there is no fake of this name, or it has no such knob.
    """
    if provider_name not in _FAKES:
        known = ", ".join(sorted(_FAKES))
        msg = f"there is no fake {provider_name!r}; there is one of {known}"
        raise ConfigError(msg)
    module, name = _FAKES[provider_name]
    made: FakeVendor = getattr(importlib.import_module(module), name)(**knobs)
    return made


@contextmanager
def disabled() -> Iterator[None]:
    """Let every guarded call of the process pass uncounted, and say so in one log line.

    The same as the environment variable ``QUOTAGUARD_DISABLED=1``, for a block.
    """
    before = SWITCH.off, SWITCH.said
    SWITCH.off, SWITCH.said = True, False
    try:
        yield
    finally:
        SWITCH.off, SWITCH.said = before

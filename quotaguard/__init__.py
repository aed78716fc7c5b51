"""Quota-aware middleware for the client: no overage bill, no outage in the middle of a month."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quotaguard.errors import (
        ConfigError,
        CostTooLarge,
        LedgerError,
        LedgerUnavailable,
        NoSubscription,
        ProviderError,
        QuotaExhausted,
        QuotaGuardError,
        QuotaUnknown,
        Refusal,
        StatsForbidden,
        StatsUnavailable,
        StatsUnreadable,
        WaitTooLong,
    )
    from quotaguard.guard import Guard
    from quotaguard.ledgers.memory import MemoryLedger
    from quotaguard.ledgers.redis import RedisLedger
    from quotaguard.ledgers.sqlite import SQLiteLedger
    from quotaguard.providers.fullcontact import FullContact
    from quotaguard.providers.octanist import Octanist, OctanistChoices
    from quotaguard.providers.segops import SegOps, SegOpsChoices
    from quotaguard.providers.voxys import Voxys, VoxysChoices
    from quotaguard.quota.forecast import Forecast
    from quotaguard.quota.policy import Policy
    from quotaguard.quota.standing import Standing

__all__ = [
    "ConfigError",
    "CostTooLarge",
    "Forecast",
    "FullContact",
    "Guard",
    "LedgerError",
    "LedgerUnavailable",
    "MemoryLedger",
    "NoSubscription",
    "Octanist",
    "OctanistChoices",
    "Policy",
    "ProviderError",
    "QuotaExhausted",
    "QuotaGuardError",
    "QuotaUnknown",
    "RedisLedger",
    "Refusal",
    "SQLiteLedger",
    "SegOps",
    "SegOpsChoices",
    "Standing",
    "StatsForbidden",
    "StatsUnavailable",
    "StatsUnreadable",
    "Voxys",
    "VoxysChoices",
    "WaitTooLong",
]

_HOMES = {
    "Forecast": "quotaguard.quota.forecast",
    "FullContact": "quotaguard.providers.fullcontact",
    "Guard": "quotaguard.guard",
    "MemoryLedger": "quotaguard.ledgers.memory",
    "Octanist": "quotaguard.providers.octanist",
    "OctanistChoices": "quotaguard.providers.octanist",
    "Policy": "quotaguard.quota.policy",
    "RedisLedger": "quotaguard.ledgers.redis",
    "SQLiteLedger": "quotaguard.ledgers.sqlite",
    "SegOps": "quotaguard.providers.segops",
    "SegOpsChoices": "quotaguard.providers.segops",
    "Standing": "quotaguard.quota.standing",
    "Voxys": "quotaguard.providers.voxys",
    "VoxysChoices": "quotaguard.providers.voxys",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - slow, and seldom asked

        return version("quotaguard")
    if name not in __all__:
        msg = f"module 'quotaguard' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(_HOMES.get(name, "quotaguard.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

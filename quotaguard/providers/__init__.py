"""Providers: what each vendor's stats call, prices and replies mean. Pure.

A provider is one file in this folder and knows no sibling; the records of its reports
stand in `quotaguard.reports`. It is judged by `quotaguard.testing.check_provider`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from quotaguard.quota.calls import Bill, Call, Cost, Outcome, Price, Report, StatsRequest
from quotaguard.quota.readings import Meter, Reading

__all__ = ["Provider"]


class Provider(Protocol):
    """What the guard must know of a vendor. Implementations are pure and thread-safe.

    One whose `stats_request` may call the application for a key, which may block, says
    so by a true attribute ``asks_for_key``: then event loops ask it in a worker thread.
    """

    @property
    def name(self) -> str:
        """The vendor, in lower case: ``fullcontact``."""

    @property
    def account(self) -> str:
        """The digest that names the account in ledgers and logs; never the key."""

    @property
    def meters(self) -> Mapping[str, Meter]:
        """Every meter that a reading or a cost may name."""

    @property
    def operations(self) -> Mapping[str, Cost]:
        """Named calls and their estimates: ``person.enrich``."""

    @property
    def key_headers(self) -> tuple[str, ...]:
        """Headers that carry the key, in lower case; stripped when a redirect leaves."""

    @property
    def polls_per_hour(self) -> float:
        """What the stats endpoint allows, or a polite guess."""

    @property
    def reports(self) -> Mapping[str, Callable[..., Report[Any]]]:
        """The provider's stats endpoints for people, by the name of their reader.

        Called with the user's arguments; raises ConfigError for those that cannot be.
        Empty where there are none.
        """

    def stats_request(self, wall: float, /) -> StatsRequest:
        """Return the stats poll. It carries the key.

        wall: Unix time of the question, for providers that want a window of dates.
        """

    def read_stats(self, outcome: Outcome) -> Reading:
        """Return the reading in an answer of the stats endpoint.

        Raises:
            ProviderError: the kind says what is wrong; never anything else,
                whatever the bytes are.
        """

    def price(self, call: Call) -> Price | None:
        """Return what *call* may cost at most, None where it is not metered."""

    def foreign(self, call: Call) -> bool:
        """Whether *call* carries another key than this provider's."""

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        """Return what *call* cost, by its answer."""

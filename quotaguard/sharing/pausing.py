"""How long a store that failed is not asked again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quotaguard.errors import LedgerUnavailable
from quotaguard.sharing.record import Illegible

if TYPE_CHECKING:
    from quotaguard.clock import Clock

__all__ = ["DOWN_FOR", "Pauses"]

DOWN_FOR = 0.5
"""Seconds for which a store that failed is not asked again: its timeouts must not add up. One
that took longer than that to fail is left alone for as long: callers wait half the time at most."""

AT_ONCE = 0.1
"""Seconds: a store that took more to fail is not asked for other accounts either. What fails
at once may be wrong with one record, and does not add up."""


class Pauses:
    """When a store may be asked, for which account. Used by one thread at a time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._all: tuple[float, LedgerUnavailable] | None = None
        self._own: dict[str, tuple[float, LedgerUnavailable]] = {}

    def heed(self, account: str) -> None:
        """Ask nothing where a pause has not ended.

        Raises:
            LedgerUnavailable: as the store did last time.
        """
        for pause in (self._all, self._own.get(account)):
            if pause is not None and self._clock.fast() < pause[0]:
                raise LedgerUnavailable(pause[1].args[0], store=pause[1].store)

    def failed(self, account: str, begun: float, error: LedgerUnavailable) -> None:
        """Note what an exchange has raised that was *begun* at this time of the fast clock."""
        now = self._clock.fast()
        self._own[account] = pause = now + max(DOWN_FOR, now - begun), error
        if now - begun > AT_ONCE and not isinstance(error, Illegible):
            self._all = pause

    def worked(self, account: str) -> None:
        """The store has answered."""
        self._all = None
        self._own.pop(account, None)

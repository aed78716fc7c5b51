"""Who carries the stats exchanges of a guard: imported with httpx when the first is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from quotaguard.providers import Provider
    from quotaguard.quota.calls import Report
    from quotaguard.quota.readings import Reading
    from quotaguard.stats import Stats

__all__ = ["Exchange", "LazyStats"]

T = TypeVar("T")


class Exchange(Protocol):
    """What carries a poll: `quotaguard.stats.Stats`, imported when the first is made."""

    def fetch(self, wall: float) -> Reading:
        """Ask the provider at this Unix time; raises `ProviderError` only."""

    async def afetch(self, wall: float) -> Reading:
        """Ask the provider at this Unix time; raises `ProviderError` only."""

    def fetch_report(self, report: Report[T]) -> T:
        """Ask the provider, or the shelf; raises `ProviderError` only."""

    async def afetch_report(self, report: Report[T]) -> T:
        """Ask the provider, or the shelf; raises `ProviderError` only."""

    def close(self) -> None:
        """Let go of what is open."""

    async def aclose(self) -> None:
        """Let go of what is open."""


class LazyStats:
    """The stats exchange, imported with httpx when the first poll is made."""

    def __init__(
        self,
        provider: Provider,
        client: httpx.Client | httpx.AsyncClient | None,
        timer: Callable[[], float],
    ) -> None:
        self._provider = provider
        self._timer = timer
        self._client = client
        self._stats: Stats | None = None
        if client is not None:
            # A wrong client is told where the guard is built; its owner has httpx anyway.
            self._made()

    def _made(self) -> Stats:
        if self._stats is None:
            from quotaguard.stats import Stats  # noqa: PLC0415 - httpx costs 80 ms

            self._stats = Stats(self._provider, client=self._client, timer=self._timer)
        return self._stats

    def fetch(self, wall: float) -> Reading:
        """Ask the provider at this Unix time; raises `ProviderError` only."""
        return self._made().fetch(wall)

    async def afetch(self, wall: float) -> Reading:
        """Ask the provider at this Unix time; raises `ProviderError` only."""
        return await self._made().afetch(wall)

    def fetch_report(self, report: Report[T]) -> T:
        """Ask the provider, or the shelf; raises `ProviderError` only."""
        return self._made().fetch_report(report)

    async def afetch_report(self, report: Report[T]) -> T:
        """Ask the provider, or the shelf; raises `ProviderError` only."""
        return await self._made().afetch_report(report)

    def close(self) -> None:
        """Let go of what is open."""
        if self._stats is not None:
            self._stats.close()

    async def aclose(self) -> None:
        """Let go of what is open."""
        if self._stats is not None:
            await self._stats.aclose()

"""The provider's stats endpoints for people: ``guard.reports`` and ``guard.areports``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quotaguard.quota.calls import Report
    from quotaguard.spending import Spending

__all__ = ["AsyncReports", "Reports"]


class Reports:
    """The readers that the guard's provider has: ``guard.reports.stats()``.

    What each takes and returns stands in docs/reference, by provider; ``dir()`` names
    them. An answer is kept for a few seconds: who asks the same again costs no call.
    A report never becomes a reading.
    """

    def __init__(self, spending: Spending) -> None:
        self._spending = spending

    def _found(self, name: str) -> Callable[..., Report[Any]]:
        if name.startswith("_"):
            raise AttributeError(name)
        provider = self._spending.provider
        found = provider.reports.get(name)
        if found is None:
            known = ", ".join(sorted(provider.reports)) or "none"
            msg = f"{provider.name} has no report {name!r}; it has {known}"
            raise AttributeError(msg)
        return found

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = self._found(name)

        def read(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - the reader's own
            return self._spending.stats.fetch_report(found(*given, **named))

        return read

    def __dir__(self) -> list[str]:
        return sorted(self._spending.provider.reports)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._spending.provider.name}: {', '.join(dir(self))}>"


class AsyncReports(Reports):
    """The same readers for event loops: ``await guard.areports.stats()``."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        found = self._found(name)

        async def read(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - the reader's own
            return await self._spending.stats.afetch_report(found(*given, **named))

        return read

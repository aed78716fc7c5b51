"""What every provider reads out of an answer: pauses, request ids, faults, records."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from quotaguard.errors import ProviderError, StatsUnreadable
from quotaguard.quota import strict
from quotaguard.quota.calls import Evidence, Outcome
from quotaguard.quota.fields import Unfit
from quotaguard.quota.secret import Secret

__all__ = ["MOST_PAUSE", "Faults", "dated", "number", "paused", "retry_after"]

T = TypeVar("T")

MOST_PAUSE = 3600.0
"""Seconds; a longer Retry-After would park workers: it is a mistake, or means the month."""

_NUMBER = re.compile(r"[0-9]{1,10}(?:\.[0-9]{1,6})?")
_REQUEST_ID = re.compile(r"[!-~]{1,80}")
_PATH = re.compile(r"[\w .\[\]-]{1,200}")
_REQUEST_ID_HEADERS = ("x-request-id", "x-amzn-requestid")


def number(text: str | None) -> float | None:
    """Return a plain number of a header, None where it is none."""
    said = (text or "").strip()
    return float(said) if _NUMBER.fullmatch(said) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After`` (RFC 9110, 10.2.3), None where it says none.

    A date counts from the answer's own ``Date``: two clocks of one server agree.
    """
    said = headers.get("retry-after")
    seconds = number(said)
    if seconds is not None or said is None:
        return seconds
    then, now = _date(said), _date(headers.get("date", ""))
    return max(0.0, (then - now).total_seconds()) if then and now else None


def dated(headers: Mapping[str, str]) -> float | None:
    """Return the Unix time of an answer's ``Date``, None without one.

    One that a cache has kept (``Age``, RFC 9111) is of another time.
    """
    said = headers.get("date")
    moment = None if said is None or "age" in headers else _date(said)
    return None if moment is None else moment.timestamp()


def _date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text[:64])
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def paused(outcome: Outcome) -> tuple[Evidence, ...]:
    """Return the pause that a 429 or 503 asks for by ``Retry-After``, at most an hour."""
    if outcome.status not in (429, 503):
        return ()
    seconds = retry_after(outcome.headers)
    if seconds is None or not 0 < seconds <= MOST_PAUSE:
        return ()
    return (Evidence("pause", seconds=seconds),)


class Faults:
    """Makes one provider's errors: with its name, the status, the request id, no secret.

    said: finds the code and the request id in an answer's body, for vendors who put
        them there; None where there is none.
    """

    __slots__ = ("_key", "_name", "_said")

    def __init__(
        self,
        name: str,
        key: Secret | None,
        said: Callable[[Outcome], tuple[str | None, str | None]] | None = None,
    ) -> None:
        self._name = name
        self._key = key
        self._said = said

    def of(
        self,
        kind: type[ProviderError],
        said: str,
        outcome: Outcome,
        *,
        path: str | None = None,
        code: str | None = None,
        request_id: str | None = None,
    ) -> ProviderError:
        """Return an error of *kind*; *code* and *request_id* are shown where they look it."""
        headers, found = outcome.headers, (code, request_id)
        if self._said is not None and found == (None, None):
            found = self._said(outcome)
        told = (found[1], *(headers.get(name) for name in _REQUEST_ID_HEADERS))
        return kind(
            said,
            provider=self._name,
            status=outcome.status,
            code=self._shown(found[0]),
            path=path,
            retry_after=retry_after(headers),
            request_id=next((one for one in map(self._shown, told) if one), None),
        )

    def read(self, outcome: Outcome, build: Callable[[object], T]) -> T:
        """Return what *build* makes of the JSON in an answer.

        Raises:
            StatsUnreadable: it is no JSON, or a field is `Unfit`; *path* names it. Any
                other ValueError of *build* is one too, without its text.
        """
        path, why = "the answer", ""
        try:
            said = strict.load(outcome.body or b"")
        except ValueError as error:
            why = str(error)
        else:
            try:
                return build(said)
            except Unfit as unfit:
                path, why = self._plain(unfit.path), str(unfit)
            except (ValueError, OverflowError):
                # Such an error quotes what it was given, and that is the vendor's.
                why = "a value in it is not what it must be"
        raise self.of(
            StatsUnreadable, f"looked for {path} in the answer: {why}", outcome, path=path
        )

    def _plain(self, path: str) -> str:
        """Return a path; where the vendor's own names in it are no names, none of it."""
        secret = self._key is not None and self._key.reveal() in path
        return "the answer" if secret or not _PATH.fullmatch(path) else path

    def _shown(self, said: object) -> str | None:
        """Return an id as a plain word; None where it is none, or has the key in it."""
        if not isinstance(said, str) or not _REQUEST_ID.fullmatch(said):
            return None
        return None if self._key is not None and self._key.reveal() in said else said

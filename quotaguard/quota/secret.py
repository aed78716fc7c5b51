"""Keys, and the names that stand for accounts where a key must not."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from typing import NoReturn

from quotaguard.errors import ConfigError, StatsUnavailable

__all__ = ["Handed", "Secret", "account_digest"]

_PEPPER = b"quotaguard/account/1"


class Secret:
    """An API key that never shows itself: no repr, no pickle, no copy."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        if not isinstance(value, str) or not value.strip():
            msg = "the API key is empty; give the key that the provider issued"
            raise ConfigError(msg)
        if not value.isascii() or not value.isprintable():
            msg = "the API key has characters that no HTTP header can carry"
            raise ConfigError(msg)
        self._value = value

    def reveal(self) -> str:
        """Return the key, for the header that needs it."""
        return self._value

    def matches(self, other: str) -> bool:
        """Whether *other* is this key, in constant time."""
        return hmac.compare_digest(self._value.encode(), other.encode())

    def __repr__(self) -> str:
        return "<Secret>"

    def __reduce__(self) -> NoReturn:
        msg = "a key is not pickled; build the guard where it is used"
        raise TypeError(msg)


class Handed:
    """A key that a function of the application hands out; kept until it is refused.

    Nothing is locked while that function works, so that two threads may call it at once.
    """

    __slots__ = ("_give", "_provider", "kept")

    def __init__(self, provider: str, give: Callable[[], str]) -> None:
        self._provider = provider
        self._give = give
        self.kept: Secret | None = None

    @property
    def name(self) -> str:
        """What tells this function from others, in this process; the same for one method."""
        try:
            return f"{hash(self._give)}"
        except TypeError:  # a callable object that compares by value
            return f"{id(self._give)}"

    def key(self, refused: Secret | None = None) -> Secret:
        """Return the key that is kept, or another one where that was *refused*.

        Raises:
            StatsUnavailable: the function raised, of which only the class is told, or
                what it returned is no key.
        """
        kept = self.kept
        if kept is not None and kept is not refused:
            return kept  # another thread was sooner
        try:
            given = self._give()
            if hasattr(given, "__await__"):
                getattr(given, "close", str)()
                why = "is asynchronous; give a plain one"
                raise ConfigError(why)  # noqa: TRY301 - told as any other that gives no key
            Secret(given)  # refuses what is no key at all
            self.kept = kept = Secret(given.strip())
        except ConfigError as error:
            why = f"returned no key: {error}"
        except Exception as error:  # noqa: BLE001 - the user's own; its text may hold anything
            why = f"raised {type(error).__name__}"
        else:
            return kept
        # Here, where the error that the function raised is no context any more.
        said = f"the function that hands out the key {why}"
        raise StatsUnavailable(said, provider=self._provider)

    def __repr__(self) -> str:
        return "<Handed>"

    def __reduce__(self) -> NoReturn:
        msg = "a key is not pickled; build the guard where it is used"
        raise TypeError(msg)


def account_digest(provider: str, account: str | None, key: Secret) -> str:
    """Return the name of an account in ledgers and logs: 16 hexadecimal digits.

    HMAC-SHA256 under a fixed pepper of the program over the provider and
    *account*, or over the key where no account is named.
    """
    kind, name = ("key", key.reveal()) if account is None else ("account", account)
    told = "\0".join((provider, kind, name)).encode()
    return hmac.new(_PEPPER, told, hashlib.sha256).hexdigest()[:16]

"""Where a provider lives: the one origin that its key may go to, and the account there."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple, NoReturn
from urllib.parse import urlsplit

from quotaguard.errors import ConfigError
from quotaguard.quota.secret import Secret, account_digest

__all__ = ["Home", "home", "loopback", "origin_and_path"]

_HOST = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9.])?")


class Home(NamedTuple):
    """A provider's origin, the path before its own, and the digest of the account."""

    origin: str
    prefix: str
    account: str


def home(
    name: str, real: str, base_url: str, account: str | None, key: Secret, *, inside: str = ""
) -> Home:
    """Return where *base_url* leads and whose account that is.

    name: of the provider. real: the vendor's own base URL. inside: the start of every
    path of its own, which *base_url* may already name (``/v3``).

    Raises:
        ConfigError: the URL or the account cannot be used.
    """
    if account is not None and not isinstance(account, str):
        msg = f"account= is a name, not {type(account).__name__}"
        raise ConfigError(msg)
    if account is not None and not account.strip():
        msg = "account= is empty; name the account, or leave it out to go by the key"
        raise ConfigError(msg)
    origin, path = origin_and_path(base_url, real)
    prefix = path.removesuffix(inside) if inside else path
    # The same key at a test server is another account.
    vendor = name if origin == real else f"{name} {origin}{prefix}"
    return Home(origin, prefix, account_digest(vendor, account, key))


def origin_and_path(base_url: str, example: str) -> tuple[str, str]:
    """Return the origin of *base_url* as a `Call` tells it, and its path without end slash.

    https goes anywhere, http to a loopback host only: the key is in every request.
    *example* is a URL that would do. No error quotes *base_url*, since somebody
    may have put a password into it.

    Raises:
        ConfigError: what is wrong with the URL.
    """
    base_url = str(base_url)
    if not re.fullmatch(r"[!-~]+", base_url):
        _refuse("is not a URL in plain ASCII", example)
    if any(mark in base_url for mark in "?#@\\"):
        _refuse("has a user, a query, a fragment or a backslash", example)
    scheme, host, port, path = _parts(base_url)
    if not host:
        _refuse("has no host and port that can be read", example)
    if scheme != "https" and not (scheme == "http" and loopback(host)):
        _refuse("is not https (http goes to a loopback host only)", example)
    if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
        _refuse("has a path that clients would rewrite", example)
    shown = f"[{host}]" if ":" in host else host
    if port is not None and port != (443 if scheme == "https" else 80):
        shown = f"{shown}:{port}"
    return f"{scheme}://{shown}", path


def _parts(base_url: str) -> tuple[str, str, int | None, str]:
    """Return scheme, host, port and path; no host where it or the port is no such thing."""
    try:
        parts = urlsplit(base_url)
        host, port = parts.hostname or "", parts.port
        if ":" in host:
            # An address with a zone is one of this machine's cables, not a provider.
            host = "" if "%" in host else str(ipaddress.IPv6Address(host))
        elif not _HOST.fullmatch(host):
            host = ""
    except ValueError:
        return "", "", None, ""
    return parts.scheme, host, port, parts.path.rstrip("/")


def loopback(host: str) -> bool:
    """Whether a host is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refuse(what: str, example: str) -> NoReturn:
    msg = f"base_url {what}; give one like {example}"
    raise ConfigError(msg)

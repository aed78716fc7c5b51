"""What is said to a Redis server, and what its answers and addresses mean."""

from __future__ import annotations

import re
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from quotaguard.errors import ConfigError

__all__ = ["FAULTS", "MEMORY", "SCHEMES", "SCRIPT", "code_of", "name_of_url", "reason_of"]

# Who speaks to the server is checked in every exchange, not only when connecting: a proxy
# or a DNS name may lead elsewhere at any time. A replica may lag, so its books are not read.
SCRIPT = """\
local info = redis.pcall('INFO', 'replication')
local era = ''
if type(info) == 'string' then
  if string.find(info, 'role:slave', 1, true) then
    return redis.error_reply('READONLY this server is a replica')
  end
  era = string.match(info, 'master_replid:(%w+)') or ''
end
local time = redis.call('TIME')
local version = redis.call('HGET', KEYS[1], 'v') or ''
if ARGV[1] == 'swap' and version == ARGV[2] and era == ARGV[3] then
  redis.call('HSET', KEYS[1], 'v', ARGV[4], 'b', ARGV[5])
  return {1, ARGV[4], '', time[1], time[2], era}
end
local text = ''
if version ~= '' and version ~= ARGV[2] then
  text = redis.call('HGET', KEYS[1], 'b') or ''
end
return {0, version, text, time[1], time[2], era}
"""
MEMORY = """\
local info = redis.pcall('INFO', 'memory')
if type(info) ~= 'string' then return {'', ''} end
return {string.match(info, 'maxmemory:(%d+)') or '',
        string.match(info, 'maxmemory_policy:([%w-]+)') or ''}
"""

SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "valkey": "redis",
    "valkeys": "rediss",
    "unix": "unix",
}
FAULTS = {
    "OOM": ("it has no memory left (maxmemory)", "Give it more, or keep other data elsewhere"),
    "READONLY": (
        "it is a replica and does not take writes",
        "After a failover the next exchange connects anew; else name the primary, or Sentinel",
    ),
    "LOADING": ("it is still loading its data", "It answers when it is done"),
    "MASTERDOWN": ("it is a replica that has lost its primary", "Name the primary, or Sentinel"),
    "NOAUTH": ("it does not take this user and password", "Look at those of the URL or client"),
    "NOPERM": (
        "the user may not do what a ledger needs",
        "Allow it ~qg:* +eval +evalsha +hget +hset +time +info",
    ),
    "MOVED": ("it is one of a cluster", "Give the ledger a RedisCluster client"),
    "ASK": ("its cluster is moving the account to another node", "Try again when that is done"),
    "CLUSTERDOWN": ("its cluster is down", "Look at CLUSTER INFO"),
    "TRYAGAIN": ("its cluster is moving the account", "Try again when that is done"),
    "WRONGTYPE": ("the key of the account is somebody else's", "Keep the ledger in another db"),
    "MISCONF": ("it cannot save to its disk and takes no writes", "Look at its log and disk"),
    "NOREPLICAS": ("it has too few replicas to take writes", "Look at min-replicas-to-write"),
    "BUSY": ("somebody's script keeps it busy", "Look who runs one; SCRIPT KILL ends it"),
}
"""By the code of the answer: what is wrong with the server, and what to do next."""

CODES = {
    "OutOfMemoryError": "OOM",
    "ReadOnlyError": "READONLY",
    "BusyLoadingError": "LOADING",
    "MasterDownError": "MASTERDOWN",
    "AuthenticationError": "NOAUTH",
    "AuthenticationWrongNumberOfArgsError": "NOAUTH",
    "NoPermissionError": "NOPERM",
    "AuthorizationError": "NOPERM",
    "MovedError": "MOVED",
    "AskError": "ASK",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "NoScriptError": "NOSCRIPT",
}
"""The codes that the client takes off a message, by what it raises then."""


def code_of(error: Exception) -> str:
    """Return the code of a server's answer, "" where it is none."""
    kinds = [kind.__name__ for kind in type(error).__mro__]
    for kind in kinds:
        if kind in CODES:
            return CODES[kind]
    if "ResponseError" not in kinds:
        return ""
    text = str(error)
    if "user executing the script can't" in text:  # how Redis 7.0 says it
        return "NOPERM"
    # Redis 6 wraps what a script ran into.
    return next((word for word in re.findall(r"[A-Z]+", text) if word in FAULTS), "ERR")


def reason_of(error: BaseException) -> str:
    """Return what happened, without the client's own words: they may hold a password."""
    kind = type(error).__name__
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, OSError) and link.strerror:
            return f"{kind}: {link.strerror}"
        link = link.__cause__ or link.__context__
    return kind


def name_of_url(url: str) -> str:
    """Return how to name the server of a URL, without user and password."""
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES or "://" not in url:
        raise ConfigError(f"a Redis URL begins with one of {', '.join(sorted(SCHEMES))}, and ://")
    try:
        return _named(scheme, urlsplit(url))
    except ValueError:
        raise ConfigError(
            "this is no Redis URL. It looks like redis://user:password@host:6379/0, and "
            "special characters of user and password are quoted (urllib.parse.quote)"
        ) from None


def _named(scheme: str, parts: SplitResult) -> str:
    path = "" if scheme == "unix" else parts.path.strip("/")
    db = int(parse_qs(parts.query).get("db", [path])[0] or 0)
    if scheme == "unix":
        return f"redis {unquote(parts.path)} db {db}"
    if "@" in parts.path + parts.query + parts.fragment:
        raise ValueError  # a part of the password, which was not quoted
    kind = "valkey" if scheme.startswith("valkey") else "redis"
    return f"{kind} {parts.hostname or 'localhost'}:{parts.port or 6379}/{db}"

"""What is said to a Redis server, and what its answers and addresses mean."""

from __future__ import annotations

import inspect
import re
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from quotaguard.errors import ConfigError

__all__ = [
    "FAULTS",
    "MEMORY",
    "SCHEMES",
    "SCRIPT",
    "code_of",
    "name_of_client",
    "name_of_url",
    "reason_of",
]

# Who speaks to the server is checked in every exchange, not only when connecting: a proxy
# or a DNS name may lead elsewhere at any time. A replica may lag, so its books are not read.
#
# Whoever was slower than others claims the next turn (c) until a time (u): without that the
# one that is on the processor wins again and again. A claim ends by itself, soon, and at
# once where the clock was set back.
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
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local row = redis.call('HMGET', KEYS[1], 'v', 'c', 'u')
local version, claim = row[1] or '', row[2] or ''
local left = (tonumber(row[3] or '') or 0) - now
local free = claim == '' or claim == ARGV[6] or left < 0 or left > 20
if ARGV[1] == 'swap' and version == ARGV[2] and era == ARGV[3] and free then
  redis.call('HSET', KEYS[1], 'v', ARGV[4], 'b', ARGV[5], 'c', '')
  return {1, ARGV[4], '', time[1], time[2], era}
end
if ARGV[7] == 'claim' and free then
  redis.call('HSET', KEYS[1], 'c', ARGV[6], 'u', string.format('%d', now + 20))
end
local text = ''
if version ~= '' and version ~= ARGV[2] then
  text = redis.call('HMGET', KEYS[1], 'b')[1] or ''
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
        "Allow it ~qg:* +eval +evalsha +hmget +hset +time +info (+select too, for another db)",
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
    text = str(error)
    if "previous master is now a slave" in text:  # how a client of Sentinel says it
        return "READONLY"
    if "ResponseError" not in kinds:
        return ""
    if "unauthenticated" in text:  # how long commands are refused
        return "NOAUTH"
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


def name_of_client(client: Any) -> str:  # noqa: ANN401 - anything may be given
    """Return how to name a client; refuse what is none."""
    command = getattr(client, "execute_command", None)
    if inspect.iscoroutinefunction(command):
        raise ConfigError(
            "give the Redis ledger the synchronous client. It runs on the ledger's own thread, "
            "so that asynchronous callers are never blocked"
        )
    if command is not None and hasattr(client, "get_node_from_key"):
        return f"redis cluster {client.get_default_node().name}"
    options = options_of(client)
    if command is None or not hasattr(client, "connection_pool"):
        raise ConfigError(
            f"a Redis ledger takes a URL or a client of redis or valkey, "
            f"not {type(client).__name__}"
        )
    if master := getattr(client.connection_pool, "service_name", ""):
        return f"redis {master} of Sentinel"
    db = options.get("db") or 0
    if "path" in options:
        return f"redis {options['path']} db {db}"
    return f"redis {options.get('host', 'localhost')}:{options.get('port', 6379)}/{db}"


def options_of(client: Any) -> dict[str, Any]:  # noqa: ANN401 - anything may be given
    """Return the options of a client's connections."""
    if hasattr(client, "get_connection_kwargs"):
        return dict(client.get_connection_kwargs())
    return dict(getattr(getattr(client, "connection_pool", None), "connection_kwargs", {}))

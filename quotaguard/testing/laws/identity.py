"""Who it is, where it asks, and what it never shows."""

from __future__ import annotations

import inspect
import itertools
import json
import math
import pickle
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from quotaguard.errors import ConfigError, ProviderError
from quotaguard.quota.calls import Outcome, StatsRequest
from quotaguard.quota.origin import origin_and_path
from quotaguard.quota.readings import Meter
from quotaguard.testing.hostile import nodes, planted, told
from quotaguard.testing.laws.costs import fault_in
from quotaguard.testing.laws.subject import HOME, WALL, Subject

if TYPE_CHECKING:
    from quotaguard.providers import Provider

__all__ = [
    "account",
    "asked_at",
    "config",
    "echoes",
    "keys",
    "request",
    "secrets",
    "shape",
    "unfolded",
]

HOMES = (HOME, f"{HOME}:8443", f"{HOME}/proxy/of/ours", "http://127.0.0.1:8080", "http://[::1]:81")
"""What base_url may be: any https origin, with a path; http on loopback."""

NO_HOMES = {
    "http://vendor.example": "is plain http, which shows the key to everybody on the way",
    "https://user:word@vendor.example": "has a user and a password",
    "ftp://vendor.example": "is neither https nor http",
    "vendor.example": "has no scheme",
    "": "is empty",
}

WALLS = (0.0, 951_782_400.0, WALL, 1_711_846_800.5, 1_729_990_800.0, 4_102_444_799.999)
"""Unix times: the beginning, a leap day, now, both turns of DST in Europe, 2099's end."""

WANTED = {
    "name": str,
    "account": str,
    "meters": Mapping,
    "operations": Mapping,
    "key_headers": tuple,
    "polls_per_hour": (int, float),
    "reports": Mapping,
}
VERBS = ("stats_request", "read_stats", "price", "foreign", "bill")


def shape(subject: Subject) -> None:
    """Everything is there that the guard asks for, and of the right kind."""
    provider = subject.made()
    do = "look at quotaguard.providers.Provider, which says what each of them is"
    for name, kind in WANTED.items():
        said = getattr(provider, name, None)
        if not isinstance(said, kind):  # type: ignore[arg-type] # a type or a tuple of types
            told = "is missing" if said is None else f"is a {type(said).__name__}"
            subject.broken("shape", f"its {name} {told}", do=do)
    for name in VERBS:
        if not callable(getattr(provider, name, None)):
            subject.broken("shape", f"it has no {name}()", do=do)
    fault = _fault_of(provider)
    if fault:
        subject.broken("shape", fault, do=do)


def _fault_of(provider: Provider) -> str:
    if not provider.name.isprintable() or provider.name != provider.name.strip().lower():
        return f"its name {provider.name!r} is not one word in lower case"
    if not provider.meters:
        return "it has no meters"
    meters: Mapping[str, object] = provider.meters
    for name, meter in meters.items():
        if not (isinstance(meter, Meter) and meter.name == name and meter.scale >= 1):
            return f"its meter {name!r} is {meter!r}"
    for operation, cost in provider.operations.items():
        fault = fault_in(cost, provider.meters)
        if fault:
            return f"the cost of its operation {operation!r} {fault}"
    loud = [header for header in provider.key_headers if header != header.lower()]
    if loud:
        return f"its key_headers are in lower case, and {loud[0]!r} is not"
    if not 0 < provider.polls_per_hour < math.inf:
        return f"its polls_per_hour are {provider.polls_per_hour!r}"
    return ""


def account(subject: Subject) -> None:
    """The account is a digest: equal for the same key and place, never the key."""
    mine, other = subject.keys
    do = "make it by quotaguard.quota.origin.home(name, real_url, base_url, account, key)"
    said = subject.made().account
    for key in subject.keys:
        if key in subject.made(key=key).account:
            subject.broken("account", "the account has the key in it", do=do, given=key)
    if not said.isascii() or not said.isprintable() or not 0 < len(said) <= 64:
        subject.broken("account", f"{said!r} is no digest of up to 64 characters", do=do)
    if said != subject.made().account:
        subject.broken("account", "it is another one each time; it must outlive restarts", do=do)
    if said == subject.made("http://127.0.0.1:8080").account:
        what = "a test server and the vendor have the same one, so they share books"
        subject.broken("account", what, do=do)
    if "account" in inspect.signature(subject.make).parameters:
        _named(subject, mine, other, do)


def keys(subject: Subject) -> None:
    """Two keys are two accounts, where neither ``account=`` nor another setting names one."""
    mine, other = subject.keys
    if subject.made(key=mine).account == subject.made(key=other).account:
        do = "go by the key where no account is named; where other settings name the account, "
        do += 'so that its keys share one bill, say so: but=["keys"]'
        subject.broken("keys", "two keys have the same account, so they share books", do=do)


def _named(subject: Subject, mine: str, other: str, do: str) -> None:
    name = "acme-internal"
    one = subject.made(key=mine, account=name).account
    if one != subject.made(key=other, account=name).account:
        what = "two keys of one account= have two: a rotated key would begin new books"
        subject.broken("account", what, do=do, given=name)
    if one == subject.made(key=mine, account="others").account:
        subject.broken("account", "two names have the same one", do=do, given=name)
    if name in one:
        subject.broken("account", "it has the name in it, which goes to ledgers", do=do, given=name)


def config(subject: Subject) -> None:
    """What cannot work is a ConfigError when the provider is built, without the secret."""
    do = "check base_url by quotaguard.quota.origin.home, and the key by quotaguard.quota.Secret"
    cases: list[tuple[str, str, str]] = [(url, subject.keys[0], w) for url, w in NO_HOMES.items()]
    cases += [
        (HOME, key, f"the key is {key!r}") for key in ("", "  ", "line\nbreak", "schl\xfcssel")
    ]
    for url, key, what in cases:
        try:
            subject.made(url, key)
        except ConfigError as error:
            if "word" in str(error) or (key.strip() and key in str(error)):
                subject.broken("config", "the ConfigError quotes a secret", do=do, given=url)
        except Exception as error:  # noqa: BLE001 - that is the breach
            name = type(error).__name__
            subject.broken("config", f"{name} instead of ConfigError: {what}", do=do, given=url)
        else:
            subject.broken("config", f"it was built although base_url {what}", do=do, given=url)


def request(subject: Subject) -> None:
    """The poll goes to the origin of base_url, with the key in its headers or its body."""
    for home in HOMES:
        provider = subject.made(home)
        for wall in WALLS:
            asked = provider.stats_request(wall)
            asked_at(subject, "request", asked, home, provider)
            renewed = asked.again() if asked.again is not None and wall == WALL else None
            if renewed is not None:
                asked_at(subject, "request", renewed, home, provider)
    if not _carries(subject):
        what = "neither its key_headers nor its body carry the key"
        do = "name every header that carries the key in key_headers, in lower case"
        subject.broken("request", what, do=do)


def _carries(subject: Subject) -> bool:
    provider = subject.made()
    asked, key = provider.stats_request(WALL), subject.keys[0]
    said = " ".join(subject.key_headers(provider).values())
    return key in said or key.encode() in (asked.body or b"")


def asked_at(
    subject: Subject, law: str, asked: StatsRequest, home: str, provider: Provider
) -> None:
    """Judge where a request of the provider's own goes, and where the key is in it."""
    key, origin = subject.keys[0], origin_and_path(home, HOME)[0]
    do = "build the URL from base_url alone; the key goes into a header, never into the URL"
    parts = urlsplit(asked.url)
    fault = ""
    if f"{parts.scheme}://{parts.netloc}".lower() != origin:
        fault = f"it asks {parts.scheme}://{parts.netloc}, and base_url is {home}"
    elif key in asked.url:
        fault = "the key is in the URL, which proxies and libraries log"
    elif parts.fragment or "@" in parts.netloc or not asked.url.isascii():
        fault = "the URL has a user, a fragment, or is not plain ASCII"
    elif not asked.method.isalpha() or asked.method != asked.method.upper():
        fault = f"the method is {asked.method!r}"
    elif key in repr(asked):
        fault = "repr() of the request shows the key"
    if fault:
        subject.broken(law, fault, do=do, given=asked.url)
    for name, said in asked.headers.items():
        if key in said and name.lower() not in provider.key_headers:
            what = f"the header {name!r} carries the key and is not in key_headers"
            subject.broken(law, what, do="name it there, in lower case: redirects strip those")


def secrets(subject: Subject) -> None:
    """The key is in no repr, no text, no pickle, no error and no reading."""
    provider, key = subject.made(), subject.keys[0]
    do = "keep the key in a quotaguard.quota.secret.Secret, and make errors by Faults"
    for what, said in _showing(subject, provider):
        if key in said:
            subject.broken("secrets", f"{what} shows the key", do=do)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        try:
            stored = pickle.dumps(provider, protocol)
        except Exception:  # noqa: BLE001, S112 - what is not pickled shows nothing
            continue
        if key.encode() in stored:
            subject.broken("secrets", "its pickle has the key in it", do=do)
    for outcome in echoes(key, subject.answers):
        read = subject.read(outcome, provider)
        if isinstance(read, ProviderError) and key in unfolded(read):
            what = "an error quotes what the vendor sent, and the key was in it"
            subject.broken("secrets", what, do=do, given=outcome)


def _showing(subject: Subject, provider: Provider) -> Iterator[tuple[str, str]]:
    yield "repr()", repr(provider)
    yield "str()", str(provider)
    yield "its name", provider.name
    yield "its meters and operations", f"{provider.meters!r}{provider.operations!r}"
    yield "its reports", repr(provider.reports)
    for answer in subject.answers:
        yield "a reading", repr(subject.read(answer, provider))


def echoes(key: str, good: Sequence[Outcome]) -> Iterator[Outcome]:
    """Yield answers of a vendor that sends the key back: in headers, words and values."""
    headers = {"x-request-id": key, "retry-after": key, "location": f"/?key={key}"}
    error = json.dumps({"error": {"code": key, "message": f"no {key}"}, "detail": key, key: key})
    for status in (200, 204, 302, 400, 401, 403, 404, 429, 500):
        for body in (key, error):
            yield Outcome(status, headers, body.encode())
    for answer in good:
        said = told(answer.body)
        for path, _ in itertools.islice(nodes(said), 500):
            for raw in (json.dumps(key), json.dumps({key: -1})):
                yield answer._replace(body=planted(said, path, raw.encode()))


def unfolded(error: BaseException) -> str:
    """Return all that an error may show: text, repr, attributes, pickle."""
    stored: Any = pickle.dumps(error)
    return f"{error}{error!r}{error.__dict__!r}{stored!r}"

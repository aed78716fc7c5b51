"""The trial of providers: those that keep the laws pass, and every breach is caught by name."""

from __future__ import annotations

import itertools
import json
import pickle
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from postcodes import Postcodes, answer

from quotaguard.errors import (
    ConfigError,
    NoSubscription,
    ProviderError,
    StatsForbidden,
    StatsUnreadable,
)
from quotaguard.quota.calls import Bill, Call, Cost, Evidence, Outcome, Price, Report, StatsRequest
from quotaguard.quota.readings import Meter, Period, Reading, Usage
from quotaguard.testing import BrokenLaw, Trial, check_provider
from quotaguard.testing.laws import LAWS

INPUTS = 300
"""Fewer than by default: every mutant meets its end early."""


def tried(kind: Callable[..., Any], **settings: Any) -> Trial:
    """Try a provider that answers as Postcodes does."""
    told: dict[str, Any] = {
        "stats": [answer(120, 1000, plan={"name": "gold"}), answer(7, None)],
        "calls": [("POST", "/v1/lookup", {"codes": ["A", "B", "C"]}, [{"found": 2}, 404, 429])],
        "reports": {"usage": [answer(120, 1000)]},
        "unlimited": (None, ...),
        "inputs": INPUTS,
    }
    return check_provider(
        lambda base_url, key, account=None: kind(key, base_url=base_url, account=account),
        **{**told, **settings},
    )


def test_a_good_provider_passes() -> None:
    """It is told how fast it read; the bounds on a busy machine are wide, these are goals."""
    trial = tried(Postcodes, inputs=2000)
    assert trial.laws == tuple(LAWS)
    assert trial.inputs == 2000
    assert 0 < trial.median <= trial.longest
    assert 0 < trial.memory < 2**20


def test_one_line_is_enough() -> None:
    """A class and one good answer: all else is for those who have more to show."""
    check_provider(
        lambda base_url, key: Postcodes(key, base_url=base_url),
        stats=[answer(120, 1000)],
        unlimited=(None, ...),
    )


# -- those that break a law ------------------------------------------------------


class Shouting(Postcodes):
    name = "POSTCODES"


class WithoutMeters(Postcodes):
    meters: Mapping[str, Meter] = {}


class Undeclared(Postcodes):
    operations: Mapping[str, Cost] = {"lookup": {"units": 1}}


class LoudHeaders(Postcodes):
    key_headers = ("X-Api-Key",)


class Anywhere(Postcodes):
    """Takes any base_url."""

    def __init__(self, api_key: str, *, base_url: str = "", account: str | None = None) -> None:
        try:
            super().__init__(api_key, base_url=base_url, account=account)
        except ConfigError:
            super().__init__("some-key", account=account)


class LateFault(Postcodes):
    """A wrong setting is somebody else's exception."""

    def __init__(self, api_key: str, *, base_url: str = "", account: str | None = None) -> None:
        try:
            super().__init__(api_key, base_url=base_url, account=account)
        except ConfigError as error:
            raise KeyError(api_key) from error


class KeyAsAccount(Postcodes):
    @property
    def account(self) -> str:
        return f"postcodes-{self._key.reveal()}"


class OneForAll(Postcodes):
    @property
    def account(self) -> str:
        return "postcodes"


class OneForAllKeys(Postcodes):
    """The account is the vendor's, whoever pays."""

    def __init__(self, api_key: str, *, base_url: str = "", account: str | None = None) -> None:
        super().__init__(api_key, base_url=base_url, account=account or "all")


class Anew(Postcodes):
    """The digest is salted by process, or by call."""

    @property
    def account(self) -> str:
        return f"{random.getrandbits(64):x}"


class ByKeyAlone(Postcodes):
    """account= is not heard, so that a rotated key begins new books."""

    def __init__(self, api_key: str, *, base_url: str = "", account: str | None = None) -> None:
        super().__init__(api_key, base_url=base_url)


class KeyInUrl(Postcodes):
    def stats_request(self, wall: float, /) -> StatsRequest:
        asked = super().stats_request(wall)
        return replace(asked, url=f"{asked.url}?apiKey={self._key.reveal()}")


class Elsewhere(Postcodes):
    """The stats live on another host than calls, whatever base_url says."""

    def stats_request(self, wall: float, /) -> StatsRequest:
        return StatsRequest("GET", "https://usage.postcodes.example/v1", self._keyed())


class HiddenHeader(Postcodes):
    """A second header carries the key, and redirects would take it along."""

    def _keyed(self) -> Mapping[str, str]:
        return {"X-Api-Key": self._key.reveal(), "X-Legacy-Auth": f"k={self._key.reveal()}"}


class Nameless(Postcodes):
    """The header that carries the key is not declared."""

    key_headers = ()


class Telling(Postcodes):
    def __repr__(self) -> str:
        return f"<Postcodes {self._key.reveal()}>"


class Stored(Postcodes):
    """Pickles with its key."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Postcodes, (self._key.reveal(),)


class Quoting(Postcodes):
    """Its error says what was in the answer."""

    def read_stats(self, outcome: Outcome) -> Reading:
        try:
            return super().read_stats(outcome)
        except StatsUnreadable:
            text = (outcome.body or b"").decode("utf-8", "replace")[:200]
            raise StatsUnreadable(f"cannot read {text}", provider=self.name) from None


class Refusing(Postcodes):
    """Does not know what its vendor sends."""

    def read_stats(self, outcome: Outcome) -> Reading:
        raise StatsUnreadable("what is this?", provider=self.name)


class Fractional(Postcodes):
    """Counts are taken as they come."""

    def _reading(self, said: Any) -> Reading:
        return Reading({"lookups": Usage(float(said["used"]), said["limit"])})  # type: ignore[arg-type]


class Hasty(Postcodes):
    """Believes that the body is what it should be."""

    def read_stats(self, outcome: Outcome) -> Reading:
        if outcome.status != 200:
            raise self._refusal(outcome)
        said = json.loads(outcome.body or b"")
        return Reading({"lookups": Usage(said["used"], said["limit"])})


class HalfCareful(Postcodes):
    """Catches what a beginner thinks of."""

    def read_stats(self, outcome: Outcome) -> Reading:
        if outcome.status != 200:
            raise self._refusal(outcome)
        try:
            said = json.loads(outcome.body or b"")
            usage = Usage(int(said["used"]), said["limit"] and int(said["limit"]))
        except (KeyError, ValueError, TypeError):
            raise self._faults.of(StatsUnreadable, "it is no usage", outcome) from None
        return Reading({"lookups": usage})


class Anonymous(Postcodes):
    def read_stats(self, outcome: Outcome) -> Reading:
        try:
            return super().read_stats(outcome)
        except ProviderError as error:
            raise type(error)(str(error.args[0])) from None


class Bare(Postcodes):
    def read_stats(self, outcome: Outcome) -> Reading:
        try:
            return super().read_stats(outcome)
        except ProviderError:
            raise ProviderError("something is wrong", provider=self.name) from None


class Dated(Postcodes):
    """Its periods end before they start, where the vendor says so."""

    def _reading(self, said: object) -> Reading:
        read = super()._reading(said)
        return replace(read, period=Period(2.0, 1.0)) if "plan" in read.extra else read


class Bodily(Postcodes):
    """Reads any status whose body looks well."""

    def read_stats(self, outcome: Outcome) -> Reading:
        if outcome.status in {401, 403}:
            raise self._refusal(outcome)
        return self._faults.read(outcome, self._reading)


class Hopeful(Postcodes):
    """What it cannot read is taken as nothing used."""

    def read_stats(self, outcome: Outcome) -> Reading:
        try:
            return super().read_stats(outcome)
        except StatsUnreadable:
            return Reading({"lookups": Usage(0, 1000)})


class Unmoved(Postcodes):
    """A wrong key is a fault like any other, so polls hammer on."""

    def _refusal(self, outcome: Outcome) -> ProviderError:
        return self._faults.of(NoSubscription, f"the answer was {outcome.status}", outcome)


class Lenient(Postcodes):
    """A limit that cannot be read is no limit."""

    def _reading(self, said: object) -> Reading:
        read = super()._reading({**said, "limit": None} if isinstance(said, dict) else said)
        limit = said.get("limit") if isinstance(said, dict) else None
        known = limit if isinstance(limit, int) and not isinstance(limit, bool) else None
        usage = Usage(read.usages["lookups"].used, known if known is None or known >= 0 else None)
        return replace(read, usages={"lookups": usage})


class Defaulting(Postcodes):
    """A count that is not there is 0."""

    def _reading(self, said: object) -> Reading:
        return super()._reading({"used": 0, **said} if isinstance(said, dict) else said)


class LastWins(Postcodes):
    """The last of two equal keys is believed."""

    def read_stats(self, outcome: Outcome) -> Reading:
        if outcome.status != 200:
            raise self._refusal(outcome)
        try:
            said = json.loads(outcome.body or b"")
            again = json.dumps(said).encode()
        except (ValueError, RecursionError):
            again = b""
        return self._faults.read(outcome._replace(body=again), self._reading)


class Raising(Postcodes):
    def price(self, call: Call) -> Price | None:
        if (call.method, call.origin) != ("POST", self._origin):
            return None
        return Price("lookup", {"lookups": len(json.loads(call.body or b"{}")["codes"])})


class FreeStreams(Postcodes):
    """What it cannot look into is not metered."""

    def price(self, call: Call) -> Price | None:
        return None if call.body is None else super().price(call)


class Everywhere(Postcodes):
    """Prices the path on every host."""

    def price(self, call: Call) -> Price | None:
        return super().price(call._replace(origin=self._origin))


class PricedPoll(Postcodes):
    def price(self, call: Call) -> Price | None:
        return Price("lookup", {"lookups": 1}) if call.origin == self._origin else None


class Misnamed(Postcodes):
    def price(self, call: Call) -> Price | None:
        priced = super().price(call)
        return priced and replace(priced, cost={"lookup": 1})


class Refunding(Postcodes):
    def bill(self, call: Call, outcome: Outcome) -> Bill:
        return Bill({"lookups": -1}) if outcome.status == 503 else super().bill(call, outcome)


class Surprising(Postcodes):
    """Bills what the vendor claims, however much it is."""

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        return Bill({"lookups": 101}) if outcome.status == 209 else super().bill(call, outcome)


class Stumbling(Postcodes):
    def bill(self, call: Call, outcome: Outcome) -> Bill:
        if outcome.status == 200 and outcome.body:
            return Bill({"lookups": min(3, max(0, json.loads(outcome.body)["found"]))})
        return super().bill(call, outcome)


class Insatiable(Postcodes):
    def bill(self, call: Call, outcome: Outcome) -> Bill:
        return Bill(None, wants_body=True)


class Sleepy(Postcodes):
    """Parks the caller for as long as the vendor likes."""

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        said = outcome.headers.get("retry-after", "")
        if outcome.status == 429 and re.fullmatch(r"\d{1,20}", said):
            return Bill({}, (Evidence("pause", seconds=float(said)),))
        return super().bill(call, outcome)


class StrangeEvidence(Postcodes):
    def bill(self, call: Call, outcome: Outcome) -> Bill:
        if outcome.status == 402:
            return Bill({}, (Evidence("exhausted", ("everything",)),))
        return super().bill(call, outcome)


class Cheap(Postcodes):
    """A count that cannot be read was nothing."""

    def bill(self, call: Call, outcome: Outcome) -> Bill:
        billed = super().bill(call, outcome)
        if outcome.status == 200 and outcome.body and billed.cost is None:
            return Bill({})
        return billed


class Trusting(Postcodes):
    def foreign(self, call: Call) -> bool:
        return False


class Paranoid(Postcodes):
    def foreign(self, call: Call) -> bool:
        return "x-api-key" in call.headers


class Presuming(Postcodes):
    def foreign(self, call: Call) -> bool:
        return not self._key.matches(call.headers["x-api-key"])


class Wandering(Postcodes):
    """A report asks another host."""

    def _usage(self, day: str = "today") -> Report[dict[str, Any]]:
        report = super()._usage(day)
        url = "https://reports.postcodes.example/v1"
        return replace(report, ask=lambda: replace(self.stats_request(0.0), url=url))


class Careless(Postcodes):
    """A report is read as if nothing could go wrong."""

    def _usage(self, day: str = "today") -> Report[dict[str, Any]]:
        def read(outcome: Outcome) -> dict[str, Any]:
            said: dict[str, Any] = json.loads(outcome.body or b"{}")
            return said

        return replace(super()._usage(day), read=read)


class Forgetful(Postcodes):
    """Two equal questions have two keys, so that nothing is ever shelved."""

    def _usage(self, day: str = "today") -> Report[dict[str, Any]]:
        return replace(super()._usage(day), key=("usage", object()))


class Clocked(Postcodes):
    """What it reads depends on when."""

    def _reading(self, said: object) -> Reading:
        return replace(super()._reading(said), period=Period(None, time.time() + 86_400))


class Daily(Postcodes):
    """The clock is asked, though the answer is the same all day."""

    def _reading(self, said: object) -> Reading:
        _ = datetime.now(UTC).date()  # type: ignore[misc] # noqa: TID251 - that is the breach
        return super()._reading(said)


class Remembering(Postcodes):
    """A bad answer is answered by the last good one."""

    last: Reading | None = None

    def read_stats(self, outcome: Outcome) -> Reading:
        if outcome.status == 200 and not outcome.body and self.last is not None:
            return self.last
        self.last = super().read_stats(outcome)
        return self.last


class Shared(Postcodes):
    """The answer that is being read lies where every thread can see it."""

    def read_stats(self, outcome: Outcome) -> Reading:
        self.answer = outcome
        for _ in range(30):
            self.answer.headers.get("x-noise")
        return super().read_stats(self.answer)


class Patterned(Postcodes):
    """A pattern that goes back and forth over what the vendor sends."""

    pattern = re.compile(rb"(\s*[{}]*\s*)*\s*$")

    def read_stats(self, outcome: Outcome) -> Reading:
        if (outcome.body or b"{").strip() or len(outcome.body or b"") < 30:
            return super().read_stats(outcome)
        began = time.thread_time()
        # Stands for the pattern above, which would not end today.
        while time.thread_time() - began < 0.06:
            pass
        raise self._refusal(outcome)


class Greedy(Postcodes):
    """Makes room for an answer a thousand times as long."""

    def _reading(self, said: object) -> Reading:
        copies = bytearray(2**21)
        return super()._reading(said) if copies else Reading({})


class Unreportable(Postcodes):
    reports = None  # type: ignore[assignment] # it says nothing about reports


MUTANTS: list[tuple[type[Postcodes], str]] = [
    (Shouting, "shape"),
    (WithoutMeters, "shape"),
    (Undeclared, "shape"),
    (LoudHeaders, "shape"),
    (Unreportable, "shape"),
    (Anywhere, "config"),
    (LateFault, "config"),
    (KeyAsAccount, "account"),
    (OneForAll, "account"),
    (OneForAllKeys, "keys"),
    (Anew, "account"),
    (ByKeyAlone, "account"),
    (KeyInUrl, "request"),
    (Elsewhere, "request"),
    (HiddenHeader, "request"),
    (Nameless, "request"),
    (Telling, "secrets"),
    (Stored, "secrets"),
    (Quoting, "secrets"),
    (Refusing, "reading"),
    (Fractional, "reading"),
    (Dated, "reading"),
    (Hasty, "errors"),
    (HalfCareful, "errors"),
    (Anonymous, "errors"),
    (Bare, "errors"),
    (Bodily, "statuses"),
    (Hopeful, "statuses"),
    (Unmoved, "forbidden"),
    (Lenient, "remains"),
    (Defaulting, "remains"),
    (LastWins, "remains"),
    (Raising, "price"),
    (FreeStreams, "price"),
    (Everywhere, "price"),
    (PricedPoll, "price"),
    (Misnamed, "price"),
    (Refunding, "bill"),
    (Surprising, "most"),
    (Stumbling, "bill"),
    (Insatiable, "bill"),
    (Sleepy, "bill"),
    (StrangeEvidence, "bill"),
    (Cheap, "doubt"),
    (Trusting, "foreign"),
    (Paranoid, "foreign"),
    (Presuming, "foreign"),
    (Wandering, "reports"),
    (Careless, "reports"),
    (Forgetful, "reports"),
    (Clocked, "pure"),
    (Daily, "pure"),
    (Remembering, "pure"),
    (Shared, "threads"),
    (Patterned, "speed"),
    (Greedy, "speed"),
]


@pytest.mark.parametrize(
    ("mutant", "law"), MUTANTS, ids=[f"{law}-{kind.__name__}" for kind, law in MUTANTS]
)
def test_a_breach_is_caught_by_its_law(mutant: type[Postcodes], law: str) -> None:
    """The first law that a mutant meets and breaks is the one that it was made for."""
    with pytest.raises(BrokenLaw) as caught:
        tried(mutant)
    error = caught.value
    assert error.law == law, str(error)
    assert mutant.__name__ in str(error)
    assert f"the law {law!r}" in str(error)
    assert "to do: " in str(error)


def test_every_law_has_somebody_who_breaks_it() -> None:
    """A law that nobody could break would be no law."""
    assert {law for _, law in MUTANTS} == set(LAWS)


def test_the_page_names_every_law() -> None:
    """In the order in which they are judged."""
    page = Path(__file__).parents[2] / "docs" / "how-to" / "write-a-provider.md"
    assert re.findall(r"^\| `(\w+)` \|", page.read_text("utf-8"), re.MULTILINE) == list(LAWS)


def test_a_breach_is_an_assertion_that_says_what_showed_it() -> None:
    """Test runners show it as a failure; the input stands in it and beside it."""
    with pytest.raises(AssertionError, match="given: Outcome") as caught:
        tried(Hasty)
    assert isinstance(caught.value, BrokenLaw)
    assert isinstance(caught.value.given, Outcome)
    assert caught.value.__cause__ is not None
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - made here
    assert (str(again), again.law) == (str(caught.value), "errors")


def test_a_long_input_is_shown_in_part() -> None:
    """Who reads the failure wants its beginning and its end, not 200 KiB between."""
    with pytest.raises(BrokenLaw) as caught:
        tried(Patterned)
    assert len(str(caught.value)) < 1500


# -- what may be said of it -------------------------------------------------------


def test_a_law_that_is_broken_on_purpose_can_be_left_out() -> None:
    """The vendor may be like that."""
    trial = tried(Unmoved, but=["forbidden"])
    assert "forbidden" not in trial.laws


@pytest.mark.parametrize(
    ("unlimited", "passes"), [((), False), ((None,), False), ((None, ...), True)]
)
def test_unlimited_must_be_said(unlimited: tuple[Any, ...], passes: bool) -> None:
    """Postcodes means no limit by null and by nothing; for another vendor that is a mistake."""
    if passes:
        tried(Postcodes, unlimited=unlimited)
        return
    with pytest.raises(BrokenLaw, match=r"unlimited=\(None,\)") as caught:
        tried(Postcodes, unlimited=unlimited)
    assert caught.value.law == "remains"


class Minus(Postcodes):
    """-1 is no limit, as some vendors say it."""

    def _reading(self, said: object) -> Reading:
        if isinstance(said, dict) and said.get("limit") == -1:
            return super()._reading({**said, "limit": None})
        read = super()._reading(said)
        if read.usages["lookups"].limit is None:
            raise ValueError
        return read


def test_a_number_may_mean_unlimited() -> None:
    """-1 does where it is said, and only that number."""
    stats = [answer(120, 1000), answer(3, -1)]
    tried(Minus, unlimited=(-1,), stats=stats)
    with pytest.raises(BrokenLaw) as caught:
        tried(Minus, unlimited=(), stats=stats)
    assert caught.value.law == "remains"


def test_reports_with_arguments_are_told_theirs() -> None:
    """A tuple is passed by position, a mapping by name; a reader that wants more says so."""

    class Asking(Postcodes):
        @property
        def reports(self) -> Mapping[str, Callable[..., Report[Any]]]:
            def usage(day: str) -> Report[dict[str, Any]]:
                return self._usage(day)

            return {"usage": usage}

    tried(Asking, arguments={"usage": ("today",)})
    tried(Asking, arguments={"usage": {"day": "today"}})
    with pytest.raises(BrokenLaw, match="arguments="):
        tried(Asking)
    with pytest.raises(BrokenLaw, match="there is no report 'use'"):
        tried(Postcodes, reports={"use": [answer(1, 2)]})


def test_a_call_without_a_price_is_a_slip() -> None:
    """What was given as metered must be metered."""
    with pytest.raises(BrokenLaw, match="has no price"):
        tried(Postcodes, calls=[("GET", "/v1/lookup", None, [200])])


@pytest.mark.parametrize(
    ("slip", "told"),
    [
        ({"stats": []}, "at least one"),
        ({"stats": {"used": 1}}, "a list of at least one"),
        ({"stats": ["used"]}, "an answer is"),
        ({"stats": [True]}, "an answer is"),
        ({"but": ["forbiden"]}, "there is no law 'forbiden'"),
        ({"but": "forbidden"}, "a list of shape"),
        ({"unlimited": ("null",)}, "None, -1 or"),
        ({"keys": ("a", "a")}, "two different"),
    ],
)
def test_a_slip_in_the_trial_itself_is_a_config_error(slip: dict[str, Any], told: str) -> None:
    """It is the test that is wrong, not the provider."""
    with pytest.raises(ConfigError, match=re.escape(told)):
        tried(Postcodes, **slip)


def test_answers_may_be_given_as_one_has_them() -> None:
    """JSON, bytes, a triple, or what a provider is told."""
    said = json.dumps(answer(120, 1000)).encode()
    tried(
        Postcodes,
        stats=[answer(1, 2), said, (200, {"X-Request-Id": "7"}, said), Outcome(200, {}, said)],
    )


def test_the_same_seed_is_the_same_trial() -> None:
    """A breach that was found once is found again."""

    class Rare(Postcodes):
        """Fails for one in a hundred answers."""

        def read_stats(self, outcome: Outcome) -> Reading:
            if outcome.headers.get("age") == "-1" and outcome.status == 200:
                raise ZeroDivisionError
            return super().read_stats(outcome)

    def breach(seed: int) -> object:
        with pytest.raises(BrokenLaw) as caught:
            tried(Rare, seed=seed)
        assert isinstance(caught.value.given, Outcome)
        return caught.value.given.body, caught.value.given.headers

    assert breach(3) == breach(3)
    assert breach(3) != breach(4)


def test_nothing_is_left_behind() -> None:
    """Profilers, traces and switch intervals are as they were."""
    import sys
    import threading
    import tracemalloc

    threads = set(threading.enumerate())
    before = sys.getswitchinterval(), sys.getprofile()
    for mutant, _ in itertools.islice(MUTANTS, 0, None, 9):
        with pytest.raises(BrokenLaw):
            tried(mutant)
    assert (sys.getswitchinterval(), sys.getprofile()) == before
    assert {one for one in threading.enumerate() if one.is_alive()} <= threads
    assert not tracemalloc.is_tracing()


def test_a_key_that_is_refused_is_forbidden_and_said() -> None:
    """The law on 401 looks at the kind of the error, not at its words."""
    with pytest.raises(StatsForbidden):
        Postcodes("k").read_stats(Outcome(401, {}, b""))

"""SegOps' six analytics endpoints as records: the documented, the null, the broken."""

from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quotaguard.errors import (
    NoSubscription,
    ProviderError,
    StatsForbidden,
    StatsUnavailable,
    StatsUnreadable,
)
from quotaguard.providers.segops import SegOps
from quotaguard.quota.calls import Outcome
from quotaguard.reports.segops import (
    Activation,
    Allowance,
    Copilot,
    CopilotDay,
    MembershipDay,
    Overlap,
    Overview,
    Segment,
    SyncLog,
    UsageNow,
)

KEY = "sk_canary-5f2d"
RECORDED = Path(__file__).parents[1] / "providers" / "recorded"
NAMES = ("overview", "segments", "overlap", "activations", "copilot", "usage")
AT = datetime(2026, 5, 2, 14, 32, tzinfo=UTC)


def documented(name: str) -> Any:
    """Return the JSON of a documented answer."""
    return recorded(f"{name}_documented")


def recorded(name: str) -> Any:
    """Return the JSON of a recorded answer."""
    text = (RECORDED / f"segops_{name}.json").read_text(encoding="utf-8")
    return json.loads(text)["response"]["json"]


def read(name: str, said: object, *, status: int = 200, **headers: str) -> Any:
    """Return what the reader *name* makes of *said*."""
    report = SegOps(KEY).reports[name]()
    told = {header.replace("_", "-"): text for header, text in headers.items()}
    return report.read(Outcome(status, told, json.dumps(said).encode()))


# -- what is documented ---------------------------------------------------------


def test_the_overview() -> None:
    """The documented example; -1 is no limit."""
    assert read("overview", documented("overview")) == Overview(
        segment_count=12,
        total_members=48320,
        events_30d=1842000,
        ai_credits_used=34,
        ai_credits_limit=100,
        extra={},
    )
    assert read("overview", recorded("overview_unlimited")).ai_credits_limit is None
    nothing = documented("overview") | {"ai_credits_limit": 0}
    assert read("overview", nothing).ai_credits_limit == 0


def test_the_segments() -> None:
    """The documented example; a trend by days, a time with its zone."""
    assert read("segments", documented("segments")) == (
        Segment(
            id=7,
            name="High LTV Buyers",
            member_count=3482,
            last_computed_at=AT,
            trend=(
                MembershipDay(date(2026, 4, 3), 3201, {}),
                MembershipDay(date(2026, 4, 4), 3318, {}),
            ),
            extra={},
        ),
    )


def test_segments_that_were_not_computed() -> None:
    """An empty trend, and no time; the order of the answer is kept."""
    new, old = read("segments", recorded("segments_never_computed"))
    assert (new.id, new.last_computed_at, new.trend) == (13, None, ())
    assert (old.id, old.last_computed_at, old.trend) == (7, AT, ())


def test_the_overlap() -> None:
    """The documented example; percent, not a share. None at all is an empty tuple."""
    assert read("overlap", documented("overlap")) == (
        Overlap(7, "High LTV Buyers", 12, "Email Subscribers", 1204, 34.6, {}),
    )
    assert read("overlap", recorded("overlap_none")) == ()


def test_the_activations() -> None:
    """The documented example; an error that is not there is an empty text."""
    assert read("activations", documented("activations")) == (
        Activation(
            id=3,
            segment_id=7,
            segment_name="High LTV Buyers",
            connector_type="klaviyo",
            status="active",
            last_synced_at=AT,
            last_error="",
            member_count=3482,
            success_rate=95,
            sync_logs=(SyncLog("success", 3482, "", AT, {}),),
            extra={},
        ),
    )


def test_an_activation_that_never_ran() -> None:
    """success_rate is null without logs: None, and not 0."""
    (one,) = read("activations", recorded("activations_never_synced"))
    assert (one.success_rate, one.last_synced_at, one.sync_logs) == (None, None, ())


def test_the_copilot() -> None:
    """The documented example; days without any are simply not there."""
    days = (CopilotDay(date(2026, 4, 3), 8, 1, {}), CopilotDay(date(2026, 4, 4), 11, 0, {}))
    assert read("copilot", documented("copilot")) == Copilot(total=142, daily=days, extra={})
    assert read("copilot", {"total": 0, "daily": []}) == Copilot(0, (), {})


def test_the_usage() -> None:
    """The documented example; the days as they stand there, both inclusive."""
    assert read("usage", documented("usage")) == UsageNow(
        plan_name="Starter",
        plan_tier="starter",
        period_start=date(2026, 5, 1),
        period_end=date(2026, 5, 31),
        events=Allowance(48200, 100000, {}),
        users=Allowance(12400, 20000, {}),
        segments=Allowance(8, 10, {}),
        ai_credits=Allowance(34, 100, {}),
        extra={},
    )
    unlimited = read("usage", recorded("usage_unlimited"))
    assert unlimited.events == Allowance(9182000, None, {})
    assert read("usage", recorded("usage_at_limit")).ai_credits == Allowance(0, 0, {})


@pytest.mark.parametrize("name", NAMES)
def test_records_are_frozen_and_slotted(name: str) -> None:
    """A report is what was said then; nobody changes it by mistake."""
    record = read(name, documented(name))
    record = record[0] if isinstance(record, tuple) else record
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.extra = {}
    assert not hasattr(record, "__dict__")


# -- what is not ----------------------------------------------------------------

Path_ = tuple[str | int, ...]


def objects(said: Any, path: Path_ = ()) -> list[Path_]:
    """Return the paths of all objects in *said*."""
    if isinstance(said, list):
        return [one for place, item in enumerate(said) for one in objects(item, (*path, place))]
    if isinstance(said, dict):
        below = [one for name, item in said.items() for one in objects(item, (*path, name))]
        return [path, *below]
    return []


def at(said: Any, path: Path_) -> Any:
    """Return what stands at *path*."""
    for step in path:
        said = said[step]
    return said


LEVELS = [(name, path) for name in NAMES for path in objects(documented(name))]


@pytest.mark.parametrize(("name", "path"), LEVELS, ids=str)
def test_what_is_not_documented_is_kept_at_its_level(name: str, path: Path_) -> None:
    """In ``extra`` of the very record, and nowhere else."""
    said = documented(name)
    at(said, path)["new"] = {"a": [1]}
    assert repr(read(name, said)).count("extra={'new': {'a': [1]}}") == 1
    record = read(name, said)
    for step in path:
        record = record[step] if isinstance(step, int) else getattr(record, step)
    assert record.extra == {"new": {"a": [1]}}


MAY_BE_NULL = {"last_computed_at", "last_synced_at", "success_rate"}

FIELDS = [
    (name, (*path, field))
    for name, path in LEVELS
    for field in at(documented(name), path)
    if field not in MAY_BE_NULL
]


@pytest.mark.parametrize(("name", "path"), FIELDS, ids=str)
@pytest.mark.parametrize("broken", [None, "missing", True, [1], {"a": 1}, -2], ids=repr)
def test_a_documented_field_is_there_and_fits(name: str, path: Path_, broken: object) -> None:
    """Or the whole answer is unreadable, and the error names the field."""
    *way, last = path
    said = documented(name)
    place = at(said, tuple(way))
    if broken == "missing":
        del place[last]
    else:
        place[last] = broken
    if name == "overlap" and last == "overlap_pct" and broken == -2:
        assert read(name, said)[0].overlap_pct == -2
        return
    with pytest.raises(StatsUnreadable, match="looked for") as caught:
        read(name, said)
    assert str(last) in str(caught.value.path)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("limit", [-2, -1.5, None, "unlimited", True, 1.5, 10**16])
def test_only_minus_one_is_unlimited(limit: object) -> None:
    """Another negative is no limit at all."""
    with pytest.raises(StatsUnreadable) as caught:
        read("overview", documented("overview") | {"ai_credits_limit": limit})
    assert caught.value.path == "ai_credits_limit"
    said = documented("usage")
    said["segments"]["limit"] = limit
    with pytest.raises(StatsUnreadable) as caught:
        read("usage", said)
    assert caught.value.path == "segments.limit"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("said", [None, 1, "x", [[]], [1], {}, [None]], ids=repr)
def test_another_shape_is_unreadable(name: str, said: object) -> None:
    """A list where an object is documented, and the other way."""
    with pytest.raises(StatsUnreadable):
        read(name, said)


# -- errors ---------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, StatsForbidden),
        (403, StatsForbidden),
        (404, StatsUnavailable),
        (400, StatsUnavailable),
        (429, StatsUnavailable),
        (500, StatsUnavailable),
        (503, StatsUnavailable),
    ],
)
def test_errors_carry_the_facts_and_never_the_words(
    name: str, status: int, kind: type[ProviderError]
) -> None:
    """The endpoint, the status, the code and the request's id; not what was detailed."""
    said = {"detail": f"secret words about {KEY}", "code": "some_code"}
    with pytest.raises(ProviderError) as caught:
        read(name, said, status=status, x_request_id="req-7", retry_after="3")
    error = caught.value
    expected = NoSubscription if (name, status) == ("usage", 404) else kind
    assert type(error) is expected
    assert (error.provider, error.status, error.code) == ("segops", status, "some_code")
    assert (error.request_id, error.retry_after) == ("req-7", 3.0)
    assert "secret" not in str(error)
    assert KEY not in repr(error.__dict__)
    assert name in str(error) or type(error) is NoSubscription


# -- laws -----------------------------------------------------------------------

WORDS = sorted({field for _, path in FIELDS for field in path if isinstance(field, str)})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


def sound(name: str, outcome: Outcome) -> None:
    """Read *outcome*: a record, or a declared error that shows no key."""
    try:
        said = repr(SegOps(KEY).reports[name]().read(outcome))
        assert outcome.status == 200
    except ProviderError as error:
        said = str(error)
    assert KEY not in said


@settings(max_examples=max(300, settings.default.max_examples if settings.default else 0))
@given(
    name=st.sampled_from(NAMES),
    status=st.just(200) | st.integers(0, 999),
    body=st.none() | st.binary(max_size=48) | JSON.map(lambda said: json.dumps(said).encode()),
)
def test_any_answer_is_a_record_or_a_declared_error(
    name: str, status: int, body: bytes | None
) -> None:
    """Whatever the bytes are."""
    sound(name, Outcome(status, {}, body))


@st.composite
def spoiled(draw: st.DrawFn) -> tuple[str, bytes]:
    """Return a documented answer with some of its members replaced or dropped."""
    name = draw(st.sampled_from(NAMES))
    said = documented(name)
    for _ in range(draw(st.integers(1, 3))):
        places = [at(said, path) for path in objects(said)]
        places = [place for place in places if place]
        if not places:
            break
        place = draw(st.sampled_from(places))
        field = draw(st.sampled_from(sorted(place)))
        if draw(st.booleans()):
            place[field] = draw(JSON)
        else:
            del place[field]
    return name, json.dumps(said).encode()


@settings(max_examples=max(300, settings.default.max_examples if settings.default else 0))
@given(case=spoiled())
def test_a_spoiled_answer_is_a_record_or_a_declared_error(case: tuple[str, bytes]) -> None:
    """Near misses are harder than noise."""
    name, body = case
    sound(name, Outcome(200, {}, body))


@given(
    name=st.sampled_from(["segments", "overlap", "activations"]), order=st.permutations(range(6))
)
def test_lists_keep_their_order(name: str, order: list[int]) -> None:
    """The vendor's ranking is part of the answer."""
    field = "seg_a_id" if name == "overlap" else "id"
    (row,) = documented(name)
    told = read(name, [row | {field: place} for place in order])
    assert [getattr(one, field) for one in told] == order

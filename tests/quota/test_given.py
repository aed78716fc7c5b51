"""What users give a provider: choices, budgets, prices; and what they must not."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.errors import ConfigError
from quotaguard.quota.fields import MOST_COUNT
from quotaguard.quota.given import MOST_MONEY, budget, chosen, mapping, own_prices
from quotaguard.quota.readings import FRACTIONS, Meter

DEALS = Meter("deals.created")
MONEY = Meter("value.created", scale=FRACTIONS)
METERS = {meter.name: meter for meter in (DEALS, MONEY)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """A choice among words, and a number."""

    how: Literal["open", "closed"] = "closed"
    pause: float = 5.0

    def __post_init__(self) -> None:
        chosen(self, pause=(0, 60))


@pytest.mark.parametrize("right", [{}, {"how": "open"}, {"pause": 0}, {"pause": 60.0}], ids=str)
def test_what_is_allowed_is_taken(right: dict[str, Any]) -> None:
    """Words by their list, numbers by their range, both ends included."""
    assert Choices(**right)


@pytest.mark.parametrize(
    "wrong",
    [
        {"how": "ajar"},
        {"how": None},
        {"how": []},
        {"pause": -1},
        {"pause": 61},
        {"pause": True},
        {"pause": "5"},
        {"pause": None},
        {"pause": float("nan")},
        {"pause": float("inf")},
    ],
    ids=str,
)
def test_what_is_not_allowed_is_a_config_error(wrong: dict[str, Any]) -> None:
    """It names the field and what would do."""
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Choices(**wrong)


@given(st.integers(0, MOST_COUNT) | st.floats(0, MOST_COUNT) | st.decimals(0, MOST_COUNT))
def test_a_budget_is_rounded_down(limit: float | Decimal) -> None:
    """Rounding never makes room that the user did not give."""
    counted = budget(DEALS, limit)
    assert type(counted) is int
    exact = Fraction(limit)  # a Decimal's difference is rounded to the digits of its context
    assert exact - 1 < counted <= exact


def test_a_budget_of_money_is_in_millionths() -> None:
    """Half a cent is kept; 0 is nothing, None is no limit."""
    assert budget(MONEY, 0.005) == 5000
    assert budget(MONEY, 0) == 0
    assert budget(MONEY, None) is None
    assert budget(DEALS, 2.9) == 2


@pytest.mark.parametrize(
    "limit",
    [-1, -0.5, True, False, "500", [], float("nan"), float("inf"), MOST_COUNT + 1, 10**40],
    ids=repr,
)
def test_a_budget_that_is_none_is_a_config_error(limit: Any) -> None:
    """It names the meter."""
    with pytest.raises(ConfigError, match=r"limit of deals\.created"):
        budget(DEALS, limit)
    with pytest.raises(ConfigError, match="value"):
        budget(MONEY, MOST_MONEY + 1)


def test_prices_of_ones_own() -> None:
    """By a name or by a route; they are copied, so that nobody changes them later."""
    cost: dict[str, float] = {"deals.created": 1, "value.created": 99.5}
    prices = own_prices({"leads.create": cost, "POST leads": {"deals.created": 0}}, METERS)
    cost["deals.created"] = 7
    assert prices == {
        "leads.create": {"deals.created": 1, "value.created": 99.5},
        "POST leads": {"deals.created": 0},
    }
    assert own_prices(None, METERS) == {}


@pytest.mark.parametrize(
    ("operations", "told"),
    [
        ("leads.create", "operations is a dict"),
        ([("a", {})], "operations is a dict"),
        ({"": {"deals.created": 1}}, "names no operation"),
        ({"Leads": {"deals.created": 1}}, "names no operation"),
        ({"leads.": {"deals.created": 1}}, "names no operation"),
        ({"leads-create": {"deals.created": 1}}, "names no operation"),
        ({3: {"deals.created": 1}}, "names no operation"),
        ({"leads": 1}, "maps meters to units"),
        ({"leads": {}}, "maps meters to units"),
        ({"leads": {"deal.created": 1}}, "there are deals.created, value.created"),
        ({"leads": {None: 1}}, "there are"),
        ({"leads": {"deals.created": -1}}, "from 0 upwards"),
        ({"leads": {"deals.created": True}}, "from 0 upwards"),
        ({"leads": {"deals.created": "1"}}, "from 0 upwards"),
        ({"leads": {"deals.created": float("nan")}}, "from 0 upwards"),
        ({"leads": {"deals.created": None}}, "from 0 upwards"),
    ],
    ids=repr,
)
def test_a_price_that_is_none_is_a_config_error(operations: Any, told: str) -> None:
    """It names the operation, and what there is."""
    with pytest.raises(ConfigError, match=told):
        own_prices(operations, METERS)


def test_a_mapping_is_a_mapping() -> None:
    """None was left out, and is empty; anything else is told by its name."""
    assert mapping("limits", None) == {}
    assert mapping("limits", METERS) == METERS
    with pytest.raises(ConfigError, match="limits is a dict, not a list"):
        mapping("limits", [1])

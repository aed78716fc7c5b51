"""Routes: which calls have a price, and what is no route."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quotaguard.errors import ConfigError
from quotaguard.quota.calls import Price
from quotaguard.quota.routes import Routes, is_route

ROOT = "/api/v1/accounts/7/"
SEGMENT = st.from_regex(r"[A-Za-z0-9_~-]{1,8}", fullmatch=True)
PART = SEGMENT | st.just("{id}")
METHOD = st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"])


def priced(*routes: str, ending: str = "") -> Routes:
    """Return routes whose prices bear their names."""
    made = Routes(ROOT, ending=ending)
    for route in routes:
        made.add(route, Price(route, {"deals.created": 1}))
    return made


def found(routes: Routes, method: str, path: str) -> str | None:
    """Return the route that prices a call."""
    price = routes.price(method, path)
    return None if price is None else price.operation


@given(method=METHOD, parts=st.lists(PART, min_size=1, max_size=4), slash=st.booleans())
def test_a_route_prices_its_calls_and_no_others(method: str, parts: list[str], slash: bool) -> None:
    """Any one segment in place of braces; another method, root or length is another call."""
    route = f"{method} {'/'.join(parts)}"
    assert is_route(route)
    routes = priced(route)
    path = ROOT + "/".join("42" if part == "{id}" else part for part in parts)
    assert found(routes, method, path + "/" * slash) == route
    assert found(routes, "HEAD", path) is None
    assert found(routes, method, path + "/more") is None
    assert found(routes, method, "/elsewhere" + path) is None
    assert found(routes, method, path.removeprefix("/")) is None
    assert found(routes, method, path.replace("/7/", "/8/", 1)) is None


def test_what_is_exact_comes_first() -> None:
    """``leads/bulk`` is not the lead that is called bulk."""
    routes = priced("POST leads/{id}", "POST leads/bulk", "POST leads/{id}/{verb}")
    assert found(routes, "POST", f"{ROOT}leads/bulk") == "POST leads/bulk"
    assert found(routes, "POST", f"{ROOT}leads/12") == "POST leads/{id}"
    assert found(routes, "POST", f"{ROOT}leads/12/clone") == "POST leads/{id}/{verb}"
    assert found(routes, "POST", f"{ROOT}leads//clone") is None


def test_an_ending_that_the_server_ignores_is_ignored() -> None:
    """``.json`` behind a path is the same call."""
    routes = priced("POST leads", "POST leads/{id}", ending=".json")
    assert found(routes, "POST", f"{ROOT}leads.json") == "POST leads"
    assert found(routes, "POST", f"{ROOT}leads/1.json/") == "POST leads/{id}"
    assert found(routes, "POST", f"{ROOT}leads.xml") is None


def test_a_route_is_no_pattern() -> None:
    """Dots and the like stand for themselves."""
    routes = priced("POST a.b/{id}")
    assert found(routes, "POST", f"{ROOT}a.b/1") == "POST a.b/{id}"
    assert found(routes, "POST", f"{ROOT}axb/1") is None


@pytest.mark.parametrize(
    "route",
    [
        "post leads",
        "POST",
        "POST ",
        "POST /leads",
        "POST leads/",
        "POST leads//clone",
        "POST leads/../x",
        "POST leads?x=1",
        "POST leads/{id",
        "POST leads/id}",
        "POST leads/{}",
        "POST leads/{Id}",
        "POST leads/x{id}",
        "POST  leads",
        "POST leads clone",
        " leads",
        "P0ST leads",
        "POST leads\n",
        "POST lead%73",
        "POST läads",
        "POST https://connect.voxys.ai/leads",
    ],
)
def test_what_is_no_route_is_a_config_error(route: str) -> None:
    """It is told with an example; a route that never matches would leave calls free."""
    with pytest.raises(ConfigError, match="is no route"):
        priced(route)


@pytest.mark.parametrize("other", ["POST leads/{id}/x", "POST leads/{lead}/x"])
def test_the_same_calls_have_one_price(other: str) -> None:
    """Two prices for one call are a mistake, whatever the braces are called."""
    with pytest.raises(ConfigError, match="a price already"):
        priced("POST leads/{id}/x", other)

import pytest

from fiscus.api.application import _prepare
from fiscus.api.match import Matcher
from fiscus.api.options import ApiOptions
from fiscus.api.routes import ROUTES

MATCHER = Matcher([_prepare(route, index, ApiOptions()) for index, route in enumerate(ROUTES)])


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_found_at_its_address(route):
    found = MATCHER.find(route.path.replace("{", "").replace("}", "").encode())
    assert found is not None
    assert found.routes[route.method].route is route
    assert len(found.values) == route.path.count("{")


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"/",
        b"/v1",
        b"/v1/",
        b"/v1/holds/",
        b"/v1/holds//settle",
        b"/v1/accounts/a/",
        b"/v1/accounts//name",
        b"/v1/accounts/a/b/c",
        b"/v2/holds",
        b"//v1/holds",
        b"/v1/holds/a/settle/b",
        b"v1/holds",
        b"/V1/holds",
    ],
)
def test_nothing_is_found_elsewhere(path):
    assert MATCHER.find(path) is None


def test_the_parts_of_an_address_are_given_as_they_were_written():
    found = MATCHER.find(b"/v1/accounts/team%3Aa/budgets/%ff")
    assert found is not None
    assert found.values == (b"team%3Aa", b"%ff")

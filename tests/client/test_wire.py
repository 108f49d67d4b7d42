from __future__ import annotations

from typing import get_args

import pytest

from fiscus.api.cursors import cursor_of as served_cursor_of
from fiscus.api.routes import ROUTES
from fiscus.client.wire import after_of, cursor_of, exchange_for, exchange_for_query
from fiscus.contract import AnyCommand, Compound, EraseName, Extend, Release, Reserve, RevokeKey, Settle
from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import (
    ListAccounts,
    ListEntries,
    ListKeys,
    ListTemplates,
    ListUsage,
    ReadAccount,
    ReadHold,
)

SERVED = {(route.method, route.path) for route in ROUTES}

COMMANDS = {
    "POST /v1/holds": Reserve(id="h", account="a"),
    "POST /v1/holds/{id}/extend": Extend(id="h"),
    "POST /v1/holds/{id}/settle": Settle(id="h"),
    "POST /v1/holds/{id}/release": Release(id="h"),
    "DELETE /v1/accounts/{account}/name": EraseName(account="h"),
    "DELETE /v1/keys/{key}": RevokeKey(key="h"),
    "POST /v1/batch": Compound(commands=()),
}

QUERIES = {
    "/v1/accounts/{account}": ReadAccount(account="h"),
    "/v1/holds/{id}": ReadHold(id="h"),
    "/v1/accounts": ListAccounts(),
    "/v1/usage": ListUsage(),
    "/v1/journal": ListEntries(),
    "/v1/templates": ListTemplates(),
    "/v1/keys": ListKeys(),
}


@pytest.mark.parametrize("row", COMMANDS)
def test_a_command_goes_to_a_route_that_the_service_has(row):
    method, path = row.split(" ")
    assert (method, path) in SERVED
    exchange = exchange_for(COMMANDS[row], "key")
    assert (exchange.method, exchange.target) == (
        method,
        path.replace("{id}", "h").replace("{account}", "h").replace("{key}", "h"),
    )


@pytest.mark.parametrize("path", QUERIES)
def test_a_query_goes_to_a_route_that_the_service_has(path):
    assert ("GET", path) in SERVED
    assert exchange_for_query(QUERIES[path]).target.partition("?")[0] == path.replace("{account}", "h").replace(
        "{id}", "h"
    )


@pytest.mark.parametrize("kind", [kind for kind in get_args(AnyCommand) if kind.__name__ != "PutKey"])
def test_every_command_but_the_making_of_keys_can_be_said(kind):
    fields = {"account": "a", "id": "i", "unit": "tokens", "limit": 1, "budget": "b", "to": 1, "source": "a"}
    fields |= {
        "target": "b",
        "amount": 1,
        "reason": "r",
        "pattern": "t:*",
        "status": "active",
        "key": "k",
        "commands": (),
        "parts": (),
        "price": "p",
        "provider": "*",
        "model": "m",
        "rates": {},
    }
    if kind is Extend:
        del fields["to"]
    command = kind(**{name: value for name, value in fields.items() if name in kind.__struct_fields__})
    assert exchange_for(command, "key").target.startswith("/v1/")


@pytest.mark.parametrize("id", ["..", ".", ""])
def test_an_id_that_would_mean_another_address_goes_in_a_body(id):
    assert exchange_for(Settle(id=id), "key").target == "/v1/batch"


@pytest.mark.parametrize(
    ("id", "part"), [("a/b", "a%2Fb"), ("a?b#c", "a%3Fb%23c"), ("ä 1", "%C3%A4%201"), ("%2e", "%252e")]
)
def test_an_id_is_one_part_of_the_address_whatever_is_in_it(id, part):
    assert exchange_for(Release(id=id), "key").target == f"/v1/holds/{part}/release"


@pytest.mark.parametrize("after", [1, 57, 2**53 - 1])
def test_cursors_are_the_services(after):
    assert cursor_of(after) == served_cursor_of(after)
    assert after_of(served_cursor_of(after)) == after


@pytest.mark.parametrize("cursor", ["x", "bm90OjU3", "YWZ0ZXI6eA", "é"])
def test_a_cursor_of_another_kind_is_an_error(cursor):
    with pytest.raises(TreasuryError, match="cursor"):
        after_of(cursor)

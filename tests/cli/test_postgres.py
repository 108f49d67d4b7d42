"""The command line on a ledger in PostgreSQL, without a service."""

from __future__ import annotations

import pytest

from tests.cli.processes import answer, fiscus
from tests.servers.postgres import server


@pytest.fixture
def database(tmp_path):
    url = server("18").create_database()
    refused = fiscus(tmp_path, "accounts", "list", code=1, DATABASE_URL=url)
    assert "run `fiscus migrate`" in refused.stderr
    fiscus(tmp_path, "migrate", DATABASE_URL=url)
    return url


def test_what_is_put_is_read_sealed_and_verified(tmp_path, database):
    fiscus(tmp_path, "accounts", "put", "global", DATABASE_URL=database)
    fiscus(tmp_path, "budgets", "put", "global", "tokens", "1_000", DATABASE_URL=database)
    assert answer(tmp_path, "budgets", "list", "global", DATABASE_URL=database)["limit"] == 1_000
    head = answer(tmp_path, "status", DATABASE_URL=database)["head_seq"]
    assert head >= 2
    assert answer(tmp_path, "checkpoint", DATABASE_URL=database)["state_seq"] == head
    assert "every invariant holds" in fiscus(tmp_path, "verify", DATABASE_URL=database).stdout
    assert "checkpoint" in fiscus(tmp_path, "events", DATABASE_URL=database).stdout

"""Every statement of the views looks up what it wants by an index, also where there are millions of rows."""

from __future__ import annotations

import re
import sqlite3

import pytest

from fiscus.stores.queries import queries

SQL = queries("fiscus.stores.sqlite", "views.sql")

WHOLE = {
    "scan": "entities",
    "clear_entities": "entities",
    "clear_usage": "usage",
    "usage": "usage",
    "usage_sums": "usage",
    "erase_usage": "usage",
    "accounts": "entities",
    "all_of": "entities",
    "overrides": "entities",
}
"""Statements that go through a table in the order of its key, as they should: from a place on, or all of it."""


def searches(statement: str) -> list[str]:
    """How a statement finds rows of the two tables that grow, by SQLite's own plan of it."""
    database = sqlite3.connect(":memory:")
    database.executescript(SQL["schema"])
    numbered = [int(number) for number in re.findall(r"\?(\d+)", statement)]
    values = [None] * (max(numbered, default=0) + len(re.findall(r"\?(?!\d)", statement)))
    plan = [row[3] for row in database.execute(f"EXPLAIN QUERY PLAN {statement}", values)]
    database.close()
    return [step for step in plan if re.match(r"(SCAN|SEARCH) (entities|usage|account|used)\b", step)]


def is_narrow(step: str) -> bool:
    """Whether a step looks for few rows: by all of the primary key, or by an index for just this."""
    return (
        "tenant=? AND kind=? AND key=?" in step
        or "tenant=? AND seq=?" in step
        or re.search(r" INDEX (entities|usage)_", step) is not None
    )


@pytest.mark.parametrize("name", [name for name in SQL if name != "schema"])
def test_a_statement_looks_up_what_it_wants(name):
    found = searches(SQL[name])
    wide = [step for step in found if not is_narrow(step)]
    assert [step for step in wide if f"SEARCH {WHOLE.get(name)} USING PRIMARY KEY" not in step] == []


def test_a_join_that_goes_through_the_whole_table_is_seen():
    slow = SQL["load_chains"].replace("+chain.owner", "chain.owner")
    assert [step for step in searches(slow) if not is_narrow(step)]

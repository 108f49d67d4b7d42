"""What other programs read with plain SQL is what the API says."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import psycopg.errors
import psycopg.rows
import pytest

from fiscus.contract.queries import AccountsPage, AccountView, ListAccounts, ListUsage, ReadAccount, UsagePage
from fiscus.core.commands import Adjust, Allocate, PutAccount, PutBudget, Request, Reserve, SetStatus, Settle
from fiscus.core.outcomes import Refused
from fiscus.core.records import CallRecord, Provenance, Tokens
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from tests.api.economy_service import serve

READER = "CREATE ROLE {0} LOGIN; GRANT USAGE ON SCHEMA agent_evolution, token_tracking TO {0}; " + (
    "GRANT SELECT ON ALL TABLES IN SCHEMA agent_evolution, token_tracking TO {0}"
)


@pytest.fixture
async def treasury(open_node):
    treasury = LocalTreasury(Engine(open_node()))
    yield treasury
    await treasury.close()


@pytest.fixture
def rows(postgres, url):
    """Runs a query as somebody who may read the views and nothing else; returns rows as dicts."""
    role = "reader_" + url.rpartition("_")[2]
    with psycopg.connect(url, autocommit=True) as admin:
        for statement in READER.format(role).split("; "):
            admin.execute(statement)
    with psycopg.connect(url, user=role, autocommit=True, row_factory=psycopg.rows.dict_row) as connection:
        yield lambda statement, *values: connection.execute(statement, values).fetchall()
    with psycopg.connect(url, autocommit=True) as admin:
        admin.execute(f"DROP OWNED BY {role}")
        admin.execute(f"DROP ROLE {role}")


async def do(treasury, *commands):
    for command in commands:
        outcome = await treasury.execute(Request(command=command, actor="operator"))
        assert not isinstance(outcome, Refused), outcome


async def written(treasury):
    """Wait until the views have what the engine has."""
    view = await treasury.read(ReadAccount(account="global"))
    assert isinstance(await treasury.read(ListAccounts(min_seq=view.as_of_seq, limit=1)), AccountsPage)


# covers D52
async def test_allocations_stand_in_the_table_of_the_token_economy_as_the_api_says(treasury, rows):
    async with serve(treasury=treasury, pool_tokens=10_000) as economy:
        await economy.allocate("earns", 1_000)
        await economy.consume("earns", 100, 25.5)
        await economy.consume("earns", 60, 2)
        await economy.allocate("idle", 500)
        await economy.allocate("ends", 200)
        assert (await economy.consume("ends", 250, 1))[0] == 403
        await do(
            treasury, PutAccount(account="team:x", parent="global"), Allocate(account="team:x", unit="tokens", to=5)
        )
        await written(treasury)
        found = {row["agent_id"]: row for row in rows("SELECT * FROM agent_evolution.token_allocations")}
        assert list(found["earns"]) == [
            "id",
            "agent_id",
            "allocated_tokens",
            "consumed_tokens",
            "value_generated",
            "efficiency",
            "allocation_time",
            "last_update",
            "is_active",
            "termination_reason",
        ]
        assert set(found) == {"earns", "idle", "ends"}
        for agent_id in ("earns", "idle"):
            _, told = await economy.agent(agent_id)
            row = found[agent_id]
            assert (row["allocated_tokens"], row["consumed_tokens"]) == (told["allocated"], told["consumed"])
            assert (row["is_active"], row["termination_reason"]) == (True, None)
        status = await economy.status()
        active = [row for row in found.values() if row["is_active"]]
        assert sum(row["allocated_tokens"] for row in active) == status["allocated_total"]
        assert sum(row["consumed_tokens"] for row in active) == status["consumed_total"]
        (best,) = status["top_performers"]
        assert (best["agent_id"], best["value_generated"]) == ("earns", found["earns"]["value_generated"])
        assert best["efficiency"] == pytest.approx(found["earns"]["efficiency"], rel=1e-12)
        assert found["idle"]["efficiency"] == 0
        ended = found["ends"]
        assert (ended["is_active"], ended["termination_reason"]) == (
            False,
            "Token budget exhausted. Allocated: 200, Consumed: 250",
        )
        assert (ended["allocated_tokens"], ended["consumed_tokens"]) == (200, 250)
        assert isinstance(ended["allocated_tokens"], float)
        await do(treasury, SetStatus(account="agent:idle", status="suspended"))
        await written(treasury)
        (idle,) = rows("SELECT * FROM agent_evolution.token_allocations WHERE agent_id = 'idle'")
        _, told = await economy.agent("idle")
        assert (idle["is_active"], idle["allocated_tokens"]) == (False, told["allocated"])


# covers R48
async def test_usage_budgets_and_provenance_stand_in_tables_as_the_api_says(treasury, rows):
    await do(
        treasury,
        PutAccount(account="global"),
        PutAccount(account="team:search", parent="global"),
        PutAccount(account="user:bob", parent="team:search"),
        PutAccount(account="project:x", parent="global"),
        PutBudget(account="global", unit="cost", limit=5_000_000_000, period="month", budget="dollars"),
        PutBudget(account="user:bob", unit="tokens", limit=1_000, period="day", budget="daily"),
        PutBudget(account="project:x", unit="calls", limit=3, period="lifetime"),
        Adjust(account="user:bob", budget="daily", id="more", amount=200, reason="a good one"),
        Reserve(id="one", account="user:bob", amounts={"tokens": 300, "cost": 9_000_000}, also=("project:x",)),
        Reserve(id="two", account="user:bob", amounts={"tokens": 300, "cost": 9_000_000}),
        Settle(
            id="one",
            total={"tokens": 620, "cost": 7_500_000},
            record=CallRecord(
                model="m-1",
                provider="p",
                tokens=Tokens(input=500, output=120),
                feature="chat",
                duration_ms=42,
                outcome="success",
                metadata={"answer": "a \\u0000 in words"},
                provenance=Provenance(
                    request_id="r-1",
                    parent_request_id="r-0",
                    relationship="triggered_by",
                    cache_hit_id="r-9",
                    agent_id="planner",
                    input_size=10,
                    output_size=5,
                    tags=("x", "y"),
                ),
            ),
        ),
        Settle(id="late", account="user:bob", total={"tokens": 8}),
    )
    await written(treasury)
    usage = await treasury.read(ListUsage())
    assert isinstance(usage, UsagePage)
    first, second = rows("SELECT * FROM token_tracking.token_usages ORDER BY id")
    assert [first["id"], second["id"]] == [one.seq for one in usage.usage]
    assert first["cost"] == Decimal("0.0075")
    assert (first["prompt_tokens"], first["completion_tokens"], first["total_tokens"]) == (500, 120, 620)
    assert (first["user_id"], first["project_id"], first["feature"]) == ("bob", "x", "chat")
    assert (first["request_id"], first["model"], first["provider"]) == ("r-1", "m-1", "p")
    assert first["metadata"] == {"answer": "a \\u0000 in words"}
    assert (second["request_id"], second["total_tokens"], second["cost"]) == ("late", 8, None)
    budgets = {(row["account"], row["unit"]): row for row in rows("SELECT * FROM token_tracking.token_budgets")}
    assert len(budgets) == 3
    for name, unit, scale in (("global", "cost", 10**9), ("user:bob", "tokens", 1), ("project:x", "calls", 1)):
        view = await treasury.read(ReadAccount(account=name))
        assert isinstance(view, AccountView)
        (balance,) = [one.balance for one in view.account.budgets]
        row = budgets[name, unit]
        figures = (balance.limit, balance.spent, balance.available, balance.held)
        assert (row["limit"], row["spent"], row["remaining"], row["held"]) == tuple(
            Decimal(figure) / scale for figure in figures
        )
        assert row["period_start"] == balance.window_start.replace(tzinfo=None)
        assert row["active"] is True
    assert budgets["project:x", "calls"]["period_end"] is None
    mine = budgets["user:bob", "tokens"]
    assert (mine["type"], mine["entity_id"], mine["period"], mine["override_active"]) == ("user", "bob", "daily", True)
    assert (mine["alerts_sent"], mine["utilization_percentage"]) == ([50], Decimal("52.33"))
    assert (budgets["global", "cost"]["entity_id"], budgets["global", "cost"]["currency"]) == (None, "USD")
    (origin,) = rows("SELECT * FROM token_tracking.token_provenances")
    assert (origin["usage_id"], origin["request_id"], origin["agent_id"]) == (first["id"], "r-1", "planner")
    assert (origin["processing_time_ms"], origin["is_success"], origin["cached"]) == (42, True, True)
    assert (origin["efficiency_ratio"], origin["tags"]) == (0.5, ["x", "y"])
    related = rows("SELECT * FROM token_tracking.provenance_relationships ORDER BY relationship_type")
    assert [(one["source_request_id"], one["target_request_id"], one["relationship_type"]) for one in related] == [
        ("r-1", "r-9", "cached_from"),
        ("r-1", "r-0", "triggered_by"),
    ]


async def test_readers_see_one_tenant_and_no_table_behind_the_views(treasury, rows):
    await do(treasury, PutAccount(account="global"), PutBudget(account="global", unit="calls", limit=3))
    for command in (PutAccount(account="global"), PutBudget(account="global", unit="calls", limit=7)):
        await treasury.execute(Request(command=command, tenant="other"))
    await written(treasury)
    view = await treasury.read(ReadAccount(account="global", tenant="other"))
    await treasury.read(ListAccounts(min_seq=view.as_of_seq, limit=1, tenant="other"))
    query = 'SELECT "limit" FROM token_tracking.token_budgets'
    assert [row["limit"] for row in rows(query)] == [3]
    rows("SELECT set_config('fiscus.tenant', 'other', false)")
    assert [row["limit"] for row in rows(query)] == [7]
    rows("SELECT set_config('fiscus.tenant', 'nobody', false)")
    assert rows(query) == []
    for table in ("entities", "private", "journal", "usage"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            rows(f"SELECT 1 FROM fiscus.{table}")


def test_a_null_character_in_a_body_is_shown_as_a_replacement(sql):
    shown = sql("SELECT document(%s::bytea) ->> 'a'", b'{"a":"x\\u0000y\\\\u0000"}')
    assert shown == [("x\ufffdy\\u0000",)]


def test_values_of_a_long_history_are_found_by_their_index(sql):
    sql("INSERT INTO tenants (name) VALUES ('default')")
    sql("SET enable_seqscan = off")
    plan = sql(
        "EXPLAIN SELECT record FROM usage WHERE tenant = 1 AND account = 7 AND at >= 1 "
        "AND position('\\x2276616c7565223a'::bytea IN record) > 0"
    )
    assert any("_account_at_idx" in line for (line,) in plan), plan

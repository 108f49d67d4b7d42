"""The token manager's signals are all there, and faults of its budgets that have no test elsewhere."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from pathlib import Path

import pytest

from fiscus.api.routes import ROUTES
from fiscus.cli import app
from fiscus.contract.errors import BudgetBusy, BudgetExceeded, Invalid, Unknown
from fiscus.contract.queries import ListEntries
from fiscus.core.commands import Reserve
from fiscus.sdk import Treasury

THRESHOLDS = {50: "info", 80: "warning", 90: "critical"}
GUIDE = (Path(__file__).parents[2] / "docs/guides/token-manager.md").read_text(encoding="utf-8")
SIGNALS = (
    "track_usage", "get_usage", "aggregate_usage", "check_budget", "create_budget", "update_budget",
    "get_budget_status", "request_override", "generate_report", "get_trends", "forecast_usage", "get_recommendations",
    "update_pricing", "configure_manager", "get_status", "get_provenance", "get_lineage", "get_workflow_usage",
    "analyze_task_costs",
)  # fmt: skip


def rows() -> list[list[str]]:
    table = GUIDE[GUIDE.index("| signal |") :]
    lines = table[: table.index("\n\n")].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


# covers R1, R3, R7, R8, R10, R12
def test_known_fault_r20_every_signal_is_there_as_the_guide_says():
    named = {signal for row in rows() for signal in re.findall(r"`(\w+)`", row[0])}
    assert set(SIGNALS) <= named
    addresses = {f"{route.method} {route.path}" for route in ROUTES}
    commands = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    for row in rows():
        for method in re.findall(r"`(\w+)\b[^`]*`", row[1]):
            if method not in ("valid_from",):
                assert hasattr(Treasury, method), method
        for address in re.findall(r"`((?:GET|POST|PUT) /v1[^`?]*)", row[2]):
            assert address in addresses, address
        for command in re.findall(r"`fiscus ([\w-]+)", row[3]):
            assert command in commands, command


# covers R5, R6
async def test_budgets_are_made_and_changed_and_nothing_else_can_be_changed(treasury):
    await treasury.put_account("team:a")
    made = await treasury.put_budget(
        "team:a", "cost", 9_000_000_000, budget="main", period="month", thresholds=THRESHOLDS
    )
    assert (made.budget.limit, made.budget.thresholds) == (9_000_000_000, THRESHOLDS)
    changed = await treasury.put_budget("team:a", "cost", 6_000_000_000, budget="main", period="month")
    assert (changed.budget.limit, changed.budget.version) == (6_000_000_000, made.budget.version + 1)
    with pytest.raises(Unknown):
        await treasury.put_budget("team:nobody", "cost", 1)


# covers R5
@pytest.mark.parametrize(
    "wrong", [{"period": "custom"}, {"unit": "eur"}, {"limit": -1}, {"thresholds": [50, 80]}, {"mode": "strict"}]
)
async def test_known_faults_r14_r19_what_is_no_budget_is_refused(treasury, wrong):
    await treasury.put_account("team:a")
    asked = {"unit": "cost", "limit": 10, "period": "month"} | wrong
    with pytest.raises(Invalid) as invalid:
        await treasury.put_budget("team:a", asked.pop("unit"), asked.pop("limit"), **asked)
    assert next(iter(wrong)) in str(invalid.value.refused.field)


# covers R1
async def test_known_fault_r14_a_negative_amount_gives_nothing_back(treasury):
    await treasury.put_account("team:a")
    with pytest.raises(Invalid):
        await treasury.usage("team:a", {"tokens": -5})
    with pytest.raises(Invalid):
        await treasury.usage("team:a", {"tokens": 5}, cost_nanousd=-1)


# covers R30
async def test_known_faults_r2_r16_thresholds_are_percent_and_fire_once(treasury):
    """A third of nine dollars, one percent, and the same again."""
    await treasury.put_account("team:a")
    await treasury.put_budget("team:a", "cost", 9_000_000_000, budget="main", thresholds=THRESHOLDS)
    for cost in (90_000_000, 2_910_000_000, 1_500_000_000, 10, 10):
        await treasury.usage("team:a", cost_nanousd=cost)
    page = await treasury.read(ListEntries(limit=1_000, kinds=("threshold_crossed",)))
    assert [entry.data["percent"] for entry in page.entries] == [50]


# covers R51
async def test_r51_what_is_decided_in_process_is_counted_too(treasury):
    await treasury.put_account("team:a")
    await treasury.put_budget("team:a", "tokens", 100, budget="main")
    empty = await treasury.enforcement()
    assert (empty.checks_performed, empty.refusals, empty.healthy) == (0, {}, True)
    first = await treasury.reserve("team:a", tokens=100)
    for tokens, kind in ((101, BudgetExceeded), (1, BudgetBusy)):
        with pytest.raises(kind):
            await treasury.reserve("team:a", tokens=tokens)
    many = [Reserve(id=f"m{index}", account="team:a", amounts={"tokens": 1}) for index in range(2)]
    assert [outcome.code for outcome in await treasury.execute_many(many)] == ["budget_busy"] * 2
    waiting = asyncio.create_task(treasury.reserve("team:a", tokens=1, wait_s=30))
    async with aclosing(treasury.events()) as entries:
        async for entry in entries:
            if entry.kind == "queued":
                break
    assert (await treasury.enforcement()).checks_performed == 5
    await treasury.release(first.id)
    await waiting
    told = await treasury.enforcement()
    assert told.refusals == {"budget_exceeded": 1, "budget_busy": 3}
    assert (told.checks_performed, told.requests_blocked, told.budgets_exceeded) == (6, 4, 1)
    assert (told.blocked_percent, told.healthy, told.overrides_granted) == (66.67, False, 0)
    await treasury.put_account("team:a", shortage=["reallocate", "clamp", "ask"])
    with pytest.raises(BudgetExceeded):
        await treasury.reserve("team:a", tokens=1_000)
    assert (await treasury.enforcement()).checks_performed == 7, "once, however many steps were tried"


# covers R12, R22
async def test_r12_what_is_not_set_at_run_time_is_refused_by_name_and_says_where_it_is(treasury):
    listed = await treasury.configure_manager()
    assert {"buffer_size", "flush_interval", "retention_days", "alert_channels"} <= listed.options.keys()
    for name, where in listed.options.items():
        with pytest.raises(Invalid, match=name) as refused:
            await treasury.configure_manager(**{name: 1})
        assert refused.value.refused.field == name
        assert where in str(refused.value)
    assert "FISCUS_RETENTION_DAYS" in listed.options["retention_days"]
    with pytest.raises(Invalid, match="fiscus settings"):
        await treasury.configure_manager(planet="mars")

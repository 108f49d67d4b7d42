"""What was used, in the SDK: the same in process and remote. The token manager's commands, and its known faults."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from time import monotonic

import pytest

from fiscus.contract import CallRecord, TemplateBudget, Tokens
from fiscus.contract.analysis import LINEAGE_LENGTH_MAX
from fiscus.contract.errors import BudgetBusy, BudgetExceeded, Invalid, Unknown
from fiscus.core.records import Provenance
from fiscus.sdk import Treasury

USD = 1_000_000_000


async def booked(treasury: Treasury, account: str, *, cost: int | None = 1_000, also=(), id=None, **fields) -> None:
    """One call of 100 + 10 tokens; ``fields`` are of its record or of its provenance."""
    own = {name: fields.pop(name) for name in list(fields) if name in Provenance.__struct_fields__}
    record = CallRecord(
        tokens=Tokens(input=fields.pop("input", 100), output=10),
        provenance=Provenance(**own) if own else None,
        **{"model": "small", "provider": "acme", **fields},
    )
    await treasury.usage(account, record, cost_nanousd=cost, also=also, id=id)


async def written(treasury: Treasury) -> int:
    """As of which entry everything is there that was written so far."""
    return (await treasury.readiness()).head_seq


@pytest.fixture
async def books(treasury: Treasury) -> Treasury:
    """team:a ← project:x ← user:bob ← thread:1, and feature:chat beside it."""
    for account, parent in (
        ("team:a", None),
        ("project:x", "team:a"),
        ("user:bob", "project:x"),
        ("thread:1", "user:bob"),
    ):
        await treasury.put_account(account, parent=parent)
    await treasury.put_account("feature:chat")
    return treasury


# covers R1, R2, R3
async def test_usage_is_summed_by_what_records_say_or_by_whom_the_call_was_charged_to(books):
    await booked(books, "thread:1", also=["feature:chat"])
    await booked(books, "thread:1", user_id="eve", model="large", cost=5_000)
    await booked(books, "team:a", cost=None, tools=("search", "run"))
    seq = await written(books)
    found = await books.aggregate_usage("user_id", "model", min_seq=seq)
    assert {(g.keys["user_id"], g.keys["model"]): g.totals.cost_nanousd for g in found.groups} == {
        (None, "small"): 0, ("bob", "small"): 1_000, ("eve", "large"): 5_000,
    }  # fmt: skip
    assert (found.totals.calls, found.totals.tokens, found.totals.unpriced_calls) == (3, 330, 1)
    assert found.as_of_seq >= seq
    for dimension, expected in {
        "team_id": {"a": 3}, "project_id": {"x": 2, None: 1}, "feature": {"chat": 1, None: 2},
        "account": {"thread:1": 2, "team:a": 1}, "provider": {"acme": 3}, "tool": {"search": 1, "run": 1, None: 2},
    }.items():  # fmt: skip
        sums = await books.aggregate_usage(dimension, min_seq=seq)
        assert {group.keys[dimension]: group.totals.calls for group in sums.groups} == expected
        assert sums.totals.calls == 3, "each call is counted once"
    for filters, calls in (
        ({"user_id": "bob"}, 1), ({"project_id": "x"}, 2), ({"team_id": "a", "model": "large"}, 1),
        ({"account": "user:bob"}, 2), ({"account": "feature:chat"}, 0), ({"provider": "other"}, 0),
        ({"period": "today"}, 3), ({"period": "yesterday"}, 0), ({"period": "this_month"}, 3),
        ({"since": datetime.now(UTC) + timedelta(hours=1)}, 0),
    ):  # fmt: skip
        assert (await books.aggregate_usage(min_seq=seq, **filters)).totals.calls == calls, filters
    top = await books.aggregate_usage("user_id", top=1, min_seq=seq)
    assert ([group.keys["user_id"] for group in top.groups], top.group_count, top.next) == (["eve"], 3, None)


# covers R3
async def test_groups_come_in_pages_that_miss_and_repeat_none(books):
    for index in range(7):
        await booked(books, "thread:1", user_id=f"u{index}")
    await booked(books, "team:a")
    seq = await written(books)
    keys, after = [], None
    while True:
        page = await books.aggregate_usage("user_id", "day", limit=3, after=after, min_seq=seq)
        keys += [group.keys["user_id"] for group in page.groups]
        after = page.next
        if after is None:
            break
    assert keys == [None, *(f"u{index}" for index in range(7))]
    assert [group.keys["user_id"] async for group in books.usage_groups("user_id", min_seq=seq)] == keys


@pytest.mark.parametrize(
    ("field", "filters"),
    [
        ("period", {"period": "last_year"}),
        ("period", {"period": "today", "since": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("until", {"since": datetime(2026, 1, 2, tzinfo=UTC), "until": datetime(2026, 1, 1, tzinfo=UTC)}),
        ("limit", {"limit": 1_001}),
        ("limit", {"limit": 0}),
        ("user_id", {"user_id": ""}),
        ("model", {"model": "x" * 513}),
    ],
)
async def test_a_question_that_is_wrong_names_the_field(books, field, filters):
    with pytest.raises(Invalid) as wrong:
        await books.aggregate_usage("model", **filters)
    assert wrong.value.refused.field == field


async def test_unknown_dimensions_and_accounts_are_refused(books):
    for by in (("planet",), ("model", "model"), ("model", "user_id", "day", "hour")):
        with pytest.raises(Invalid) as wrong:
            await books.aggregate_usage(*by)
        assert wrong.value.refused.field == "by"
    with pytest.raises(Unknown):
        await books.report(account="team:nobody")
    with pytest.raises(Invalid):
        await books.report("poem")
    for days in (0, 91):
        with pytest.raises(Invalid):
            await books.forecast(horizon_days=days)
    with pytest.raises(Invalid):
        await books.trends(
            since=datetime(2020, 1, 1, tzinfo=UTC), until=datetime(2024, 1, 1, tzinfo=UTC), bucket="hour"
        )
    with pytest.raises(Unknown) as unknown:
        await books.provenance("nobody's")
    assert "Provenance not found for request nobody's" in str(unknown.value)


# covers R4
async def test_r4_a_check_is_a_dry_run_and_a_hold_is_what_keeps_the_room(books):
    """Known faults 3, 4, 6: exactly the limit fits, a hundred holds do not, and a team's budget counts."""
    await books.put_budget("team:a", "cost", 10 * USD, budget="main")
    for _ in range(3):
        checked = await books.check("thread:1", {"cost": 10 * USD})
        assert (checked.admitted, checked.dry_run, checked.refused) == (True, True, None)
    beyond = await books.check("thread:1", {"cost": 10 * USD + 1})
    assert (beyond.admitted, beyond.refused.code, beyond.refused.binding.account) == (
        False,
        "budget_exceeded",
        "team:a",
    )
    outcomes = []
    for _ in range(5):
        try:
            await books.reserve("thread:1", cost_nanousd=4 * USD)
        except (BudgetBusy, BudgetExceeded):
            outcomes.append(False)
        else:
            outcomes.append(True)
    assert outcomes == [True, True, False, False, False]
    assert not (await books.check("thread:1", {"cost": 4 * USD})).admitted
    with pytest.raises(Invalid):
        await books.check("thread:1", {"cost": -1})
    with pytest.raises(Unknown):
        await books.check("user:nobody", {"cost": 1})
    assert (await books.balance("team:a"))[0].held == 8 * USD


# covers R7
async def test_r7_the_status_of_a_budget(books):
    await books.put_budget("team:a", "tokens", 1_000, budget="main")
    await booked(books, "thread:1")
    assert (await books.budget_status("team:a", "main")).balance.spent == 110
    with pytest.raises(Unknown):
        await books.budget_status("team:a", "other")


# covers R9
async def test_r9_reports_honour_filters_and_what_they_find_is_told(books):
    """Known faults 1, 2, 12, 13: fractions of a cent, sorted by value, advice that is not thrown away."""
    for _ in range(4):
        await booked(books, "thread:1", input_hash="cafe", task_type="classify", cost=200_000_000, model="dear")
    for _ in range(12):
        await booked(books, "thread:1", task_type="classify", cost=1_500_000, model="cheap")
    await booked(books, "team:a", cost=None)
    seq = await written(books)
    report = await books.report("usage", account="user:bob", min_seq=seq)
    assert (report.totals.calls, report.totals.unpriced_calls) == (16, 0)
    models = next(part for part in report.breakdowns if part.by == "model")
    assert [share.name for share in models.shares] == ["dear", "cheap"]
    assert [share.percent for share in models.shares] == [97.8, 2.2]
    assert sum(day.totals.calls for day in report.days) == sum(hour.calls for hour in report.hours_of_day) == 16
    assert len(report.days) == 7
    assert (await books.report("cost", period="last_month", min_seq=seq)).totals.calls == 0
    advice = (await books.report("optimization", min_seq=seq)).recommendations
    assert [one.kind for one in advice] == ["cheaper_model", "cache_repeats", "price_missing"]
    assert advice[0].subject == "classify: dear"
    assert advice[0].saving_nanousd == 800_000_000 - 4 * 1_500_000
    assert (advice[1].saving_nanousd, advice[1].figures["calls"]) == (600_000_000, 4)
    assert (await books.recommendations(min_seq=seq)).recommendations == advice


# covers R10
async def test_r10_trends_and_forecasts_say_what_they_do_not_know(books):
    await booked(books, "thread:1")
    seq = await written(books)
    trends = await books.trends(min_seq=seq)
    assert len(trends.points) == 30
    assert sum(point.totals.calls for point in trends.points) == 1
    assert [change.direction for change in trends.changes] == ["rising"] * 3
    hours = await books.trends(bucket="hour", period="today", min_seq=seq)
    assert len(hours.points) == 24
    forecast = await books.forecast(min_seq=seq)
    assert (forecast.method, forecast.total) == (None, None)
    assert "18 whole days are needed" in forecast.reason


# covers R13
async def test_known_fault_r8_root_and_depth_are_right_after_any_number_of_requests(books):
    """Also known fault 9: nothing is read from a buffer that is empty after a flush."""
    for index in range(150):
        await booked(
            books, "thread:1", request_id=f"c{index}", **({"parent_request_id": f"c{index - 1}"} if index else {})
        )
    seq = await written(books)
    first = await books.provenance("c1", min_seq=seq)
    assert (first.lineage_depth, first.root_request_id, first.is_root) == (1, "c0", False)
    last = await books.provenance("c149")
    assert (last.lineage_depth, last.root_request_id, last.missing_parent) == (149, "c0", None)
    assert [(one.relationship, one.parent_request_id) for one in last.relationships] == [("triggered_by", "c148")]
    tree = await books.lineage("c75")
    assert (tree.total_descendants, tree.root_requests, tree.is_whole) == (149, ("c0",), True)
    assert [node.depth for node in tree.lineage_tree] == list(range(150))
    assert tree.totals.calls == 150


# covers R13
async def test_known_fault_r10_circles_end(books):
    for id, parent in (("a", "b"), ("b", "a"), ("self", "self"), ("child", "a"), ("orphan", "gone")):
        await booked(books, "thread:1", request_id=id, parent_request_id=parent)
    seq = await written(books)
    began = monotonic()
    a = await books.provenance("a", min_seq=seq)
    assert (a.in_cycle, a.lineage_depth, a.root_request_id) == (True, 1, "b")
    tree = await books.lineage("a")
    assert {node.request.request_id for node in tree.lineage_tree} == {"a", "b", "child"}
    assert tree.cycles == ("b",)
    alone = await books.lineage("self")
    assert (alone.total_descendants, alone.cycles) == (0, ("self",))
    orphan = await books.provenance("orphan")
    assert (orphan.missing_parent, orphan.root_request_id, orphan.is_root) == ("gone", "orphan", False)
    assert monotonic() - began < 5


# covers R13
async def test_known_fault_r11_a_root_needs_no_depth_and_a_request_no_id_of_its_own(books):
    await booked(books, "thread:1", id="hold-1", agent_id="planner", task_type="plan")
    seq = await written(books)
    found = await books.provenance("hold-1", min_seq=seq)
    assert (found.is_root, found.lineage_depth, found.request.provenance.agent_id) == (True, 0, "planner")


# covers R13
async def test_a_tree_that_is_too_large_says_so(books):
    from fiscus.contract import Settle

    commands = [
        Settle(
            id=f"h{index}",
            account="thread:1",
            total={"tokens": 1},
            record=CallRecord(provenance=Provenance(request_id=f"r{index}", parent_request_id="top")),
        )
        for index in range(LINEAGE_LENGTH_MAX)
    ]
    await booked(books, "thread:1", request_id="top")
    for begin in range(0, len(commands), 500):
        await books.execute_many(commands[begin : begin + 500])
    tree = await books.lineage("top", min_seq=await written(books))
    assert (len(tree.lineage_tree), tree.is_whole) == (LINEAGE_LENGTH_MAX, False)


# covers R14
async def test_r14_workflows_and_tasks(books):
    for index in range(3):
        await booked(books, "thread:1", workflow_id="w", task_type="plan", intent="write", request_id=f"r{index}")
    await booked(books, "thread:1", workflow_id="w", task_type="code", input_hash="cafe", cost=9_000)
    await booked(books, "thread:1", workflow_id="other", task_type="code", input_hash="cafe", cost=9_000)
    seq = await written(books)
    workflow = await books.workflow("w", min_seq=seq)
    assert (workflow.total_requests, workflow.totals.cost_nanousd) == (4, 12_000)
    assert [(share.name, share.totals.calls) for share in workflow.by_task_type.shares] == [("code", 1), ("plan", 3)]
    assert workflow.request_ids[:3] == ("r0", "r1", "r2")
    assert (await books.workflow("nobody's")).total_requests == 0
    tasks = await books.task_costs()
    assert (tasks.totals.calls, tasks.average_cost_nanousd) == (5, 4_200)
    assert [(one.calls, one.wasted_nanousd) for one in tasks.duplicate_patterns] == [(2, 9_000)]
    assert {share.name: share.totals.calls for share in tasks.by_intent.shares} == {"write": 3, None: 2}


# covers R1
async def test_known_fault_r7_the_same_call_twice_counts_once(books):
    for _ in range(2):
        await booked(books, "thread:1", id="one", request_id="r")
    seq = await written(books)
    assert (await books.aggregate_usage(min_seq=seq)).totals.calls == 1
    assert (await books.provenance("r")).request.totals.calls == 1


# covers R2
async def test_many_readers_at_once_all_get_the_same(books):
    for _ in range(5):
        await booked(books, "thread:1")
    seq = await written(books)
    found = await asyncio.gather(*(books.aggregate_usage("model", min_seq=seq) for _ in range(20)))
    assert {one.totals.calls for one in found} == {5}
    assert [one.seq async for one in books.records(account="team:a", min_seq=seq)] != []


# covers R4
async def test_a_check_opens_no_account(books):
    await books.put_template(
        "session:*", parent="team:a", budgets=[TemplateBudget(budget="main", unit="tokens", limit=50)]
    )
    before = await written(books)
    assert (await books.check("session:9", {"tokens": 50})).admitted
    assert not (await books.check("session:9", {"tokens": 51})).admitted
    with pytest.raises(Unknown):
        await books.account("session:9")
    await books.put_account("team:z")
    assert await written(books) == before + 1, "what the check would have opened is not written with the next entry"
    opened = await books.reserve("session:9", tokens=50)
    assert opened.state == "held"

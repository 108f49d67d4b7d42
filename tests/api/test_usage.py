"""What was used, over HTTP: pages, filters, forms, what a key may see, and bad input."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import Any

import pytest

from fiscus.api.usage import CURSOR_LENGTH_MAX, cursor_of_keys
from fiscus.contract.analysis import AggregateUsage, ReadTrends
from fiscus.contract.queries import ListUsage
from fiscus.core.outcomes import Refused
from tests.api.service import FIRST_SECRET, Api
from tests.api.test_keys import issued

SUMMED = (
    "/v1/usage/sums", "/v1/usage/trends", "/v1/usage/forecast", "/v1/usage/recommendations", "/v1/usage/tasks",
    "/v1/reports/usage", "/v1/reports/cost/csv", "/v1/reports/optimization/markdown",
)  # fmt: skip


@pytest.fixture
async def books(keyed: Api) -> Any:
    """team:a ← agent:x and team:b, each with calls; a key of team:a."""
    for account, parent in (("team:a", None), ("agent:x", "team:a"), ("team:b", None)):
        await keyed.put(f"/v1/accounts/{account}", {"parent": parent}, key=FIRST_SECRET)
    for index, account in enumerate(["agent:x", "agent:x", "team:b"]):
        provenance = {"request_id": f"r{index}", "workflow_id": "w"} | (
            {"parent_request_id": "r2"} if index < 2 else {}
        )
        body = {
            "id": f"h{index}",
            "account": account,
            "record": {
                "model": f"m{index}",
                "tokens": {"input": 10, "output": 1},
                "cost_nanousd": 5,
                "provenance": provenance,
            },
        }
        answer = await keyed.post("/v1/usage", body, key=FIRST_SECRET)
        assert answer.status == 201
    seq = (await keyed.get("/v1/journal?after=4000000000&limit=1", key=FIRST_SECRET)).json["as_of_seq"]
    return keyed, (await issued(keyed, role="account", account="team:a"))["secret"], f"min_seq={seq}"


# covers R2, R3
async def test_sums_come_in_pages_and_say_as_of_which_entry(books):
    api, _, seq = books
    found, cursor = [], ""
    while True:
        page = await api.get(f"/v1/usage/sums?by=model,account&limit=2&{seq}{cursor}", key=FIRST_SECRET)
        assert page.status == 200
        found += [(group["keys"]["model"], group["keys"]["account"]) for group in page.json["groups"]]
        if page.json["next"] is None:
            break
        cursor = f"&cursor={page.json['next']}"
    assert found == [("m0", "agent:x"), ("m1", "agent:x"), ("m2", "team:b")]
    assert page.json["totals"]["calls"] == 3
    assert page.json["as_of_seq"] >= int(seq.partition("=")[2])


# covers R2, R9, R13
async def test_a_key_that_is_bound_sees_its_own_subtree_only(books):
    api, own, seq = books
    sums = await api.get(f"/v1/usage/sums?by=account&{seq}", key=own)
    assert [group["keys"]["account"] for group in sums.json["groups"]] == ["agent:x"]
    report = await api.get(f"/v1/reports/usage?{seq}", key=own)
    assert report.json["totals"]["calls"] == 2
    assert "team:b" not in (await api.get(f"/v1/reports/usage/csv?{seq}", key=own)).body.decode()
    for path in SUMMED:
        assert (await api.get(f"{path}?account=team:b", key=own)).status in (403, 404), path
        assert (await api.get(path)).status == 401
    assert (await api.get(f"/v1/requests/r2?{seq}", key=own)).status == 404
    seen = await api.get(f"/v1/requests/r0?{seq}", key=own)
    assert (seen.json["missing_parent"], seen.json["root_request_id"]) == ("r2", "r0")
    tree = await api.get(f"/v1/requests/r0/lineage?{seq}", key=own)
    assert [node["request"]["request_id"] for node in tree.json["lineage_tree"]] == ["r0"]
    whole = await api.get("/v1/requests/r0/lineage", key=FIRST_SECRET)
    assert [node["request"]["request_id"] for node in whole.json["lineage_tree"]] == ["r2", "r0", "r1"]
    assert (await api.get("/v1/workflows/w", key=own)).json["total_requests"] == 2
    assert (await api.get("/v1/workflows/w", key=FIRST_SECRET)).json["total_requests"] == 3


# covers R9
async def test_reports_are_written_in_three_forms(books):
    api, _, seq = books
    answer = await api.get(f"/v1/reports/cost/csv?{seq}", key=FIRST_SECRET)
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(answer.body.decode(), newline="")))
    assert (rows[0]["section"], rows[0]["cost_nanousd"]) == ("total", "15")
    text = await api.get(f"/v1/reports/cost/markdown?{seq}", key=FIRST_SECRET)
    assert text.headers["content-type"] == "text/markdown; charset=utf-8"
    assert text.body.decode().startswith("# Cost report")


# covers R4
async def test_a_check_says_that_it_holds_nothing_and_hides_what_is_above(books):
    api, own, _ = books
    await api.put("/v1/accounts/team:a/budgets/main", {"unit": "cost", "limit": 100}, key=FIRST_SECRET)
    below = await issued(api, role="account", account="agent:x")
    body = {"account": "agent:x", "amounts": {"cost": 101}}
    told = await api.post("/v1/checks", body, key=own)
    assert (told.status, told.json["admitted"], told.json["dry_run"]) == (200, False, True)
    assert told.json["refused"]["binding"]["account"] == "team:a"
    hidden = await api.post("/v1/checks", body, key=below["secret"])
    assert hidden.json["refused"].get("binding") is None
    assert "101" not in hidden.json["refused"]["detail"]
    fits = await api.post("/v1/checks", {"account": "agent:x", "amounts": {"cost": 100}}, key=own)
    assert (fits.json["admitted"], fits.json["refused"]) == (True, None)
    assert (await api.post("/v1/checks", {"account": "team:b", "amounts": {}}, key=own)).status in (403, 404)
    assert (await api.post("/v1/checks", {"account": "agent:x", "amounts": {"cost": 1.5}}, key=own)).status == 422
    balances = (await api.get("/v1/balances/team:a", key=own)).json["balances"]
    assert (balances[0]["held"], balances[0]["spent"]) == (0, 0)


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/v1/usage/sums?by=planet", "by"),
        ("/v1/usage/sums?by=model,model", "by"),
        ("/v1/usage/sums?by=model,day,hour,tool", "by"),
        ("/v1/usage/sums?by=model&limit=1001", "limit"),
        ("/v1/usage/sums?by=model&cursor=x", "cursor"),
        (f"/v1/usage/sums?by=model&cursor={cursor_of_keys(('a', 'b'))}", "cursor"),
        (f"/v1/usage/sums?by=model&cursor={'A' * (CURSOR_LENGTH_MAX + 4)}", "cursor"),
        ("/v1/usage/sums?by=model&top=yes", "top"),
        ("/v1/usage/sums?period=last_year", "period"),
        ("/v1/usage/sums?period=today&since=2026-01-01T00:00:00Z", "period"),
        ("/v1/usage/sums?since=2026-01-02T00:00:00Z&until=2026-01-01T00:00:00Z", "until"),
        ("/v1/usage/sums?since=2026-01-02T00:00:00", "since"),
        ("/v1/usage/sums?user_id=", "user_id"),
        ("/v1/usage/sums?user_id=a%00b", "user_id"),
        ("/v1/usage/sums?account=a%00b", "account"),
        ("/v1/usage/trends?bucket=week", "bucket"),
        ("/v1/usage/trends?until=2026-01-01T00:00:00Z", "since"),
        ("/v1/usage/trends?bucket=hour&since=1990-01-01T00:00:00Z", "since"),
        ("/v1/usage/trends?bucket=hour&since=1971-01-01T00:00:00Z&until=9998-12-31T00:00:00Z", "since"),
        ("/v1/usage/trends?bucket=hour&since=0001-01-01T00:00:00Z&until=9999-12-31T00:00:00Z", "since"),
        ("/v1/usage/sums?since=0001-01-01T00:00:00%2B14:00", "since"),
        ("/v1/usage/sums?until=9999-12-31T23:59:59-14:00", "until"),
        ("/v1/usage/trends?since=0001-01-01T00:00:00Z", "since"),
        ("/v1/usage/trends?since=9999-12-31T23:59:59.999Z", "since"),
        ("/v1/reports/usage?since=9999-12-31T23:59:59.999999Z", "since"),
        ("/v1/reports/optimization?since=9999-12-31T23:59:59.999Z", "since"),
        ("/v1/usage?since=0001-01-01T00:00:00%2B14:00", "since"),
        ("/v1/usage?until=9999-12-31T23:59:59-14:00", "until"),
        ("/v1/usage/forecast?horizon_days=0", "horizon_days"),
        ("/v1/usage/forecast?horizon_days=91", "horizon_days"),
        ("/v1/usage/forecast?measure=love", "measure"),
        ("/v1/reports/poem", "kind"),
        ("/v1/reports/poem/csv", "kind"),
        (f"/v1/requests/{'x' * 513}", "request_id"),
        ("/v1/workflows/a%00b", "workflow_id"),
        ("/v1/usage/sums?min_seq=4000000000", "min_seq"),
    ],
)
async def test_bad_input_names_the_field(books, path, field):
    answer = await books[0].get(path, key=FIRST_SECRET)
    assert (answer.status, answer.json.get("field")) == (422, field), answer.json


@pytest.mark.parametrize(
    "path", ["/v1/usage/sums?since=9999-12-31T00:00:00Z", "/v1/reports/usage?since=9998-01-01T00:00:00Z"]
)
async def test_times_that_never_come_have_no_usage(books, path):
    answer = await books[0].get(path, key=FIRST_SECRET)
    assert (answer.status, answer.json["totals"]["calls"]) == (200, 0)


async def test_a_request_that_nobody_knows_is_told_so(books):
    answer = await books[0].get("/v1/requests/nobody's", key=FIRST_SECRET)
    assert (answer.status, answer.code, answer.json["field"]) == (404, "unknown_request", "request_id")


# covers R51
async def test_r51_enforcement_is_counted(books):
    api, own, _ = books
    empty = (await api.get("/v1/enforcement", key=FIRST_SECRET)).json
    assert (empty["checks_performed"], empty["healthy"]) == (0, True)
    await api.put("/v1/accounts/team:a/budgets/main", {"unit": "cost", "limit": 100}, key=FIRST_SECRET)
    for index, cost in enumerate((100, 101, 1)):
        body = {"id": f"e{index}", "account": "agent:x", "amounts": {"cost": cost}}
        await api.post("/v1/holds", body, key=own)
    told = (await api.get("/v1/enforcement", key=FIRST_SECRET)).json
    assert told["refusals"] == {"budget_exceeded": 1, "budget_busy": 1}
    assert (told["checks_performed"], told["requests_blocked"], told["budgets_exceeded"]) == (3, 2, 1)
    assert (told["blocked_percent"], told["healthy"], told["overrides_granted"]) == (66.67, False, 0)
    assert (await api.get("/v1/enforcement", key=own)).status == 403


# covers R12, R22
async def test_r12_configuring_names_what_is_not_set_at_run_time(books):
    api, own, _ = books
    listed = await api.put("/v1/manager", {}, key=FIRST_SECRET)
    assert (listed.status, "retention_days" in listed.json["options"]) == (200, True)
    for name in ("retention_days", "planet"):
        answer = await api.put("/v1/manager", {"options": {name: 1}}, key=FIRST_SECRET)
        assert (answer.status, answer.code, answer.json["field"]) == (422, "invalid", name)
    assert (await api.put("/v1/manager", {"options": 1}, key=FIRST_SECRET)).json["field"] == "options"
    assert (await api.put("/v1/manager", {}, key=own)).status == 403


@pytest.mark.parametrize("time", [datetime(2026, 1, 1), "2026-01-01T00:00:00Z", 1_767_225_600])  # noqa: DTZ001  # it has none
@pytest.mark.parametrize("kind", [ListUsage, AggregateUsage, ReadTrends])
async def test_a_time_without_its_zone_is_invalid_in_process_too(api: Api, kind, time):
    refused = await api.treasury.read(kind(since=time))
    assert isinstance(refused, Refused)
    assert (refused.code, refused.field) == ("invalid", "since")

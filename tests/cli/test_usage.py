"""``fiscus usage`` and what else tells what was used."""

import csv
import io

import pytest

from tests.cli.processes import answer, answers, fiscus


def booked(folder):
    """A month of one agent in a journal of its own, by way of the SDK."""
    import fiscus as library
    from fiscus.contract import CallRecord, Tokens
    from fiscus.core.records import Provenance

    with library.open_sync(f"sqlite:///{folder}/fiscus.db") as treasury:
        treasury.put_account("team:a")
        treasury.put_account("agent:x", parent="team:a")
        treasury.put_budget("team:a", "cost", 10_000_000_000, budget="main")
        for index in range(3):
            record = CallRecord(
                model="m",
                tokens=Tokens(input=100, output=10),
                provenance=Provenance(
                    request_id=f"r{index}",
                    parent_request_id="r0" if index else None,
                    workflow_id="w",
                    task_type="plan",
                    input_hash="cafe",
                ),
            )
            treasury.usage("agent:x", record, cost_nanousd=1_250_000_000)


# covers R2, R3, R4, R9, R10, R11, R13, R14
@pytest.mark.slow
def test_what_was_used_is_told_for_people_and_for_programs(tmp_path):
    booked(tmp_path)
    table = fiscus(tmp_path, "usage", "--by", "model", "--by", "agent_id", "--period", "today").stdout
    for text in ("m", "x", "3", "330", "$3.75", "all"):
        assert text in table
    sums = answer(tmp_path, "usage", "--by", "team_id", "--account", "team:a")
    assert sums["groups"] == [{"keys": {"team_id": "a"}, "totals": sums["totals"]}]
    assert sums["totals"]["cost_nanousd"] == 3_750_000_000
    assert fiscus(tmp_path, "report").stdout.startswith("# Usage report")
    rows = list(csv.DictReader(io.StringIO(fiscus(tmp_path, "report", "cost", "--format", "csv").stdout, newline="")))
    assert rows[0]["cost_nanousd"] == "3750000000"
    assert answer(tmp_path, "report", "optimization")["recommendations"][0]["kind"] == "cache_repeats"
    assert [one["kind"] for one in answers(tmp_path, "recommendations")] == ["cache_repeats", "expensive_task"]
    assert "rising" in fiscus(tmp_path, "trends").stdout
    assert len(answer(tmp_path, "trends", "--period", "today", "--bucket", "hour")["points"]) == 24
    assert "no forecast: 18 whole days are needed" in fiscus(tmp_path, "forecast", "tokens").stdout
    assert "cafe: 3 calls, $2.50" in fiscus(tmp_path, "tasks").stdout
    assert "3 requests, 3 calls" in fiscus(tmp_path, "workflow", "w").stdout
    assert "root r0, depth 1" in fiscus(tmp_path, "provenance", "r2").stdout
    tree = fiscus(tmp_path, "lineage", "r2").stdout.splitlines()
    assert tree[:3] == ["r0 plan $1.25", "  r1 plan $1.25", "  r2 plan $1.25"]


@pytest.mark.slow
def test_a_check_has_an_exit_code_and_wrong_questions_name_the_field(tmp_path):
    booked(tmp_path)
    assert "nothing is held" in fiscus(tmp_path, "check", "agent:x", "cost=$6.25").stdout
    assert "would be refused" in fiscus(tmp_path, "check", "agent:x", "cost=$6.26", code=1).stdout
    assert "by:" in fiscus(tmp_path, "usage", "--by", "planet", code=1).stderr
    assert "Provenance not found" in fiscus(tmp_path, "provenance", "nobody", code=1).stderr
    wrong = ("--since", "2026-01-02", "--until", "2026-01-01")
    assert "until" in fiscus(tmp_path, "report", *wrong, code=1).stderr
    fiscus(tmp_path, "report", "--period", "last_year", code=2)


# covers R1, R12, R51
@pytest.mark.slow
def test_usage_is_tracked_and_the_manager_is_asked_from_the_command_line(tmp_path):
    booked(tmp_path)
    call = ("agent:x", "input_tokens=900", "output_tokens=100", "cost=$0.02", "--id", "t1", "--model", "m2")
    for _ in range(2):
        told = answer(tmp_path, "track", *call, "--record", "user_id=bob", "--parent-request", "r0")
        assert told["booked"] == {
            "input_tokens": 900,
            "output_tokens": 100,
            "cost": 20_000_000,
            "tokens": 1_000,
            "calls": 1,
        }
    sums = answer(tmp_path, "usage", "--model", "m2", "--user", "bob")["totals"]
    assert (sums["calls"], sums["tokens"], sums["cost_nanousd"]) == (1, 1_000, 20_000_000)
    assert "root r0, depth 1" in fiscus(tmp_path, "provenance", "t1").stdout
    fiscus(tmp_path, "track", *call, "--record", "planet=mars", code=2)
    assert answer(tmp_path, "enforcement")["checks_performed"] == 0
    assert "0 checks, 0 refused" in fiscus(tmp_path, "enforcement").stdout
    assert "retention_days: it is read at the start" in fiscus(tmp_path, "configure").stdout
    assert "FISCUS_RETENTION_DAYS" in fiscus(tmp_path, "configure", "retention_days=30", code=1).stderr


# covers R12
@pytest.mark.slow
def test_prices_are_stated_listed_and_removed_from_the_command_line(tmp_path):
    booked(tmp_path)
    put = ("prices", "put", "vllm", "llama", "input=0.25", "output=1.25", "--fee", "requests=5")
    for _ in range(2):
        made = answer(tmp_path, *put)
        assert (made["price"], len(made["terms"])) == ("vllm:llama", 1)
        assert made["terms"][0]["rates"] == {"input": 250_000_000, "output": 1_250_000_000}
    table = fiscus(tmp_path, "prices", "list").stdout
    for text in ("vllm:llama", "input 0.25, output 1.25", "requests 5"):
        assert text in table
    assert "rates.input" in fiscus(tmp_path, "prices", "put", "vllm", "llama", "input=x", "output=1", code=1).stderr
    past = ("prices", "put", "vllm", "m2", "input=1", "output=1", "--from", "2020-01-01")
    assert "valid_from" in fiscus(tmp_path, *past, code=1).stderr
    assert "ended" in fiscus(tmp_path, "prices", "remove", "vllm:llama").stdout
    assert answers(tmp_path, "prices", "list") == []

"""``fiscus replay`` over HTTP, against a real service in a process of its own."""

import asyncio
import json
from pathlib import Path

import pytest

from fiscus.cli.replay.command import read_speed, run_replay
from fiscus.cli.replay.service import check_port, free_port, own_service
from fiscus.cli.workload import generate
from fiscus.client import RemoteTreasury
from fiscus.contract.errors import ConfigurationInvalid, Conflict, Invalid, TreasuryError
from fiscus.contract.queries import ListAccounts

pytestmark = pytest.mark.slow

HEADER = "trace,agent,subagent_type,seq,t,type,model,in,out,api_time"


@pytest.fixture
def trace(tmp_path) -> Path:
    """Sessions of the built-in workload as a file of the kind that Claude Code's sessions are published in."""
    path = tmp_path / "sessions.csv"
    rows = [
        f"{call.session},{call.subagent or 'main'},,0,{call.at_s:.1f},n,{call.model},{call.input_tokens},"
        f"{call.output_tokens},{call.duration_s:.2f}"
        for call in sorted(generate(5, 900), key=lambda call: call.session)
        if call.session
    ]
    assert len(rows) > 150
    path.write_text("\n".join((HEADER, *rows)) + "\n")
    return path


def replayed(file: Path, capsys, url: str | None = None, id_seed: str | None = "test", **options):
    """Run the command; returns its exit code, the objects of the accounts and the one that sums up."""
    settings = {"speed": "max", "agents": 4, "in_flight": 64, "seed": 1, "limit": None, "chaos": 0.2} | options
    code = run_replay(file, url, json_output=True, id_seed=id_seed, **settings)
    *accounts, summary = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return code, accounts, summary


# covers E2, E7, E14
async def test_the_same_file_with_the_same_ids_changes_nothing_at_the_service_the_second_time(trace, capsys):
    async with own_service(free_port()) as url:
        code, accounts, first = await asyncio.to_thread(replayed, trace, capsys, url)
        assert code == 0
        assert first["in_flight_max"] == 64
        assert min(first["admitted"], first["refused"], first["killed"], first["late"], first["retried"]) > 0
        assert first["overspend_tokens"] == first["overspend_cost_nanousd"] == 0
        assert first["difference_tokens"] == first["difference_cost_nanousd"] == first["difference_counts"] == 0
        assert all(account["tokens_produced"] == account["tokens_booked"] for account in accounts)
        before = await balances(url)

        code, _, second = await asyncio.to_thread(replayed, trace, capsys, url)
        assert code == 0
        assert second["head_seq"] == first["head_seq"]
        assert await balances(url) == before
        assert second["repeated"] == second["admitted"] == first["admitted"]

        with pytest.raises(Conflict, match="other options"):
            await asyncio.to_thread(replayed, trace, capsys, url, chaos=0.5)
        code, _, third = await asyncio.to_thread(replayed, trace, capsys, url, id_seed="other")
        assert code == 0
        assert third["repeated"] == 0
        assert third["head_seq"] > second["head_seq"]


async def balances(url: str) -> dict[str, object]:
    treasury = RemoteTreasury(url)
    try:
        page = await treasury.read(ListAccounts(limit=1_000, min_seq=(await treasury.readiness()).head_seq))
        return {account.account: account.budgets for account in page.accounts}
    finally:
        await treasury.close()


def test_without_an_address_it_starts_a_service_of_its_own(trace, capsys):
    code, accounts, summary = replayed(trace, capsys, id_seed=None, limit=100)
    assert code == 0
    assert summary["calls"] == 100
    assert accounts[0]["account"] == "global"
    assert len(summary["id_seed"]) == 8, "made for this run"


def test_people_get_tables_and_the_verdict(trace, capsys):
    assert run_replay(trace, None, "max", 4, 64, 1, False, 100, 0.0, "seen") == 0
    shown = capsys.readouterr().out
    assert "sessions.csv: 100 calls" in shown
    assert "Reconciliation" in shown
    assert "overspend 0 tokens, 0 nano-USD; difference 0 tokens, 0 nano-USD" in shown
    assert "--id-seed seen" in shown


def test_a_bad_file_is_refused_before_anything_is_sent(trace, capsys):
    trace.write_text(f"{HEADER}\n0001,main,,0,soon,n,claude-opus-4-6,1,1,1\n")
    with pytest.raises(Invalid, match="line 2, column t: 'soon'"):
        replayed(trace, capsys, url="http://127.0.0.1:9")


def test_a_file_without_calls_is_refused(trace, capsys):
    trace.write_text(f"{HEADER}\n")
    with pytest.raises(ConfigurationInvalid, match=r"sessions\.csv: there are no calls in it"):
        replayed(trace, capsys, url="http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"speed": "fast"}, "--speed fast"),
        ({"speed": "0"}, "--speed 0"),
        ({"speed": "nan"}, "--speed nan"),
        ({"agents": 0}, "--agents 0"),
        ({"in_flight": 0}, "--in-flight 0"),
        ({"chaos": 1.5}, "--chaos 1.5"),
        ({"chaos": float("nan")}, "--chaos nan"),
        ({"limit": 0}, "--limit 0"),
    ],
    ids=lambda value: str(value),
)
def test_an_option_that_makes_no_sense_is_named(trace, capsys, options, why):
    with pytest.raises(ConfigurationInvalid, match=why):
        replayed(trace, capsys, url="http://127.0.0.1:9", **options)


def test_speeds_are_numbers_or_max():
    assert read_speed("max") is None
    assert read_speed("60") == 60.0


def test_a_busy_port_is_named_with_the_way_to_another():
    with pytest.raises(ConfigurationInvalid, match=r"port \d+ on 127\.0\.0\.1 is busy.*PORT=") as caught:
        occupied(lambda port: check_port(port))
    assert "--port" in str(caught.value)


def occupied(use):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        use(listener.getsockname()[1])


async def test_a_service_that_does_not_start_is_told_with_what_it_logged(monkeypatch):
    monkeypatch.setattr("fiscus.cli.replay.service.MODULE", "fiscus.nothing_there")
    with pytest.raises(TreasuryError, match=r"ended with code 1; its log ends with:\n.*nothing_there"):
        async with own_service(free_port()):
            pass

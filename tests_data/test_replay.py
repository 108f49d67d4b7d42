"""The first calls of each recorded trace over HTTP, twice: the books are right, and the second time changes nothing."""

import asyncio
import json
from pathlib import Path

import pytest

from fiscus.cli.replay.command import run_replay
from fiscus.cli.replay.service import free_port, own_service

TRACES = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
FILES = sorted([*TRACES.glob("azure_llm_2023_*.csv.gz"), *TRACES.glob("claude_code_v*.csv.gz")])
CALLS = 700


def replayed(file, url, capsys):
    code = run_replay(file, url, "max", 8, 64, 1, True, CALLS, 0.15, "data")
    return code, json.loads(capsys.readouterr().out.splitlines()[-1])


# covers E2, E7, E14
@pytest.mark.parametrize("file", FILES, ids=[file.name for file in FILES])
async def test_the_books_of_a_recorded_trace_are_right_and_a_second_replay_changes_nothing(file, capsys):
    async with own_service(free_port()) as url:
        code, first = await asyncio.to_thread(replayed, file, url, capsys)
        assert code == 0, first
        assert first["calls"] == CALLS
        assert first["in_flight_max"] == 64
        assert min(first["refused"], first["killed"], first["late"], first["retried"]) > 0
        for name in ("overspend_tokens", "overspend_cost_nanousd", "difference_tokens", "difference_cost_nanousd"):
            assert first[name] == 0
        code, second = await asyncio.to_thread(replayed, file, url, capsys)
        assert code == 0, second
        assert second["head_seq"] == first["head_seq"]
        assert second["repeated"] == second["admitted"] == first["admitted"]

"""``make demo-llm``: agents on a real model until their budgets end, and the books against the server's counters."""

import json
import subprocess
import sys

import pytest

from scripts.llm_server import ROOT, is_there

DEADLINE_S = 240


# covers E2, E14, E15
@pytest.mark.slow
@pytest.mark.skipif(not is_there(), reason="there is no language model: make llm")
def test_the_books_of_a_fleet_equal_the_counters_of_the_model_at_the_end():
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo_llm", "--no-wait", "--agents", "2"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["raised"] == 1
    assert min(said[name] for name in ("calls", "warned", "clamped", "refused")) > 0
    for part in ("input", "cached", "output"):
        assert said[f"booked_{part}"] == said[f"counted_{part}"] > 0
    assert (said["difference_tokens"], said["overspend_tokens"]) == (0, 0)
    assert said["booked_cost_nanousd"] > 0

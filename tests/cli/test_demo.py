"""``fiscus demo``: the service, the fleet, the reconciliation, and the way out."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from fiscus.cli.demo import run_demo
from fiscus.cli.replay.service import free_port
from fiscus.contract.errors import ConfigurationInvalid

pytestmark = pytest.mark.slow

TOLD = {
    "calls",
    "admitted",
    "refused",
    "killed",
    "late",
    "overspend_tokens",
    "overspend_cost_nanousd",
    "difference_tokens",
    "difference_cost_nanousd",
    "seconds",
}
RUN = "import sys; from fiscus.cli.demo import run_demo; sys.exit(run_demo(None, {wait}, {port}, 1, {calls}, None))"
DEADLINE_S = 60


def started(folder: Path, port: int, *, wait: bool, calls: int = 200) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RUN.format(wait=wait, port=port, calls=calls)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"TMPDIR": str(folder)},
    )


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


# covers E2, E14
def test_it_ends_with_one_json_object_that_says_the_books_are_right(tmp_path):
    port = free_port()
    with started(tmp_path, port, wait=False) as demo:
        shown, _ = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 0, shown
    summary = json.loads(shown.splitlines()[-1])
    assert set(summary) >= TOLD
    assert summary["calls"] == summary["admitted"] + summary["refused"] == 200
    for name in ("overspend_tokens", "overspend_cost_nanousd", "difference_tokens", "difference_cost_nanousd"):
        assert summary[name] == 0
    assert "Reconciliation" in shown
    assert is_free(port)
    assert not list(tmp_path.iterdir()), "the ledger is gone"


def test_it_stays_up_to_be_looked_at_until_it_is_interrupted(tmp_path):
    port = free_port()
    with started(tmp_path, port, wait=True) as demo:
        assert demo.stdout is not None
        commands = []
        for line in demo.stdout:
            if line.strip().startswith("curl "):
                commands.append(line.strip().removeprefix("curl ").strip("'"))
            if len(commands) == 3:
                break
        for address in commands:
            assert address.startswith(f"http://127.0.0.1:{port}/v1/")
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert "global" in answer.read().decode() or "account=" in address or "prefix=" in address
        demo.send_signal(signal.SIGINT)
        demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 0
    assert is_free(port)
    assert not list(tmp_path.iterdir())


def test_it_takes_its_service_along_when_it_is_terminated_in_the_middle(tmp_path):
    port = free_port()
    with started(tmp_path, port, wait=False, calls=4_000) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "in flight" in line:
                break
        demo.send_signal(signal.SIGTERM)
        rest, _ = demo.communicate(timeout=DEADLINE_S)
    assert demo.returncode == 143, rest
    assert "Traceback" not in rest
    assert is_free(port)
    assert not list(tmp_path.iterdir())


def test_a_busy_port_is_an_error_that_says_how_to_choose_another():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(ConfigurationInvalid, match=f"port {port} on 127.0.0.1 is busy.*PORT={port + 1}"):
            run_demo(None, False, port, 1, 10)

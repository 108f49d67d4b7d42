"""Tables that are thrown away do not pile up, however their processes end."""

import subprocess
import sys

import pytest

from fiscus.contract.errors import StoreUnavailable
from fiscus.stores.sqlite import scratch
from fiscus.stores.sqlite.scratch import scratch_folder

KILLED = """
import os, sys
from pathlib import Path
from fiscus.stores.sqlite.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1])) as folder:
    (folder / "fold").write_text("left")
    os.kill(os.getpid(), 9)
"""


def test_what_a_killed_process_leaves_is_thrown_away_by_the_next(tmp_path):
    directory = tmp_path / "drift"
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", KILLED, directory], check=False)
        assert ended.returncode == -9
        assert (directory / "0" / "fold").read_text() == "left"
    with scratch_folder(directory) as folder:
        assert folder == directory / "0"
        assert list(folder.iterdir()) == []
    assert not directory.exists()


def test_a_place_is_nobody_elses_while_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "PROCESSES_MAX", 1)
    with (
        scratch_folder(tmp_path) as folder,
        pytest.raises(StoreUnavailable, match="all 1 places are taken"),
        scratch_folder(tmp_path),
    ):
        pass
    assert not folder.exists()


def test_a_place_whose_owner_ends_meanwhile_is_not_taken_without_a_lock(tmp_path, monkeypatch):
    first = scratch_folder(tmp_path)
    first.__enter__()
    lock = scratch.fcntl.flock

    def ends_before_locking(descriptor, operation):
        monkeypatch.setattr(scratch.fcntl, "flock", lock)
        first.__exit__(None, None, None)
        lock(descriptor, operation)

    monkeypatch.setattr(scratch.fcntl, "flock", ends_before_locking)
    with scratch_folder(tmp_path) as mine, scratch_folder(tmp_path) as other:
        assert mine != other
        assert mine.exists()

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
    for _ in range(2):
        ended = subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=False)
        assert ended.returncode == -9
        assert (tmp_path / "0" / "fold").read_text() == "left"
    with scratch_folder(tmp_path) as folder:
        assert folder == tmp_path / "0"
        assert list(folder.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.lock"]


def test_a_place_is_nobody_elses_while_it_is_used(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch, "PROCESSES_MAX", 1)
    with (
        scratch_folder(tmp_path) as folder,
        pytest.raises(StoreUnavailable, match="all 1 places are taken"),
        scratch_folder(tmp_path),
    ):
        pass
    assert not folder.exists()

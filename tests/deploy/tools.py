"""The programs that judge deploy/: each is used where it is installed, and its name stands in the ids of its tests."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
TOOLS = ROOT / "build" / "deploy-tools" / "bin"
"""Made by `make deploy-tools`."""

S_MAX = 60

PROMTOOL = shutil.which("promtool")
HADOLINT = shutil.which("hadolint", path=str(TOOLS)) or shutil.which("hadolint")
PYTHON = next((TOOLS.parent.glob("bin/python")), None) if (TOOLS.parent / ".locked").exists() else None

needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is missing: install the package prometheus")
needs_hadolint = pytest.mark.skipif(HADOLINT is None, reason="hadolint is missing: make deploy-tools")
needs_deploy_tools = pytest.mark.skipif(PYTHON is None, reason="build/deploy-tools is missing: make deploy-tools")


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run a program; its exit code is for the caller to judge."""
    return subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, timeout=S_MAX, check=False
    )


def ask(program: str, question: Any) -> Any:
    """Run a small program in the interpreter of build/deploy-tools: JSON on standard input, JSON as its last line."""
    done = subprocess.run(
        [str(PYTHON), "-c", program],
        input=json.dumps(question),
        capture_output=True,
        text=True,
        timeout=S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])

"""docs/guides/deploy.md: what it names is there."""

import re
import subprocess
import sys

import pytest

from fiscus.settings import FIXED_NAMES, PREFIX, Settings
from tests.deploy import compose, container, queries
from tests.deploy.tools import ROOT

TEXT = (ROOT / "docs" / "guides" / "deploy.md").read_text(encoding="utf-8")
COMMANDS = [
    line for block in re.findall(r"^```\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE) for line in block.splitlines()
]


def test_every_file_that_it_names_is_there():
    paths = set(re.findall(r"[\s`(](deploy/[\w./-]*\w|docker-compose[\w.]+|Dockerfile)\b", TEXT))
    assert len(paths) > 5
    for path in paths:
        assert (ROOT / path).exists(), path
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", TEXT):
        assert (ROOT / "docs" / "guides" / link).exists(), link


@pytest.mark.parametrize("words", sorted(set(re.findall(r"fiscus (status|version|keys create)\b", TEXT))))
def test_every_command_of_the_service_that_it_shows_is_one(words):
    command = [sys.executable, "-m", "fiscus.cli", *words.split(), "--help"]
    assert subprocess.run(command, capture_output=True, check=False, timeout=60).returncode == 0


def test_every_variable_that_it_names_is_one():
    known = {f"{PREFIX}{setting}".upper() for setting in Settings.model_fields} | set(FIXED_NAMES.values())
    known |= {match["name"] for match in compose.VARIABLE.finditer(compose.FILE.read_text(encoding="utf-8"))}
    named = set(re.findall(r"\b((?:FISCUS|TOKEN|POSTGRES|REDIS|PROMETHEUS|GRAFANA|BIND)_[A-Z0-9_]+)\b", TEXT))
    assert named - known == {"FISCUS_CONFIG"}


def test_it_says_what_the_image_sets():
    rows = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]+)` \|", TEXT, re.MULTILINE))
    environment = container.STAGE.environment({})
    python = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
    assert rows == {name: value for name, value in environment.items() if name not in python}


def test_the_alerts_that_it_names_are_some():
    named = set(re.findall(r"`(DEAN\w+|Budget\w+|High\w+|Low\w+)`", TEXT))
    assert len(named) == 4
    assert named <= {rule["alert"] for rule in queries.rules()}

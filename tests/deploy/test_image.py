"""The Dockerfile: what the image is made of, and how it runs."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.deploy import dockerfile
from tests.deploy.tools import HADOLINT, ROOT, needs_hadolint, run

DOCKERFILE = ROOT / "Dockerfile"
STAGES = dockerfile.read(DOCKERFILE)
IMAGE = STAGES[-1]
BASE = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


@needs_hadolint
def test_the_linter_finds_nothing():
    done = run(HADOLINT, "--no-color", DOCKERFILE)
    assert done.returncode == 0, done.stdout


@needs_hadolint
@pytest.mark.parametrize(
    ("before", "after", "rule"),
    [
        ('ENTRYPOINT ["fiscus"]', "ENTRYPOINT fiscus", "DL3025"),
        ("FROM python:${PYTHON_VERSION}-slim-bookworm AS build", "FROM python AS build", "DL3006"),
        ("WORKDIR /build", "WORKDIR build", "DL3000"),
    ],
)
def test_the_linter_finds_what_is_wrong(tmp_path, before, after, rule):
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert before in text
    broken = tmp_path / "Dockerfile"
    broken.write_text(text.replace(before, after), encoding="utf-8")
    done = run(HADOLINT, "--no-color", broken)
    assert done.returncode != 0
    assert rule in done.stdout


def test_all_that_is_installed_is_locked_by_hash():
    installs = [
        command.strip()
        for stage in STAGES
        for line in stage.all("RUN")
        for command in re.split(r"&&|;", line)
        if " install " in command and " pip " in command
    ]
    assert len(installs) == 3
    for command in installs:
        assert "--require-hashes" in command or "--no-index --no-deps" in command, command
    for name in ("requirements.txt", "requirements-build.txt"):
        lines = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        pinned = [line for line in lines if line.strip() and not line.startswith("#")]
        assert pinned
        assert all("==" in line and "--hash=sha256:" in line for line in pinned)


def test_the_image_has_the_extras_of_production():
    names = set(re.findall(r"^([a-z0-9-]+)==", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"psycopg", "psycopg-binary", "alembic", "redis", "hiredis", "opentelemetry-sdk"} <= names


def test_the_last_stage_takes_the_result_alone_and_runs_as_a_number_without_rights():
    assert len(STAGES) == 2
    assert IMAGE.all("COPY") == ["--from=build /opt/fiscus /opt/fiscus"]
    user, _, group = IMAGE.last("USER").partition(":")
    assert (int(user), int(group)) >= (1_000, 1_000)
    assert f"--owner={user} --group={group} --mode=0700 /var/lib/fiscus" in IMAGE.all("RUN")[0]
    assert IMAGE.last("VOLUME") == '["/var/lib/fiscus"]'
    names = [name for name, _ in IMAGE.instructions]
    assert names.index("USER") > max(at for at, name in enumerate(names) if name in ("RUN", "COPY"))


def test_it_starts_the_service_without_a_shell_in_between():
    assert IMAGE.exec_form("ENTRYPOINT") == ["fiscus"]
    assert IMAGE.exec_form("CMD") == ["serve"]
    assert IMAGE.last("STOPSIGNAL") == "SIGTERM"


def test_the_health_check_has_the_times_that_deployments_know_and_needs_no_other_program():
    # covers D54
    options, command = IMAGE.healthcheck()
    assert options == {"interval": "30s", "timeout": "10s", "start-period": "40s", "retries": "3"}
    assert command == ["/opt/fiscus/bin/python", "/opt/fiscus/healthcheck.py"]
    assert "COPY deploy/healthcheck.py /opt/fiscus/healthcheck.py" in DOCKERFILE.read_text(encoding="utf-8")


def test_what_the_image_sets_can_be_replaced_by_the_variables_that_deployments_know():
    # covers D53
    environment = IMAGE.environment(BASE)
    assert environment["TOKEN_ECONOMY_PORT"] == "8091"
    assert environment["DATABASE_URL"].startswith("sqlite:////var/lib/fiscus/")
    # These would win over the names that deployments set.
    assert not {"FISCUS_STORE_URL", "FISCUS_PORT", "FISCUS_REDIS_URL"} & environment.keys()


def test_the_builder_is_sent_what_the_dockerfile_copies_and_nothing_else():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    sent = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    copied = {
        source.removeprefix("./").rstrip("/")
        for stage in STAGES
        for line in stage.all("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }
    assert sent == copied
    assert all((ROOT / source).exists() for source in sent)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", folder, ROOT], check=True, capture_output=True, timeout=120)
    return next(folder.glob("fiscus-*.whl"))


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_package(wheel):
    source = ROOT / "src"
    ours = {
        str(path.relative_to(source))
        for path in (source / "fiscus").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        theirs = {name for name in archive.namelist() if name.startswith("fiscus/")}
    assert theirs == ours

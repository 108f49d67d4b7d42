"""Settings: where they come from, what is documented, and that nobody else reads the environment."""

import ast
import json
import os
import re
from pathlib import Path

import pytest

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.settings import FIXED_NAMES, PREFIX, Settings, list_settings, load_settings

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "settings.md"
SECRET = "a secret of more than sixteen letters"

HANDS_THE_ENVIRONMENT_ON = {"cli/replay/service.py"}
"""Starts a child process without our settings."""


@pytest.fixture(autouse=True)
def _nothing_is_set(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.upper().startswith(PREFIX) or name in FIXED_NAMES.values():
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def views(**options):
    return {view.name: view for view in list_settings(load_settings(**options), **options)}


def documented() -> dict[str, list[str]]:
    """Name → the cells of its row in the page."""
    rows = (line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `"))
    cells = ([cell.strip() for cell in row.strip("| ").split(" | ")] for row in rows)
    return {row[0].strip("`"): row for row in cells}


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_every_setting_is_documented_with_its_default_and_range(name):
    view = views()[name]
    row = documented().get(name)
    assert row is not None, f"docs/reference/settings.md lacks {name}"
    default = (
        ""
        if view.default in (None, [])
        else f"`{str(view.default).lower() if isinstance(view.default, bool) else view.default}`"
    )
    assert row[1:4] == [f"`{view.environment}`", default, view.range]
    assert row[4] == view.description


def test_the_page_documents_no_setting_that_there_is_not():
    assert set(documented()) == set(Settings.model_fields)


def test_a_setting_without_a_description_or_a_number_without_a_range_is_not_allowed():
    for view in views().values():
        assert view.description.endswith("."), view.name
        if isinstance(view.default, int) and not isinstance(view.default, bool):
            assert view.range, view.name


def test_a_number_says_what_it_counts_in_its_name():
    counted = re.compile(r"_(ms|s|days|bytes|tokens|max|minute|percent)(_max)?$")
    for view in views().values():
        if isinstance(view.default, int) and not isinstance(view.default, bool) and view.name != "port":
            assert counted.search(view.name), view.name


def test_an_option_wins_over_the_environment_then_the_fixed_names_then_the_file_then_the_default(monkeypatch):
    def port(**options):
        view = views(**options)["port"]
        return view.value, view.source

    assert port() == (8091, "default")
    Path("fiscus.toml").write_text("port = 1001\n")
    assert port() == (1001, "fiscus.toml")
    monkeypatch.setenv("TOKEN_ECONOMY_PORT", "1002")
    assert port() == (1002, "environment TOKEN_ECONOMY_PORT")
    monkeypatch.setenv("FISCUS_PORT", "1003")
    assert port() == (1003, "environment FISCUS_PORT")
    assert port(port=1004) == (1004, "option")


# covers D53
def test_the_names_of_the_token_economy_service_are_read_with_its_defaults(monkeypatch):
    settings = load_settings()
    assert (settings.economy_budget_tokens, settings.port) == (100_000, 8091)
    monkeypatch.setenv("GLOBAL_TOKEN_BUDGET", "250000")
    monkeypatch.setenv("TOKEN_ECONOMY_PORT", "9000")
    monkeypatch.setenv("DATABASE_URL", "sqlite:////var/lib/fiscus.db")
    monkeypatch.setenv("REDIS_URL", "redis://redis:6379/0")
    settings = load_settings()
    assert (settings.economy_budget_tokens, settings.port) == (250_000, 9000)
    assert (settings.store_url, settings.redis_url) == ("sqlite:////var/lib/fiscus.db", "redis://redis:6379/0")


def test_an_empty_variable_counts_as_not_set(monkeypatch):
    monkeypatch.setenv("FISCUS_PORT", "")
    monkeypatch.setenv("GLOBAL_TOKEN_BUDGET", "")
    assert views()["port"].source == "default"
    assert views()["economy_budget_tokens"].value == 100_000


def test_lists_are_separated_by_commas_in_the_environment(monkeypatch):
    monkeypatch.setenv("FISCUS_TRUSTED_PROXIES", "10.0.0.1, 10.0.0.2")
    assert load_settings().trusted_proxies == ("10.0.0.1", "10.0.0.2")
    Path("fiscus.toml").write_text('allowed_hosts = ["a.example", "b.example"]\n')
    assert load_settings().allowed_hosts == ("a.example", "b.example")


def test_a_wrong_value_is_named_by_its_source_and_never_shown(monkeypatch):
    monkeypatch.setenv("FISCUS_KEY_PEPPER", "short secret")
    with pytest.raises(ConfigurationInvalid, match=r"key_pepper \(environment FISCUS_KEY_PEPPER\): ") as error:
        load_settings()
    assert "short secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("prot = 1\n", "fiscus.toml: unknown setting prot"),
        ("port = 70000\n", r"port \(fiscus.toml\): .*65535"),
        ("port = \n", "fiscus.toml: Invalid value .*line 1"),
        ('log_level = "loud"\n', r"log_level \(fiscus.toml\): "),
        ('tls_key_path = "key.pem"\n', "tls_certificate_path and tls_key_path belong together"),
    ],
)
def test_a_fault_in_the_file_is_named(text, message):
    Path("fiscus.toml").write_text(text)
    with pytest.raises(ConfigurationInvalid, match=message):
        load_settings()


def test_a_file_that_is_named_must_be_there(monkeypatch):
    monkeypatch.setenv("FISCUS_CONFIG", "elsewhere.toml")
    with pytest.raises(ConfigurationInvalid, match=r"elsewhere\.toml: no such file \(FISCUS_CONFIG names it\)"):
        load_settings()
    Path("elsewhere.toml").write_text("drain_s_max = 5\n")
    assert views()["drain_s_max"].source == "elsewhere.toml"


def test_secrets_are_masked_in_every_form(monkeypatch):
    monkeypatch.setenv("FISCUS_BOOTSTRAP_KEY", SECRET)
    monkeypatch.setenv("FISCUS_KEY_PEPPER", SECRET)
    monkeypatch.setenv("FISCUS_API_KEY", SECRET)
    monkeypatch.setenv("FISCUS_REDIS_URL", f"redis://user:{SECRET.replace(' ', '-')}@host/0")
    settings = load_settings()
    listed = list_settings(settings)
    shown = json.dumps([str(view) for view in listed]) + repr(settings)
    assert SECRET not in shown
    assert SECRET.replace(" ", "-") not in json.dumps([str(view) for view in listed])
    assert views()["bootstrap_key"].value == "********"


def test_nothing_else_reads_the_environment():
    source = ROOT / "src" / "fiscus"
    readers = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            reads = isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv", "environb"}
            if reads or (isinstance(node, ast.alias) and node.name in {"environ", "getenv"}):
                readers.add(path.relative_to(source).as_posix())
    assert readers - HANDS_THE_ENVIRONMENT_ON == {"settings.py"}

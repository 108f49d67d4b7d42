"""The command line: in process and beside a service, for people and for programs, and how it fails."""

import json
import re
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from fiscus.cli import app
from fiscus.cli.output import amount_text, printable, read_amount, read_pairs
from fiscus.contract.errors import ConfigurationInvalid
from tests.cli.processes import WAIT_S, answer, answers, environment, fiscus, service

slow = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent.parent

HEAVY = ("aiohttp", "uvicorn", "starlette", "pydantic_settings", "sqlite3", "yaml", "prometheus_client", "structlog")
SECRET = "the first secret of this ledger"

TOUR = [
    ["accounts", "put", "global", "--label", "owner=ada"],
    ["accounts", "put", "team:a", "--parent", "global", "--priority", "1", "--min-reserve", "tokens=10"],
    ["accounts", "put", "team:b", "--parent", "global", "--priority", "2"],
    ["accounts", "put", "agent:x", "--parent", "team:a"],
    ["budgets", "put", "global", "tokens", "100_000", "--period", "month", "--threshold", "80=warning"],
    ["budgets", "put", "global", "cost", "$5.25", "--period", "every:3600", "--match", "model=m", "--mode", "warn"],
    ["budgets", "put", "agent:x", "calls", "7", "--name", "few", "--on-exhaustion", "suspend"],
    ["budgets", "allocate", "team:a", "tokens", "5000"],
    ["budgets", "allocate", "team:b", "tokens", "1000"],
    ["budgets", "transfer", "team:a", "team:b", "tokens", "500", "--reason", "b has more to do"],
    ["budgets", "adjust", "agent:x", "few", "--by", "-2", "--reason", "too many", "--id", "adjustment-1"],
    ["budgets", "end-adjustment", "agent:x", "adjustment-1"],
    ["loans", "plan", "team:b", "tokens", "2000"],
    ["loans", "lend", "team:b", "tokens", "--from", "team:a=500", "--reason", "b has a long day", "--id", "loan-1"],
    ["loans", "show", "loan-1"],
    ["loans", "give-back", "loan-1"],
    ["accounts", "put", "team:b", "--shortage", "reallocate", "--shortage", "clamp"],
    ["budgets", "list", "team:b"],
    ["budgets", "deallocate", "team:b", "tokens"],
    ["budgets", "remove", "agent:x", "few"],
    ["accounts", "put", "team:b", "--confidence-threshold", "0.9", "--gate-s", "60"],
    ["accounts", "reset-gate", "team:b", "--task", "review"],
    ["accounts", "put", "team:b", "--no-gate"],
    [
        "budgets",
        "put",
        "team:b",
        "calls",
        "9",
        "--override-percent",
        "10",
        "--approver",
        "admin",
        "--approver-key",
        "k",
    ],
    ["accounts", "suspend", "agent:x", "--reason", "a pause"],
    ["accounts", "resume", "agent:x"],
    ["accounts", "show", "agent:x"],
    ["accounts", "close", "agent:x"],
    ["accounts", "terminate", "team:b"],
    ["accounts", "erase", "agent:x", "--yes"],
    ["accounts", "list"],
    ["accounts", "list", "--prefix", "team:", "--parent", "global", "--status", "active"],
]


def without_times(value):
    """Times differ from one run to the next."""
    if isinstance(value, dict):
        return {name: without_times(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_times(item) for item in value]
    return "a time" if isinstance(value, str) and re.match(r"20\d\d-\d\d-\d\dT", value) else value


# -- in process and beside a service -------------------------------------------------------------------------------


@slow
def test_every_command_says_the_same_in_process_and_beside_a_service(tmp_path):
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    alone.mkdir()
    beside.mkdir()
    in_process = [without_times(answers(alone, *arguments)) for arguments in TOUR]
    with service(beside):
        over_http = [without_times(answers(beside, *arguments)) for arguments in TOUR]
    for arguments, one, other in zip(TOUR, in_process, over_http, strict=True):
        assert one == other, arguments
    assert [answer[0]["outcome"] for answer in in_process[:4]] == ["account"] * 4
    kinds = [[entry["kind"] for entry in answers(folder, "events")] for folder in (alone, beside)]
    assert kinds[0] == kinds[1]


@slow
def test_for_people_every_command_writes_text_and_no_json(tmp_path):
    for arguments in TOUR:
        shown = fiscus(tmp_path, *arguments)
        assert shown.stdout.strip(), arguments
        assert not shown.stdout.startswith("{"), arguments
        assert shown.stderr == "", arguments


@slow
def test_beside_a_service_commands_go_to_it_and_a_url_goes_elsewhere(tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    fiscus(tmp_path, "accounts", "put", "here")
    with service(tmp_path) as near, service(other) as far:
        assert answer(tmp_path, "status")["place"] == near.url
        assert answer(tmp_path, "status", "--url", far.url)["place"] == far.url
        assert answer(tmp_path, "status", FISCUS_URL=far.url)["place"] == far.url
        assert answers(tmp_path, "accounts", "list", "--url", far.url) == []
        refused = fiscus(tmp_path, "status", "--tenant", "another", code=1)
        assert refused.stderr == f"fiscus: {near.url} serves one tenant; ask it without --tenant\n"
    assert answer(tmp_path, "status")["place"] == "sqlite:///fiscus.db"


@slow
def test_a_ledger_that_a_process_without_an_address_has_open_is_said_to_be_busy(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    with follow(tmp_path) as follower:
        follower.stdout.readline()
        refused = fiscus(tmp_path, "accounts", "list", code=1)
        assert refused.stderr.strip().endswith("fiscus.db is open in another process")
        follower.send_signal(signal.SIGINT)
        assert follower.wait(WAIT_S) == 130


@slow
def test_tenants_are_ledgers_of_their_own(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global", "--tenant", "one")
    assert answers(tmp_path, "accounts", "list", "--tenant", "two") == []
    assert len(answers(tmp_path, "accounts", "list", "--tenant", "one")) == 1
    with service(tmp_path, "--tenant", "one"):
        assert len(answers(tmp_path, "accounts", "list")) == 1


# -- keys ----------------------------------------------------------------------------------------------------------


@slow
def test_a_key_is_made_rotated_and_revoked_in_process_and_beside_a_service(tmp_path):
    first = answer(tmp_path, "keys", "create", "--role", "admin", "--label", "ops", "--until", "2999-01-01")
    with service(tmp_path) as running:
        assert running.keys_required
        refused = fiscus(tmp_path, "accounts", "list", code=1)
        assert "send a key" in refused.stderr
        admin = {"FISCUS_API_KEY": first["secret"]}
        fiscus(tmp_path, "accounts", "put", "agent:x", **admin)
        fiscus(tmp_path, "accounts", "put", "agent:y", **admin)
        made = ["keys", "create", "--role", "account", "--account", "agent:x", "--requests-per-minute", "600"]
        bound = answer(tmp_path, *made, **admin)
        assert answer(tmp_path, "accounts", "show", "agent:x", FISCUS_API_KEY=bound["secret"])["account"] == "agent:x"
        assert (
            "agent:y" in fiscus(tmp_path, "accounts", "show", "agent:y", code=1, FISCUS_API_KEY=bound["secret"]).stderr
        )
        rotated = answer(tmp_path, "keys", "rotate", bound["key"]["key"], **admin)
        assert rotated["key"] == bound["key"]
        assert rotated["secret"] != bound["secret"]
        fiscus(tmp_path, "accounts", "show", "agent:x", code=1, FISCUS_API_KEY=bound["secret"])
        fiscus(tmp_path, "accounts", "show", "agent:x", FISCUS_API_KEY=rotated["secret"])
        fiscus(tmp_path, "keys", "revoke", bound["key"]["key"], **admin)
        fiscus(tmp_path, "accounts", "show", "agent:x", code=1, FISCUS_API_KEY=rotated["secret"])
    assert [key["key"] for key in answers(tmp_path, "keys", "list")] == [first["key"]["key"]]
    again = answer(tmp_path, "keys", "rotate", first["key"]["key"])
    with service(tmp_path):
        fiscus(tmp_path, "accounts", "list", code=1, **admin)
        fiscus(tmp_path, "accounts", "list", "--api-key", again["secret"])
    assert "there is no key nobody" in fiscus(tmp_path, "keys", "rotate", "nobody", code=1).stderr


@slow
def test_a_secret_is_shown_once_and_stored_nowhere(tmp_path):
    shown = fiscus(tmp_path, "keys", "create", "--role", "viewer").stdout
    secret = re.search(r"^fk_\S+$", shown, re.MULTILINE)[0]
    assert secret not in fiscus(tmp_path, "keys", "list", "--json").stdout
    for file in tmp_path.iterdir():
        assert secret.encode() not in file.read_bytes(), file


# -- events --------------------------------------------------------------------------------------------------------


def follow(folder, *arguments):
    """``events --follow --json`` as a process."""
    command = [sys.executable, "-m", "fiscus.cli", "events", "--follow", "--json", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)


@slow
def test_events_are_followed_as_they_happen_until_ctrl_c(tmp_path):
    with service(tmp_path):
        fiscus(tmp_path, "accounts", "put", "global")
        with follow(tmp_path) as follower:
            assert json.loads(follower.stdout.readline())["names"] == {"1": "global"}
            fiscus(tmp_path, "accounts", "put", "team:a", "--parent", "global")
            entry = json.loads(follower.stdout.readline())
            assert (entry["seq"], entry["kind"], entry["data"]["parent"]) == (2, "account_opened", 1)
            follower.send_signal(signal.SIGINT)
            assert follower.wait(WAIT_S) == 130


@slow
@pytest.mark.parametrize("beside", [False, True])
def test_events_of_an_account_are_its_own_and_those_below_behind_a_number(tmp_path, beside):
    fiscus(tmp_path, "accounts", "put", "global")
    fiscus(tmp_path, "accounts", "put", "team:a", "--parent", "global")
    fiscus(tmp_path, "accounts", "put", "agent:x", "--parent", "team:a")
    fiscus(tmp_path, "budgets", "put", "global", "tokens", "5")
    fiscus(tmp_path, "budgets", "put", "agent:x", "tokens", "5")

    def check():
        assert [entry["seq"] for entry in answers(tmp_path, "events", "--after", "3")] == [4, 5]
        assert [entry["seq"] for entry in answers(tmp_path, "events", "--account", "team:a")] == [2, 3, 5]
        assert [entry["seq"] for entry in answers(tmp_path, "events", "--account", "agent:x", "--after", "4")] == [5]
        assert "no account 'nobody'" in fiscus(tmp_path, "events", "--account", "nobody", code=1).stderr
        assert [line.split()[3] for line in fiscus(tmp_path, "events").stdout.splitlines()][:2] == [
            "account_opened"
        ] * 2

    if beside:
        with service(tmp_path):
            check()
    else:
        check()


@slow
def test_a_reader_that_leaves_is_no_error(tmp_path):
    for number in range(3):
        fiscus(tmp_path, "accounts", "put", f"account:{number}")
    command = f"{sys.executable} -m fiscus.cli events --json | head -1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stderr == ""
    assert json.loads(done.stdout)["seq"] == 1


# -- settings, openapi, version ------------------------------------------------------------------------------------


@slow
def test_settings_are_listed_with_value_and_source_and_no_secret(tmp_path):
    (tmp_path / "fiscus.toml").write_text("drain_s_max = 7\n")
    settings = {"FISCUS_BOOTSTRAP_KEY": SECRET, "GLOBAL_TOKEN_BUDGET": "5"}
    listed = {view["name"]: view for view in answers(tmp_path, "settings", "--url", "http://x", **settings)}
    sources = {name: listed[name]["source"] for name in ("url", "drain_s_max", "bootstrap_key", "port")}
    assert sources == {
        "url": "option",
        "drain_s_max": "fiscus.toml",
        "bootstrap_key": "environment FISCUS_BOOTSTRAP_KEY",
        "port": "default",
    }
    assert listed["economy_budget_tokens"]["source"] == "environment GLOBAL_TOKEN_BUDGET"
    assert SECRET not in fiscus(tmp_path, "settings", **settings).stdout
    assert list(tmp_path.iterdir()) == [tmp_path / "fiscus.toml"]


@slow
def test_the_openapi_document_and_the_version_are_printed(tmp_path):
    document = answer(tmp_path, "openapi")
    assert {"/v1/holds", "/v1/checkpoint", "/api/v1/tokens/allocate"} <= set(document["paths"])
    assert fiscus(tmp_path, "version").stdout == f"fiscus {answer(tmp_path, 'version')['version']}\n"


# -- faults --------------------------------------------------------------------------------------------------------

WRONG = {
    "no ledger": (["accounts", "list"], 1, "there is no ledger at sqlite:///fiscus.db"),
    "no such store": (["accounts", "list", "--store", "mysql://x"], 1, "there is no ledger at mysql://x"),
    "a store that cannot be made": (["accounts", "put", "a", "--store", "mysql://x"], 1, "is none of sqlite:///PATH"),
    "no service": (["status", "--url", "http://127.0.0.1:9"], 1, "http://127.0.0.1:9: "),
    "no URL": (["status", "--url", "nonsense"], 1, "is not of the form http://host:port"),
    "no amount": (["budgets", "put", "a", "tokens", "many"], 1, "many: an amount of tokens is an integer"),
    "a fraction": (["budgets", "put", "a", "tokens", "1.5"], 1, "1.5: an amount of tokens is an integer"),
    "dollars of tokens": (["budgets", "put", "a", "tokens", "$1"], 1, "$1: an amount of tokens is an integer"),
    "too fine": (["budgets", "put", "a", "cost", "$0.0000000001"], 1, "at most nine decimals"),
    "too much": (["budgets", "put", "a", "tokens", str(2**53)], 1, "an amount lies in 0 … 2^53 - 1"),
    "no pair": (["accounts", "put", "a", "--label", "x"], 1, "x: write it as key=value"),
    "no unit": (["accounts", "put", "a", "--min-reserve", "money=1"], 1, "money: a unit is one of tokens"),
    "erasing by accident": (["accounts", "erase", "a"], 1, "erasing a cannot be undone; say --yes"),
    "a setting": (["accounts", "list", "--tenant", "x" * 200], 1, "tenant (option): String should have at most 128"),
    "an unknown command": (["acounts"], 2, "No such command"),
    "an unknown option": (["accounts", "list", "--colour"], 2, "No such option"),
    "a missing argument": (["accounts", "show"], 2, "Missing argument"),
    "an unknown unit": (["budgets", "put", "a", "token", "1"], 2, "Invalid value for"),
    "a port": (["serve", "--port", "70000"], 2, "Invalid value for"),
    "an unknown status": (["accounts", "list", "--status", "dead"], 2, "Invalid value for"),
}


@slow
@pytest.mark.parametrize(("arguments", "code", "message"), WRONG.values(), ids=list(WRONG))
def test_a_fault_is_one_clear_line_and_an_exit_code(tmp_path, arguments, code, message):
    refused = fiscus(tmp_path, *arguments, code=code)
    assert refused.stdout == ""
    assert message in " ".join(refused.stderr.replace("│", " ").split())
    if code == 1:
        assert re.fullmatch(r"fiscus: [^\n]*\n", refused.stderr), refused.stderr
    assert list(tmp_path.iterdir()) == []


@slow
def test_a_refusal_is_one_line_and_in_json_the_whole_refusal(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    fiscus(tmp_path, "accounts", "put", "team:a", "--parent", "global")
    fiscus(tmp_path, "budgets", "put", "global", "tokens", "100")
    asked = ["budgets", "allocate", "team:a", "tokens", "101"]
    refused = fiscus(tmp_path, *asked, code=1)
    assert refused.stderr == "fiscus: global: 101 tokens asked, 100 of 100 left in tokens-lifetime\n"
    error = json.loads(fiscus(tmp_path, *asked, "--json", code=1).stderr)["error"]
    assert (error["code"], error["retryable"]) == ("budget_exceeded", False)
    assert (error["refused"]["binding"]["available"], error["refused"]["requested"]) == (100, 101)
    unknown = json.loads(fiscus(tmp_path, "--json", "accounts", "show", "x", code=1).stderr)["error"]
    assert unknown["code"] == "unknown_account"


@slow
def test_global_options_stand_before_or_behind_the_command(tmp_path):
    before = fiscus(tmp_path, "--json", "--store", "sqlite:///other.db", "accounts", "put", "a").stdout
    behind = fiscus(tmp_path, "accounts", "put", "a", "--store", "sqlite:///other.db", "--json").stdout
    assert json.loads(before) == json.loads(behind)
    assert (tmp_path / "other.db").exists()
    assert not (tmp_path / "fiscus.db").exists()


@slow
def test_help_imports_nothing_heavy(tmp_path):
    code = (
        "import sys; sys.argv = ['fiscus', '--help']\n"
        "from fiscus.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
    for name in ("serve", "accounts", "apply", "verify", "replay"):
        assert f" {name} " in done.stdout


# -- small parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "text", "amount"),
    [
        ("tokens", "1_000", 1_000),
        ("tokens", "-5", -5),
        ("cost", "17", 17),
        ("cost", "$1.25", 1_250_000_000),
        ("cost", "$1,000", 1_000_000_000_000),
        ("cost", "$0.000000001", 1),
        ("cost", "-$0.5", -500_000_000),
    ],
)
def test_an_amount_is_read_as_people_write_it(unit, text, amount):
    assert read_amount(unit, text) == amount


@pytest.mark.parametrize("text", ["", "-", "$", "$x", "$nan", "$inf", "1e3", "1.0", " ", "--1", "$-1", str(2**53)])
@pytest.mark.parametrize("unit", ["tokens", "cost"])
def test_what_is_no_amount_is_refused(unit, text):
    with pytest.raises(ConfigurationInvalid):
        read_amount(unit, text)


def test_an_amount_of_money_is_shown_to_the_last_nano():
    assert amount_text("cost", 1) == "$0.000000001"
    assert amount_text("cost", 2**53 - 1) == "$9,007,199.254740991"
    assert amount_text("cost", -1_500_000_000) == "-$1.50"


def test_a_key_given_twice_is_refused():
    with pytest.raises(ConfigurationInvalid, match="a is given twice"):
        read_pairs(["a=1", "a=2"])


def test_a_name_cannot_write_to_the_terminal():
    assert printable("a\x1b[31mb\x9bc\td\n") == "a\ufffd[31mb\ufffdc\td\n"


@slow
def test_times_are_in_utc_whatever_the_zone_of_the_machine(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    fiscus(tmp_path, "accounts", "put", "a", "--parent", "global")
    fiscus(tmp_path, "budgets", "put", "global", "tokens", "100")
    arguments = ["budgets", "allocate", "a", "tokens", "10", "--until", "2999-06-01T12:00:00Z"]
    balance = answer(tmp_path, *arguments, TZ="America/New_York")["balance"]
    assert datetime.fromisoformat(balance["window_end"]).isoformat() == "2999-06-01T12:00:00+00:00"


def names_of(app, before=""):
    """All commands of the command line."""
    for registered in app.registered_commands:
        yield f"{before}{registered.name}"
    for group in app.registered_groups:
        yield from names_of(group.typer_instance, f"{before}{group.name} ")


def test_every_command_is_in_the_guide():
    guide = (ROOT / "docs" / "guides" / "command-line.md").read_text(encoding="utf-8")
    missing = [name for name in names_of(app) if f"`fiscus {name}" not in guide]
    assert missing == []


# covers D6, D9
@slow
def test_the_strategy_of_grants_is_put_shown_taken_back_and_declared(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    put = ("accounts", "put", "agent:x")
    fiscus(tmp_path, *put, "--parent", "global", "--grant-strategy", "proven", "--shortage", "clamp")
    shown = fiscus(tmp_path, "accounts", "show", "agent:x").stdout
    assert "grants: proven" in shown
    assert "shortage: clamp" in shown
    assert "grant_strategy" not in answer(tmp_path, *put, "--grant-strategy", "none")
    fiscus(tmp_path, *put, "--grant-strategy", "fair", code=2)
    (tmp_path / "budgets.toml").write_text(
        """
[[accounts]]
account = "global"
grant_strategy = "classic"
shortage = ["reallocate", "clamp"]

[[templates]]
pattern = "agent:*"
grant_strategy = "proven"
"""
    )
    fiscus(tmp_path, "apply", "budgets.toml")
    assert "nothing to do" in fiscus(tmp_path, "plan", "budgets.toml").stdout
    account = answer(tmp_path, "accounts", "show", "agent:x")
    assert (account["grant_strategy_effective"], account["grant_strategy_from"]) == ("proven", "template")
    account = answer(tmp_path, "accounts", "show", "global")
    assert (account["grant_strategy"], account["shortage"]) == ("classic", ["reallocate", "clamp"])
    (tmp_path / "wrong.toml").write_text('[[templates]]\npattern = "agent:*"\ngrant_strategy = "fair"\n')
    assert "templates[0].grant_strategy" in fiscus(tmp_path, "plan", "wrong.toml", code=1).stderr


# covers D9
@slow
def test_recorded_grants_are_rehearsed_as_accounts_and_templates_say(tmp_path):
    with service(tmp_path) as running:
        for agent in ("a", "b"):
            body = json.dumps({"agent_id": agent, "requested_tokens": 1000}).encode()
            request = Request(f"{running.url}/api/v1/tokens/allocate", body, {"Content-Type": "application/json"})
            with urlopen(request, timeout=30) as response:
                assert json.loads(response.read())["allocated_tokens"] == 1000
        fiscus(tmp_path, "accounts", "put", "agent:b", "--grant-strategy", "proven")
        found = {
            strategy: [
                (row["agent_id"], row["strategy"], row["rehearsed_tokens"])
                for row in answers(tmp_path, "grants", "--strategy", strategy)
            ]
            for strategy in ("proven", "configured")
        }
    assert found["proven"] == [("a", "proven", 500), ("b", "proven", 500)]
    assert found["configured"] == [("a", "classic", 1000), ("b", "proven", 500)]


GRANTS = [
    ["tokens", "allocate", "a", "1000", "--id", "g1"],
    ["tokens", "allocate", "a", "1000", "--id", "g1"],
    ["tokens", "consume", "a", "400", "--value", "200", "--id", "r1"],
    ["tokens", "consume", "a", "400", "--value", "200", "--id", "r1"],
    ["tokens", "allocate", "b", "800", "--parent-agent", "a", "--complexity", "1"],
    ["tokens", "status"],
    ["tokens", "agent", "a"],
    ["tokens", "pause", "a", "--reason", "a look at it"],
    ["tokens", "resume"],
]
WRONG_GRANTS = [
    (["tokens", "allocate", "a", "0"], "requested_tokens"),
    (["tokens", "allocate", "a", "nan"], "requested_tokens: must be a finite number"),
    (["tokens", "allocate", "a", "1e308"], "requested_tokens"),
    (["tokens", "allocate", "a b\x7f", "10"], "agent_id"),
    (["tokens", "allocate", "a", "10", "--complexity", "2"], "task_complexity"),
    (["tokens", "allocate", "a", "10", "--id", "g1"], "in use"),
    (["tokens", "consume", "a", "1", "--value", "nan"], "value_generated: must be a finite number"),
    (["tokens", "consume", "a", "--", "-1"], "tokens_consumed"),
    (["tokens", "consume", "nobody", "1"], "No active allocation"),
    (["tokens", "agent", "no body?#"], "No active allocation"),
    (["tokens", "pause", "nobody"], "No active allocation"),
]


@slow
# covers D6, D21, D25, D28, D63
def test_grants_are_asked_for_in_process_as_beside_a_service(tmp_path):
    alone, served = tmp_path / "alone", tmp_path / "served"
    alone.mkdir()
    served.mkdir()
    assert "there is no pool" in fiscus(founded(alone), "tokens", "status", code=1).stderr
    here = [answer(alone, *arguments) for arguments in GRANTS]
    refused = [fiscus(alone, *arguments, code=1).stderr for arguments, _ in WRONG_GRANTS]
    with service(served):
        there = [answer(served, *arguments) for arguments in GRANTS]
        refused_there = [fiscus(served, *arguments, code=1).stderr for arguments, _ in WRONG_GRANTS]
    assert here == there
    assert here[0]["allocated_tokens"] == here[1]["allocated_tokens"] == 1000
    assert (here[2]["consumed"], here[3]["consumed"], here[6]["remaining"]) == (400, 400, 600)
    assert here[4]["allocated_tokens"] == 800
    assert here[4]["explanation"]["history_of"] == "a"
    assert (here[7]["agents"], here[8]["agents"]) == (1, 2)
    for (arguments, told), one, other in zip(WRONG_GRANTS, refused, refused_there, strict=True):
        assert told.lower() in one.lower(), arguments
        assert one == other
    shown = fiscus(alone, "tokens", "allocate", "a", "500").stdout
    assert "classic (setting): historical efficiency 0.5" in shown


def founded(folder):
    fiscus(folder, "accounts", "put", "team:x")
    return folder


@slow
# covers T9
def test_the_commands_of_the_guide_on_loans_are_right(tmp_path):
    text = (ROOT / "docs" / "guides" / "shortage.md").read_text()
    written = re.findall(r"^fiscus (.*?)(?: +#.*)?$", text, re.MULTILINE)
    assert any(line.startswith("loans lend") for line in written)
    fiscus(tmp_path, "accounts", "put", "team:search")
    fiscus(tmp_path, "budgets", "put", "team:search", "tokens", "30000")
    for agent in ("agent:x", "agent:y"):
        fiscus(tmp_path, "accounts", "put", agent, "--parent", "team:search")
        fiscus(tmp_path, "budgets", "allocate", agent, "tokens", "6000")
    for line in written:
        fiscus(tmp_path, *line.replace("2026-12-01", f"{datetime.now(UTC).year + 1}-12-01").split())

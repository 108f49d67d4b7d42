"""``fiscus plan`` and ``fiscus apply``: what a file declares, and nothing else."""

import json
from pathlib import Path

import pytest

from fiscus.cli.declaration import read_declaration
from fiscus.contract.errors import ConfigurationInvalid
from fiscus.core.answers import account_answer
from fiscus.core.commands import Allocate, Deallocate, PutBudget, Request
from fiscus.core.decide import decide, new_draft
from fiscus.core.outcomes import Refused
from fiscus.policy.plan import Known, Step, make_plan
from tests.cli.processes import answer, answers, fiscus, service

TOML = """\
[[accounts]]
account = "global"
budgets = [
    { unit = "tokens", limit = 1_000_000, period = "month" },
    { unit = "cost", limit = 50_000_000_000, period = "day", zone = "Europe/Berlin" },
]

[[accounts]]
account = "team:search"
parent = "global"
priority = 3
labels = { owner = "ada" }
min_reserve = { tokens = 100 }
allocations = { tokens = 400_000 }

[[accounts]]
account = "agent:planner"
parent = "team:search"
allocations.tokens = { to = 100_000, on_exhaustion = "suspend" }

[[accounts.budgets]]
unit = "calls"
limit = 100
period = "every:60"
thresholds = { 80 = "warning" }
match = { model = "gpt-5" }

[[accounts]]
account = "agent:writer"
parent = "team:search"
status = "suspended"

[[templates]]
pattern = "thread:*"
parent = "team:search"
budgets = [{ unit = "tokens", limit = 10_000 }]
max_children = 50
"""

YAML = """\
accounts:
  - account: global
    budgets:
      - {unit: tokens, limit: 1_000_000, period: month}
      - {unit: cost, limit: 50_000_000_000, period: day, zone: Europe/Berlin}
  - account: team:search
    parent: global
    priority: 3
    labels: {owner: ada}
    min_reserve: {tokens: 100}
    allocations: {tokens: 400_000}
  - account: agent:planner
    parent: team:search
    allocations:
      tokens: {to: 100_000, on_exhaustion: suspend}
    budgets:
      - unit: calls
        limit: 100
        period: every:60
        thresholds: {80: warning}
        match: {model: gpt-5}
  - account: agent:writer
    parent: team:search
    status: suspended
templates:
  - pattern: thread:*
    parent: team:search
    budgets: [{unit: tokens, limit: 10_000}]
    max_children: 50
"""

PLAN = """\
+ account global
+ account team:search: parent global, priority 3, min_reserve (tokens=100), labels (owner=ada)
+ account agent:planner: parent team:search
+ account agent:writer: parent team:search
+ budget global / tokens-month: unit tokens, limit 1,000,000, period month
+ budget global / cost-day: unit cost, limit $50.00, period day, zone Europe/Berlin
+ budget agent:planner / calls-every:60: unit calls, limit 100, period every:60, thresholds (80=warning), \
match (model=gpt-5)
+ allocation team:search / tokens: size 400,000
+ allocation agent:planner / tokens: size 100,000, on_exhaustion suspend
~ status agent:writer: status active → suspended
+ template thread:*: parent team:search, budgets (tokens-lifetime 10,000), max_children 50
10 to add, 1 to change, 0 to remove
"""


def written(folder: Path, text: str, name: str = "org.toml") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return name


def journal(folder: Path) -> list[dict]:
    return answers(folder, "events")


NOTHING = Known(accounts={}, templates={})


def known_after(steps: list[Step]) -> Known:
    """What a new ledger has once the steps are done."""
    draft = new_draft()
    for step in steps:
        assert not isinstance(decide(draft, Request(command=step.command), now=0), Refused), step
    accounts = [account_answer(draft, account) for account in draft.accounts.values()]
    return Known(accounts={account.account: account for account in accounts}, templates={})


# -- plan and apply, in process and beside a service ---------------------------------------------------------------


@pytest.mark.slow
def test_a_plan_shows_the_difference_and_makes_nothing(tmp_path):
    shown = fiscus(tmp_path, "plan", written(tmp_path, TOML), code=2)
    assert shown.stdout == PLAN
    assert [path.name for path in tmp_path.iterdir()] == ["org.toml"]


@pytest.mark.slow
def test_a_second_apply_changes_nothing_in_the_journal(tmp_path):
    file = written(tmp_path, TOML)
    first = fiscus(tmp_path, "apply", file)
    assert first.stdout.splitlines()[-1] == "applied: 10 added, 1 changed, 0 removed"
    before = journal(tmp_path)
    assert fiscus(tmp_path, "apply", file).stdout == "nothing to do: the ledger is as declared\n"
    assert fiscus(tmp_path, "plan", file).stdout == "nothing to do: the ledger is as declared\n"
    assert journal(tmp_path) == before
    fiscus(tmp_path, "verify")


@pytest.mark.slow
def test_beside_a_service_a_file_is_applied_over_http_with_the_same_result(tmp_path):
    file = written(tmp_path, YAML, "org.yaml")
    with service(tmp_path):
        assert fiscus(tmp_path, "plan", file, code=2).stdout == PLAN
        fiscus(tmp_path, "apply", file)
        assert fiscus(tmp_path, "apply", file).stdout == "nothing to do: the ledger is as declared\n"
    assert fiscus(tmp_path, "plan", written(tmp_path, TOML)).stdout == "nothing to do: the ledger is as declared\n"


@pytest.mark.slow
def test_room_that_one_step_frees_is_there_for_the_next(tmp_path):
    """400 of 500 move from one child to the other, and the parent's limit falls below what both sizes add up to."""

    def declared(limit: int, left: int, right: int) -> str:
        return written(
            tmp_path,
            f"""
            [[accounts]]
            account = "pool"
            budgets = [{{ unit = "tokens", limit = {limit} }}]
            [[accounts]]
            account = "right"
            parent = "pool"
            allocations = {{ tokens = {right} }}
            [[accounts]]
            account = "left"
            parent = "pool"
            allocations = {{ tokens = {left} }}
            """,
        )

    fiscus(tmp_path, "apply", declared(500, 450, 50))
    fiscus(tmp_path, "apply", declared(480, 50, 430))
    fiscus(tmp_path, "apply", declared(1_000, 600, 400))
    shown = answer(tmp_path, "accounts", "show", "pool")["budgets"][0]["balance"]
    assert (shown["limit"], shown["held"], shown["available"]) == (1_000, 1_000, 0)


@pytest.mark.slow
def test_what_is_carved_from_an_allocation_shrinks_before_it_and_grows_after_it(tmp_path):
    def declared(outer: int, inner: int) -> str:
        rows = [
            {"account": "pool", "budgets": [{"unit": "tokens", "limit": 1_000}]},
            {"account": "outer", "parent": "pool", "allocations": {"tokens": outer}},
            {"account": "inner", "parent": "outer", "allocations": {"tokens": inner}},
        ]
        return written(tmp_path, json.dumps({"accounts": rows}), "nested.yaml")

    for outer, inner in ((800, 700), (200, 100), (900, 850)):
        fiscus(tmp_path, "apply", declared(outer, inner))
    assert answer(tmp_path, "accounts", "show", "inner")["budgets"][0]["limit"] == 850


@pytest.mark.slow
def test_a_step_that_is_refused_is_named_by_file_line_and_field_and_nothing_is_done(tmp_path):
    text = TOML.replace("1_000_000", "300_000")
    fiscus(tmp_path, "accounts", "put", "global")
    before = journal(tmp_path)
    refused = fiscus(tmp_path, "apply", written(tmp_path, text), code=1)
    assert refused.stderr == (
        "fiscus: org.toml:14: accounts[1].allocations.tokens: global: 400000 tokens asked, 300000 of 300000 left in "
        "tokens-month; nothing was done\n"
    )
    assert refused.stdout == ""
    assert journal(tmp_path) == before


@pytest.mark.slow
def test_what_a_list_leaves_out_is_removed_and_what_is_not_declared_is_left_alone(tmp_path):
    fiscus(tmp_path, "apply", written(tmp_path, TOML))
    less = """
    [[accounts]]
    account = "agent:planner"
    parent = "team:search"
    budgets = []
    allocations = {}
    """
    shown = fiscus(tmp_path, "plan", written(tmp_path, less, "less.toml"), code=2).stdout
    assert shown == (
        "- allocation agent:planner / tokens: size 100,000\n"
        "- budget agent:planner / calls-every:60: limit 100\n"
        "0 to add, 0 to change, 2 to remove\n"
    )
    fiscus(tmp_path, "apply", "less.toml")
    assert answer(tmp_path, "accounts", "show", "agent:planner")["budgets"] == []
    assert len(answer(tmp_path, "accounts", "show", "global")["budgets"]) == 2
    assert fiscus(tmp_path, "plan", "less.toml").returncode == 0


def test_the_end_of_an_allocation_that_is_declared_is_shown_as_what_goes(tmp_path):
    fiscus(tmp_path, "apply", written(tmp_path, TOML))
    fiscus(tmp_path, "budgets", "allocate", "team:search", "tokens", "400000", "--until", "2099-01-01T00:00:00Z")
    shown = fiscus(tmp_path, "plan", "org.toml", code=2).stdout
    assert shown == (
        "~ allocation team:search / tokens: valid_until 2099-01-01T00:00:00+00:00 → none\n"
        "0 to add, 1 to change, 0 to remove\n"
    )
    fiscus(tmp_path, "apply", "org.toml")
    assert answer(tmp_path, "accounts", "show", "team:search")["budgets"][0]["valid_until"] is None
    assert fiscus(tmp_path, "plan", "org.toml").returncode == 0


@pytest.mark.slow
def test_a_limit_below_what_is_in_use_needs_force(tmp_path):
    fiscus(tmp_path, "apply", written(tmp_path, TOML))
    low = written(
        tmp_path, '[[accounts]]\naccount="global"\nbudgets=[{unit="tokens", limit=5, period="month"}]', "low.toml"
    )
    refused = fiscus(tmp_path, "apply", low, code=1)
    assert "low.toml:3: accounts[0].budgets[0]: global: 400000 tokens of tokens-month are in use" in refused.stderr
    fiscus(tmp_path, "apply", "--force", low)
    assert fiscus(tmp_path, "plan", low).returncode == 0


@pytest.mark.slow
def test_more_than_a_thousand_steps_are_done_in_parts(tmp_path):
    accounts = [{"account": "root"}] + [{"account": f"agent:{number}", "parent": "root"} for number in range(1_200)]
    file = written(tmp_path, json.dumps({"accounts": accounts}), "many.yaml")
    assert answers(tmp_path, "apply", file)[-1] == {"add": 1_201, "change": 0, "remove": 0, "applied": True}
    assert answers(tmp_path, "plan", file) == [{"add": 0, "change": 0, "remove": 0, "applied": False}]


@pytest.mark.slow
def test_a_plan_in_json_has_one_step_a_line_and_a_summary(tmp_path):
    *steps, summary = answers(tmp_path, "plan", written(tmp_path, TOML), code=2)
    assert summary == {"add": 10, "change": 1, "remove": 0, "applied": False}
    assert [step["subject"] for step in steps].count("budget") == 3
    assert steps[4]["command"]["op"] == "put_budget"
    assert steps[4]["command"]["if_version"] == 0
    assert {"field": "limit", "before": None, "after": 1_000_000} in steps[4]["changes"]


@pytest.mark.slow
def test_a_declaration_that_contradicts_the_ledger_is_wrong(tmp_path):
    fiscus(tmp_path, "apply", written(tmp_path, TOML))
    fiscus(tmp_path, "accounts", "terminate", "agent:writer")
    text = """
[[accounts]]
account = "agent:planner"
parent = "global"
[[accounts]]
account = "agent:writer"
parent = "team:search"
[[accounts]]
account = "agent:new"
parent = "team:nowhere"
"""
    refused = fiscus(tmp_path, "plan", written(tmp_path, text, "wrong.toml"), code=1)
    assert refused.stderr.splitlines() == [
        "fiscus: wrong.toml:4: accounts[0].parent: agent:planner stands below team:search; an account is never moved",
        "wrong.toml:6: accounts[1].account: agent:writer is terminated, which is final",
        "wrong.toml:10: accounts[2].parent: unknown parent team:nowhere: neither declared nor in the ledger",
    ]


GPT = """
[[accounts]]
account = "global"
[[accounts.budgets]]
budget = "gpt"
unit = "tokens"
limit = 10
period = "day"
match = { model = "gpt-5" }
"""


@pytest.mark.parametrize(
    ("line", "instead", "fault"),
    [
        (
            'match = { model = "gpt-5" }',
            'match = { model = "x" }',
            "9: {}.match: gpt is for other calls, which does not",
        ),
        ('match = { model = "gpt-5" }', "", "4: {}.match: gpt is for other calls, which does not"),
        ('unit = "tokens"', 'unit = "calls"', "6: {}.unit: gpt counts tokens, which does not"),
        ('period = "day"', 'period = "lifetime"', "8: {}.period: gpt has the period day, which does not"),
    ],
    ids=["match", "no match", "unit", "period"],
)
def test_a_budget_that_would_count_something_else_needs_another_name(tmp_path, line, instead, fault):
    before = known_after(make_plan(read_declaration(tmp_path / written(tmp_path, GPT)), NOTHING))
    text = GPT.replace(line, instead)
    with pytest.raises(ConfigurationInvalid) as raised:
        make_plan(read_declaration(tmp_path / written(tmp_path, text)), before)
    assert f"org.toml:{fault.format('accounts[0].budgets[0]')} change" in str(raised.value)
    assert str(raised.value).endswith("; give this one another name")
    other = written(tmp_path, text.replace('"gpt"', '"other"'))
    assert [step.action for step in make_plan(read_declaration(tmp_path / other), before)] == ["remove", "add"]


@pytest.mark.slow
def test_a_chain_is_measured_with_what_stands_above_it_in_the_ledger(tmp_path):
    def chain(first: int, last: int) -> str:
        rows = [{"account": f"a{n}"} | ({"parent": f"a{n - 1}"} if n else {}) for n in range(first, last)]
        return written(tmp_path, json.dumps({"accounts": rows}), "chain.yaml")

    fiscus(tmp_path, "apply", chain(0, 10))
    fiscus(tmp_path, "apply", chain(10, 16))
    refused = fiscus(tmp_path, "plan", chain(16, 17), code=1)
    assert "accounts[0].parent: the chain of a16 has 17 accounts; at most 16 are allowed" in refused.stderr


# -- what is wrong with a file --------------------------------------------------------------------------------------

ONE = '[[accounts]]\naccount = "a"\n'

FAULTS = {
    "an unknown field": (ONE + 'parnt = "b"\n', "f.toml:3: accounts[0].parnt: Object contains unknown field `parnt`"),
    "an unknown field of a budget": (
        ONE + '[[accounts.budgets]]\nunit = "tokens"\nlimit = 1\nperoid = "day"\n',
        "f.toml:6: accounts[0].budgets[0].peroid: Object contains unknown field `peroid`",
    ),
    "an unknown table": ("[budgets]\n", "f.toml:1: budgets: unknown field; a declaration has accounts and templates"),
    "a missing field": (
        ONE + 'budgets = [{ unit = "tokens" }]\n',
        "f.toml:3: accounts[0].budgets[0].limit: Object missing required field `limit`",
    ),
    "a wrong type": (
        ONE + 'budgets = [{ unit = "tokens", limit = 1.5 }]\n',
        "f.toml:3: accounts[0].budgets[0].limit: Expected `int`, got `float`",
    ),
    "a wrong type of an amount by its unit": (
        ONE + "min_reserve = { tokens = 1e308 }\n",
        "f.toml:3: accounts[0].min_reserve: Expected `int`, got `float`",
    ),
    "a wrong unit": (
        ONE + 'budgets = [{ unit = "token", limit = 1 }]\n',
        "f.toml:3: accounts[0].budgets[0].unit: Invalid enum value 'token'",
    ),
    "a negative limit": (
        ONE + "\n[[accounts.budgets]]\nlimit = -1\nunit = 'tokens'\n",
        "f.toml:5: accounts[0].budgets[0].limit: must be in 0 … 9007199254740991, not -1",
    ),
    "a limit beyond 2^53": (
        ONE + f"budgets = [{{ unit = 'tokens', limit = {2**53} }}]\n",
        "f.toml:3: accounts[0].budgets[0].limit: must be in 0 … 9007199254740991",
    ),
    "a wrong period": (
        ONE + "budgets = [{ unit = 'tokens', limit = 1, period = 'fortnight' }]\n",
        "f.toml:3: accounts[0].budgets[0].period: period must be hour, day",
    ),
    "a wrong zone": (
        ONE + "budgets = [{ unit = 'tokens', limit = 1, zone = 'Mars/Olympus' }]\n",
        "f.toml:3: accounts[0].budgets[0].zone: ",
    ),
    "a budget twice": (
        ONE + "budgets = [{ unit = 'tokens', limit = 1 }, { unit = 'tokens', limit = 2 }]\n",
        "f.toml:3: accounts[0].budgets[1].budget: there are two budgets named tokens-lifetime",
    ),
    "an account twice": (ONE + "\n" + ONE, "f.toml:5: accounts[1].account: a is declared twice, first as accounts[0]"),
    "a pattern without a star": (
        '[[templates]]\npattern = "thread"\n',
        "f.toml:2: templates[0].pattern: must be a prefix of at least one character followed by one '*'",
    ),
    "a cycle": (
        '[[accounts]]\naccount = "a"\nparent = "b"\n[[accounts]]\naccount = "b"\nparent = "a"\n',
        "f.toml:3: accounts[0].parent: a cycle: a → b → a",
    ),
    "its own parent": (ONE + 'parent = "a"\n', "f.toml:3: accounts[0].parent: "),
    "a chain that is too long": (
        "".join(f'[[accounts]]\naccount = "a{n}"\nparent = "a{n + 1}"\n' for n in range(16)),
        "f.toml:3: accounts[0].parent: the chain of a0 has 17 accounts; at most 16 are allowed",
    ),
    "an allocation of a root": (
        ONE + "allocations = { tokens = 1 }\n",
        "f.toml:3: accounts[0].allocations.tokens: a root has nothing above it to allocate from",
    ),
    "a control character in a name": (
        '[[accounts]]\naccount = "a\\u0007"\n',
        "f.toml:2: accounts[0].account: must not contain control characters",
    ),
    "a priority of 0": (ONE + "priority = 0\n", "f.toml:3: accounts[0].priority: must be an integer in 1 … "),
    "a status that is final": (
        ONE + 'status = "closed"\n',
        "f.toml:3: accounts[0].status: Invalid enum value 'closed'",
    ),
    "no TOML": (ONE + "limit = \n", "f.toml: Invalid value (at line 3"),
    "accounts that are no list": ("accounts = 1\n", "f.toml:1: accounts: this is a list of tables"),
}


@pytest.mark.parametrize(("text", "message"), FAULTS.values(), ids=list(FAULTS))
def test_a_fault_is_named_by_file_line_and_path(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationInvalid) as error:
        read_declaration(Path(written(tmp_path, text, "f.toml")))
    assert any(line.startswith(message) for line in str(error.value).splitlines()), str(error.value)


YAML_FAULTS = {
    "an unknown field": ("accounts:\n  - account: a\n    parnt: b\n", "f.yaml:3: accounts[0].parnt: "),
    "a key twice": ("accounts:\n  - account: a\n    account: b\n", "f.yaml:3: accounts[0].account: twice"),
    "no YAML": ("accounts: [\n", "f.yaml:2: "),
    "an object": ("accounts: !!python/object:os.system {}\n", "f.yaml:1: could not determine a constructor"),
    "a list": ("- 1\n", "f.yaml:1: a declaration is a table with accounts and templates"),
    "a bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join(['*' + a] * 10)}]\n" for a, b in zip("abcdefg", "bcdefgh", strict=True)),
        "f.yaml: more than 1,000,000 fields",
    ),
    "a loop": ("accounts: &a [*a]\n", "f.yaml: "),
}


@pytest.mark.parametrize(("text", "message"), YAML_FAULTS.values(), ids=list(YAML_FAULTS))
def test_a_fault_in_yaml_is_named_too(tmp_path, monkeypatch, text, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationInvalid) as error:
        read_declaration(Path(written(tmp_path, text, "f.yaml")))
    assert str(error.value).startswith(message), str(error.value)


def test_all_faults_are_told_at_once(tmp_path):
    text = ONE + "priority = 0\n" + ONE.replace('"a"', '"b"') + "parnt = 1\n" + ONE.replace('"a"', '"b"')
    with pytest.raises(ConfigurationInvalid) as error:
        read_declaration(tmp_path / written(tmp_path, text))
    assert len(str(error.value).splitlines()) == 2
    text = "".join(f'[[accounts]]\naccount = "a{n}"\npriority = 0\n' for n in range(30))
    with pytest.raises(ConfigurationInvalid) as error:
        read_declaration(tmp_path / written(tmp_path, text))
    assert str(error.value).splitlines()[-1] == "and 10 more"


def test_a_file_that_is_not_there_is_said_to_be_missing(tmp_path):
    with pytest.raises(ConfigurationInvalid, match="No such file"):
        read_declaration(tmp_path / "org.toml")


def test_a_key_inside_a_long_text_is_not_taken_for_a_field(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = '[[accounts]]\naccount = "a"\nlabels = { note = """\npriority = 9\n[[accounts]]\n""" }\npriority = 0\n'
    with pytest.raises(ConfigurationInvalid, match=r"^org\.toml:7: accounts\[0\]\.priority: "):
        read_declaration(Path(written(tmp_path, text)))


# -- the order of steps ---------------------------------------------------------------------------------------------


def test_toml_and_yaml_say_the_same(tmp_path):
    nothing = Known(accounts={}, templates={})
    plans = [
        make_plan(read_declaration(tmp_path / written(tmp_path, text, name)), nothing)
        for text, name in ((TOML, "org.toml"), (YAML, "org.yaml"))
    ]
    assert plans[0] == plans[1]


def test_steps_insist_on_the_versions_that_the_plan_has_seen(tmp_path):
    steps = make_plan(read_declaration(tmp_path / written(tmp_path, TOML)), Known(accounts={}, templates={}))
    versions = [step.command.if_version for step in steps if isinstance(step.command, PutBudget | Allocate)]
    assert versions == [0, 0, 0, 0, 0]
    assert not [step for step in steps if isinstance(step.command, Deallocate)]


def test_the_example_of_the_guide_is_a_declaration(tmp_path):
    guide = Path(__file__).resolve().parent.parent.parent / "docs" / "guides" / "command-line.md"
    example = guide.read_text(encoding="utf-8").partition("```toml\n")[2].partition("```")[0]
    steps = make_plan(read_declaration(tmp_path / written(tmp_path, example)), Known(accounts={}, templates={}))
    assert [step.subject for step in steps].count("account") == 3

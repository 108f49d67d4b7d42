"""The tree of accounts and its budgets."""

from fiscus.cli.replay.fleet import LEVELS, LIMITED, Names, paths, plan_fleet
from fiscus.cli.traces import Call
from fiscus.cli.workload import generate
from fiscus.core.commands import Allocate, PutAccount, PutBudget

NAMES = Names(agents=6)


def call(row: int, session: str = "", subagent: str = "") -> Call:
    return Call(
        row=row,
        at_s=float(row),
        session=session,
        subagent=subagent,
        model="claude-haiku-4-5",
        input_tokens=1_000,
        output_tokens=100,
        duration_s=1.0,
    )


def test_sessions_are_dealt_to_agents_in_turn_and_stay_there():
    calls = [call(1, "a"), call(2, "b"), call(3, "a"), call(4, "b", "agent_001")]
    agents = [path[3] for _, path in paths(calls, Names(agents=2))]
    assert agents == ["agent:1", "agent:2", "agent:1", "agent:2"]


def test_a_subagent_stands_below_the_thread_of_its_session():
    [(_, path)] = paths([call(1, "a", "agent_001")], NAMES)
    assert path == ("global", "team:1", "user:1", "agent:1", "thread:a", "subagent:a.agent_001")


def test_calls_without_sessions_are_dealt_in_turn_and_cut_into_threads():
    found = list(paths((call(row) for row in range(1, 65)), Names(agents=2)))
    assert {path[3] for _, path in found} == {"agent:1", "agent:2"}
    assert [path[4] for _, path in found][::2] == ["thread:1.1"] * 16 + ["thread:1.2"] * 16


def test_a_prefix_keeps_two_replays_apart():
    [(_, path)] = paths([call(1, "a")], Names(root="project:x", prefix="x-", agents=2))
    assert path == ("project:x", "team:x-1", "user:x-1", "agent:x-1", "thread:x-a")


def test_every_account_gets_a_limit_in_tokens_and_cost_and_every_level_is_there():
    fleet = plan_fleet(generate(1, 2_000), NAMES, in_flight=64, seed=1)
    assert {account.level for account in fleet.accounts.values()} == set(LEVELS)
    commands = list(fleet.commands({}))
    limited = {(command.account, command.unit) for command in commands if isinstance(command, PutBudget | Allocate)}
    assert {(name, unit) for name in fleet.accounts for unit in LIMITED} <= limited


def test_accounts_are_opened_parents_first():
    fleet = plan_fleet(generate(1, 1_000), NAMES, in_flight=64, seed=1)
    opened: set[str] = set()
    for command in fleet.commands({}):
        if isinstance(command, PutAccount):
            assert command.parent is None or command.parent in opened
            opened.add(command.account)


def test_some_budgets_are_smaller_than_what_their_calls_want_and_the_others_larger():
    fleet = plan_fleet(generate(1, 2_000), NAMES, in_flight=64, seed=1)
    accounts = list(fleet.accounts.values())
    tight = [account for account in accounts if account.tight]
    assert 0.1 < len(tight) / len(accounts) < 0.3
    for account in accounts:
        short = [unit for unit in LIMITED if account.limits[unit] < account.used[unit]]
        assert bool(short) == account.tight, account.name


def test_one_agent_has_an_allocation_and_the_accounts_above_it_room_for_it():
    fleet = plan_fleet(generate(1, 2_000), NAMES, in_flight=64, seed=1)
    [allocated] = [account for account in fleet.accounts.values() if account.allocated]
    assert allocated.level == "agent"
    for above in fleet.upward(allocated):
        assert not above.tight
        assert above.limits["tokens"] >= allocated.limits["tokens"]
    assert [command.to for command in fleet.commands({}) if isinstance(command, Allocate)] == [
        allocated.limits["tokens"]
    ]


def test_the_plan_is_the_same_every_time():
    plans = [plan_fleet(generate(1, 500), NAMES, in_flight=64, seed=1) for _ in range(2)]
    assert plans[0] == plans[1]

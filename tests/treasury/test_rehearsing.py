"""Rehearsals: recorded calls decided anew, compared with ledgers on which the same was really done."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, NamedTuple

import pytest

from fiscus.contract.declaration import Origin, check_declaration
from fiscus.contract.queries import ListTemplates
from fiscus.contract.rehearsal import RehearsalView, Rehearse
from fiscus.core.commands import (
    Alternative,
    Attend,
    EraseName,
    Extend,
    PutAccount,
    PutBudget,
    PutTemplate,
    Release,
    Reserve,
    SetStatus,
    Settle,
    TemplateBudget,
)
from fiscus.core.outcomes import Refused
from fiscus.core.records import CallRecord
from fiscus.core.state import Rules
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.rehearsing import rehearse
from tests.treasury.clock import START_MS, ManualClock
from tests.treasury.desk import Desk, journal

RULES = Rules(quarantine_ms=600_000)
PAYERS = ("agent:x", "agent:y", "thread:1", "thread:2", "thread:3")


class World:
    """A ledger of its own, with its clock and how it was set up."""

    def __init__(self, folder: Any, name: str = "fiscus.db") -> None:
        self.clock = ManualClock()
        self.store = SqliteStore(folder / name)
        self.desk = Desk(self.store, self.clock, RULES)

    def do(self, *commands: Any) -> list[Any]:
        """Each by itself; none is refused."""
        answers = [self.desk.do(command) for command in commands]
        assert not [answer for answer in answers if isinstance(answer, Refused)]
        return answers

    def rehearse(self, declaration: dict[str, Any] | None = None, **bounds: Any) -> RehearsalView | Refused:
        """What the rehearsal says, of all that is recorded by now."""
        self.desk.write_views()
        declared = check_declaration(declaration or {}, Origin("test", {}))
        query = Rehearse(accounts=declared.accounts, templates=declared.templates, **{"refusals": 1_000, **bounds})
        templates = self.desk.ask(ListTemplates())[0]
        before = journal(self.store)
        view = rehearse(self.store, self.store.journal.tenants()["default"], query, templates, RULES)  # type: ignore[arg-type]
        assert journal(self.store) == before, "nothing is written"
        return view


def founding(org: int, agent: int = 6_000, **account: Any) -> list[Any]:
    """A tree with windows of all kinds, one that looks at the model, and a template."""
    return [
        PutAccount(account="org", **account),
        PutAccount(account="team", parent="org"),
        PutAccount(account="agent:x", parent="team"),
        PutAccount(account="agent:y", parent="team"),
        PutBudget(account="org", unit="tokens", limit=org, period="hour"),
        PutBudget(account="org", unit="calls", limit=12, period="every:300", match={"model": "big"}),
        PutBudget(account="team", unit="tokens", limit=9_000, period="every:1000", carry_over="unused"),
        PutBudget(account="agent:x", unit="tokens", limit=agent, mode="warn"),
        PutBudget(account="agent:y", unit="tokens", limit=agent, period="every:700"),
        PutTemplate(pattern="thread:*", parent="team", budgets=(TemplateBudget(unit="tokens", limit=4_000),)),
    ]


class Wish(NamedTuple):
    """A command ``after`` ms of the one before; ``call``: the id of the call that it is a part of."""

    after: int
    command: Any
    call: str


def history(seed: int, length: int) -> list[Wish]:
    """Calls that overlap, overrun, go on, end, expire and are settled late, and usage after the fact."""
    chance = Random(seed)
    open_calls: list[str] = []
    wishes: list[Wish] = []
    for index in range(length):
        after = chance.choice((0, 1, 900, 7_000, 40_000, 400_000 if index % 9 == 0 else 3_000))
        kind = chance.choice(("reserve", "reserve", "reserve", "settle", "settle", "extend", "release", "usage"))
        tokens = chance.randrange(1, 2_500)
        if kind == "reserve" or (kind != "usage" and not open_calls):
            id = f"call-{index}"
            open_calls.append(id)
            command: Any = Reserve(
                id=id,
                account=chance.choice(PAYERS),
                amounts={"tokens": tokens},
                lease_s=chance.choice((5, 60, 600)),
                attributes=chance.choice(({}, {"model": "big"}, {"model": "small", "feature": "chat"})),
            )
        elif kind == "usage":
            id = f"usage-{index}"
            command = Settle(id=id, account=chance.choice(PAYERS), total={"tokens": tokens // 4})
        else:
            id = chance.choice(open_calls)
            if kind == "settle":
                command = Settle(id=id, total={"tokens": tokens}, final=chance.random() < 0.7)
            elif kind == "extend":
                command = Extend(id=id, to={"tokens": tokens * 2}, lease_s=chance.choice((5, 600)))
            else:
                command = Release(id=id)
        wishes.append(Wish(after, command, id))
    return wishes


class Played(NamedTuple):
    """What became of the calls."""

    admitted: set[str]
    refused: list[tuple[str, str, str | None]]
    extensions_refused: int


def play(world: World, wishes: list[Wish], only: set[str] | None = None, *, started: bool = False) -> Played:
    """Do them at their times; what belongs to a refused call is not done."""
    admitted: set[str] = set()
    refused: list[tuple[str, str, str | None]] = []
    extensions = 0
    for wish in wishes:
        world.clock.advance(wish.after)
        is_call = isinstance(wish.command, Reserve)
        if only is not None and is_call and wish.call not in only:
            continue
        if not is_call and not wish.call.startswith("usage") and wish.call not in admitted:
            continue
        outcome = world.desk.do(wish.command)
        world.desk.after_batch()
        if is_call and isinstance(outcome, Refused):
            binding = outcome.binding
            refused.append((wish.call, outcome.code, f"{binding.account}/{binding.budget}" if binding else None))
        elif is_call:
            admitted.add(wish.call)
        elif isinstance(wish.command, Extend) and isinstance(outcome, Refused) and outcome.binding is not None:
            extensions += 1
    return Played(admitted, refused, extensions)


def told(view: Any) -> list[tuple[str, str, str | None]]:
    return [
        (one.id, one.code, f"{one.budget_account}/{one.budget}" if one.budget is not None else None)
        for one in view.refusals
    ]


def crossings(world: World) -> int:
    return sum(b'"kind":"threshold_crossed"' in body for _, _, body, _ in journal(world.store))


@pytest.mark.parametrize("seed", range(12))
def test_what_was_in_force_gives_exactly_what_is_recorded(tmp_path, seed) -> None:
    world = World(tmp_path)
    world.do(*founding(15_000))
    played = play(world, history(seed, 120))
    assert played.refused, "a history in which nothing is refused says little"
    view = world.rehearse()
    assert isinstance(view, RehearsalView)
    assert told(view) == []
    totals = view.totals
    assert (totals.calls, totals.admitted, totals.refused) == (len(played.admitted), len(played.admitted), 0)
    assert totals.extensions_refused == 0
    assert totals.rehearsed == totals.recorded
    assert sum(sum(budget.thresholds.values()) for budget in view.budgets) == crossings(world)


@pytest.mark.parametrize("seed", range(12))
def test_a_lower_limit_refuses_exactly_what_a_ledger_with_it_refuses(tmp_path, seed) -> None:
    wishes = history(seed, 120)
    recorded = World(tmp_path, "recorded.db")
    recorded.do(*founding(15_000))
    admitted = play(recorded, wishes).admitted
    really = World(tmp_path, "really.db")
    really.do(*founding(5_000, 3_000))
    played = play(really, wishes, admitted)
    assert played.refused
    view = recorded.rehearse(
        {
            "accounts": [
                {
                    "account": "org",
                    "budgets": [
                        {"unit": "tokens", "limit": 5_000, "period": "hour"},
                        {"unit": "calls", "limit": 12, "period": "every:300", "match": {"model": "big"}},
                    ],
                },
                {"account": "agent:x", "budgets": [{"unit": "tokens", "limit": 3_000, "mode": "warn"}]},
                {"account": "agent:y", "budgets": [{"unit": "tokens", "limit": 3_000, "period": "every:700"}]},
            ]
        }
    )
    assert isinstance(view, RehearsalView)
    assert told(view) == played.refused
    assert view.totals.admitted == len(played.admitted)
    again = really.rehearse()
    assert isinstance(again, RehearsalView)
    assert view.totals.rehearsed == again.totals.recorded


def calls(world: World, *amounts: int, account: str = "agent:x", after: int = 1_000, **more: Any) -> None:
    """Calls that use what they ask for, one after the other."""
    for index, tokens in enumerate(amounts):
        world.clock.advance(after)
        id = f"call-{world.clock.wall_ms()}-{index}"
        world.do(
            Reserve(id=id, account=account, amounts={"tokens": tokens}, **more), Settle(id=id, total={"tokens": tokens})
        )


def view_of(found: RehearsalView | Refused) -> RehearsalView:
    assert isinstance(found, RehearsalView)
    return found


ORG_600 = {"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": 600}]}]}


def test_the_answer_tells_accounts_budgets_and_the_first_refusals(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), *(PutAccount(account=f"agent:{name}", parent="org") for name in "xy"))
    calls(world, 100, 200)
    calls(world, 250, 300, 10, account="agent:y")
    view = view_of(world.rehearse(ORG_600, refusals=1))
    assert (view.totals.calls, view.totals.admitted, view.totals.refused) == (5, 4, 1)
    assert view.codes == {"budget_exceeded": 1}
    [refusal] = view.refusals
    assert (refusal.account, refusal.budget_account, refusal.budget) == ("agent:y", "org", "tokens-lifetime")
    assert (refusal.limit, refusal.available, refusal.requested, refusal.unit) == (600, 50, 300, "tokens")
    assert "300 tokens asked, 50 of 600 left" in refusal.detail
    by_account = {one.account: (one.refused, one.recorded["tokens"], one.rehearsed["tokens"]) for one in view.accounts}
    assert by_account == {"agent:y": (1, 560, 260), "agent:x": (0, 300, 300)}
    [budget] = view.budgets
    assert (budget.account, budget.refused, budget.peak_used, budget.peak_limit) == ("org", 1, 560, 600)
    assert budget.thresholds == {50: 1, 75: 1, 90: 1}
    observed = {
        "accounts": [{**ORG_600["accounts"][0], "budgets": [{"unit": "tokens", "limit": 600, "mode": "observe"}]}]
    }
    view = view_of(world.rehearse(observed))
    assert (view.totals.refused, view.budgets[0].spared, view.budgets[0].peak_used) == (0, 2, 860)


def test_a_rehearsal_is_bounded_by_times_and_by_calls(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), PutAccount(account="agent:x", parent="org"))
    calls(world, *[100] * 10, after=10_000)
    begun = datetime.fromtimestamp(START_MS / 1000, UTC)
    view = view_of(world.rehearse(limit=4))
    assert (view.totals.calls, view.totals.rehearsed["tokens"]) == (4, 400)
    assert view.next is not None
    assert view_of(world.rehearse(limit=10)).next is None
    within = {"since": begun + timedelta(seconds=30), "until": begun + timedelta(seconds=60)}
    view = view_of(world.rehearse(ORG_600, **within))
    assert (view.totals.calls, view.first_at, view.last_at) == (3, within["since"], begun + timedelta(seconds=50))
    assert view_of(world.rehearse(since=begun + timedelta(days=1))).totals.calls == 0
    for bounds, field in (
        ({"limit": 0}, "limit"),
        ({"limit": 50_001}, "limit"),
        ({"refusals": 1_001}, "refusals"),
        ({"since": begun.replace(tzinfo=None)}, "since"),
        ({"since": begun, "until": begun}, "until"),
    ):
        refused = world.rehearse(**bounds)
        assert isinstance(refused, Refused)
        assert (refused.code, refused.field) == ("invalid", field)


def test_what_was_held_before_the_beginning_is_not_booked(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), Reserve(id="early", account="org", amounts={"tokens": 50}))
    world.clock.advance(5_000)
    world.do(Settle(id="early", total={"tokens": 50}))
    calls(world, 20, account="org")
    since = datetime.fromtimestamp(START_MS / 1000 + 1, UTC)
    assert view_of(world.rehearse(since=since)).totals.rehearsed == {"tokens": 20, "calls": 1}


def test_erased_names_have_a_stand_in_and_their_calls_count(tmp_path) -> None:
    world = World(tmp_path)
    world.do(
        PutAccount(account="org"),
        PutTemplate(pattern="user:*", parent="org", budgets=(TemplateBudget(unit="tokens", limit=1_000),)),
    )
    calls(world, 300, 400, account="user:ada", attributes={"feature": "chat"})
    world.do(SetStatus(account="user:ada", status="closed"), EraseName(account="user:ada"))
    view = view_of(world.rehearse(ORG_600))
    [account] = view.accounts
    assert account.account == "erased:2"
    assert (account.admitted, account.refused) == (1, 1)
    assert "ada" not in str(view)
    assert view.left_out == {"attributes_erased": 2}


def test_accounts_of_a_template_are_opened_as_the_file_says(tmp_path) -> None:
    world = World(tmp_path)
    world.do(
        PutAccount(account="org"),
        PutAccount(account="team", parent="org"),
        PutTemplate(pattern="thread:*", parent="org", budgets=(TemplateBudget(unit="tokens", limit=1_000),)),
    )
    calls(world, 300, 400, account="thread:1", parent="team")
    calls(world, 100, account="thread:2")
    smaller = {"templates": [{"pattern": "thread:*", "parent": "org", "budgets": [{"unit": "tokens", "limit": 350}]}]}
    view = view_of(world.rehearse(smaller))
    assert [(one.account, one.budget) for one in view.refusals] == [("thread:1", "tokens-lifetime")]
    assert view.refusals[0].limit == 350
    team = {"accounts": [{"account": "team", "parent": "org", "budgets": [{"unit": "tokens", "limit": 100}]}]}
    assert [one.budget_account for one in view_of(world.rehearse(team)).refusals] == ["team", "team"]
    named = {"accounts": [{"account": "thread:2", "parent": "org", "budgets": [{"unit": "tokens", "limit": 50}]}]}
    assert [one.account for one in view_of(world.rehearse(named)).refusals] == ["thread:2"]


def test_a_clamp_is_rehearsed_down_to_what_is_known_to_be_enough(tmp_path) -> None:
    world = World(tmp_path)
    world.do(
        PutAccount(account="org"),
        PutAccount(account="agent:x", parent="org"),
        PutBudget(account="org", unit="tokens", limit=1_000),
        Reserve(id="a", account="agent:x", amounts={"tokens": 700}),
        Reserve(id="b", account="agent:x", amounts={"tokens": 700}, least={"tokens": 100}),
        Settle(id="a", total={"tokens": 700}),
        Settle(id="b", total={"tokens": 300}),
    )
    view = view_of(world.rehearse())
    assert (view.totals.admitted, view.totals.eased) == (2, {"clamp": 1})
    assert view.totals.rehearsed == view.totals.recorded
    for steps, refused in ((["deny"], 1), (["clamp"], 0), (["downgrade", "clamp", "deny"], 0)):
        listed = view_of(world.rehearse({"accounts": [{"account": "org", "shortage": steps}]}))
        assert (listed.totals.refused, listed.totals.eased.get("clamp", 0)) == (refused, 1 - refused)
    larger = {"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": 2_000}]}]}
    assert view_of(world.rehearse(larger)).totals.eased == {}


def test_a_downgrade_is_rehearsed_with_the_model_that_was_taken(tmp_path) -> None:
    world = World(tmp_path)
    small = Alternative(model="small", amounts={"tokens": 100})
    world.do(
        PutAccount(account="org"),
        PutBudget(account="org", unit="tokens", limit=1_000, match={"model": "big"}),
        *(
            Reserve(
                id=id,
                account="org",
                amounts={"tokens": 700},
                attributes={"model": "big"},
                alternatives=(small,),
            )
            for id in "ab"
        ),
    )
    assert view_of(world.rehearse()).totals.eased == {"downgrade": 1}


def test_a_reallocation_is_rehearsed_with_loans(tmp_path) -> None:
    world = World(tmp_path)
    world.do(
        PutAccount(account="org"),
        PutBudget(account="org", unit="tokens", limit=1_000),
        PutAccount(account="agent:x", parent="org", priority=2),
        PutAccount(account="agent:y", parent="org"),
    )
    calls(world, 700)
    shares: dict[str, Any] = {
        "accounts": [
            {"account": "org", "shortage": ["reallocate"]},
            {"account": "agent:x", "parent": "org", "allocations": {"tokens": 500}},
            {"account": "agent:y", "parent": "org", "allocations": {"tokens": 500}},
        ]
    }
    view = view_of(world.rehearse(shares))
    assert (view.totals.admitted, view.totals.eased) == (1, {"reallocate": 1})
    del shares["accounts"][0]["shortage"]
    assert [one.budget_account for one in view_of(world.rehearse(shares)).refusals] == ["agent:x"]


def test_calls_that_waited_are_tried_when_they_came_and_when_they_were_admitted(tmp_path) -> None:
    world = World(tmp_path)
    world.do(
        PutAccount(account="org"),
        PutBudget(account="org", unit="tokens", limit=1_000),
        Reserve(id="a", account="org", amounts={"tokens": 700}),
    )
    for id in "bc":
        assert world.desk.do(Reserve(id=id, account="org", amounts={"tokens": 500}, wait_s=60)).state == "waiting"
    world.clock.advance(4_000)
    world.do(Settle(id="a", total={"tokens": 100}), Attend(id="b"))
    world.do(Attend(id="c", gone=True), Settle(id="b", total={"tokens": 500}))
    view = view_of(world.rehearse())
    totals = view.totals
    assert (totals.calls, totals.admitted, totals.refused) == (3, 2, 1)
    assert (totals.waited, totals.waited_ms, totals.would_wait) == (1, 4_000, 1)
    assert totals.rehearsed == totals.recorded == {"tokens": 600, "calls": 2}
    roomy = view_of(world.rehearse({"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": 2_000}]}]}))
    assert (roomy.totals.admitted, roomy.totals.waited, roomy.totals.refused) == (3, 0, 0)
    tight = view_of(world.rehearse({"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": 400}]}]}))
    assert (tight.totals.refused, tight.totals.would_wait) == (3, 2)


def test_who_would_wait_or_ask_by_the_list_is_counted_apart(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), PutAccount(account="agent:x", parent="org"))
    calls(world, 500, 500)
    for step, field in (("wait", "would_wait"), ("ask", "would_ask")):
        org = {
            "account": "org",
            "shortage": [step],
            "budgets": [{"unit": "tokens", "limit": 600, "on_exhaustion": "suspend"}],
        }
        view = view_of(world.rehearse({"accounts": [org]}))
        assert (view.totals.refused, getattr(view.totals, field)) == (1, 1)
        assert view.refusals[0].steps == (step,)


def test_an_exhausted_budget_suspends_in_the_rehearsal_until_people_resume(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), PutAccount(account="agent:x", parent="org"))
    calls(world, 500, 100, 100, 100)
    world.do(SetStatus(account="agent:x", status="suspended"), SetStatus(account="agent:x", status="active"))
    calls(world, 10)
    strict = {"unit": "tokens", "limit": 500, "on_exhaustion": "suspend"}
    view = view_of(world.rehearse({"accounts": [{"account": "agent:x", "parent": "org", "budgets": [strict]}]}))
    assert [one.code for one in view.refusals] == [
        "budget_exceeded",
        "account_suspended",
        "account_suspended",
        "budget_exceeded",
    ]


def test_a_gate_that_would_have_closed_refuses_the_rest_of_the_task(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="agent:x"))
    for index, confidence in enumerate((0.5, 0.95, 0.9)):
        id = f"call-{index}"
        world.do(
            Reserve(id=id, account="agent:x", amounts={"tokens": 10}, attributes={"task": "sum up"}),
            Settle(id=id, total={"tokens": 10}, record=CallRecord(model="m", confidence=confidence)),
        )
    gated = {"accounts": [{"account": "agent:x", "confidence_threshold": 0.9}]}
    view = view_of(world.rehearse(gated))
    assert [(one.id, one.code) for one in view.refusals] == [("call-2", "gated")]
    assert view_of(world.rehearse()).totals.refused == 0


@pytest.mark.parametrize(
    ("declaration", "field"),
    [
        ({"accounts": [{"account": "new", "parent": "nowhere"}]}, "accounts[0].parent"),
        ({"accounts": [{"account": "agent:x", "parent": "agent:y"}]}, "accounts[0].parent"),
        ({"templates": [{"pattern": "t:*", "parent": "nowhere"}]}, "templates[0].parent"),
        (
            {
                "accounts": [
                    {"account": "org", "budgets": [{"unit": "tokens", "limit": 10}]},
                    {"account": "agent:x", "parent": "org", "allocations": {"tokens": 11}},
                ]
            },
            "accounts[1].allocations.tokens",
        ),
    ],
)
def test_a_declaration_that_contradicts_the_ledger_is_refused_by_its_field(tmp_path, declaration, field) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), *(PutAccount(account=f"agent:{name}", parent="org") for name in "xy"))
    refused = world.rehearse(declaration)
    assert isinstance(refused, Refused)
    assert refused.field == field
    assert field in refused.detail


def test_an_empty_journal_has_nothing_to_rehearse(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"))
    assert view_of(world.rehearse()).totals.calls == 0


def org(limit: int, **more: Any) -> dict[str, Any]:
    return {"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": limit, **more}]}]}


def test_windows_of_every_so_many_seconds_begin_when_those_of_the_ledger_do(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), PutBudget(account="org", unit="tokens", limit=1_000, period="every:300"))
    world.clock.advance(150_000)
    calls(world, 600, 600, account="org", after=100_000)
    since = datetime.fromtimestamp(START_MS / 1000 + 100, UTC)
    assert view_of(world.rehearse(since=since)).totals.refused == 0, "one window ends between the calls"


@pytest.mark.parametrize(("grown", "used", "booked"), [(None, 400, 150), (500, 450, 450)])
def test_a_call_that_would_have_been_given_less_books_no_more_than_that(tmp_path, grown, used, booked) -> None:
    """It waited for all that it wanted; with more room when it came it would have taken less at once."""
    world = World(tmp_path)
    world.do(
        PutAccount(account="org"),
        PutBudget(account="org", unit="tokens", limit=1_000),
        Reserve(id="a", account="org", amounts={"tokens": 950}),
    )
    waiting = Reserve(id="b", account="org", amounts={"tokens": 400}, least={"tokens": 100}, wait_s=60)
    assert world.desk.do(waiting).state == "waiting"
    world.do(Settle(id="a", total={"tokens": 100}), Attend(id="b"))
    if grown is not None:
        world.do(Extend(id="b", to={"tokens": grown}))
    world.do(Settle(id="b", total={"tokens": used}))
    view = view_of(world.rehearse(org(1_100)))
    assert (view.totals.eased, view.totals.refused) == ({"clamp": 1}, 0)
    assert view.totals.rehearsed == {"tokens": 100 + booked, "calls": 2}


def test_what_a_list_tries_before_it_denies_keeps_a_budget_from_suspending(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"))
    calls(world, 500, 100, 50, account="org")
    strict = org(500, on_exhaustion="suspend")
    assert set(view_of(world.rehearse(strict)).codes) == {"budget_exceeded", "account_suspended"}
    strict["accounts"][0]["shortage"] = ["wait", "deny"]
    view = view_of(world.rehearse(strict))
    assert (view.codes, view.totals.would_wait) == ({"budget_exceeded": 2}, 2)


def test_a_hold_that_could_not_grow_is_kept_alive_as_long_as_it_was(tmp_path) -> None:
    world = World(tmp_path)
    world.do(PutAccount(account="org"), Reserve(id="a", account="org", amounts={"tokens": 100}, lease_s=5))
    world.clock.advance(1_000)
    world.do(Extend(id="a", to={"tokens": 500}, lease_s=600))
    calls(world, 10, account="org", after=20_000)
    world.clock.advance(10_000)
    world.do(Extend(id="a", to={"tokens": 600}, lease_s=600))
    assert view_of(world.rehearse(org(300))).totals.extensions_refused == 2


def test_a_longer_lease_alone_is_no_wish_to_grow(tmp_path) -> None:
    world = World(tmp_path)
    world.do(
        PutAccount(account="org"),
        Reserve(id="a", account="org", amounts={"tokens": 100}, lease_s=60),
        Extend(id="a", to={"tokens": 500}, lease_s=60),
    )
    world.clock.advance(1_000)
    world.do(Extend(id="a", lease_s=600))
    assert view_of(world.rehearse(org(300))).totals.extensions_refused == 1

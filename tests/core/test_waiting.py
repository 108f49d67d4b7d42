"""Reserves that wait for room: order, admission, and every way in which waiting ends."""

from __future__ import annotations

from itertools import permutations

import pytest

from fiscus.core.commands import Alternative, Attend, Release, Request, Reserve
from fiscus.core.decide import decide
from fiscus.core.events import Held, TicketEnded
from fiscus.core.state import Draft
from tests.core.builders import HOUR, MINUTE, SECOND, Ledger, moment

CLAIM, LEASE = 10 * SECOND, 30 * SECOND


@pytest.fixture
def busy(pool: Ledger) -> Ledger:
    """root has 100 tokens, all of them held by one call of a."""
    pool.reserve("first", "a", 100)
    return pool


@pytest.fixture
def halves(pool: Ledger) -> Ledger:
    """root has 100 tokens, held by two calls."""
    pool.reserve("left", "a", 50)
    pool.reserve("right", "a", 50)
    return pool


def states(ledger: Ledger, *ids: str) -> list[str]:
    return [ledger.hold(id).state for id in ids]


def stay(ledger: Ledger, seconds: int, *ids: str) -> None:
    """Time goes on while callers go on waiting."""
    for passed in range(0, seconds, 10):
        ledger.wait(min(10, seconds - passed) * SECOND).due()
        for id in ids:
            if ledger.hold(id).state == "waiting":
                ledger.attend(id)


def admitted(ledger: Ledger) -> list[str]:
    """Who was admitted by the last command, in order."""
    return [event.id for event in ledger.last if isinstance(event, Held)]


# -- waiting -------------------------------------------------------------------------------------------------------


def test_a_reserve_without_room_waits_and_holds_nothing(busy: Ledger) -> None:
    answer = busy.queue("x", "b", 10)
    assert (answer.state, answer.place, answer.reserved) == ("waiting", 1, {})
    assert answer.waits_until == moment(60 * SECOND)
    assert busy.cell("root").held == 100


def test_without_wait_s_it_is_refused_as_ever(busy: Ledger) -> None:
    busy.reserve("x", "b", 10, refused="budget_busy")
    assert busy.last == []


def test_with_room_nobody_waits(pool: Ledger) -> None:
    assert pool.reserve("x", "a", 10, wait_s=60).state == "held"
    assert pool.kinds()[-1] == "Held"


@pytest.mark.parametrize("wait_s", [-1, 3_601, True, 1.5])
def test_how_long_it_waits_has_bounds(pool: Ledger, wait_s: object) -> None:
    refused = pool.reserve("x", "a", 10, wait_s=wait_s, refused="invalid")
    assert refused.field == "wait_s"


def test_a_hold_within_a_compound_does_not_wait(pool: Ledger) -> None:
    refused = pool.compound(Reserve(id="x", account="a", amounts={"tokens": 1}, wait_s=5), refused="invalid")
    assert refused.field == "commands[0].wait_s"


def test_what_cannot_fit_before_the_end_does_not_wait(busy: Ledger) -> None:
    refused = busy.reserve("x", "b", 101, wait_s=60, refused="budget_exceeded")
    assert refused.requested == 101


def test_nothing_but_room_is_waited_for(pool: Ledger) -> None:
    pool.status("a", "suspended")
    pool.reserve("x", "a", 1, wait_s=60, refused="account_suspended")
    pool.reserve("y", "nobody", 1, wait_s=60, refused="unknown_account")


@pytest.mark.parametrize("rules", [{"waiting_per_budget_max": 2}, {"waiting_max": 2}])
def test_who_comes_when_too_many_wait_is_refused(rules: dict[str, int]) -> None:
    ledger = Ledger(**rules).tree("root", "root/a")
    ledger.budget("root", 10)
    ledger.reserve("first", "a", 10)
    ledger.queue("x", "a", 1)
    ledger.queue("y", "a", 1)
    ledger.reserve("z", "a", 1, wait_s=60, refused="budget_busy")
    ledger.check_replay()


# -- order ---------------------------------------------------------------------------------------------------------


def test_room_that_frees_admits_in_the_same_command(busy: Ledger) -> None:
    busy.queue("x", "b", 60)
    busy.queue("y", "a", 30)
    busy.settle("first", 10)
    assert busy.kinds() == ["Settled", "Held", "Held"]
    assert admitted(busy) == ["x", "y"]
    assert busy.cell("root").held == 90


def test_the_first_that_does_not_fit_keeps_all_behind_it_waiting(halves: Ledger) -> None:
    halves.queue("large", "b", 90)
    halves.queue("small", "a", 5)
    halves.release("left")
    assert admitted(halves) == []
    halves.reserve("other", "a", 1, refused="budget_busy")
    halves.release("right")
    assert admitted(halves) == ["large", "small"]


def test_newcomers_stand_behind_those_who_wait_though_they_would_fit(halves: Ledger) -> None:
    halves.queue("x", "b", 90)
    halves.release("left")
    refused = halves.reserve("new", "a", 5, refused="budget_busy")
    assert "others wait" in refused.detail
    assert halves.queue("new", "a", 5).place == 2


def test_who_asks_for_nothing_of_it_passes_the_line(busy: Ledger) -> None:
    busy.queue("x", "b", 60)
    busy.budget("a", 5, "calls")
    assert busy.reserve("free", "a", {"tokens": 0, "calls": 1}).state == "held"


def test_a_line_stands_only_at_the_budget_that_binds() -> None:
    ledger = Ledger().tree("root", "root/a", "root/b")
    ledger.budget("root", 100)
    ledger.budget("a", 10)
    ledger.reserve("first", "a", 10)
    ledger.queue("x", "a", 5)
    assert ledger.reserve("y", "b", 50).state == "held"
    ledger.check_replay()


def test_who_fits_where_it_waited_and_not_above_waits_there_in_its_order() -> None:
    ledger = Ledger().tree("root", "root/a", "root/b")
    ledger.budget("root", 20)
    ledger.budget("a", 10)
    ledger.reserve("first", "a", 10)
    ledger.queue("x", "a", 5)
    ledger.reserve("b1", "b", 10)
    ledger.queue("y", "b", 5)
    ledger.wait(SECOND).adjust("more", "a", 10)
    assert ledger.kinds() == ["Adjusted", "TicketChanged"]
    assert ledger.queue("z", "b", 1).place == 3
    ledger.release("b1")
    assert admitted(ledger) == ["x", "y"]
    ledger.check_replay()


def test_a_higher_priority_comes_first_and_a_level_is_worth_the_ageing() -> None:
    ledger = Ledger(wait_ageing_ms=30 * SECOND)
    ledger.account("root")
    ledger.account("low", "root")
    ledger.account("high", "root", priority=3)
    ledger.budget("root", 10)
    ledger.reserve("first", "low", 10)
    ledger.queue("old", "low", 10, wait_s=600)
    stay(ledger, 59, "old")
    assert ledger.queue("urgent", "high", 10).place == 1
    stay(ledger, 2, "old", "urgent")
    assert ledger.queue("late", "high", 10).place == 3
    ledger.settle("first", 0)
    assert admitted(ledger) == ["urgent"]
    ledger.check_replay()


def test_who_does_not_wait_passes_a_line_only_with_a_higher_priority(halves: Ledger) -> None:
    halves.account("chief", "root", priority=2)
    halves.queue("x", "b", 90)
    halves.release("left")
    assert halves.reserve("now", "chief", 5).state == "held"
    stay(halves, 29, "x")
    assert halves.reserve("again", "chief", 5).state == "held"
    stay(halves, 2, "x")
    halves.reserve("too late", "chief", 5, refused="budget_busy")


# -- exceeded ------------------------------------------------------------------------------------------------------


def test_who_waits_for_the_next_window_lets_others_pass_and_is_first_in_it() -> None:
    ledger = Ledger().tree("root", "root/a", "root/b")
    ledger.budget("root", 100, period="hour")
    ledger.use("a", 60)
    assert ledger.queue("large", "b", 80, wait_s=3_600).place == 1
    assert ledger.reserve("small", "a", 30).state == "held"
    ledger.settle("small", 0)
    stay(ledger, HOUR // SECOND, "large")
    assert ledger.hold("large").state == "held"
    ledger.check_replay()


def test_who_can_never_fit_is_refused_when_that_turns_out(busy: Ledger) -> None:
    busy.queue("large", "b", 90)
    busy.queue("small", "a", 5)
    busy.settle("first", 50)
    assert [type(event) for event in busy.last if isinstance(event, TicketEnded)] == [TicketEnded]
    assert admitted(busy) == ["small"]
    refused = busy.attend("large", refused="budget_exceeded")
    assert (refused.binding.account, refused.requested) == ("root", 90)


def test_who_asked_for_an_override_waits_for_the_decision() -> None:
    ledger = Ledger().keys(asker="operator", boss="admin").tree("root", "root/a")
    ledger.budget("root", 100)
    ledger.use("a", 100)
    ledger.reserve("x", "a", 30, wait_s=60, refused="budget_exceeded")
    ledger.ask("more", "root", 30)
    ledger.queue("x", "a", 30)
    ledger.approve("more")
    assert admitted(ledger) == ["x"]
    ledger.settle("x", 30)
    ledger.ask("still more", "root", 10)
    ledger.queue("y", "a", 10)
    ledger.deny("still more")
    ledger.attend("y", refused="budget_exceeded")
    ledger.check_replay()


# -- the end of waiting --------------------------------------------------------------------------------------------


def test_waiting_ends_at_its_time_with_the_budget_as_it_is_then(busy: Ledger) -> None:
    busy.queue("x", "b", 10, wait_s=20)
    busy.wait(20 * SECOND).due()
    assert busy.kinds() == ["TicketEnded"]
    refused = busy.attend("x", refused="budget_busy")
    assert (refused.requested, refused.binding.held) == (10, 100)


def test_a_ticket_that_nobody_asks_for_ends(busy: Ledger) -> None:
    busy.queue("x", "b", 10, wait_s=600)
    busy.wait(20 * SECOND).attend("x")
    assert busy.kinds() == ["TicketChanged"]
    busy.wait(LEASE - 1).due()
    assert states(busy, "x") == ["waiting"]
    busy.wait(1).due()
    assert states(busy, "x") == ["refused"]
    assert "nobody waited" in busy.attend("x", refused="budget_busy").detail


def test_who_is_refused_or_gone_lets_those_behind_pass(halves: Ledger) -> None:
    halves.queue("x", "b", 90, wait_s=10)
    halves.queue("y", "a", 20)
    halves.queue("z", "a", 90)
    halves.queue("last", "a", 30)
    halves.release("left")
    assert admitted(halves) == []
    halves.wait(10 * SECOND).due()
    assert admitted(halves) == ["y"]
    halves.attend("z", gone=True)
    assert admitted(halves) == ["last"]


def test_gone_cancels_and_the_same_id_may_be_tried_again(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    assert busy.attend("x", gone=True).state == "refused"
    assert busy.queue("x", "b", 10).place == 1
    busy.settle("first", 0)
    assert admitted(busy) == ["x"]
    busy.attend("x", gone=True)
    assert busy.cell("root").held == 0
    assert busy.reserve("x", "a", 20).state == "held"
    assert busy.cell("root").held == 20
    busy.reserve("x", "b", 10, refused="conflict")


def test_a_release_cancels_for_good(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    assert busy.release("x").state == "released"
    busy.reserve("x", "b", 10, refused="already_settled")
    busy.queue("y", "b", 10, wait_s=5)
    busy.wait(5 * SECOND).due()
    busy.release("y")
    busy.reserve("y", "b", 10, refused="already_settled")


@pytest.mark.parametrize("status", ["suspended", "terminated", "closed"])
@pytest.mark.parametrize("stopped", ["b", "root"])
def test_who_is_stopped_waits_no_longer(busy: Ledger, stopped: str, status: str) -> None:
    busy.queue("x", "b", 10)
    busy.status(stopped, status)
    assert states(busy, "x") == ["refused"]
    assert busy.attend("x", refused=f"account_{status}").detail.startswith(stopped)


def test_what_was_used_without_being_admitted_is_booked(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    assert busy.settle("x", 7).state == "settled"
    assert busy.cell("root").uncovered == 7
    assert busy.draft.waiting == {}


@pytest.mark.parametrize("becomes", ["waits", "refused", "released", "refused and released"])
def test_what_was_used_without_being_admitted_is_booked_whatever_became_of_the_reserve(
    busy: Ledger, becomes: str
) -> None:
    """To whom the reserve has named, and once: a later reading adds what it has more, the reserve comes too late."""
    busy.account("c", parent="root")
    busy.budget("c", 50)
    busy.queue("x", "b", 10, wait_s=5, also=("c",))
    if "refused" in becomes:
        busy.wait(5 * SECOND).due()
    if "released" in becomes:
        assert busy.release("x").state == "released"
    assert busy.settle("x", 7, account="b").state == ("released" if "released" in becomes else "settled")
    assert (busy.cell("root").uncovered, busy.cell("c").uncovered) == (7, 7)
    busy.settle("x", 9)
    busy.settle("x", 8)
    assert (busy.cell("root").uncovered, busy.cell("c").uncovered) == (9, 9)
    assert busy.hold("x").booked["tokens"] == 9
    busy.reserve("x", "b", 10, also=("c",), refused="already_settled")
    busy.check_replay()


def test_what_was_given_back_before_it_was_claimed_is_booked_where_it_was_held(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    busy.settle("first", 0)
    busy.release("x")
    busy.settle("x", 7)
    assert busy.cell("root").uncovered == 7


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("hours", [0, 2])
def test_what_nobody_has_claimed_is_booked_where_it_was_held(pool: Ledger, released: bool, hours: int) -> None:
    """Also in a budget for calls of one model, of which the settlement says nothing; after its window, in the next."""
    pool.budget("b", 50, budget="m", match={"model": "m1"}, period="hour")
    pool.reserve("first", "a", 100)
    pool.queue("x", "b", 10, attributes={"model": "m1"})
    pool.settle("first", 0)
    pool.wait(CLAIM).due()
    assert states(pool, "x") == ["refused"]
    if released:
        pool.release("x")
    pool.wait(hours * 3_600 * SECOND).settle("x", 7)
    assert (pool.cell("root").uncovered, pool.cell("b", "m").uncovered) == (7, 7)
    pool.reserve("x", "b", 10, attributes={"model": "m1"}, refused="already_settled")
    pool.check_replay()


def test_who_leaves_does_not_give_back_what_somebody_has_used(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    busy.settle("first", 0)
    busy.running("x", 4)
    assert busy.attend("x", gone=True).state == "held"
    busy.settle("x", 6)
    assert (busy.cell("root").covered, busy.cell("root").uncovered) == (6, 0)


# -- what was admitted ---------------------------------------------------------------------------------------------


def test_what_was_admitted_is_the_callers_once_it_is_claimed(busy: Ledger) -> None:
    busy.queue("x", "b", 10, lease_s=300)
    busy.wait(SECOND).settle("first", 0)
    assert busy.hold("x").expires_at == busy.now + CLAIM
    answer = busy.wait(SECOND).attend("x")
    assert (answer.state, answer.expires_at) == ("held", moment(302 * SECOND))
    assert busy.attend("x") == answer
    assert busy.kinds() == []
    assert busy.reserve("x", "b", 10, lease_s=300, wait_s=60) == answer


def test_what_nobody_claims_is_given_back_and_not_charged(busy: Ledger) -> None:
    busy.queue("x", "b", 60)
    busy.queue("y", "b", 60)
    busy.settle("first", 0)
    assert admitted(busy) == ["x"]
    busy.wait(CLAIM).due()
    assert states(busy, "x", "y") == ["refused", "held"]
    assert busy.cell("root") == (100, 0, 60, 0, 0)


def test_what_was_claimed_expires_like_any_other(busy: Ledger) -> None:
    busy.queue("x", "b", 60, lease_s=20)
    busy.settle("first", 0)
    busy.attend("x")
    busy.wait(20 * SECOND).due()
    assert busy.cell("root").quarantined == 60


def test_the_same_id_finds_its_place_again_and_another_body_none(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    busy.queue("y", "b", 10)
    assert busy.queue("y", "b", 10, wait_s=5).place == 2
    assert busy.last == []
    busy.reserve("y", "b", 11, wait_s=60, refused="conflict")


def test_a_bound_key_sees_only_its_own(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    busy.attend("x", refused="unknown_hold", scope="a")
    refused = busy.do(Reserve(id="y", account="a", amounts={"tokens": 1}), "budget_busy", scope="a")
    assert refused.binding is None


# -- what frees room -----------------------------------------------------------------------------------------------


def test_whatever_frees_room_admits() -> None:
    ledger = Ledger(quarantine="release", quarantine_ms=MINUTE).tree("root", "root/a", "root/b")
    ledger.budget("root", 100)

    def check(id: str) -> None:
        assert admitted(ledger) == [id]
        ledger.attend(id)
        ledger.release(id)

    ledger.reserve("1", "a", 100)
    ledger.queue("w1", "b", 100)
    ledger.release("1")
    check("w1")
    ledger.reserve("2", "a", 100, lease_s=5)
    ledger.queue("w2", "b", 100, wait_s=90)
    stay(ledger, 70, "w2")
    assert states(ledger, "w2") == ["held"]
    ledger.attend("w2")
    ledger.release("w2")
    ledger.allocate("a", 100)
    ledger.reserve("3", "b", 50, refused="budget_exceeded")
    ledger.reserve("4", "a", 100)
    ledger.queue("w3", "a", 100)
    ledger.release("4")
    check("w3")
    ledger.deallocate("a")
    ledger.reserve("5", "a", 100)
    ledger.queue("w4", "b", 50)
    ledger.budget("root", 150)
    check("w4")
    ledger.queue("w5", "b", 100)
    ledger.remove_budget("root", "tokens-lifetime")
    check("w5")
    ledger.check_replay()


def test_a_transfer_admits_who_waits_for_the_target() -> None:
    ledger = Ledger().tree("root", "root/a", "root/b")
    ledger.budget("root", 100)
    ledger.allocate("a", 50)
    ledger.allocate("b", 50)
    ledger.reserve("1", "b", 50)
    ledger.queue("x", "b", 30)
    ledger.transfer("a", "b", 30)
    assert admitted(ledger) == ["x"]
    ledger.check_replay()


def test_the_end_of_a_hold_by_time_admits_without_any_call() -> None:
    ledger = Ledger(quarantine="release", quarantine_ms=SECOND).tree("root", "root/a")
    ledger.budget("root", 10)
    ledger.reserve("1", "a", 10, lease_s=5)
    ledger.queue("x", "a", 10, wait_s=20)
    ledger.wait(6 * SECOND).due()
    assert [kind for kind in ledger.kinds() if kind != "ThresholdCrossed"] == ["Expired", "QuarantineClosed", "Held"]
    ledger.check_replay()


def test_the_end_of_a_window_admits_without_any_call() -> None:
    ledger = Ledger().tree("root", "root/a")
    ledger.wait(HOUR - 15 * SECOND)
    ledger.budget("root", 10, period="hour")
    ledger.reserve("1", "a", 10)
    ledger.queue("x", "a", 10, wait_s=90)
    ledger.wait(15 * SECOND).due()
    assert admitted(ledger) == ["x"]
    ledger.check_replay()


def test_a_new_window_admits_in_order_until_it_is_full() -> None:
    ledger = Ledger().tree("root", "root/a")
    ledger.wait(59 * MINUTE)
    ledger.budget("root", 10, period="hour")
    ledger.reserve("1", "a", 10)
    for index in range(4):
        ledger.queue(f"w{index}", "a", 4, wait_s=90)
    stay(ledger, 60, "w0", "w1", "w2", "w3")
    assert states(ledger, "w0", "w1", "w2", "w3") == ["held", "held", "waiting", "waiting"]
    assert ledger.attend("w3").place == 2
    ledger.release("w0")
    assert admitted(ledger) == ["w2"]
    ledger.check_replay()


# -- undone --------------------------------------------------------------------------------------------------------


def test_a_line_comes_back_when_a_batch_is_undone(busy: Ledger) -> None:
    busy.queue("x", "b", 10)
    draft: Draft = busy.draft
    before = dict(draft.waiting)
    draft.isolate()
    mark = draft.mark()
    decide(draft, Request(command=Release(id="first")), busy.now)
    assert draft.waiting == {}
    draft.rollback(mark)
    assert draft.waiting == before
    assert states(busy, "x") == ["waiting"]


# -- in every order ------------------------------------------------------------------------------------------------

ACTIONS = {
    "w1 comes": lambda ledger: ledger.reserve("w1", "a", 80, wait_s=60),
    "w2 comes": lambda ledger: ledger.reserve("w2", "b", 30, wait_s=60),
    "w1 goes": lambda ledger: ledger.decide(Attend(id="w1", gone=True)),
    "w2 stays": lambda ledger: ledger.decide(Attend(id="w2")),
    "first ends": lambda ledger: ledger.release("first"),
    "small passes": lambda ledger: ledger.decide(Reserve(id="small", account="b", amounts={"tokens": 5})),
    "more": lambda ledger: ledger.adjust("more", "root", 20),
}


# covers E2, E3, E6
def test_in_whatever_order_things_happen_the_line_is_kept_and_nobody_is_left_behind() -> None:
    """All orders of what may come between a reserve and its room; each decision is followed by all invariants."""
    for order in permutations(ACTIONS):
        ledger = Ledger().tree("root", "root/a", "root/b")
        ledger.budget("root", 100)
        ledger.reserve("first", "a", 100)
        for action in order:
            ACTIONS[action](ledger)
        gone = order.index("w1 comes") < order.index("w1 goes")
        ids = [id for id in ("w1", "w2", "small") if id in ledger.draft.holds]
        for id in ids:
            if ledger.hold(id).state == "held":
                ledger.decide(Attend(id=id))
                ledger.release(id)
        assert not ledger.draft.waiting, order
        assert (ledger.hold("w1").state == "refused") <= gone, order
        assert ledger.hold("w2").state in ("held", "released"), order
        assert ledger.cell("root").held == sum(
            ledger.hold(id).reserved.get("tokens", 0) for id in ids if ledger.hold(id).state == "held"
        )
        ledger.check_replay()


def test_while_the_figures_are_in_doubt_nobody_is_admitted_and_later_who_is_still_there(busy: Ledger) -> None:
    busy.queue("x", "b", 60)
    busy.queue("y", "b", 20)
    busy.draft.admits = False
    busy.settle("first", 0)
    assert admitted(busy) == []
    busy.draft.admits = True
    answer = busy.attend("y")
    assert (admitted(busy), answer.state) == (["x", "y"], "held")
    assert not busy.hold("y").unclaimed


# -- what would do instead -----------------------------------------------------------------------------------------


def test_who_would_do_with_less_is_admitted_with_what_fits(halves: Ledger) -> None:
    halves.queue("x", "b", 90, least={"tokens": 40})
    halves.settle("left", 20)
    assert halves.hold("x").state == "waiting", "30 are free, and 40 would do"
    halves.release("right")
    held = halves.attend("x")
    assert (held.state, held.reserved["tokens"], held.steps) == ("held", 80, ("clamp",))
    assert halves.cell("root").held == 80
    assert halves.reserve("x", "b", 90, least={"tokens": 40}).reserved["tokens"] == 80
    halves.check_replay()


def test_room_for_all_of_it_is_all_of_it(halves: Ledger) -> None:
    halves.queue("x", "b", 90, least={"tokens": 60})
    halves.release("left")
    assert halves.hold("x").state == "waiting"
    halves.release("right")
    held = halves.attend("x")
    assert (held.reserved["tokens"], held.steps) == (90, ())


def test_what_could_never_fit_waits_if_less_would_do(halves: Ledger) -> None:
    halves.reserve("y", "b", 101, wait_s=60, least={"tokens": 101}, refused="budget_exceeded")
    halves.queue("x", "b", 1_000, least={"tokens": 60})
    halves.release("left")
    assert halves.hold("x").state == "waiting"
    refused = halves.reserve("z", "a", 1, refused="budget_busy")
    assert "others wait" in refused.detail, "who waits for less is not passed by those who come later"
    halves.adjust("more", "root", 10)
    assert halves.attend("x").reserved["tokens"] == 60


@pytest.mark.parametrize("order", list(permutations(("first", "second"))))
def test_little_does_not_overtake_in_either_order(halves: Ledger, order: tuple[str, ...]) -> None:
    asked = {"first": (80, {}), "second": (80, {"tokens": 10})}
    for id in order:
        halves.queue(id, "b", asked[id][0], least=asked[id][1])
    halves.release("left")
    if order[0] == "first":
        assert states(halves, *order) == ["waiting", "waiting"]
        refused = halves.reserve("new", "a", 50, least={"tokens": 1}, refused="budget_busy")
        assert "others wait" in refused.detail
        halves.release("right")
        assert admitted(halves) == ["first", "second"]
        assert [halves.attend(id).reserved["tokens"] for id in order] == [80, 20]
    else:
        assert states(halves, *order) == ["held", "waiting"]
        assert halves.attend("second").reserved["tokens"] == 50
    halves.check_replay()


def test_who_waits_for_less_waits_where_that_is_bound(pool: Ledger) -> None:
    """All that is asked lacks room in b's own budget, and the least only in root's."""
    pool.budget("b", 60)
    pool.reserve("one", "a", 70)
    pool.queue("x", "b", 80, least={"tokens": 50})
    pool.settle("one", 10)
    assert pool.attend("x").reserved["tokens"] == 60
    pool.check_replay()


def test_another_model_is_taken_when_there_is_room_for_it(busy: Ledger) -> None:
    other = (Alternative(model="small", amounts={"tokens": 30}),)
    busy.queue("x", "b", 90, alternatives=other, attributes={"model": "large"})
    busy.reserve("z", "a", 5, refused="budget_busy")
    busy.settle("first", 60)
    held = busy.attend("x")
    assert (held.state, held.model, held.reserved["tokens"], held.steps) == ("held", "small", 30, ("downgrade",))
    assert busy.reserve("x", "b", 90, attributes={"model": "large"}).model == "small"
    busy.check_replay()


def test_parts_are_lowered_as_for_those_who_come_anew(halves: Ledger) -> None:
    halves.queue("x", "b", {"input_tokens": 40, "output_tokens": 50}, least={"output_tokens": 11})
    halves.release("left")
    assert halves.hold("x").state == "waiting"
    halves.adjust("more", "root", 10)
    reserved = halves.attend("x").reserved
    assert reserved == {"input_tokens": 40, "output_tokens": 20, "tokens": 60, "calls": 1}


def test_what_is_left_for_others_is_left_by_those_who_waited(halves: Ledger) -> None:
    halves.queue("x", "b", 90, least={"tokens": 30}, leave={"tokens": 30})
    halves.release("left")
    assert halves.hold("x").state == "waiting"
    halves.adjust("more", "root", 15)
    assert halves.attend("x").reserved["tokens"] == 35


@pytest.mark.parametrize(
    ("steps", "taken"), [(("wait",), None), (("clamp", "wait"), ("clamp", "wait", "clamp")), ((), ("clamp",))]
)
def test_a_list_says_whether_less_is_held_while_waiting(halves: Ledger, steps: tuple[str, ...], taken: object) -> None:
    asked = Reserve(id="x", account="b", amounts={"tokens": 90}, least={"tokens": 10}, wait_s=60)
    assert halves.do(asked, steps=steps).state == "waiting"
    halves.release("left")
    assert states(halves, "x") == ["held" if taken else "waiting"]
    if taken:
        assert halves.attend("x").steps == taken


def test_room_that_came_between_two_steps_is_used_before_it_waits(busy: Ledger) -> None:
    busy.settle("first", 50)
    asked = Reserve(id="x", account="b", amounts={"tokens": 90}, least={"tokens": 10}, wait_s=60)
    held = busy.do(asked, steps=("clamp", "wait"))
    assert (held.state, held.reserved["tokens"], held.steps) == ("held", 50, ("clamp", "wait", "clamp"))


def test_in_vain_it_is_said_what_would_have_done(busy: Ledger) -> None:
    busy.queue("x", "b", 90, wait_s=20, least={"tokens": 40})
    stay(busy, 20, "x")
    refused = busy.attend("x", refused="budget_busy")
    assert refused.requested == 40
    assert "40 tokens needed at least" in refused.detail

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fiscus.contract import CallRecord, PutAccount, PutBudget, Request
from fiscus.contract.errors import (
    AccountNotActive,
    BudgetExceeded,
    BudgetUnavailable,
    Conflict,
    Forbidden,
    Invalid,
    Refusal,
    SpoolUnavailable,
    Unknown,
)
from fiscus.contract.queries import ListUsage, ReadAccount
from fiscus.sdk import Treasury
from fiscus.sdk.hold import Ending, closing
from fiscus.sdk.usage import reading

BOUND = {"tokens": 400, "calls": 1}
FINAL = reading({"tokens": 120})


@pytest.fixture
async def books(treasury: Treasury) -> AsyncIterator[Treasury]:
    """``agent:x`` below ``team:a`` with 1,000 tokens."""
    await treasury.put_account("team:a")
    await treasury.put_account("agent:x", parent="team:a")
    await treasury.put_budget("team:a", "tokens", 1_000)
    return treasury


async def spent_and_held(treasury: Treasury) -> tuple[int, int]:
    (found,) = await treasury.balance("team:a")
    return found.spent, found.held


async def last_record(treasury: Treasury) -> CallRecord:
    page = await treasury.read(ListUsage(min_seq=(await treasury.readiness()).head_seq))
    record = page.usage[-1].record
    assert record is not None
    return record


@pytest.mark.parametrize(
    ("ending", "booked", "is_estimated"),
    [
        (Ending(reserved=BOUND, last=FINAL, last_is_final=True), 120, False),
        (Ending(reserved=BOUND, last=FINAL, last_is_final=True, failure=ValueError()), 120, False),
        (Ending(reserved=BOUND, last=FINAL, is_spending=True), 120, False),
        (Ending(reserved=BOUND, last=FINAL, is_spending=True, failure=ValueError()), 120, True),
        (Ending(reserved=BOUND, last=FINAL, is_unused=True), 120, False),
        (Ending(reserved=BOUND, is_spending=True), 400, True),
        (Ending(reserved=BOUND, is_spending=True, failure=asyncio.CancelledError()), 400, True),
        (Ending(reserved=BOUND), 400, True),
        (Ending(reserved=BOUND, failure=ValueError()), None, False),
        (Ending(reserved=BOUND, failure=asyncio.CancelledError()), None, False),
        (Ending(reserved=BOUND, is_unused=True), None, False),
        (Ending(reserved=BOUND, is_unused=True, is_spending=True), None, False),
        (Ending(reserved=BOUND, is_unused=True, failure=ValueError()), None, False),
    ],
)
def test_what_is_booked_at_the_end_follows_from_what_is_known_then(ending, booked, is_estimated):
    # covers E14
    last = closing(ending)
    if booked is None:
        assert last is None
    else:
        assert last is not None
        assert last.total["tokens"] == booked
        assert last.record.tokens_estimated == is_estimated


@pytest.mark.parametrize(
    ("failure", "outcome", "code"),
    [
        (None, "success", None),
        (ValueError("the prompt, which is nobody's business"), "error", "ValueError"),
        (asyncio.CancelledError(), "cancelled", "CancelledError"),
        (TimeoutError(), "timeout", "TimeoutError"),
    ],
)
def test_the_record_says_how_the_call_ended_and_never_repeats_a_message(failure, outcome, code):
    last = closing(Ending(reserved=BOUND, last=FINAL, is_spending=True, failure=failure))
    assert last is not None
    assert (last.record.outcome, last.record.error_code, last.record.error_message) == (outcome, code, None)


def test_what_the_caller_says_of_the_outcome_is_kept():
    said = reading({"tokens": 1}, record=CallRecord(outcome="refused", error_code="content_filter"))
    last = closing(Ending(reserved=BOUND, last=said, is_spending=True, failure=ValueError()))
    assert last is not None
    assert (last.record.outcome, last.record.error_code) == ("refused", "content_filter")


async def test_what_is_left_goes_back_at_once(books):
    async with books.hold("agent:x", tokens=400, model="m", feature="chat") as hold:
        assert await spent_and_held(books) == (0, 400)
        hold.settle({"prompt_tokens": 100, "completion_tokens": 20})
    assert await spent_and_held(books) == (120, 0)
    assert hold.answer.state == "settled"
    record = await last_record(books)
    assert (record.model, record.feature, record.tokens.output, record.outcome) == ("m", "chat", 20, "success")


async def test_it_is_refused_before_the_body_runs(books):
    # covers D1, D2
    ran = False
    with pytest.raises(BudgetExceeded) as caught:
        async with books.hold("agent:x", tokens=1_001):
            ran = True
    assert not ran
    assert caught.value.binding.account == "team:a"
    assert await spent_and_held(books) == (0, 0)


async def test_a_failure_before_the_call_gives_the_hold_back(books):
    hold = books.hold("agent:x", tokens=400)

    async def agent():
        async with hold:
            raise KeyError("a bug before the call")

    with pytest.raises(KeyError):
        await agent()
    assert await spent_and_held(books) == (0, 0)
    assert hold.answer.state == "released"


@pytest.mark.filterwarnings("ignore:hold .* ended without a reading")
async def test_a_failure_while_spending_books_the_bound_as_an_estimate(books):
    # covers E14
    async def agent():
        async with books.hold("agent:x", tokens=400) as hold:
            hold.spending()
            raise TimeoutError

    with pytest.raises(TimeoutError):
        await agent()
    assert await spent_and_held(books) == (400, 0)
    record = await last_record(books)
    assert record.tokens_estimated
    assert record.outcome == "timeout"


async def test_a_failure_after_running_readings_books_the_last_one(books):
    # covers E14
    async def agent():
        async with books.hold("agent:x", tokens=400) as hold:
            await hold.reading({"tokens": 50})
            assert await spent_and_held(books) == (50, 350)
            await hold.reading({"tokens": 90})
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await agent()
    assert await spent_and_held(books) == (90, 0)


async def test_a_failure_after_the_final_reading_books_it(books):
    async def agent():
        async with books.hold("agent:x", tokens=400) as hold:
            hold.settle({"tokens": 70})
            raise ValueError("parsing the answer")

    with pytest.raises(ValueError, match="parsing"):
        await agent()
    assert await spent_and_held(books) == (70, 0)


async def test_no_reading_at_all_books_the_bound_and_says_so(books):
    # covers E14
    with pytest.warns(RuntimeWarning, match="ended without a reading: its bound was booked as an estimate"):
        async with books.hold("agent:x", tokens=400):
            pass
    assert await spent_and_held(books) == (400, 0)
    assert (await last_record(books)).tokens_estimated


async def test_unused_gives_the_hold_back(books):
    async with books.hold("agent:x", tokens=400) as hold:
        hold.unused()
    assert await spent_and_held(books) == (0, 0)


@pytest.mark.filterwarnings("ignore:hold .* ended without a reading")
async def test_a_usage_that_cannot_be_read_books_the_bound(books):
    # covers E14
    async def agent():
        async with books.hold("agent:x", tokens=400) as hold:
            hold.settle({"no": "usage"})

    with pytest.raises(Invalid):
        await agent()
    assert await spent_and_held(books) == (400, 0)


async def test_more_than_was_held_is_booked_too(books):
    # covers E14
    async with books.hold("agent:x", tokens=400) as hold:
        hold.settle({"tokens": 700})
    assert await spent_and_held(books) == (700, 0)
    assert hold.answer.uncovered == {"tokens": 300}


@pytest.mark.parametrize(
    ("bounds", "output_tokens"),
    [
        ({"tokens": 400}, 400),
        ({"tokens": 400, "input_tokens": 150}, 250),
        ({"tokens": 400, "output_tokens": 120}, 120),
        ({"input_tokens": 150, "output_tokens": 120}, 120),
        ({"tokens": 100, "input_tokens": 150}, 0),
        ({"tokens": 5, "cost_nanousd": 7}, 5),
    ],
)
async def test_it_tells_how_many_output_tokens_may_be_asked_for(books, bounds, output_tokens):
    hold = books.hold("agent:x", **bounds)
    assert hold.output_tokens == output_tokens
    async with hold:
        assert hold.output_tokens == output_tokens
        hold.unused()


async def test_it_says_nothing_of_output_tokens_when_no_tokens_are_held(books):
    assert books.hold("agent:x", cost_nanousd=7).output_tokens is None


async def test_a_hold_leaves_what_it_was_told_to_leave_also_when_it_grows(books):
    with pytest.raises(Refusal):
        await books.reserve("agent:x", tokens=701, leave={"tokens": 300})
    async with books.hold("agent:x", tokens=400, leave={"tokens": 300}) as hold:
        with pytest.raises(Refusal):
            await hold.extend(tokens=701)
        await hold.extend(tokens=700)
        await books.release((await books.reserve("agent:x", tokens=300)).id)
        hold.settle({"tokens": 1})


async def test_extending_raises_what_is_held_and_what_may_be_asked_for(books):
    async with books.hold("agent:x", tokens=400) as hold:
        await hold.extend(tokens=600)
        assert hold.output_tokens == 600
        assert await spent_and_held(books) == (0, 600)

        async def agent():
            await hold.extend(tokens=1_001)

        assert hold.output_tokens == 600
        hold.settle({"tokens": 600})

    with pytest.raises(Refusal):
        await agent()
    assert await spent_and_held(books) == (600, 0)


async def test_cancelling_before_the_call_gives_the_hold_back(books):
    entered = asyncio.Event()

    async def agent():
        async with books.hold("agent:x", tokens=400):
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(agent())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await spent_and_held(books) == (0, 0)


@pytest.mark.filterwarnings("ignore:hold .* ended without a reading")
async def test_cancelling_while_spending_books_the_bound_even_when_cancelled_again_meanwhile(books):
    # covers E14
    entered = asyncio.Event()

    async def agent():
        async with books.hold("agent:x", tokens=400) as hold:
            hold.spending()
            entered.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(agent())
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.gather(*books._outbox._background)
    assert await spent_and_held(books) == (400, 0)


async def test_a_timeout_around_the_hold_closes_it_and_is_still_a_timeout(books):
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2), books.hold("agent:x", tokens=400):
            await asyncio.Event().wait()
    assert await spent_and_held(books) == (0, 0)


async def test_a_suspended_account_admits_no_hold_and_its_running_one_is_still_settled(books):
    # covers D4
    async with books.hold("agent:x", tokens=400) as hold:
        await books.suspend("team:a", reason="audit")

        async def agent():
            async with books.hold("agent:x", tokens=1):
                pass

        hold.settle({"tokens": 5})

    with pytest.raises(AccountNotActive):
        await agent()
    assert await spent_and_held(books) == (5, 0)


@pytest.mark.slow
async def test_a_long_call_keeps_its_hold_by_renewing_the_lease(books):
    extended = 0
    async with books.hold("agent:x", tokens=400, lease_s=1) as hold:
        async for entry in books.events():
            extended += entry.kind == "extended"
            if extended == 4:  # a third of a second each: beyond the first lease
                break
        assert await spent_and_held(books) == (0, 400)
        hold.settle({"tokens": 5})
    assert await spent_and_held(books) == (5, 0)
    assert hold._renewal.done()
    assert hold._timer.cancelled()


@pytest.mark.slow
async def test_without_keep_alive_the_lease_ends_and_a_late_settlement_is_booked(books):
    # covers E14
    async with books.hold("agent:x", tokens=400, lease_s=1, keep_alive=False) as hold:
        async for entry in books.events():
            if entry.kind == "expired":
                break
        (found,) = await books.balance("team:a")
        assert (found.quarantined, found.held) == (400, 0)
        hold.settle({"tokens": 5})
    assert await spent_and_held(books) == (5, 0)


async def test_the_same_id_holds_once(books):
    # covers E7
    async with books.hold("agent:x", tokens=400, id="call-1") as first:
        async with books.hold("agent:x", tokens=400, id="call-1") as second:
            assert await spent_and_held(books) == (0, 400)
            second.settle({"tokens": 5})
        first.settle({"tokens": 5})
    assert await spent_and_held(books) == (5, 0)
    with pytest.raises(Conflict):
        async with books.hold("agent:x", tokens=401, id="call-1"):
            pass


# With a service that cannot be reached, or whose replies are lost


@pytest.fixture
async def service(local, distant):
    for command in (PutAccount(account="agent:x"), PutBudget(account="agent:x", unit="tokens", limit=1_000)):
        await local.execute(Request(command=command))
    return distant


async def at_the_service(local) -> tuple[int, int]:
    view = await local.read(ReadAccount(account="agent:x"))
    found = view.account.budgets[0].balance
    return found.spent, found.held


async def test_without_the_ledger_nothing_is_admitted(service, proxy):
    proxy.is_down = True
    proxy.cut()

    async def agent():
        async with service.hold("agent:x", tokens=400):
            pytest.fail("the body must not run")

    with pytest.raises(BudgetUnavailable):
        await agent()


async def test_a_reserve_whose_outcome_is_unknown_is_given_back_in_the_end(service, proxy, local):
    proxy.drop_replies = 3

    async def agent():
        async with service.hold("agent:x", tokens=400):
            pytest.fail("the body must not run")

    with pytest.raises(BudgetUnavailable):
        await agent()
    await asyncio.gather(*service._outbox._background)
    assert await at_the_service(local) == (0, 0)


async def test_a_reserve_that_is_cancelled_is_given_back_in_the_end(service, proxy, local):
    proxy.stall_replies = 1
    proxy.arrived.clear()

    async def agent():
        async with service.hold("agent:x", tokens=400):
            pytest.fail("the body must not run")

    task = asyncio.create_task(agent())
    await proxy.arrived.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.gather(*service._outbox._background)
    assert await at_the_service(local) == (0, 0)


async def test_a_reserve_with_the_callers_own_id_is_the_callers_to_repeat(service, proxy, local):
    # covers E7
    proxy.drop_replies = 3

    async def agent():
        async with service.hold("agent:x", tokens=400, id="mine"):
            pytest.fail("the body must not run")

    with pytest.raises(BudgetUnavailable):
        await agent()
    async with service.hold("agent:x", tokens=400, id="mine") as hold:
        assert await at_the_service(local) == (0, 400)
        hold.settle({"tokens": 1})
    assert await at_the_service(local) == (1, 0)


async def test_a_settlement_waits_for_the_service_and_is_booked_once(service, proxy, local):
    # covers R53, E11, E14
    async with service.hold("agent:x", tokens=400) as hold:
        proxy.is_down = True
        proxy.cut()
        await hold.reading({"tokens": 50})
        hold.settle({"tokens": 120})
    assert hold.answer is None
    assert service.spooled == 1
    proxy.is_down = False
    await service.close()
    assert await at_the_service(local) == (120, 0)


async def test_a_lost_reply_to_the_settlement_is_no_second_settlement(service, proxy, local):
    # covers E7
    async with service.hold("agent:x", tokens=400) as hold:
        proxy.drop_replies = 2
        hold.settle({"tokens": 120})
    assert hold.answer.booked["tokens"] == 120
    assert await at_the_service(local) == (120, 0)


async def test_what_goes_wrong_on_exit_does_not_hide_what_went_wrong_before(service, proxy):
    service._outbox._spool._records_max = 0

    async def agent():
        async with service.hold("agent:x", tokens=400) as hold:
            proxy.is_down = True
            proxy.cut()
            hold.settle({"tokens": 120})
            raise ValueError("the real reason")

    with pytest.raises(ValueError, match="the real reason") as caught:
        await agent()
    assert "could not be booked" in caught.value.__notes__[0]


async def test_what_goes_wrong_on_exit_is_raised_when_nothing_went_wrong_before(service, proxy):
    service._outbox._spool._records_max = 0
    hold = service.hold("agent:x", tokens=400)

    async def agent():
        async with hold:
            proxy.is_down = True
            proxy.cut()
            hold.settle({"tokens": 120})

    with pytest.raises(SpoolUnavailable):
        await agent()


async def test_reading_an_unknown_hold_is_told(service):
    hold = service.hold("agent:x", tokens=4)
    with pytest.raises((Unknown, Forbidden)):
        await service.settle(hold.id, {"tokens": 3})

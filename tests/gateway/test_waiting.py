"""Waiting for room: in order, for a while, woken by what is given back."""

import asyncio

import pytest

from fiscus.core.outcomes import Refused
from fiscus.gateway import waiting as module
from fiscus.gateway.asgi import Presence
from fiscus.gateway.waiting import Room

BUSY = Refused(code="budget_busy", detail="held", retry_after_s=1)
SPENT = Refused(code="budget_exceeded", detail="spent")


def there():
    """A caller who stays."""
    return Presence(asyncio.Event().wait)


class Budget:
    """So many calls at once, of ``who``."""

    def __init__(self, places=0):
        self.places = places
        self.spent = False
        self.got = []
        self.asked = []

    def attempt(self, who):
        async def attempt():
            self.asked.append(who)
            await asyncio.sleep(0)
            if self.spent:
                return SPENT
            if not self.places:
                return BUSY
            self.places -= 1
            self.got.append(who)
            return who

        return attempt


@pytest.fixture
def room():
    async def above(account):
        return [account, "team:t"]

    return Room(above)


async def waiting(room, budget, *names, wait_s=5.0, account="agent:a"):
    """Calls that wait, in this order."""
    tasks = []
    for name in names:
        tasks.append(asyncio.create_task(room.admitted(budget.attempt(name), account, wait_s, there)))
        await asyncio.sleep(0.005)
    return tasks


async def test_who_finds_room_does_not_wait(room):
    assert await room.admitted(Budget(1).attempt("a"), "agent:a", 5, there) == "a"


@pytest.mark.parametrize("outcome", [BUSY, SPENT])
async def test_who_may_not_wait_or_waits_in_vain_is_answered_at_once(room, outcome):
    budget = Budget()
    budget.spent = outcome is SPENT
    assert await room.admitted(budget.attempt("a"), "agent:a", 0 if outcome is BUSY else 5, there) == outcome
    assert budget.asked == ["a"]


async def test_room_goes_to_who_came_first_also_before_one_who_comes_just_then(room):
    budget = Budget()
    calls = await waiting(room, budget, *"abc")
    budget.places = 2
    late = await waiting(room, budget, "d")
    await room.freed(["agent:a"])
    await asyncio.wait_for(asyncio.gather(*calls[:2]), 1)
    budget.places = 2
    await room.freed(["agent:a"])
    await asyncio.wait_for(asyncio.gather(calls[2], *late), 1)
    assert budget.got == list("abcd")


async def test_room_that_a_call_below_the_same_account_gives_back_wakes_who_waits(room, monkeypatch):
    monkeypatch.setattr(module, "POLL_S", 60)
    budget = Budget()
    refused = await waiting(room, budget, "a", account="team:t")
    budget.places = 1
    await room.freed(["agent:other"])
    assert await asyncio.wait_for(refused[0], 1) == "a"


async def test_room_that_nobody_tells_of_is_found(room):
    budget = Budget()
    [call] = await waiting(room, budget, "a")
    budget.places = 1
    assert await asyncio.wait_for(call, 1) == "a"


async def test_it_ends_and_then_the_next_one_is_the_first(room):
    budget = Budget()
    [first] = await waiting(room, budget, "a", wait_s=0.05)
    [second] = await waiting(room, budget, "b")
    assert await asyncio.wait_for(first, 1) == BUSY
    budget.places = 1
    assert await asyncio.wait_for(second, 1) == "b"


async def test_when_the_budget_is_spent_nobody_waits_any_more(room):
    budget = Budget()
    calls = await waiting(room, budget, *"abc")
    budget.spent = True
    await room.freed(["agent:a"])
    assert await asyncio.wait_for(asyncio.gather(*calls), 1) == [SPENT] * 3


async def test_who_is_cancelled_waits_no_more(room):
    budget = Budget()
    first, second = await waiting(room, budget, *"ab")
    first.cancel()
    budget.places = 1
    assert await asyncio.wait_for(second, 1) == "b"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_only_so_many_wait(room, monkeypatch):
    monkeypatch.setattr(module, "WAITING_MAX", 2)
    budget = Budget()
    calls = await waiting(room, budget, *"ab")
    assert await room.admitted(budget.attempt("c"), "agent:a", 5, there) == BUSY
    budget.places = 2
    await room.freed(["agent:a"])
    assert await asyncio.wait_for(asyncio.gather(*calls), 1) == ["a", "b"]


async def test_who_has_left_waits_no_more_and_asks_for_nothing(room):
    leaving = asyncio.Event()

    async def receive():
        await leaving.wait()
        return {"type": "http.disconnect"}

    budget = Budget()
    gone = asyncio.create_task(room.admitted(budget.attempt("a"), "agent:a", 5, lambda: Presence(receive)))
    await asyncio.sleep(0.1)
    leaving.set()
    assert await asyncio.wait_for(gone, 1) is None
    budget.places = 1
    assert await room.admitted(budget.attempt("b"), "agent:a", 5, there) == "b"
    assert budget.got == ["b"]

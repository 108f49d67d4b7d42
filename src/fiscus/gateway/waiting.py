"""Calls that wait a moment for room, in the order in which they came, instead of being refused as busy at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection

from fiscus.core.outcomes import Refused
from fiscus.gateway.admission import Admitted
from fiscus.gateway.asgi import Presence

POLL_S, POLL_S_MAX = 0.02, 0.25
"""How soon the first that waits looks by itself, ever more rarely: room that other nodes give back is not told here."""

WAITING_MAX = 1_000
"""More do not wait: they are refused at once."""

Attempt = Callable[[], Awaitable[Admitted | Refused]]


class Room:
    """Who waits for room in which budget. Belongs to one event loop."""

    def __init__(self, above: Callable[[str], Awaitable[Collection[str]]]) -> None:
        """``above``: an account and all above it, by name."""
        self._above = above
        self._queues: dict[str, deque[asyncio.Event]] = {}

    @property
    def is_waited_for(self) -> bool:
        """Whether any call waits."""
        return bool(self._queues)

    async def admitted(
        self, attempt: Attempt, payer: str, wait_s: float, watch: Callable[[], Presence]
    ) -> Admitted | Refused | None:
        """The outcome of an attempt; of later ones, for ``wait_s`` at most, while calls in flight hold what is wanted.

        Args:
            attempt: asks for a hold. The first one is made at once, unless others wait already.
            payer: who waits, where nobody says whose budget is busy.
            wait_s: seconds.
            watch: begins to look whether the caller is still there.

        Returns:
            None when the caller has left.

        Raises:
            TreasuryError: the ledger cannot be asked.
        """
        name = await self._waited_for(payer) if self._queues and wait_s > 0 else None
        outcome: Admitted | Refused | None = None
        if name is None:
            outcome = await attempt()
            if not _is_busy(outcome) or wait_s <= 0 or self._is_full():
                return outcome
            assert isinstance(outcome, Refused)
            name = payer if outcome.binding is None else outcome.binding.account
        queue = self._queues.setdefault(name, deque())
        turn = asyncio.Event()
        queue.append(turn)
        presence = watch()
        presence.when_gone(turn.set)
        try:
            return await _in_turn(attempt, outcome, queue, turn, wait_s, presence)
        finally:
            presence.stop()
            queue.remove(turn)
            if queue:
                queue[0].set()
            else:
                del self._queues[name]

    async def _waited_for(self, payer: str) -> str | None:
        """For whose room others wait already that this call would need, too: it comes after them."""
        if self._is_full():
            return None
        return next((name for name in (payer, *await self._above(payer)) if name in self._queues), None)

    def _is_full(self) -> bool:
        return sum(map(len, self._queues.values())) >= WAITING_MAX

    async def freed(self, accounts: Collection[str]) -> None:
        """Calls of these accounts have given room back: who waits first for it looks."""
        if not self._queues:
            return
        names = {name for account in accounts for name in (account, *await self._above(account))}
        for name in names & self._queues.keys():
            self._queues[name][0].set()


async def _in_turn(
    attempt: Attempt,
    outcome: Admitted | Refused | None,
    queue: deque[asyncio.Event],
    turn: asyncio.Event,
    wait_s: float,
    presence: Presence,
) -> Admitted | Refused | None:
    loop = asyncio.get_running_loop()
    until_s, poll_s = loop.time() + wait_s, POLL_S
    while (left_s := until_s - loop.time()) > 0:
        is_first = queue[0] is turn
        try:
            async with asyncio.timeout(min(poll_s, left_s) if is_first else left_s):
                await turn.wait()
        except TimeoutError:
            if not is_first:
                break
            poll_s = min(2 * poll_s, POLL_S_MAX)
        turn.clear()
        if presence.is_gone:
            return None
        if queue[0] is turn:
            outcome = await attempt()
            if not _is_busy(outcome):
                return outcome
    return await attempt() if outcome is None else outcome


def _is_busy(outcome: Admitted | Refused) -> bool:
    return isinstance(outcome, Refused) and outcome.code == "budget_busy"

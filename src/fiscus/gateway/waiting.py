"""Calls for which there is no room stand in the ledger's line instead of being refused as busy at once."""

from __future__ import annotations

import asyncio
from math import ceil

from fiscus.core.outcomes import Refused
from fiscus.gateway.admission import Admitted, Wish, admit, admit_in_line
from fiscus.gateway.asgi import Presence, Receive

AGAIN_S, AGAIN_S_MAX = 0.05, 0.4
"""How soon a call looks again for which the ledger has no line, ever more rarely."""

NO_LINE = frozenset(("budget_exceeded", "precondition_failed"))
"""What a ledger answers that has none: for the rest of a budget, which is another amount whenever a call ends, or as
long as nodes run that know of no lines."""


async def admit_later(wish: Wish, refused: Refused, wait_s: float, receive: Receive) -> Admitted | Refused | None:
    """Wait for room, behind those who wait for it already, at whichever node.

    Args:
        wish: what was asked for.
        refused: as busy.
        wait_s: it is refused after that, rounded up to whole seconds.
        receive: of the caller, who may leave.

    Returns:
        None when the caller has left; then nothing is held.

    Raises:
        TreasuryError: the ledger cannot be asked.
    """
    presence = Presence(receive)
    outcome: Admitted | Refused | None = None
    try:
        outcome = await presence.unless_gone(_until_decided(wish, refused, wait_s))
    finally:
        presence.stop()
        if outcome is None:  # what it waited for may have been held for it just then
            await asyncio.shield(wish.asking.withdraw())
    return outcome


async def _until_decided(wish: Wish, refused: Refused, wait_s: float) -> Admitted | Refused:
    loop = asyncio.get_running_loop()
    until_s, again_s = loop.time() + wait_s, AGAIN_S
    outcome: Admitted | Refused = refused
    while _is_busy(outcome) and (left_s := until_s - loop.time()) > 0:
        waited = await admit_in_line(wish, ceil(left_s))
        if isinstance(waited, Admitted) or waited.code not in NO_LINE:
            return waited
        await asyncio.sleep(min(again_s, left_s))
        again_s = min(2 * again_s, AGAIN_S_MAX)
        outcome = await admit(wish)
    return outcome


def _is_busy(outcome: Admitted | Refused) -> bool:
    return isinstance(outcome, Refused) and outcome.code == "budget_busy"

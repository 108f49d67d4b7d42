"""What streams have used so far, shown to who follows events while they run: in no journal, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import msgspec

from fiscus.core.records import Tokens
from fiscus.pricing import Price

TICK_S = 0.5
"""How often it is looked what has changed: a token that comes is shown within a second."""

KIND = "call.progress"
_encode = msgspec.json.Encoder().encode


class Audience(Protocol):
    """Who follows events, as the API has them."""

    @property
    def is_there(self) -> bool:
        """Whether anybody does."""
        ...

    def tell(self, kind: str, data: bytes, accounts: Collection[str]) -> None:
        """Show an event to those who may see one of these accounts."""
        ...


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """What a call has used so far; what is booked at its end may differ.

    Attributes:
        kind: ``call.progress``.
        hold: the id of its hold.
        account: who pays.
        model: as asked.
        input_tokens: as counted before the call.
        output_tokens: no fewer than have come.
        cost_nanousd: of these; None: nobody knows the price.
        running_ms: milliseconds since the call began.
    """

    kind: str = KIND
    hold: str
    account: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_nanousd: int | None
    running_ms: int


class Running(msgspec.Struct, kw_only=True, eq=False):
    """A stream that runs. Its call writes ``output_tokens`` as pieces come, and nothing else happens on its way."""

    hold: str
    account: str
    model: str
    input_tokens: int
    price: Price | None
    started_s: float
    output_tokens: int = 0
    shown_tokens: int = 0

    def progress(self) -> Progress:
        """As of now."""
        tokens = Tokens(input=self.input_tokens, output=self.output_tokens)
        return Progress(
            hold=self.hold,
            account=self.account,
            model=self.model,
            input_tokens=self.input_tokens,
            output_tokens=self.output_tokens,
            cost_nanousd=None if self.price is None else self.price.cost(tokens),
            running_ms=int((time.monotonic() - self.started_s) * 1_000),
        )


class Live:
    """The streams that run. Shows each whose output has grown, twice a second, as long as somebody looks.

    Belongs to one event loop; ``close`` it.
    """

    def __init__(self, above: Callable[[str], Awaitable[Collection[str]]]) -> None:
        """``above``: an account and all above it, by name."""
        self._above = above
        self._audience: Audience | None = None
        self._running: set[Running] = set()
        self._ticking: asyncio.Task[None] | None = None

    def show_to(self, audience: Audience) -> None:
        """Show it to ``audience`` from now on."""
        self._audience = audience

    def began(self, running: Running) -> None:
        """A stream has begun."""
        self._running.add(running)
        if self._ticking is None and self._audience is not None:
            self._ticking = asyncio.get_running_loop().create_task(self._tick(), name="progress")

    def ended(self, running: Running) -> None:
        """It is over; the journal has its settlement."""
        self._running.discard(running)

    async def close(self) -> None:
        """Show nothing more."""
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking

    async def _tick(self) -> None:
        while self._running:
            await asyncio.sleep(TICK_S)
            audience = self._audience
            if audience is not None and audience.is_there:
                for running in [one for one in self._running if one.output_tokens != one.shown_tokens]:
                    await self._show(running, audience)
        self._ticking = None

    async def _show(self, running: Running, audience: Audience) -> None:
        accounts = {running.account, *await self._above(running.account)}
        if running in self._running:
            running.shown_tokens = running.output_tokens
            audience.tell(KIND, _encode(running.progress()), accounts)

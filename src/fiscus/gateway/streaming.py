"""An answer that is streamed: passed on event by event as long as its hold can grow, then ended validly."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Sequence

from fiscus.contract.errors import TreasuryError
from fiscus.dialects import Event, Meter
from fiscus.gateway.admission import grow
from fiscus.gateway.asgi import Presence, Send, passed_on
from fiscus.gateway.attempts import Attempts
from fiscus.gateway.books import Books
from fiscus.gateway.connection import Answer, UpstreamFailed
from fiscus.gateway.live import Running
from fiscus.gateway.order import Order, Tools
from fiscus.gateway.produced import NOTHING_KNOWN, tokens_at_least, tokens_produced
from fiscus.gateway.settling import Ended
from fiscus.gateway.whole import BROKE_OFF, BROKE_OFF_CODE

CUT_TOKENS = 4
CUT_S = 0.1
"""A stream that cannot grow ends so many tokens before its bound, and as many as come in so many seconds: what is on
its way then still fits."""

GROWTH = 1.5
"""By how much a hold grows of a stream that is longer than any before."""

EVENTS_AT_ONCE = 4
"""More than so many that come together are with the caller before they are metered."""

AGAIN_S = 0.2
"""How soon a hold that could not grow is asked to grow again: calls in flight may have given room back."""


class Streaming:
    """See the module. One stream."""

    def __init__(
        self,
        tools: Tools,
        order: Order,
        *,
        attempts: Attempts,
        books: Books,
        presence: Presence,
        answer: Answer,
        meter: Meter,
    ) -> None:
        self._tools = tools
        self._order = order
        self._attempts = attempts
        self._books = books
        self._presence = presence
        self._answer = answer
        self._dialect = order.incoming.dialect
        self._events = order.incoming.dialect.events(answer.header(b"content-type"))
        self._meter = meter
        target = attempts.target
        self._share = NOTHING_KNOWN if target is None else tools.shares.of(target.upstream.name, order.model)
        self._again_s = 0.0
        self._renewed_s = time.monotonic()
        self._running = Running(
            hold=order.admitted.id,
            account=order.payer.account,
            model=order.model,
            input_tokens=order.counted.tokens,
            price=order.price,
            started_s=books.started_s,
        )
        self._strips = not order.facts.include_usage
        self._is_one = order.facts.choices == 1
        self._was_cut = False
        self._has_failed = False

    async def run(self, send: Send) -> None:
        """Pass it on to its end, and say what is to be booked."""
        live = self._tools.live
        live.began(self._running)
        try:
            await self._pass_all(send)
        finally:
            live.ended(self._running)

    async def _pass_all(self, send: Send) -> None:
        answer = self._answer
        headers = [*passed_on(answer.headers), *await self._order.more_headers()]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        try:
            while not self._was_cut and (piece := await answer.piece()):
                self._books.began()
                await self._pass(self._events.feed(piece), send)
            if not self._was_cut:
                await self._pass(self._events.flush(), send)
        except UpstreamFailed:
            self._has_failed = not self._presence.is_gone
        answer.close()  # the provider stops, if it has not ended
        self._attempts.let_go(failed=self._has_failed)
        self._books.settle(self._ended(), self._meter, self._meter.usage())
        if not self._presence.is_gone:
            await send({"type": "http.response.body", "body": self._closing()})

    async def _pass(self, found: Iterable[Event], send: Send) -> None:
        """Meter events, and pass them on; after that the stream may have to end for want of budget."""
        admitted = self._order.admitted
        if admitted.held_output_tokens >= admitted.output_tokens:
            await self._pass_held(list(found), send)
            return
        out: list[Event] = []
        for event in found:
            self._meter.feed(event)
            out.append(event)
            if not await self._goes_on():
                self._was_cut = True
                break
        await self._send(out, send)

    async def _pass_held(self, events: Sequence[Event], send: Send) -> None:
        """All that may come is held: nothing can end between two events, so that they are passed on before all else."""
        try:
            await self._send(events, send)
            if len(events) > EVENTS_AT_ONCE:
                await asyncio.sleep(0)  # the server sends when the loop turns
        finally:
            for event in events:
                self._meter.feed(event)
        self._was_cut = not await self._goes_on()

    async def _send(self, events: Sequence[Event], send: Send) -> None:
        passed = map(self._dialect.strip_usage, events) if self._strips else (event.raw for event in events)
        body = b"".join(filter(None, passed))
        if (target := self._attempts.target) is not None and any(map(may_be_error, events)):
            body = target.without_key(body)
        if body and not self._presence.is_gone:
            await send({"type": "http.response.body", "body": body, "more_body": True})

    async def _goes_on(self) -> bool:
        """Note what has come; False: the stream must end now."""
        self._running.output_tokens = produced = tokens_produced(self._meter.produced, self._share)
        if self._is_one:
            self._books.answer.reached(produced)
        return await self._keep_ahead(produced) and await self._is_held()

    async def _is_held(self) -> bool:
        """Whether what has come is held, also of a provider that goes on beyond its bound; False: the stream must end.

        What may be too much by an estimate only is no reason: the bound is for the provider to keep.
        """
        admitted, meter = self._order.admitted, self._meter
        choices, come = admitted.bound.choices, tokens_at_least(meter.produced)
        if come <= admitted.output_tokens * choices or meter.ended or len(meter.finish_reasons) >= choices:
            return True  # what comes after an end is its usage
        needed = -(-(come + self._on_its_way(come, time.monotonic())) // choices)
        if needed > admitted.held_output_tokens:
            more = max(needed + 2 * self._tools.options.margin_tokens, int(needed * GROWTH))
            with contextlib.suppress(TreasuryError):
                await grow(self._tools.settlements, admitted, more)
        return needed <= admitted.held_output_tokens

    async def _keep_ahead(self, produced: int) -> bool:
        """Let the hold grow ahead of the stream, and last as long; False: the stream must end now."""
        admitted = self._order.admitted
        held, choices = admitted.held_output_tokens, admitted.bound.choices
        is_near = held < admitted.output_tokens and produced + self._tools.options.margin_tokens > held * choices
        now_s = time.monotonic()
        if not is_near and now_s < self._renewed_s + admitted.lease_s / 3:
            return True
        is_last = is_near and produced + self._on_its_way(produced, now_s) > held * choices
        if is_last or not is_near or now_s >= self._again_s:
            self._again_s, self._renewed_s = now_s + AGAIN_S, now_s
            # while the ledger is away, what is held still holds
            with contextlib.suppress(TreasuryError):
                await grow(self._tools.settlements, admitted, self._wanted(produced) if is_near else held)
        return not is_last or admitted.held_output_tokens > held

    def _on_its_way(self, produced: int, now_s: float) -> int:
        """Tokens that a provider may have sent before it hears that it is left."""
        began_s = self._books.started_s + (self._books.first_ms or 0) / 1_000
        of_late = int(produced * CUT_S / max(CUT_S, now_s - began_s))
        return CUT_TOKENS + min(self._tools.options.margin_tokens - CUT_TOKENS, of_late)

    def _wanted(self, produced: int) -> int:
        """For how much output of a choice the hold should be, now that so much has come of all of them."""
        order, admitted = self._order, self._order.admitted
        come = -(-produced // admitted.bound.choices)
        longer = self._tools.lengths.longer(order.payer.account, order.model, come)
        wanted = longer or int(admitted.held_output_tokens * GROWTH)
        return min(admitted.output_tokens, max(wanted, come + 2 * self._tools.options.margin_tokens))

    def _ended(self) -> Ended:
        books, meter = self._books, self._meter
        if self._was_cut:
            return books.ended("success", was_cut=True)
        if self._presence.is_gone and not meter.ended:
            return books.ended("cancelled", "client_left")
        if meter.error is not None:
            return books.ended("error", meter.error.code or "upstream_error")
        is_broken = self._has_failed or not meter.ended
        return books.ended("error", BROKE_OFF_CODE) if is_broken else books.ended("success")

    def _closing(self) -> bytes:
        """What ends the stream for the caller, if the provider has not."""
        if self._was_cut:
            return self._dialect.ending(
                self._meter, include_usage=self._order.facts.include_usage, tokens=self._books.tokens
            )
        if self._has_failed and not self._meter.ended:
            return self._dialect.error_event(BROKE_OFF, self._meter)
        return b""


def may_be_error(event: Event) -> bool:
    """Whether an event may say what went wrong: it names an error, or is no object at all."""
    data = event.data
    return b"error" in event.raw or (data is not None and not data.startswith(b"{") and data != b"[DONE]")

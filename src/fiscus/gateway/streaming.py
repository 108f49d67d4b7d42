"""An answer that is streamed: passed on event by event as long as its hold can grow, then ended validly."""

from __future__ import annotations

from collections.abc import Iterable

from fiscus.contract.errors import TreasuryError
from fiscus.core.outcomes import Refused
from fiscus.dialects import Event
from fiscus.gateway.admission import Admitted, extend
from fiscus.gateway.asgi import Presence, Send, passed_on
from fiscus.gateway.attempts import Attempts
from fiscus.gateway.books import Books
from fiscus.gateway.connection import Answer, UpstreamFailed
from fiscus.gateway.live import Running
from fiscus.gateway.order import Order, Tools
from fiscus.gateway.produced import Counted
from fiscus.gateway.settling import Ended
from fiscus.gateway.whole import BROKE_OFF, BROKE_OFF_CODE

CUT_TOKENS = 4
"""A stream that cannot be extended ends so many tokens before its bound: what is on its way then still fits."""

GROWTH = 1.5
"""By how much a hold grows when a stream comes near its end."""


class Streaming:
    """See the module. One stream."""

    def __init__(
        self, tools: Tools, order: Order, *, attempts: Attempts, books: Books, presence: Presence, answer: Answer
    ) -> None:
        self._tools = tools
        self._order = order
        self._attempts = attempts
        self._books = books
        self._presence = presence
        self._answer = answer
        content_type = answer.header(b"content-type")
        self._dialect = order.incoming.dialect
        self._events = order.incoming.dialect.events(content_type)
        self._meter = order.incoming.dialect.meter(content_type)
        self._counted = Counted()
        self._running = Running(
            hold=order.admitted.id,
            account=order.payer.account,
            model=order.model,
            input_tokens=order.counted.tokens,
            price=order.price,
            started_s=books.started_s,
        )
        self._strips = not order.facts.include_usage
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
        out: list[bytes] = []
        for event in found:
            produced = self._running.output_tokens = self._counted.add(self._meter.feed(event))
            raw = self._dialect.strip_usage(event) if self._strips else event.raw
            if raw:
                out.append(raw)
            if produced + self._tools.options.margin_tokens > self._held and not await self._grow(produced):
                self._was_cut = True
                break
        if out and not self._presence.is_gone:
            await send({"type": "http.response.body", "body": b"".join(out), "more_body": True})

    @property
    def _held(self) -> int:
        """Output tokens that are held, all choices together."""
        return self._order.admitted.held_output_tokens * self._order.admitted.bound.choices

    async def _grow(self, produced: int) -> bool:
        """Let the hold grow ahead of the stream; False: it must end now."""
        admitted = self._order.admitted
        if admitted.held_output_tokens >= admitted.output_tokens:
            return True  # all that the provider was told is held
        choices = admitted.bound.choices
        ahead = -(-(produced + 2 * self._tools.options.margin_tokens) // choices)
        wanted = min(admitted.output_tokens, max(int(admitted.held_output_tokens * GROWTH), ahead))
        for _ in range(3):
            try:
                refused = await extend(self._tools.treasury, admitted, wanted)
            except TreasuryError:
                break  # the ledger is away: what is held still holds
            if refused is None:
                return True
            wanted = _less(admitted, refused, wanted)
            if wanted <= admitted.held_output_tokens:
                break
        return produced + CUT_TOKENS <= self._held

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


def _less(admitted: Admitted, refused: Refused, wanted: int) -> int:
    """How far the hold may grow all the same."""
    binding = refused.binding
    if binding is None:
        return (wanted + admitted.held_output_tokens) // 2
    held = admitted.bound.amounts(admitted.held_output_tokens)
    room = held.get(binding.unit, 0) + max(0, binding.available)
    return min(wanted - 1, admitted.bound.output_within(binding.unit, room))

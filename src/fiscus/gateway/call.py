"""One call, from the first byte that is sent to a provider to the settlement."""

from __future__ import annotations

import asyncio

from fiscus.contract.logs import get_logger
from fiscus.dialects import Meter, Problem
from fiscus.gateway.asgi import Message, Presence, Send, send_refusal
from fiscus.gateway.attempts import Attempts
from fiscus.gateway.books import Books
from fiscus.gateway.connection import Answer, UpstreamFailed
from fiscus.gateway.order import Order, Tools
from fiscus.gateway.settling import Ended
from fiscus.gateway.streaming import Streaming
from fiscus.gateway.upstreams import SILENT
from fiscus.gateway.whole import Whole

log = get_logger(__name__)

UNREAD = Problem(
    code="upstream_error", message="the gateway made a mistake with the provider's answer; its log says which"
)


class Sending:
    """Sends, and knows how far an answer has come."""

    def __init__(self, send: Send) -> None:
        self.has_begun = False
        self.has_ended = False
        self._send = send

    async def __call__(self, message: Message) -> None:
        """See ``Send``."""
        self.has_begun = True
        self.has_ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)


class Call:
    """A call that was admitted: asks the provider, passes the answer on, meters it, settles it whatever happens."""

    def __init__(self, tools: Tools, order: Order) -> None:
        self._tools = tools
        self._order = order
        self._attempts = Attempts(tools, order)
        self._books = Books(tools, order, self._attempts)
        self._meter: Meter = order.incoming.dialect.meter()
        self._is_streamed = False

    async def run(self) -> bool:
        """Do it. Nothing is held afterwards, and what was billed is on the books; the caller has its answer before.

        Returns:
            False: the caller has no answer yet, and waits for that of another model.
        """
        incoming = self._order.incoming
        presence = Presence(incoming.receive)
        send = Sending(incoming.send)
        try:
            await self._ask(presence, send)
            presence.stop()
            await self._books.finish()
        except Exception:
            log.exception("call_failed", hold=self._order.admitted.id)
            self._book(self._books.ended("error", "gateway_failed", is_unread=self._is_unread()))
            await self._say_failed(send)
        finally:
            presence.stop()
            self._attempts.let_go(failed=False)
            if self._books.is_open:
                self._book(Ended(outcome="cancelled", error_code="interrupted", is_unread=self._is_unread()))
                await asyncio.shield(self._books.finish())
        return send.has_begun or presence.is_gone

    async def _ask(self, presence: Presence, send: Send) -> None:
        """Ask, pass on what comes, and say what is to be booked."""
        attempts = self._attempts
        options = self._tools.options
        is_whole = not self._order.facts.stream
        linger_s = options.drain_s_max if options.on_disconnect == "drain" else 0
        try:
            answer = await presence.unless_gone(attempts.ask(lambda: presence.is_gone), linger_s)
        except UpstreamFailed as failure:
            await self._give_up(failure, send)
            return
        if answer is None:
            attempts.let_go(failed=False)
            self._book(self._books.ended("cancelled", "client_left", is_unread=is_whole))
            return
        presence.when_gone(lambda: self._leave(answer, presence))
        order, books = self._order, self._books
        self._meter = meter = order.incoming.dialect.meter(answer.header(b"content-type"))
        self._is_streamed = answer.status == 200 and self._is_stream(answer)
        try:
            if self._is_streamed:
                streaming = Streaming(
                    self._tools, order, attempts=attempts, books=books, presence=presence, answer=answer, meter=meter
                )
                await streaming.run(send)
            else:
                whole = Whole(order, attempts=attempts, books=books, presence=presence, answer=answer, meter=meter)
                await whole.run(send)
        finally:
            answer.close()

    def _is_stream(self, answer: Answer) -> bool:
        """Whether an answer comes in events that can be read; Gemini also streams an array.

        Some providers stream what they were not asked to stream, and some compress what they were asked not to.
        """
        kind = answer.header(b"content-type").lower()
        is_array = self._order.facts.stream and "json" in kind and self._order.incoming.route.family == "gemini"
        is_plain = answer.header(b"content-encoding").lower() in ("", "identity")
        return is_plain and ("event-stream" in kind or is_array)

    def _leave(self, answer: Answer, presence: Presence) -> None:
        """The caller has left: the provider is left, too, at once or when it has had time to tell its usage."""
        if self._tools.options.on_disconnect == "drain":
            asyncio.get_running_loop().call_at(presence.gone_s + self._tools.options.drain_s_max, answer.close)
        else:
            answer.close()

    async def _give_up(self, failure: UpstreamFailed, send: Send) -> None:
        """No upstream has answered. One that was sent the call and went silent may have billed it."""
        code = "upstream_timeout" if failure.is_timeout else "upstream_error"
        is_unread = not self._order.facts.stream
        self._book(self._books.ended("timeout" if failure.is_timeout else "error", code, is_unread=is_unread))
        problem = Problem(
            code="upstream_timeout" if failure.is_timeout else "upstream_error",
            message=f"the provider gave no answer: {failure}",
            retry_after_s=None if failure.was_sent else 1,
        )
        await send_refusal(send, self._order.incoming.dialect.refusal(problem))

    async def _say_failed(self, send: Sending) -> None:
        """The caller is told, as far as its answer has not ended."""
        dialect = self._order.incoming.dialect
        if not send.has_begun:
            await send_refusal(send, dialect.refusal(UNREAD))
        elif not send.has_ended:
            last = dialect.error_event(UNREAD, self._meter) if self._is_streamed else b""
            await send({"type": "http.response.body", "body": last})

    def _is_unread(self) -> bool:
        """Whether an answer that is not streamed may have been produced, of which nothing was read."""
        status = self._attempts.status
        is_refused = status is not None and status >= 300 and status not in SILENT
        return not (self._order.facts.stream or is_refused or self._meter.produced)

    def _book(self, ended: Ended) -> None:
        """What is known of it, perhaps nothing; what was sent may have been billed all the same."""
        self._books.settle(ended, self._meter, self._meter.usage())

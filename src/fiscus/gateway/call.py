"""One call, from the first byte that is sent to a provider to the settlement."""

from __future__ import annotations

import asyncio

from fiscus.dialects import Problem
from fiscus.gateway.asgi import Presence, Send, send_refusal
from fiscus.gateway.attempts import Attempts
from fiscus.gateway.books import Books
from fiscus.gateway.connection import Answer, UpstreamFailed
from fiscus.gateway.order import Order, Tools
from fiscus.gateway.settling import Ended
from fiscus.gateway.streaming import Streaming
from fiscus.gateway.whole import Whole


class Call:
    """A call that was admitted: asks the provider, passes the answer on, meters it, settles it whatever happens."""

    def __init__(self, tools: Tools, order: Order) -> None:
        self._tools = tools
        self._order = order
        self._attempts = Attempts(tools, order)
        self._books = Books(tools, order, self._attempts)

    async def run(self) -> None:
        """Do it. Nothing is held afterwards, and what was billed is on the books; the caller has its answer before."""
        incoming = self._order.incoming
        presence = Presence(incoming.receive)
        try:
            await self._ask(presence, incoming.send)
            presence.stop()
            await self._books.finish()
        finally:
            presence.stop()
            self._attempts.let_go(failed=False)
            if self._books.is_open:
                self._book(Ended(outcome="cancelled", error_code="interrupted"))
                await asyncio.shield(self._books.finish())

    async def _ask(self, presence: Presence, send: Send) -> None:
        """Ask, pass on what comes, and say what is to be booked."""
        attempts = self._attempts
        try:
            answer = await presence.unless_gone(attempts.ask())
        except UpstreamFailed as failure:
            await self._give_up(failure, send)
            return
        if answer is None:
            attempts.let_go(failed=False)
            self._book(self._books.ended("cancelled", "client_left"))
            return
        presence.when_gone(lambda: self._leave(answer))
        order, books = self._order, self._books
        try:
            if answer.status == 200 and self._is_stream(answer):
                streaming = Streaming(
                    self._tools, order, attempts=attempts, books=books, presence=presence, answer=answer
                )
                await streaming.run(send)
            else:
                await Whole(order, attempts=attempts, books=books, presence=presence, answer=answer).run(send)
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

    def _leave(self, answer: Answer) -> None:
        """The caller has left: the provider is left, too, at once or when it has had time to tell its usage."""
        if self._tools.options.on_disconnect == "drain":
            asyncio.get_running_loop().call_later(self._tools.options.drain_s_max, answer.close)
        else:
            answer.close()

    async def _give_up(self, failure: UpstreamFailed, send: Send) -> None:
        """No upstream has answered. One that was sent the call and went silent may have billed it."""
        code = "upstream_timeout" if failure.is_timeout else "upstream_error"
        self._book(self._books.ended("timeout" if failure.is_timeout else "error", code))
        problem = Problem(
            code="upstream_timeout" if failure.is_timeout else "upstream_error",
            message=f"the provider gave no answer: {failure}",
            retry_after_s=None if failure.was_sent else 1,
        )
        await send_refusal(send, self._order.incoming.dialect.refusal(problem))

    def _book(self, ended: Ended) -> None:
        """Nothing has come of it; what was sent may have been billed all the same."""
        self._books.settle(ended, self._order.incoming.dialect.meter(), None)

"""An answer that is not streamed: read whole, and passed on if it is one of the provider's API."""

from __future__ import annotations

import asyncio
import math

import msgspec

from fiscus.core.records import Outcome
from fiscus.dialects import Meter, Problem, Usage
from fiscus.gateway.asgi import Presence, Send, passed_on, send_refusal, send_whole
from fiscus.gateway.attempts import Attempts
from fiscus.gateway.books import Books
from fiscus.gateway.connection import Answer, UpstreamFailed
from fiscus.gateway.order import Order
from fiscus.gateway.upstreams import AGAIN, BROKEN, SILENT, retry_after_s

ANSWER_BYTES_MAX = 67_108_864
"""Longest answer that is read whole."""

BROKE_OFF_CODE = "upstream_broke_off"
BROKE_OFF = Problem(code="upstream_error", message="the provider broke off before its answer was whole")


class Whole:
    """See the module. One answer."""

    def __init__(
        self, order: Order, *, attempts: Attempts, books: Books, presence: Presence, answer: Answer, meter: Meter
    ) -> None:
        self._order = order
        self._attempts = attempts
        self._books = books
        self._presence = presence
        self._answer = answer
        self._meter = meter

    async def run(self, send: Send) -> None:
        """Read it, pass it on, say what is to be booked."""
        answer, meter = self._answer, self._meter
        try:
            body = await answer.read(ANSWER_BYTES_MAX)
        except UpstreamFailed:
            await self._broke_off(send)
            return
        self._attempts.let_go(failed=answer.status in BROKEN)
        self._books.began()
        meter.read(body)
        usage = meter.usage()
        wrong = self._not_an_answer(body, usage)
        try:
            await self._pass_on(body, usage, wrong, send)
            await asyncio.sleep(0)  # the server sends when the loop turns: the caller need not wait for the rest
        finally:
            self._book(usage, wrong)

    async def _pass_on(self, body: bytes, usage: Usage | None, wrong: Problem | None, send: Send) -> None:
        answer, target = self._answer, self._attempts.target
        if self._is_passed_over(usage):
            return
        if wrong is not None:
            await send_refusal(send, self._order.incoming.dialect.refusal(wrong))
            return
        if target is not None and (answer.status >= 400 or self._meter.error is not None):
            body = target.without_key(body)
        await send_whole(send, answer.status, [*passed_on(answer.headers), *await self._order.more_headers()], body)

    def _is_passed_over(self, usage: Usage | None) -> bool:
        """Whether another model is asked in place of this answer."""
        if self._answer.status not in self._order.passed_over or self._presence.is_gone:
            return False
        return usage is None or not usage.is_something

    async def _broke_off(self, send: Send) -> None:
        """Not all of it has come: it, or the caller, has gone away."""
        is_gone = self._presence.is_gone
        self._attempts.let_go(failed=not is_gone)
        is_unread = self._answer.status == 200
        outcome: Outcome = "cancelled" if is_gone else "error"
        ended = self._books.ended(outcome, "client_left" if is_gone else BROKE_OFF_CODE, is_unread=is_unread)
        self._books.settle(ended, self._meter, None)
        if not is_gone:
            await send_refusal(send, self._order.incoming.dialect.refusal(BROKE_OFF))

    def _not_an_answer(self, body: bytes, usage: Usage | None) -> Problem | None:
        """Why an answer cannot be passed on: it leads elsewhere, or is a page for people, not the API's."""
        status = self._answer.status
        is_silent = usage is None and self._meter.error is None
        if not 300 <= status < 400 and not (is_silent and not is_json(body)):
            return None
        wait_s = retry_after_s(self._answer)
        return Problem(
            code="upstream_error",
            message=f"the provider answered {status} with something that is no answer of its API",
            status=status if status >= 400 else None,
            retry_after_s=math.ceil(wait_s) if wait_s is not None and status in AGAIN else None,
        )

    def _is_the_apis(self) -> bool:
        """Whether it says that it is an answer of the API, though nobody can read it; a page for people does not."""
        kind = self._answer.header(b"content-type").lower()
        return "json" in kind or "event-stream" in kind

    def _book(self, usage: Usage | None, wrong: Problem | None) -> None:
        """An error that names no usage was not billed, but where somebody between has only lost patience."""
        status, error, books = self._answer.status, self._meter.error, self._books
        is_free = usage is None or not usage.is_something
        if status in SILENT and is_free:
            books.settle(books.ended("timeout", str(status), is_unread=not self._order.facts.stream), self._meter, None)
        elif status >= 300 and is_free:
            books.release()
        elif wrong is not None or error is not None or status >= 300:
            code = error.code if error is not None else None if wrong is None else "not_an_answer"
            is_unread = wrong is not None and error is None and status < 300 and self._is_the_apis()
            ended = books.ended("error", code or str(status), is_whole=True, is_unread=is_unread)
            books.settle(ended, self._meter, usage)
        else:
            books.settle(books.ended("success", is_whole=True), self._meter, usage)


def is_json(body: bytes) -> bool:
    """Whether a body is an object or an array.

    >>> is_json(b'{"a": 1}'), is_json(b"<html>"), is_json(b'{"a": 1')
    (True, False, False)
    """
    try:
        msgspec.json.decode(body, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True

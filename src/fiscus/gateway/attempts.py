"""Asking for an answer: one upstream after another, under one hold, until one answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fiscus.contract.logs import get_logger
from fiscus.core.units import Amounts
from fiscus.dialects import Change, Meter, Usage
from fiscus.gateway.admission import cover
from fiscus.gateway.apart import ApartFailed
from fiscus.gateway.bodies import Body
from fiscus.gateway.connection import Answer, UpstreamFailed
from fiscus.gateway.order import Order, Tools
from fiscus.gateway.settling import extras_of
from fiscus.gateway.upstreams import AGAIN, BROKEN, Target, backoff_s, next_target, retry_after_s

log = get_logger(__name__)

FAILED_BYTES_MAX = 65_536
FAILED_S_MAX = 1.0
"""So much of an answer is read, in so many seconds, before somebody else is asked: it may say what it has cost."""


class Billed(NamedTuple):
    """An attempt that failed and was billed all the same: of whom, with which status, what its answer says."""

    target: Target
    status: int
    meter: Meter
    usage: Usage


class Attempts:
    """See the module.

    Attributes:
        target: who was asked last.
        was_sent: whether somebody may have begun to work, and to bill.
        status: of the last answer; None: there is none.
        billed: attempts before the last one that were billed.
    """

    def __init__(self, tools: Tools, order: Order) -> None:
        self.target: Target | None = None
        self.was_sent = False
        self.status: int | None = None
        self.billed: list[Billed] = []
        self._tools = tools
        self._order = order
        self._is_asking = False
        self._asked_s = 0.0

    async def ask(self, is_left: Callable[[], bool]) -> Answer:
        """Ask one upstream after another until one answers; what was refused has cost what its answer says.

        Args:
            is_left: whether the caller has left, for whom nobody else is asked then.

        Raises:
            UpstreamFailed: none has answered. One that was sent the call and went silent may have billed it.
        """
        options, order, metrics = self._tools.options, self._order, self._tools.metrics
        incoming = order.incoming
        tried: list[Target] = []
        for attempt in range(options.attempts_max):
            target = next_target(order.targets, tried)
            if target in tried:
                await asyncio.sleep(backoff_s(options, attempt))
            if attempt and is_left():
                raise UpstreamFailed("was not asked again: the caller has left", was_sent=False)
            tried.append(target)
            body = await self._request_for(target)
            self._begin(target)
            if attempt:
                metrics.asked_again(target.upstream.name)
            is_last = attempt == options.attempts_max - 1
            try:
                answer = await target.ask(
                    "POST",
                    incoming.route.path,
                    incoming.query,
                    incoming.headers,
                    body,
                    model=order.model,
                    sending=self._sending,
                )
            except UpstreamFailed as error:
                log.warning("upstream_failed", upstream=target.upstream.name, error=str(error), attempt=attempt + 1)
                metrics.failed(target.upstream.name, was_sent=error.was_sent, is_timeout=error.is_timeout)
                self.let_go(failed=True)
                self.was_sent = error.was_sent
                if error.was_sent or is_last:
                    raise
                continue
            self._answered(target, answer)
            if answer.status not in AGAIN or is_last or not self._may_ask_again(answer, tried):
                return answer
            self.was_sent = False  # what was only refused has cost nothing
            billed = await self._billed(target, answer)
            self.let_go(failed=answer.status in BROKEN)
            if billed is not None:
                self.billed.append(billed)
                if not await cover(self._tools.settlements, order.admitted, self._amounts(billed)):
                    raise UpstreamFailed("failed, was billed, and there is no budget to ask again", was_sent=False)
            wait_s = retry_after_s(answer)
            if wait_s is not None and len(tried) >= len(order.targets):
                await asyncio.sleep(min(wait_s, options.backoff_s_max))
        raise AssertionError("the last attempt returns or raises")

    def let_go(self, *, failed: bool) -> None:
        """The upstream has nothing more to do with this call, which failed, also if its status says so."""
        if self._is_asking and self.target is not None:
            self._is_asking = False
            is_broken = self.status in BROKEN
            if failed and self.status is not None and not is_broken:
                self._tools.metrics.failed(self.target.upstream.name, was_sent=True, is_timeout=False)
            is_known = failed or self.status is not None
            self._tools.upstreams.ended(self.target, failed=failed or is_broken if is_known else None)

    def _begin(self, target: Target) -> None:
        self.target = target
        self._tools.upstreams.began(target)
        self._is_asking, self.was_sent = True, False
        self.status = None
        self._asked_s = time.monotonic()

    def _sending(self) -> None:
        self.was_sent = True

    def _answered(self, target: Target, answer: Answer) -> None:
        self.status = answer.status
        seconds = time.monotonic() - self._asked_s
        self._tools.metrics.answered(target.upstream.name, seconds, is_broken=answer.status in BROKEN)

    async def _billed(self, target: Target, answer: Answer) -> Billed | None:
        """What an answer that is not passed on says of a usage; one that is long, or slow, is left."""
        meter = self._order.incoming.dialect.meter(answer.header(b"content-type"))
        try:
            async with asyncio.timeout(FAILED_S_MAX):
                meter.read(await answer.read(FAILED_BYTES_MAX))
        except (UpstreamFailed, TimeoutError):
            return None
        finally:
            answer.close()
        usage = meter.usage()
        return Billed(target, answer.status, meter, usage) if usage is not None and usage.is_something else None

    def _amounts(self, billed: Billed) -> Amounts:
        """What an attempt that failed has used, at the price that the call is held for."""
        tokens, price = billed.usage.tokens, self._order.price
        cost = price.cost(tokens, extras_of(billed.usage)) if price is not None else billed.usage.cost_nanousd or 0
        return {
            "input_tokens": tokens.input,
            "output_tokens": tokens.output,
            "tokens": tokens.input + tokens.output,
            "cost": cost,
        }

    def _may_ask_again(self, answer: Answer, tried: Sequence[Target]) -> bool:
        """Whether somebody else may be asked, or the same one soon."""
        if len(set(tried)) < len(self._order.targets):
            return True
        wait_s = retry_after_s(answer)
        return answer.status in BROKEN | {429} and (wait_s or 0) <= self._tools.options.backoff_s_max

    async def _request_for(self, target: Target) -> Body:
        """The caller's bytes, with the bound of the output and what else has to be said.

        Raises:
            UpstreamFailed: that could not be done.
        """
        order = self._order
        facts, bound = order.facts, order.admitted.output_tokens
        renamed = target.model_for(order.model)
        has_output = order.admitted.bound.output_tokens_max > 0
        lowered = has_output and (facts.output_tokens_max is None or bound < facts.output_tokens_max)
        change = Change(
            output_tokens_max=bound if lowered else None,
            force_usage=facts.stream and not facts.include_usage,
            model=renamed if renamed != order.model or order.incoming.route.model is not None else None,
            output_field=target.upstream.output_field if lowered else None,
        )
        try:
            return await self._tools.reader.changed(order.body, order.incoming.dialect, facts, change)
        except ApartFailed as error:
            raise UpstreamFailed("was not asked: the request could not be changed", was_sent=False) from error

"""Putting one call on the books, whatever becomes of it: once, and until the ledger has it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec

from fiscus.contract.errors import TreasuryError
from fiscus.contract.logs import get_logger
from fiscus.core.commands import Release, Settle
from fiscus.core.outcomes import Refused
from fiscus.core.records import Outcome, Tokens
from fiscus.dialects import Meter, Usage
from fiscus.gateway.attempts import Attempts, Billed
from fiscus.gateway.options import Upstream
from fiscus.gateway.order import Order, Tools
from fiscus.gateway.produced import tokens_produced
from fiscus.gateway.settling import Booked, Ended, bare_record, booked, together
from fiscus.gateway.upstreams import Target

log = get_logger(__name__)

SETTLE_TRIES = 3


class Books:
    """``settle`` or ``release`` says what is to be booked, ``finish`` has it booked: a caller need not wait for that.

    Attributes:
        started_s: when the call began, on the monotonic clock.
        first_ms: when the answer began to come, in milliseconds.
        tokens: what is booked.
        answer: whose length is learned.
    """

    def __init__(self, tools: Tools, order: Order, attempts: Attempts) -> None:
        self.first_ms: int | None = None
        self.tokens: Tokens | None = None
        self._tools = tools
        self._order = order
        self._attempts = attempts
        self._at = datetime.now(UTC)
        self.started_s = time.monotonic()
        self._command: Settle | Release | None = None
        self._is_finished = False
        self.answer = tools.lengths.begun(order.payer.account, order.model, order.admitted.bound.output_tokens_max)

    @property
    def is_open(self) -> bool:
        """Whether something is still to be booked."""
        return not self._is_finished

    def began(self) -> None:
        """The answer has begun to come."""
        if self.first_ms is None:
            self.first_ms = self._elapsed_ms()

    def ended(
        self,
        outcome: Outcome,
        code: str | None = None,
        *,
        was_cut: bool = False,
        is_whole: bool = False,
        is_unread: bool = False,
    ) -> Ended:
        """How the call has ended, now."""
        return Ended(
            outcome=outcome,
            error_code=code,
            was_cut=was_cut,
            is_whole=is_whole,
            is_unread=is_unread,
            duration_ms=self._elapsed_ms(),
            first_ms=self.first_ms,
        )

    def release(self, outcome: Outcome = "error") -> None:
        """Nothing was billed, but by attempts before the last one. Only the first word counts."""
        if self._command is not None:
            return
        if self._attempts.billed:
            *earlier, last = self._attempts.billed
            ended = self.ended(outcome, str(last.status), is_whole=True)
            self._settle(ended, last.meter, last.usage, last.target, earlier)
            return
        self._tools.metrics.released(self._order.incoming.route.dialect, self._attempts.status, outcome)
        self._command = Release(id=self._order.admitted.id)

    def settle(self, ended: Ended, meter: Meter, usage: Usage | None) -> None:
        """Book what the provider says, or what is known. Only the first word counts.

        Args:
            ended: how the call has ended.
            meter: has read the answer, as far as it came.
            usage: what it says.
        """
        target = self._attempts.target
        if self._command is not None:
            return
        if not self._attempts.was_sent or target is None:
            self.release(ended.outcome)
            return
        self._settle(ended, meter, usage, target, self._attempts.billed)

    def _settle(
        self, ended: Ended, meter: Meter, usage: Usage | None, target: Target, earlier: Sequence[Billed]
    ) -> None:
        """Book an attempt, and those before it that were billed, too."""
        order = self._order
        last = what = self._booked(ended, meter, usage, target)
        self.tokens = last.record.tokens
        if earlier:
            failed = self.ended("error", is_whole=True)
            what = together(last, [self._booked(failed, one.meter, one.usage, one.target) for one in earlier])
        self._command = Settle(id=order.admitted.id, total=what.total, record=what.record)
        if usage is not None and not last.record.tokens_estimated:
            self._learn(usage, meter, target.upstream, ended)
        if last.record.tokens is not None:
            self._learn_length(last.record.tokens.output, ended)
        self._tools.metrics.settled(
            order.incoming.route.dialect,
            self._attempts.status,
            what.record,
            target.upstream.name,
            was_cut=ended.was_cut,
        )

    def _booked(self, ended: Ended, meter: Meter, usage: Usage | None, target: Target) -> Booked:
        """What one attempt comes to."""
        order = self._order
        what = booked(
            facts=order.facts,
            counted=order.counted,
            meter=meter,
            usage=usage,
            produced=self._produced(meter, target.upstream, all_held=ended.was_cut or ended.is_unread),
            ended=ended,
            payer=order.payer,
            prices=self._tools.prices,
            provider=target.upstream.priced_as,
            asked_model=target.model_for(order.model),
            at=self._at,
            otherwise=order.price,
        )
        if target.rate is not None:
            target.rate.took(what.total["tokens"])
        return what

    async def finish(self) -> None:
        """Have it booked; while the ledger is away that goes to the spool.

        What cannot be booked expires into quarantine, which charges the bound. Interrupted, it can be done once more.
        """
        outcome = await self._send()
        while outcome is not None and (less := _with_less(self._command, outcome)) is not None:
            self._command = less
            outcome = await self._send()
        self._is_finished = True
        self.answer.ended(None)  # unless its length was said

    async def _send(self) -> Refused | None:
        """Have it booked; why the ledger does not, or None: it has, or cannot be asked."""
        assert self._command is not None, "what is booked was said before"
        request = msgspec.structs.replace(self._order.admitted.request, command=self._command)
        for attempt in range(SETTLE_TRIES):
            try:
                outcome = await self._tools.settlements.book(request)
            except TreasuryError as error:
                if attempt == SETTLE_TRIES - 1 or not error.retryable:
                    log.error("settlement_failed", hold=self._command.id, code=error.code, detail=str(error))
                    return None
                await asyncio.sleep(0.1 * 2**attempt)
                continue
            if isinstance(outcome, Refused):
                log.error("settlement_refused", hold=self._command.id, code=outcome.code, detail=outcome.detail)
                return outcome
            break
        return None

    def _elapsed_ms(self) -> int:
        return int((time.monotonic() - self.started_s) * 1_000)

    def _produced(self, meter: Meter, upstream: Upstream, *, all_held: bool) -> int:
        """Tokens of output that have come; or as many as are held, where more may be on its way, or was not read."""
        order = self._order
        come = tokens_produced(meter.produced, self._tools.shares.of(upstream.name, order.model))
        return max(come, order.admitted.held_output_tokens * order.admitted.bound.choices) if all_held else come

    def _learn(self, usage: Usage, meter: Meter, upstream: Upstream, ended: Ended) -> None:
        """What this call teaches of counts and of texts."""
        order = self._order
        facts = order.facts
        is_one_model = len({target.model_for(order.model) for target in order.targets}) == 1
        if is_one_model and not (order.counted.unseen or facts.input_unknown or facts.server_tools):
            self._tools.reader.learn(order.counted, upstream.priced_as, usage.tokens.input)
            self._tools.metrics.counted(upstream.priced_as, order.counted, usage.tokens.input)
        if ended.was_cut or ended.outcome != "success":
            return
        output = usage.tokens.output
        is_text = all(kind != "image" for _, kind in meter.produced)
        pieces = sum(one.deltas for (_, kind), one in meter.produced.items() if kind != "opaque")
        self._tools.shares.learn(
            upstream.name,
            order.model,
            bound=tokens_produced(meter.produced),
            billed=output,
            pieces=pieces if facts.stream else None,
            thinks=facts.thinks,
            is_text=is_text,
        )

    def _learn_length(self, output: int, ended: Ended) -> None:
        """What this call says of others: how much they use, also if their callers leave."""
        order = self._order
        told, asked = order.admitted.output_tokens, order.admitted.bound.output_tokens_max
        is_known = ended.outcome == "success" or (order.facts.stream and output)
        if order.facts.choices != 1 or not is_known or ended.was_cut or ended.is_unread:
            return
        output = min(output, asked)  # nobody holds more
        self.answer.reached(output)
        if output < told or told == asked:  # what was clamped would have been longer
            self.answer.ended(output)


def _with_less(command: Settle | Release | None, refused: Refused) -> Settle | None:
    """A settlement of which less is said, where what is said of the call is why it is refused; None: nothing helps."""
    is_for_record = refused.code == "invalid" and (refused.field or "").startswith("record")
    if not is_for_record or not isinstance(command, Settle) or command.record is None:
        return None
    bare = bare_record(command.record)
    return msgspec.structs.replace(command, record=bare if command.record != bare else None)

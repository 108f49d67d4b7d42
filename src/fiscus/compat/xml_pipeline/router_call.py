"""One call of a router: its hold, its attempts, its books.

    hold the counted input and the output that it may have ─▶ ask, try again, elsewhere ─▶ book all attempts ─▶ tell

What is booked and told stands behind the attempts: if it fails, nobody asks the model again.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from fiscus.compat.xml_pipeline.backends import Target, may_be_billed, may_be_repeated, wait_s
from fiscus.compat.xml_pipeline.desk import Desk
from fiscus.compat.xml_pipeline.errors import BudgetExhaustedError, ThreadEndedError
from fiscus.compat.xml_pipeline.threads import State
from fiscus.compat.xml_pipeline.usage import UsageEvent, record_of
from fiscus.contract import AMOUNT_MAX, Tokens
from fiscus.contract.errors import AccountNotActive, BudgetBusy, BudgetExceeded, FiscusError, Refusal
from fiscus.dialects.usage import tokens_of
from fiscus.pricing import count
from fiscus.sdk.governor import Purse
from fiscus.sdk.sizing import Need
from fiscus.sdk.texts import count_tokens, texts_in

OUTPUT_TOKENS_DEFAULT = 4_096
OUTPUT_TOKENS_LEAST = 16
"""With less output than this a call is not made."""

UNLIMITED = "calls:router"
"""Who pays for calls without a thread: the gateway lets nobody call whom no budget limits, so it has a huge one."""


@dataclass(slots=True)
class Spent:
    """What the attempts of one call have used."""

    prompt: int = 0
    completion: int = 0
    estimated: bool = False

    def add(self, tokens: Tokens, *, estimated: bool = False) -> None:
        """An attempt has used so many."""
        self.prompt += tokens.input
        self.completion += tokens.output
        self.estimated |= estimated

    @property
    def total(self) -> int:
        """Prompt and completion."""
        return self.prompt + self.completion


class RouterCall:
    """One call: its hold, its attempts, its books."""

    def __init__(
        self,
        desk: Desk,
        request: dict[str, Any],
        agent_id: str | None,
        thread_id: str | None,
        metadata: dict[str, Any],
    ) -> None:
        self._desk = desk
        self._request = request
        self._model = str(request["model"])
        self._agent_id = agent_id
        self._thread_id = thread_id
        self._metadata = metadata
        self._spent = Spent()
        self._began_s = time.monotonic()
        self._input_bound = 0
        self._input_likely = 0
        self._last: Target | None = None

    async def over_backends(self) -> Any:
        """Ask the backends in turn until one answers."""
        await asyncio.to_thread(self._count)
        purse = await self._reach(self._admit())
        try:
            response, target = await self._attempts(purse)
        except BaseException as error:
            await self._booked(purse, error)
            raise
        await self._booked(purse, None)
        await self._desk.after(self._event(target.provider))
        return response

    async def over_gateway(self) -> Any:
        """Have the gateway ask: it holds, tries again, and books the thread by itself."""
        more = {
            name: self._request[name]
            for name in ("temperature", "max_tokens", "tools")
            if self._request[name] is not None
        }
        account = await self._reach(self._account_for_gateway())
        labels = {str(name): str(value) for name, value in self._metadata.items()}
        asking = self._desk.treasury.asynchronous.complete(
            self._model, self._request["messages"], account=account, metadata=labels, **more
        )
        try:
            done = await self._reach(asking)
        except Refusal as refused:
            raise await self._in_our_words(refused) from refused
        if done.tokens is None:
            await asyncio.to_thread(self._count)
            produced = Tokens(input=self._input_likely, output=count_tokens(done.text))
            self._spent.add(produced, estimated=True)
        else:
            self._spent.add(done.tokens)
        event = self._event("", done.model, done.cost_nanousd)
        try:
            await self._reach(self._desk.tracker.book(event))
        except Exception as error:  # noqa: BLE001  (the answer is there and paid for)
            self._desk.failed_to("booking", error)
        await self._desk.after(event)
        return done

    # -- attempts -----------------------------------------------------------------------------------------------------

    async def _attempts(self, purse: Purse) -> tuple[Any, Target]:
        """The first answer, and who gave it; each attempt is on the books before the next."""
        tried: list[Target] = []
        for attempt in range(self._desk.retries + 1):
            target = self._desk.targets.next(self._model, tried)
            tried.append(target)
            self._last = target
            room = purse.amount - self._spent.total - self._input_bound
            wanted = self._request["max_tokens"] or OUTPUT_TOKENS_DEFAULT
            limited = self._thread_id is not None
            request = {**self._request, "max_tokens": min(wanted, room) if limited else self._request["max_tokens"]}
            try:
                response = await target.ask({name: value for name, value in request.items() if value is not None})
            except Exception as error:
                self._add_failure(target, error)
                if attempt == self._desk.retries or not may_be_repeated(error):
                    raise
                await self._room_for_another(purse, error)
                pause_s = wait_s(attempt, error)
            except asyncio.CancelledError as error:
                self._add_failure(target, error)
                raise
            else:
                self._add_answer(target, response)
                return response, target
            await self._desk.sleep(pause_s)
        raise AssertionError("the last attempt returns or raises")

    async def _room_for_another(self, purse: Purse, error: Exception) -> None:
        """Book what a failed attempt may have cost, and hold as much as the next one needs."""
        await self._reach(purse.hold.reading(self._amounts()))
        needed = self._spent.total + self._input_bound + OUTPUT_TOKENS_LEAST
        wanted = self._spent.total + self._input_bound + (self._request["max_tokens"] or OUTPUT_TOKENS_DEFAULT)
        lacking = await self._reach(self._desk.governor.raise_to(purse, wanted))
        if wanted - lacking < min(needed, wanted):
            raise await self._exhausted() from error
        if lacking:
            await self._reach(self._desk.governor.raise_to(purse, wanted - lacking))

    def _add_failure(self, target: Target, error: BaseException) -> None:
        """What a failed attempt has used: as it says, else its input, unless the provider has rejected it."""
        before = self._spent.total
        try:
            self._spent.add(tokens_of(error))
        except FiscusError:
            if may_be_billed(error):
                self._spent.add(Tokens(input=self._input_likely), estimated=True)
        target.rate.took(self._spent.total - before)

    def _add_answer(self, target: Target, response: Any) -> None:
        """What the answer says that it used; a provider that says nothing is not free."""
        try:
            tokens = tokens_of(response)
        except FiscusError:
            tokens = Tokens()
        if not tokens.input + tokens.output:
            output = sum(count_tokens(text) for text in texts_in(response))
            tokens = Tokens(input=self._input_likely, output=max(1, output))
            self._spent.estimated = True
        self._spent.add(tokens)
        target.rate.took(tokens.input + tokens.output)

    # -- the hold -----------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        counted = count(self._model or "unknown", self._request["messages"], tools=self._request["tools"] or ())
        self._input_likely = max(1, counted.tokens)
        self._input_bound = max(self._input_likely, counted.upper_bound)

    async def _admit(self) -> Purse:
        """Hold input and output on the thread, and count it on agent and model; on the treasury's loop."""
        desk = self._desk
        provider = desk.targets.having(self._model)[0].provider  # priced or not: by that it is counted
        payer, also = await desk.tracker.also_for(self._event(provider))
        account = payer
        if self._thread_id is not None:
            state = await desk.registry.threads.open(self._thread_id)
            account, also = state.account.account, (payer, *also)
        output = self._request["max_tokens"] or OUTPUT_TOKENS_DEFAULT
        least = self._input_bound + min(output, OUTPUT_TOKENS_LEAST)
        need = Need(
            wanted=self._input_bound + output, needed=least, least=least, why="input as counted, output as asked for"
        )
        try:
            purse = await desk.governor.admit(account, need, may_ask=False, also=also)
        except (BudgetExceeded, BudgetBusy, AccountNotActive) as refused:
            raise await self._in_our_words(refused) from refused
        purse.hold.spending()
        return purse

    async def _account_for_gateway(self) -> str:
        desk = self._desk
        if self._thread_id is not None:
            state = await desk.registry.threads.open(self._thread_id)
            return state.account.account
        treasury = desk.treasury.asynchronous
        await treasury.put_account(UNLIMITED)
        await treasury.put_budget(UNLIMITED, "tokens", AMOUNT_MAX, thresholds={})
        return UNLIMITED

    async def _in_our_words(self, refused: Refusal) -> Exception:
        if self._thread_id is None or not isinstance(refused, BudgetExceeded | BudgetBusy | AccountNotActive):
            return refused
        return await self._exhausted(ended=isinstance(refused, AccountNotActive))

    async def _exhausted(self, *, ended: bool = False) -> BudgetExhaustedError:
        assert self._thread_id is not None, "only threads have budgets here"
        state: State = await self._reach(self._desk.registry.threads.open(self._thread_id))
        budget = state.budget()
        kind = ThreadEndedError if ended else BudgetExhaustedError
        return kind(self._thread_id, budget.total_tokens, budget.max_tokens)

    # -- the books ----------------------------------------------------------------------------------------------------

    async def _booked(self, purse: Purse, error: BaseException | None) -> None:
        """Book all attempts; a failure here fails nothing else."""
        event = self._event(self._last.provider if self._last is not None else "")
        record = msgspec.structs.replace(
            record_of(event),
            tokens_estimated=self._spent.estimated,
            outcome="success" if error is None else "cancelled" if _is_cancel(error) else "error",
            error_code=None if error is None else type(error).__name__,
        )
        try:
            settling = self._settle(purse, record, event.cost_nanousd)
            await self._reach(self._desk.governor.to_the_end(settling))
        except Exception as failure:  # noqa: BLE001  (the answer is there and paid for, or another error is on its way)
            self._desk.failed_to("booking", failure)

    async def _settle(self, purse: Purse, record: Any, cost: int | None) -> None:
        await self._desk.governor.raise_to(purse, self._spent.total)
        purse.hold.settle(self._amounts(), record=record, cost_nanousd=cost)
        await purse.hold.__aexit__(None, None, None)

    def _amounts(self) -> dict[Any, int]:
        return {
            "input_tokens": self._spent.prompt,
            "output_tokens": self._spent.completion,
            "tokens": self._spent.total,
        }

    def _event(self, provider: str, model: str | None = None, cost: int | None = None) -> UsageEvent:
        event = self._desk.tracker.event(
            self._thread_id,
            self._agent_id,
            model or self._model,
            provider,
            self._spent.prompt,
            self._spent.completion,
            (time.monotonic() - self._began_s) * 1_000,
            metadata=self._metadata,
        )
        return event if cost is None else UsageEvent(**{**vars(event), "cost_nanousd": cost})

    async def _reach(self, work: Any) -> Any:
        return await self._desk.treasury.thread.reach(work)


def _is_cancel(error: BaseException) -> bool:
    return isinstance(error, asyncio.CancelledError)

"""``BudgetManager``: functions of agents are governed, and budget moves to those that need it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from fiscus.compat.tbcontracts.books import NAMESPACE_DEFAULT, checked_tokens
from fiscus.compat.tbcontracts.confidence_gate import ConfidenceGate
from fiscus.compat.tbcontracts.contract import BudgetContract
from fiscus.compat.tbcontracts.errors import BudgetExceededError, GateBlockedError, UnknownAgentError
from fiscus.compat.tbcontracts.ledger import Ledger
from fiscus.compat.tbcontracts.reallocator import Reallocator
from fiscus.compat.tbcontracts.telemetry import TelemetryRecorder, recorder_of
from fiscus.contract.errors import BudgetOverrun, Gated, Refusal
from fiscus.contract.queries import MoveView
from fiscus.sdk import SyncTreasury
from fiscus.sdk.calls import running_call
from fiscus.sdk.decorator import Function
from fiscus.sdk.governed import Watch, governed, is_confidence, name_of
from fiscus.sdk.governor import WAIT_S, Governor, InputOf, TaskOf, Terms, UsageOf, left_of

SHORT = frozenset(("budget_exceeded", "budget_busy"))


class BudgetManager:
    """Budgets of agents, asked before each call, kept in a ledger of Fiscus.

    Every call is held before it runs and booked by what it used. Threads, processes (through a service) and restarts
    make no difference: no budget is spent twice.

    Args:
        telemetry: a ``TelemetryRecorder``, a tracer of OpenTelemetry, or None.
        place: which ledger; see ``fiscus.compat.places.ledger_at``.
        namespace: agents of the same name in other namespaces are other agents.
        parent: an account whose budgets bind all these agents together.
        wait_s: how long a call waits for others of its agent that hold what it needs, in seconds.
    """

    def __init__(
        self,
        telemetry: Any = None,
        *,
        place: str | SyncTreasury | None = None,
        namespace: str = NAMESPACE_DEFAULT,
        parent: str | None = None,
        wait_s: float = WAIT_S,
    ) -> None:
        self.contracts: dict[str, BudgetContract] = {}
        self.ledger = Ledger(place, namespace=namespace, parent=parent)
        self.gate = ConfidenceGate()
        self._telemetry = recorder_of(telemetry)
        self.reallocator = Reallocator(self.ledger, self.contracts, telemetry=self._telemetry)
        treasury = self.ledger.books.treasury
        self._way = treasury.thread
        self._governor = Governor(treasury.asynchronous, borrows=True, wait_s=wait_s, on_moved=self._tell_moved)
        self._mutex = threading.Lock()

    @property
    def telemetry(self) -> TelemetryRecorder:
        """What makes spans of what is done here."""
        return self._telemetry

    def enable_telemetry(self, service_name: str = "tbcontracts") -> bool:
        """Make spans with the process's tracer provider; False: OpenTelemetry is not installed."""
        self._telemetry = TelemetryRecorder.of_service(service_name)
        self.reallocator = Reallocator(self.ledger, self.contracts, telemetry=self._telemetry)
        return self._telemetry.enabled

    def register_agent(
        self,
        name: str,
        priority: int = 1,
        max_tokens: int = 1000,
        min_reserve: int | None = None,
        confidence_threshold: float | None = None,
        *,
        gate_s: int | None = None,
    ) -> BudgetContract:
        """Register an agent, or change its contract. What it has used stays used, also after a restart.

        With another ``max_tokens`` than before its allocation rises or falls by the difference. The gate of
        ``confidence_threshold`` is closed for ``gate_s`` seconds, or until ``reset_gate``.

        Raises:
            ValueError: a term is out of its range, or more is used than would be left.
        """
        contract = BudgetContract(name, priority, max_tokens, min_reserve, confidence_threshold, gate_s=gate_s)
        self.ledger.books.register(contract)
        with self._mutex:
            before = self.contracts.get(name)
            if before is not None:
                contract.last_confidence = before.last_confidence
            self.contracts[name] = contract
        self._telemetry.register_agent(name, priority, max_tokens)
        return contract

    def govern(
        self,
        agent: str,
        confidence_fn: Callable[[Any], Any] | None = None,
        *,
        max_tokens: int | None = None,
        usage_fn: UsageOf | None = None,
        input_fn: InputOf | None = None,
        note: str | None = None,
        task: str | Callable[..., str | None] | None = None,
    ) -> Callable[[Function], Function]:
        """Decorate a function of any kind: sync, async, a generator, a method.

        Args:
            agent: who pays.
            confidence_fn: from a result to how sure it is, 0 … 1; anything else counts as not said.
            max_tokens: what a call uses at most: then so much is held, or the function is not run.
            usage_fn: from a result to the tokens that the call used; else usage in the result is read, or its texts
                and those of the arguments are counted.
            input_fn: what of (args, kwargs) is counted then; all of them by default.
            note: in the books; by default the function's name.
            task: what a call works on, or a function of its arguments that says it: the gate of one task stops no
                other. By default all calls of an agent are one task.

        Raises:
            UnknownAgentError: here, if the agent is not registered.
            BudgetExceededError: in a call, before it runs if too little is left; after it if it used more than there
                was, with its ``result``. ``GateBlockedError``, which is one, if its gate is closed.
        """
        self._contract(agent)

        def decorate(function: Function) -> Function:
            terms = Terms(
                account=self.ledger.books.account_of(agent),
                note=note or name_of(function),
                tokens=max_tokens,
                usage_of=usage_fn,
                input_of=input_fn,
                task_of=_task_of(task),
            )
            return governed(
                function,
                self._governor,
                terms,
                self._way,
                lambda: _GovernedCall(self, agent, terms.note, confidence_fn),
            )

        return decorate

    def record_usage(
        self,
        agent: str,
        tokens: int,
        note: str = "usage",
        confidence: float | None = None,
        *,
        task: str | None = None,
    ) -> None:
        """Book an exact count. Inside a governed function of the same agent it is what that call has used.

        Raises:
            UnknownAgentError: the agent is not registered.
            ValueError: ``tokens`` is no integer ≥ 0, or ``confidence`` is not within 0 … 1; nothing is booked.
            BudgetExceededError: there was less, and nobody could give the rest. It is booked, and nothing has moved.
        """
        contract = self._contract(agent)
        checked_tokens(tokens)
        if confidence is not None and not is_confidence(confidence):
            raise ValueError("confidence must be between 0 and 1")
        account = self.ledger.books.account_of(agent)
        failure: BaseException | None = None
        try:
            running = running_call(self._governor, account)
            if running is not None and tokens:
                self._way.wait(running.report(tokens, note))
            else:
                self.ledger.books.book(account, tokens, note, may_ask=True, confidence=confidence, task=task)
        except BudgetOverrun as overrun:
            failure = BudgetExceededError(agent, tokens, overrun.available, has_run=True)
            raise failure from overrun
        finally:
            self._telemetry.record_usage(agent, tokens, note, failure)
            if confidence is not None:
                contract.last_confidence = confidence

    def reset_gate(self, agent: str, task: str | None = None) -> None:
        """Open the gate of a task again, or of all."""
        contract = self._contract(agent)
        treasury = self.ledger.books.treasury
        self._way.wait(treasury.asynchronous.reset_gate(self.ledger.books.account_of(agent), task))
        contract.last_confidence = None

    def remaining(self, agent: str) -> int:
        """What is left of an agent's allocation."""
        self._contract(agent)
        return self.ledger.remaining(agent)

    def report(self) -> dict[str, dict[str, int]]:
        """``{agent: {allocated, consumed, remaining}}``."""
        return self.ledger.snapshot()

    def _contract(self, agent: str) -> BudgetContract:
        contract = self.contracts.get(agent)
        if contract is None:
            raise UnknownAgentError(agent)
        return contract

    def _tell_moved(self, account: str, lacked: int, moves: Sequence[MoveView]) -> None:
        books = self.ledger.books
        pairs = [(books.name_of(move.source), move.amount) for move in moves]
        self.reallocator.tell(books.name_of(account), lacked, pairs)


class _GovernedCall(Watch):
    """One call of an agent: its span, its confidence, and its refusals in the words of this package."""

    def __init__(
        self, manager: BudgetManager, agent: str, note: str, confidence_fn: Callable[[Any], Any] | None
    ) -> None:
        super().__init__(confidence_fn)
        self._manager = manager
        self._agent = agent
        self._note = note
        self._tokens = 0

    def __enter__(self) -> Watch:
        self._end = self._manager.telemetry.start_call(self._agent, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        said = self._in_our_words(failure)
        self._end(self._tokens, isinstance(said, GateBlockedError), said or failure)
        if said is not None:
            raise said from failure

    def returned(self, result: object) -> float | None:
        """How sure the result is, as far as that can be told."""
        confidence = super().returned(result)
        if confidence is not None:
            self._manager.contracts[self._agent].last_confidence = confidence
        return confidence

    def used(self, tokens: int) -> None:
        """For the span."""
        self._tokens = tokens

    def _in_our_words(self, failure: BaseException | None) -> BudgetExceededError | None:
        account = self._manager.ledger.books.account_of(self._agent)
        if isinstance(failure, BudgetOverrun) and failure.account == account:
            self._tokens = failure.used
            return BudgetExceededError(
                self._agent, failure.used, failure.available, result=failure.result, has_run=True
            )
        if isinstance(failure, Gated):
            contract = self._manager.contracts[self._agent]
            self._manager.telemetry.gate_block(self._agent, contract.last_confidence, contract.confidence_threshold)
            return GateBlockedError(self._agent, self._manager.remaining(self._agent), str(failure))
        if isinstance(failure, Refusal) and failure.code in SHORT:
            available = max(0, left_of(failure) or 0)
            return BudgetExceededError(self._agent, failure.refused.requested or 0, available, why=str(failure))
        return None


def _task_of(task: str | Callable[..., str | None] | None) -> TaskOf | None:
    if task is None:
        return None
    return lambda args, kwargs: task(*args, **kwargs) if callable(task) else task

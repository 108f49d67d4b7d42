"""``ThreadBudgetRegistry``: a budget for each thread, kept in a ledger of Fiscus."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from fiscus.compat.places import ledger_at
from fiscus.compat.xml_pipeline.budget import (
    MAX_TOKENS_DEFAULT,
    BudgetThresholdCrossed,
    Severity,
    ThreadBudget,
    checked_counts,
)
from fiscus.compat.xml_pipeline.errors import BudgetExhaustedError, ThreadEndedError
from fiscus.compat.xml_pipeline.threads import State, Threads
from fiscus.contract import CallRecord
from fiscus.contract.errors import AccountNotActive, BudgetBusy, BudgetExceeded
from fiscus.contract.logs import get_logger
from fiscus.sdk import SyncTreasury

log = get_logger(__name__)

LEASE_S = 600
"""How long what was checked is held for a request that is not heard of again, in seconds."""

CHECKS_MAX = 100_000


class ThreadBudgetRegistry:
    """Budgets of threads. ``check_budget`` holds what it is asked for, and ``consume`` books it: nothing slips between.

    A hop of a thread (``extend_chain``) draws on the budget of its root. What was used outlives the process.

    Args:
        max_tokens_per_thread: of threads that begin from now on; None: what the ledger's template ``thread:*`` says, or
            100,000.
        place: which ledger; see ``fiscus.compat.places.ledger_at``.
        namespace: threads of the same id in other namespaces are other threads.
        parent: an account whose budgets bind all these threads together.
    """

    def __init__(
        self,
        max_tokens_per_thread: int | None = None,
        *,
        place: str | SyncTreasury | None = None,
        namespace: str | None = None,
        parent: str | None = None,
    ) -> None:
        if max_tokens_per_thread is not None:
            checked_counts(max_tokens_per_thread)
        self.treasury = ledger_at(place)
        prefix = "thread:" if namespace is None else f"thread-{namespace}:"
        self.threads = Threads(self.treasury.asynchronous, prefix, max_tokens_per_thread, parent)
        self.max_tokens_per_thread = MAX_TOKENS_DEFAULT if max_tokens_per_thread is None else max_tokens_per_thread
        self._mutex = threading.Lock()
        self._checks: OrderedDict[str, tuple[str, int, float]] = OrderedDict()

    def configure(self, max_tokens_per_thread: int) -> None:
        """Another limit, for threads that begin from now on."""
        checked_counts(max_tokens_per_thread)
        self.max_tokens_per_thread = max_tokens_per_thread
        self._wait(self.threads.configure(max_tokens_per_thread))

    def get_budget(self, thread_id: str) -> ThreadBudget:
        """The budget that a thread draws on, begun now if it is not there."""
        return self._shown(thread_id, self._wait(self.threads.open(thread_id)))

    def has_budget(self, thread_id: str) -> bool:
        """Whether a thread has begun and has not ended."""
        state = self._wait(self.threads.find(thread_id))
        return state is not None and state.is_open

    def extend_chain(self, thread_id: str, new_thread_id: str) -> ThreadBudget:
        """A thread goes on under another id: that draws on the same budget, and ends with it.

        Raises:
            ValueError: the other id has a budget of its own already.
        """
        return self._shown(new_thread_id, self._wait(self.threads.extend(thread_id, new_thread_id)))

    def check_budget(self, thread_id: str, estimated_tokens: int = 0) -> bool:
        """Ask before a request. What it may use is held until ``consume``, and so is not there for others.

        A second check by the same task (or thread of the program) before that takes the place of the first.

        Raises:
            BudgetExhaustedError: nothing is left, or not as much, or others hold it.
        """
        checked_counts(estimated_tokens)
        state: State = self._wait(self.threads.open(thread_id))
        if not state.is_open:
            raise self._ended(thread_id, state)
        if not estimated_tokens:
            budget = state.budget()
            if budget.is_exhausted:
                raise BudgetExhaustedError(thread_id, budget.total_tokens, budget.max_tokens)
            return True
        key = _key(thread_id)
        with self._mutex:
            before = self._checks.get(key)
        try:
            hold = self._wait(self.threads.hold(thread_id, estimated_tokens, LEASE_S, before[0] if before else None))
        except (BudgetExceeded, BudgetBusy) as refused:
            budget = self._wait(self.threads.open(thread_id)).budget()
            raise BudgetExhaustedError(thread_id, budget.total_tokens, budget.max_tokens) from refused
        except AccountNotActive as refused:
            raise self._ended(thread_id, self._wait(self.threads.open(thread_id))) from refused
        self._keep_check(key, (hold, estimated_tokens, time.monotonic()))
        return True

    def consume(
        self,
        thread_id: str,
        prompt_tokens: int = 0,
        completion_tokens: int = 0,
        *,
        record: CallRecord | None = None,
    ) -> tuple[ThreadBudget, list[BudgetThresholdCrossed]]:
        """Book what a request has used, also when it is more than was left, or the thread has ended meanwhile.

        Returns:
            The budget after it, and the thresholds that it has crossed, in ascending order, each once for a thread.
        """
        self.booked(thread_id, prompt_tokens, completion_tokens, record=record)
        return self.crossed(thread_id)

    def booked(
        self, thread_id: str, prompt_tokens: int, completion_tokens: int, *, record: CallRecord | None = None
    ) -> ThreadBudget:
        """As ``consume``, but thresholds that are crossed are left to be told."""
        checked_counts(prompt_tokens, completion_tokens)
        amounts = {"input_tokens": prompt_tokens, "output_tokens": completion_tokens}
        hold = self._take_check(thread_id)
        self._wait(self.threads.book(thread_id, amounts, record, hold))
        state: State = self._wait(self.threads.open(thread_id))
        return state.budget()

    def crossed(self, thread_id: str) -> tuple[ThreadBudget, list[BudgetThresholdCrossed]]:
        """The budget of a thread, and the thresholds that it has crossed and that nobody was told of."""
        state, crossed = self._wait(self.threads.tell(thread_id, ThreadBudget.check_thresholds))
        return self._shown(thread_id, state), crossed

    def tell(self, thread_id: str, crossed: list[BudgetThresholdCrossed]) -> list[BudgetThresholdCrossed]:
        """Those of the thresholds of a thread that were not told, and are told by this."""

        def untold(budget: ThreadBudget) -> list[BudgetThresholdCrossed]:
            return [one for one in crossed if one.threshold_percent not in budget.triggered_thresholds]

        if not crossed or not self.has_budget(thread_id):
            return []
        told: list[BudgetThresholdCrossed] = self._wait(self.threads.tell(thread_id, untold))[1]
        return told

    def get_usage(self, thread_id: str) -> dict[str, int] | None:
        """A thread's figures by name; None: it has not begun, or has ended."""
        state = self._wait(self.threads.find(thread_id))
        return state.budget().as_dict() if state is not None and state.is_open else None

    def get_all_usage(self) -> dict[str, dict[str, int]]:
        """Of all threads that have begun and not ended; a hop with what it used itself."""
        return {thread_id: state.figures() for thread_id, state in self._wait(self.threads.all()).items()}

    def request_increase(self, thread_id: str, tokens: int, reason: str) -> str:
        """Ask for more tokens for a thread: an override, granted by somebody else, or at once where the budget says so.

        Returns:
            ``approved``, ``pending``, or what else became of it; see ``docs/guides/overrides.md``.

        Raises:
            Refusal: it is more than the budget's policy allows.
        """
        state: str = self._wait(self.threads.ask_for_more(thread_id, tokens, reason))
        return state

    def reset_thread(self, thread_id: str) -> None:
        """Give back what a thread has used; that is an adjustment, which stays in the journal."""
        self._wait(self.threads.reset(thread_id))

    def clear(self) -> None:
        """Reset all threads."""
        for thread_id in self._wait(self.threads.all()):
            self.reset_thread(thread_id)

    def cleanup_thread(self, thread_id: str) -> ThreadBudget | None:
        """End a thread, with all its hops: what it holds is free again, and it calls no more.

        Returns:
            Its final figures, for billing: of a root all that was used on its budget, of a hop its own. None: it has
            not begun, or was ended before.
        """
        closed: tuple[State, list[str]] | None = self._wait(self.threads.close(thread_id))
        if closed is None:
            return None
        ended, accounts = closed
        for hold, account in self._take_checks_of(set(accounts)):
            self._wait(self.treasury.asynchronous.release(hold, account=account))
        final = ended.own()
        log.debug("thread_ended", thread=thread_id, **final.as_dict())
        return final

    def _shown(self, thread_id: str, state: State) -> ThreadBudget:
        budget = state.budget()
        return _Shown(
            max_tokens=budget.max_tokens,
            prompt_tokens=budget.prompt_tokens,
            completion_tokens=budget.completion_tokens,
            request_count=budget.request_count,
            triggered_thresholds=budget.triggered_thresholds,
            registry=self,
            thread_id=thread_id,
        )

    def _keep_check(self, key: str, check: tuple[str, int, float]) -> None:
        """Remember what is held for a request."""
        with self._mutex:
            self._checks.pop(key, None)
            self._checks[key] = check
            oldest = time.monotonic() - LEASE_S
            while self._checks:
                first = next(iter(self._checks))
                if self._checks[first][2] >= oldest and len(self._checks) <= CHECKS_MAX:
                    break
                del self._checks[first]  # its lease is over

    def _take_checks_of(self, accounts: set[str]) -> list[tuple[str, str]]:
        """What is held for requests of threads that have ended: (hold, account)."""
        with self._mutex:
            owners = {key: self.threads.account_of(key.rpartition(":")[0]) for key in self._checks}
            return [(self._checks.pop(key)[0], owner) for key, owner in owners.items() if owner in accounts]

    def _take_check(self, thread_id: str) -> tuple[str, int] | None:
        """The hold of the request that ends: that of the same task, else the oldest of the thread, if there is one."""
        with self._mutex:
            mine = self._checks.pop(_key(thread_id), None)
            if mine is not None:
                return mine[:2]
            found = next((key for key in self._checks if key.rpartition(":")[0] == thread_id), None)
            return self._checks.pop(found)[:2] if found is not None else None

    def _ended(self, thread_id: str, state: State) -> ThreadEndedError:
        budget = state.budget()
        return ThreadEndedError(thread_id, budget.total_tokens, budget.max_tokens)

    def _wait(self, work: Any) -> Any:
        return self.treasury.thread.wait(work)


class _Shown(ThreadBudget):
    """A thread's budget as it was read; what is consumed of it is booked, and then it shows that."""

    def __init__(self, *, registry: ThreadBudgetRegistry, thread_id: str, **figures: Any) -> None:
        super().__init__(**figures)
        self._registry = registry
        self._thread_id = thread_id

    def consume(self, prompt_tokens: int, completion_tokens: int) -> None:
        """Book it, without telling thresholds: ``check_thresholds`` does that here."""
        after = self._registry.booked(self._thread_id, prompt_tokens, completion_tokens)
        self.prompt_tokens = after.prompt_tokens
        self.completion_tokens = after.completion_tokens
        self.request_count = after.request_count

    def check_thresholds(self, thresholds: Mapping[int, Severity] | None = None) -> list[BudgetThresholdCrossed]:
        """See ``ThreadBudget``; what is told here is told nowhere else any more, nor here what was told elsewhere."""
        return self._registry.tell(self._thread_id, super().check_thresholds(thresholds))


def _key(thread_id: str) -> str:
    """Who asks: a task, or a thread of the program, for a thread."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return f"{thread_id}:{id(task) if task is not None else threading.get_ident()}"


_registry: ThreadBudgetRegistry | None = None
_registry_mutex = threading.Lock()
"""The registry of programs that ask for the one of the process, as the original had it."""


def get_budget_registry() -> ThreadBudgetRegistry:
    """The registry of this process, made when it is first asked for."""
    global _registry  # noqa: PLW0603  (see above)
    with _registry_mutex:
        if _registry is None:
            _registry = ThreadBudgetRegistry()
        return _registry


def configure_budget_registry(max_tokens_per_thread: int) -> ThreadBudgetRegistry:
    """Set the limit of the threads of this process that begin from now on."""
    registry = get_budget_registry()
    registry.configure(max_tokens_per_thread)
    return registry


def reset_budget_registry() -> None:
    """Forget the registry of this process. Its books stay in the ledger."""
    global _registry  # noqa: PLW0603  (see above)
    with _registry_mutex:
        _registry = None

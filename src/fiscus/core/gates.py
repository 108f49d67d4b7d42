"""The confidence gate: once a call of a task was sure enough of its result, the next call of that task is refused.

A gate belongs to one account and one task (T12, T15). The task is what the call names when it asks
(``attributes["task"]``); calls that name none are a task of their own. Only usage that is booked without a hold has no
such moment: there the attributes of the settlement say it, else the record's provenance. No confidence, no gate.

Confidences are kept in millionths, so that the state has no fractions: a threshold rounded up, what is compared with it
rounded down. With six decimals or fewer that is exact, and with more a gate never closes below its threshold.
"""

from __future__ import annotations

from decimal import Decimal
from hashlib import blake2b
from math import ceil

from msgspec import UNSET

from fiscus.core.answers import account_answer
from fiscus.core.checks import check, invalid, to_datetime
from fiscus.core.commands import PutAccount, Request, ResetGate, Settle
from fiscus.core.events import MILLION, GateClosed, GateReset, GateTerms, Private
from fiscus.core.outcomes import AccountAnswer, Refused
from fiscus.core.scopes import find_account
from fiscus.core.state import NEVER, Account, Draft

GATES_MAX = 64
"""Tasks of one account that are closed at once. Beyond it the one that closed first opens: a gate saves tokens, it does
not keep a limit."""

TASK = "task"
"""The attribute of a call that names its task."""


def millionths(value: float) -> int:
    """A confidence in 0 … 1 as an integer, rounded down, by its decimal digits.

    >>> millionths(0.9), millionths(0.29), millionths(0.8999999), millionths(1)
    (900000, 290000, 899999, 1000000)
    """
    return int(Decimal(repr(value)) * MILLION)


def threshold_millionths(value: float) -> int:
    """A threshold in 0 … 1 as an integer, rounded up.

    >>> threshold_millionths(0.9), threshold_millionths(0.1234561), threshold_millionths(1e-300)
    (900000, 123457, 1)
    """
    return ceil(Decimal(repr(value)) * MILLION)


def task_key(task: str) -> str:
    """What stands for a task in the journal, which has no names: short, and empty for calls that name none.

    >>> task_key(""), len(task_key("summarise"))
    ('', 16)
    """
    return blake2b(task.encode("utf-8"), digest_size=8).hexdigest() if task else ""


def task_of(attributes: dict[str, str]) -> str:
    """The key of the task that a call names."""
    return task_key(attributes.get(TASK, ""))


def gate_refusal(account: Account, attributes: dict[str, str], now: int) -> Refused | None:
    """The refusal by a gate that is closed for this task; ``account`` has closed gates."""
    until = account.gates.get(task_of(attributes))
    if until is None or until <= now:
        return None
    task = attributes.get(TASK)
    named = f"task {task!r}" if task else "its work"
    opens = f"until {to_datetime(until).isoformat(timespec='seconds')}" if until < NEVER else "until it is reset"
    return Refused(
        code="gated",
        detail=f"{account.display_name}: {named} has been done with enough confidence; no more calls {opens}",
        resets_at=to_datetime(until) if until < NEVER else None,
    )


def note_confidence(draft: Draft, number: int, task: str, command: Settle, now: int) -> None:
    """Close the gate of an account for a task if the settlement's confidence reaches its threshold."""
    account = draft.accounts[number]
    terms, record = account.gate, command.record
    if terms is None or record is None or record.confidence is None or account.status not in ("active", "suspended"):
        return
    confidence = millionths(record.confidence)
    if confidence < terms.threshold:
        return
    name = task_name(command)
    draft.emit(
        GateClosed(
            account=number,
            task=task,
            confidence=confidence,
            threshold=terms.threshold,
            until=None if terms.closed_s is None else now + terms.closed_s * 1000,
            opened=_to_open(account, task, now),
            private=Private(attributes={TASK: name}) if name and task_key(name) == task else None,
        )
    )


def task_name(command: Settle) -> str:
    """The task that a settlement names: by its attributes, else by the record's provenance; empty: none."""
    task = command.attributes.get(TASK, "")
    provenance = command.record.provenance if command.record is not None else None
    if task or provenance is None:
        return task
    return provenance.task_name or provenance.task_type or ""


def _to_open(account: Account, task: str, now: int) -> tuple[str, ...]:
    """Other gates that are open again, and if there are too many closed ones the first of them."""
    others = {key: until for key, until in account.gates.items() if key != task}
    opened = [key for key, until in others.items() if until <= now]
    closed = [key for key, until in others.items() if until > now]
    return tuple(opened + closed[: max(0, len(closed) - GATES_MAX + 1)])


def reset_gate(draft: Draft, request: Request, command: ResetGate, now: int) -> AccountAnswer | Refused:
    """Open the gate of a task, or all of an account; without effect where none is closed."""
    wrong = check(command)
    if wrong is not None:
        return wrong
    account = find_account(draft, command.account, request.scope)
    if isinstance(account, Refused):
        return account
    task = None if command.task is None else task_key(command.task)
    if account.gates if task is None else task in account.gates:
        draft.emit(GateReset(account=account.number, task=task, actor=request.actor))
    return account_answer(draft, draft.accounts[account.number])


def new_terms(command: PutAccount, known: GateTerms | None) -> GateTerms | Refused | None:
    """The terms of an account's gate as the command wants them; what it leaves out stays as it is."""
    threshold = command.confidence_threshold
    gate_s = command.gate_s
    if threshold is UNSET:
        threshold = known.confidence_threshold if known is not None else None
    if threshold is None and gate_s is not UNSET and gate_s is not None:
        return invalid("gate_s", "goes with confidence_threshold, and there is none")
    if gate_s is UNSET:
        gate_s = known.closed_s if known is not None else None
    return terms_of(threshold, gate_s)


def terms_of(threshold: float | None, closed_s: int | None) -> GateTerms | None:
    """The terms of a gate as the state keeps them; None: no gate."""
    return None if threshold is None else GateTerms(threshold=threshold_millionths(threshold), closed_s=closed_s)


__all__ = [
    "GATES_MAX",
    "TASK",
    "gate_refusal",
    "millionths",
    "new_terms",
    "note_confidence",
    "reset_gate",
    "task_key",
    "task_name",
    "task_of",
    "terms_of",
]

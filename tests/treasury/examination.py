"""What a ledger must be found to be after its process has died."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from fiscus.contract.errors import TreasuryError
from fiscus.contract.queries import HoldView, ReadHold
from fiscus.core.commands import Adjust, Request, Reserve, Settle, Transfer
from fiscus.core.outcomes import AnyOutcome, HoldAnswer, Refused
from fiscus.stores.sqlite.store import SqliteStore
from fiscus.treasury.clock import HostClock
from fiscus.treasury.verify import verify
from tests.treasury.callers import CALLERS, TENANTS, Books, books, operation
from tests.treasury.desk import Desk, entities, usage
from tests.treasury.victims import Note


@dataclass
class Report:
    """What is known from outside of one run."""

    run: str
    answered: list[tuple[Request, AnyOutcome]] = field(default_factory=list)
    unanswered: list[Request] = field(default_factory=list)

    @classmethod
    def read(cls, run: str, lines: Iterable[bytes]) -> Report:
        """From the lines that a victim left; the last one may be cut."""
        report, sent = cls(run), {}
        for line in lines:
            if not line.endswith(b"\n"):
                continue
            note = msgspec.json.decode(line, type=Note)
            place = note.caller, note.number
            if note.outcome is None:
                sent[place] = operation(run, *place)
            else:
                report.answered.append((sent.pop(place), note.outcome))
        report.unanswered = list(sent.values())
        assert len(report.unanswered) <= CALLERS
        return report


def ids_held(store: SqliteStore, tenant: str) -> Counter[str]:
    """How often each id of a hold (or of usage without one) stands in the journal."""
    number = store.journal.tenants()[tenant]
    found: Counter[str] = Counter()
    for entry in store.journal.entries(number, 0, 10**9):
        event = msgspec.json.decode(entry.body)
        if event["kind"] == "held" or (event["kind"] in ("settled", "released") and event.get("account") is not None):
            found[event["id"]] += 1
    return found


def faults(store: SqliteStore) -> list[str]:
    """Everything that ``verify`` finds from the first entry on, in all tenants: chain, E1 … E9, views."""
    return [
        f"{tenant}: {fault.invariant} at {fault.seq}: {fault.detail}"
        for tenant in store.journal.tenants()
        for fault in verify(store, tenant, from_start=True).faults
    ]


def lost_or_doubled(store: SqliteStore, reports: Iterable[Report]) -> list[str]:
    """Answered operations that are not in the journal exactly once, as far as their id says."""
    wrong = []
    held = {tenant: ids_held(store, tenant) for tenant in TENANTS if tenant in store.journal.tenants()}
    for report in reports:
        for request, outcome in report.answered:
            command = request.command
            if isinstance(outcome, Refused):
                continue
            if isinstance(command, Reserve) or (isinstance(command, Settle) and command.account is not None):
                times = held.get(request.tenant, Counter())[command.id]
            elif request.idempotency_key is not None:
                number = store.journal.tenants()[request.tenant]
                times = len(store.journal.find_answers(number, [request.idempotency_key]))
            else:
                continue
            if times != 1:
                wrong.append(f"{type(command).__name__} {request.tenant} {command}: {times} times")
    return wrong


def is_no(answer: object) -> bool:
    """Whether it is a refusal: that is not remembered, and the same id may be tried again."""
    return isinstance(answer, Refused)


def without_lease(answer: object) -> object:
    """An answer without the end of its lease, which a repeated extension moves."""
    return msgspec.structs.replace(answer, expires_at=None) if isinstance(answer, HoldAnswer) else answer


def examine(path: Path, reports: list[Report]) -> None:
    """Open the ledger of a dead process and compare it with all that is known of it.

    The last report's unanswered operations are sent again, twice; they count as answered from then on.
    """
    store = SqliteStore(path)
    assert faults(store) == []
    assert lost_or_doubled(store, reports) == []
    desk = Desk(store, HostClock())
    report = reports[-1]
    unclear = {getattr(request.command, "id", None) for request in report.unanswered}
    last_words = {
        (request.tenant, outcome.id): outcome
        for request, outcome in report.answered
        if isinstance(outcome, HoldAnswer) and outcome.id not in unclear
    }
    for request, outcome in report.answered[-200:]:
        if isinstance(request.command, Reserve | Transfer | Adjust) and not is_no(outcome):
            assert desk.ask(request)[0] == outcome, "a repeated operation has its first answer"
    for (tenant, id), said in list(last_words.items())[-200:]:
        view = desk.ask(ReadHold(tenant=tenant, id=id))[0]
        assert isinstance(view, HoldView)
        assert view.hold == said, "a hold is as it was answered last"
    answers = desk.ask(*report.unanswered)
    assert not [answer for answer in answers if isinstance(answer, TreasuryError)]
    done = [(request, answer) for request, answer in zip(report.unanswered, answers, strict=True) if not is_no(answer)]
    repeated = desk.ask(*(request for request, _ in done))
    assert [without_lease(answer) for answer in repeated] == [without_lease(answer) for _, answer in done]
    report.answered += zip(report.unanswered, answers, strict=True)  # type: ignore[arg-type]
    report.unanswered = []
    desk.write_views()
    assert faults(store) == []
    expected = books(pair for one in reports for pair in one.answered)
    for tenant in TENANTS:
        compare(desk, tenant, expected[tenant])
    kept = {tenant: (entities(store, tenant), usage(store, tenant)) for tenant in TENANTS}
    desk.engine.close()
    for suffix in ("-views", "-views-wal", "-views-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    again = Desk(SqliteStore(path), HostClock())
    for tenant in TENANTS:
        again.engine.ledger(tenant)
    again.write_views()
    for tenant in TENANTS:
        assert (entities(again.engine.store, tenant), usage(again.engine.store, tenant)) == kept[tenant]
    again.engine.close()


def compare(desk: Desk, tenant: str, expected: Books) -> None:
    """The balances of a tenant against what its operations add up to."""
    for account in {call.account for call in expected.calls.values()} | set(expected.limits):
        balance = desk.balance(account, tenant=tenant)
        figures = {name: getattr(balance, name) for name in ("covered", "held", "uncovered", "limit")}
        assert figures == expected.balance(account), f"{tenant} {account}"
    edge = expected.balance("agent:edge")
    assert edge["covered"] + edge["held"] <= edge["limit"]
    for pool, size in expected.pools.items():
        assert desk.balance(pool, "allocation-tokens", tenant).limit == size, f"{tenant} {pool}"
    names = desk.engine.ledger(tenant).draft.names
    for name, status in expected.names.items():
        number = names.find(name)
        assert (number is None) == (status is None), name
        if status is not None:
            assert desk.account(name, tenant).status == status

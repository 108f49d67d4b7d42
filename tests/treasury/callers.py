"""Callers whose every operation is known beforehand, and what the books must say of those that happened.

Nothing here looks at the journal or at the core's state: what is expected follows from the operations alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from fiscus.core.commands import (
    Adjust,
    Allocate,
    EraseName,
    Extend,
    PutAccount,
    PutBudget,
    Release,
    Request,
    Reserve,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.outcomes import AnyOutcome, Refused
from fiscus.core.records import CallRecord, Tokens

CALLERS = 16
PLENTY = 10**12
POOL = 10**9
EDGE_LIMIT = 3_000
LEASE_S = 86_400
TENANTS = ("default", "second")


def tenant_of(caller: int) -> str:
    """Two of the callers work in a tenant of their own."""
    return TENANTS[1] if caller % 8 == 7 else TENANTS[0]


def founding() -> list[Request]:
    """The accounts of all callers: each has its own, two share a pair of pools, all compete for the edge."""
    commands: list[Any] = [
        PutAccount(account="global"),
        PutBudget(account="global", unit="tokens", limit=PLENTY),
        PutAccount(account="agent:edge", parent="global"),
        PutBudget(account="agent:edge", unit="tokens", limit=EDGE_LIMIT),
    ]
    for caller in range(CALLERS):
        commands += [
            PutAccount(account=f"agent:{caller}", parent="global"),
            PutBudget(account=f"agent:{caller}", unit="tokens", limit=PLENTY),
            PutAccount(account=f"pool:{caller}", parent="global"),
            Allocate(account=f"pool:{caller}", unit="tokens", to=POOL),
        ]
    return [Request(tenant=tenant, command=command) for tenant in TENANTS for command in commands]


def plan(run: str, caller: int) -> Iterator[Request]:
    """What a caller does, without end; each operation can be repeated without a second effect."""
    tenant, mine = tenant_of(caller), f"agent:{caller}"
    for number in count():
        id = f"{run}-{caller}-{number}"
        size = 10 + (number * 7 + caller * 13) % 90
        record = CallRecord(model="gpt", tokens=Tokens(input=size, output=1), user_id=f"user of {id}")
        commands: list[Any]
        match (number + caller) % 7:
            case 0:
                commands = [
                    hold(id, mine, size),
                    Extend(id=id, to={"tokens": size + 5}, lease_s=LEASE_S),
                    Settle(id=id, total={"tokens": size + 9}, record=record),
                ]
            case 1:
                commands = [
                    hold(id, mine, size),
                    Settle(id=id, total={"tokens": size // 2}, final=False),
                    Settle(id=id, total={"tokens": size - 3}),
                ]
            case 2:
                commands = [hold(id, mine, size), Release(id=id)]
            case 3:
                commands = [Settle(id=id, account=mine, total={"tokens": size}, record=record)]
            case 4:
                pools = f"pool:{caller}", f"pool:{(caller + 8) % CALLERS}"
                commands = [
                    Transfer(source=pools[0], target=pools[1], unit="tokens", amount=size, reason=id),
                    Adjust(id=id, account=mine, budget="tokens-lifetime", amount=size, reason="more"),
                ]
            case 5:
                commands = [hold(id, "agent:edge", size), Settle(id=id, total={"tokens": size - 5})]
            case _:
                name = f"user:{id}"
                commands = [
                    PutAccount(account=name, parent=mine, labels={"name": name}),
                    SetStatus(account=name, status="closed"),
                    EraseName(account=name),
                ]
        for index, command in enumerate(commands):
            has_id = isinstance(command, Reserve | Extend | Settle | Release)
            yield Request(tenant=tenant, command=command, idempotency_key=None if has_id else f"{id}-{index}")


def hold(id: str, account: str, size: int) -> Reserve:
    """A hold that does not expire while the test runs."""
    return Reserve(id=id, account=account, amounts={"tokens": size}, lease_s=LEASE_S)


def operation(run: str, caller: int, number: int) -> Request:
    """The operation with this number of a caller's plan."""
    return next(islice(plan(run, caller), number, None))


@dataclass
class Call:
    """A hold as it should be after the operations that happened."""

    account: str
    reserved: int = 0
    booked: int = 0
    is_open: bool = True

    def move(self, command: Any) -> None:
        """Take in one more operation."""
        if isinstance(command, Extend):
            self.reserved = max(self.reserved, command.to["tokens"])
        elif isinstance(command, Settle):
            self.booked = command.total["tokens"]
            self.is_open = self.is_open and not command.final
        elif isinstance(command, Release):
            self.is_open = False


@dataclass
class Books:
    """What the operations that happened must have left in one tenant."""

    calls: dict[str, Call] = field(default_factory=dict)
    pools: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: POOL))
    limits: dict[str, int] = field(default_factory=lambda: defaultdict(lambda: PLENTY))
    names: dict[str, str | None] = field(default_factory=dict)

    def happened(self, command: Any) -> None:
        """One operation took effect; those of one hold come in their order."""
        if isinstance(command, Reserve):
            self.calls[command.id] = Call(command.account, command.amounts["tokens"])
        elif isinstance(command, Settle) and command.account is not None:
            self.calls[command.id] = Call(command.account, booked=command.total["tokens"], is_open=False)
        elif isinstance(command, Extend | Settle | Release):
            self.calls[command.id].move(command)
        elif isinstance(command, Transfer):
            self.pools[command.source] -= command.amount
            self.pools[command.target] += command.amount
        elif isinstance(command, Adjust):
            self.limits[command.account] += command.amount
        elif isinstance(command, PutAccount | SetStatus):
            self.names[command.account] = "active" if isinstance(command, PutAccount) else command.status
        elif isinstance(command, EraseName):
            self.names[command.account] = None

    def balance(self, account: str) -> dict[str, int]:
        """P, H and O of an account's budget."""
        mine = [call for call in self.calls.values() if call.account == account]
        return {
            "covered": sum(min(call.booked, call.reserved) for call in mine),
            "held": sum(call.reserved - min(call.booked, call.reserved) for call in mine if call.is_open),
            "uncovered": sum(max(0, call.booked - call.reserved) for call in mine),
            "limit": EDGE_LIMIT if account == "agent:edge" else self.limits[account],
        }


def books(happened: Iterable[tuple[Request, AnyOutcome]]) -> dict[str, Books]:
    """The books of each tenant after operations with their outcomes; refused ones changed nothing."""
    of_tenant = {tenant: Books() for tenant in TENANTS}
    for request, outcome in happened:
        if not isinstance(outcome, Refused):
            of_tenant[request.tenant].happened(request.command)
    return of_tenant

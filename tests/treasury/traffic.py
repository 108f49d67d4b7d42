"""Seeded streams of requests that touch everything a ledger knows, refusals included."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from fiscus.core.commands import (
    Adjust,
    Allocate,
    ApproveOverride,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    EraseName,
    Extend,
    PutAccount,
    PutBudget,
    PutKey,
    PutTemplate,
    Release,
    RemoveBudget,
    Request,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeKey,
    RevokeOverride,
    SetStatus,
    Settle,
    TemplateBudget,
    Transfer,
)
from fiscus.core.outcomes import HoldAnswer
from fiscus.core.records import CallRecord, Tokens

TEAMS = ("team:a", "team:b")
AGENTS = tuple(f"agent:{letter}" for letter in "abcdefghij")
DAY_MS = 86_400_000
DECIDED_EVERY = 13
"""One request of so many is about an override or a confidence gate."""


def founding(tenant: str = "default") -> list[Request]:
    """A tree of three levels with budgets of several units and periods, and a template for threads."""
    commands: list[Any] = [
        PutAccount(account="global"),
        PutBudget(account="global", unit="tokens", limit=60_000, period="every:30", carry_over="unused", carry_max=500),
        PutBudget(account="global", unit="cost", limit=9_000_000, period="day", zone="Europe/Vienna"),
    ]
    for team in TEAMS:
        commands += [
            PutAccount(account=team, parent="global"),
            PutBudget(account=team, unit="tokens", limit=20_000, period="hour", carry_debt=True),
            PutBudget(account=team, unit="tokens", limit=900, budget="gpt", match={"model": "gpt"}, period="every:60"),
        ]
    for index, agent in enumerate(AGENTS):
        commands.append(PutAccount(account=agent, parent=TEAMS[index % 2], labels={"owner": f"person {index}"}))
    commands.append(PutBudget(account="agent:a", unit="tokens", limit=700, period="every:45", on_exhaustion="suspend"))
    commands.append(
        PutTemplate(
            pattern="thread:*",
            parent="agent:h",
            budgets=(TemplateBudget(unit="tokens", limit=300), TemplateBudget(unit="calls", limit=5)),
        )
    )
    commands += [PutKey(key=key, digest=f"digest of {key}", role="operator") for key in ("asker", "boss")]
    return [Request(tenant=tenant, command=command) for command in commands]


class Traffic:
    """An endless stream of requests; the same seed gives the same stream."""

    def __init__(self, seed: int, tenant: str = "default") -> None:
        self._random = random.Random(seed)
        self._tenant = tenant
        self._count = 0
        self._holds: list[str] = []
        self._adjustments: list[str] = []
        self._overrides: list[str] = []

    def pause_ms(self) -> int:
        """How long nothing happens before the next batch: mostly little, now and then hours or days."""
        return self._random.choices((0, 40, 4_000, 700_000, DAY_MS), (40, 40, 15, 4, 1))[0]

    def batch(self, length: int) -> list[Request]:
        """The next requests; those without an id of their own have an idempotency key."""
        return [self._next() for _ in range(length)]

    def heard(self, requests: Sequence[Request], answers: Sequence[object]) -> None:
        """What became of a batch: holds that exist are settled, extended and released later."""
        for request, answer in zip(requests, answers, strict=True):
            command = request.command
            if isinstance(command, Reserve | Settle) and isinstance(answer, HoldAnswer):
                self._holds.append(answer.id)

    def _next(self) -> Request:
        self._count += 1
        command = self._command() if self._count % DECIDED_EVERY else self._decided()
        key = f"key-{self._count}" if not isinstance(command, Reserve | Extend | Settle | Release) else None
        actor = ""
        if isinstance(command, RequestOverride | ApproveOverride | DenyOverride | RevokeOverride):
            actor = "asker" if isinstance(command, RequestOverride) else self._random.choice(("boss", "boss", "asker"))
        return Request(tenant=self._tenant, command=command, idempotency_key=key, actor=actor)

    def _payer(self) -> str:
        pick = self._random
        if pick.random() < 0.3:
            return f"thread:{pick.randrange(40)}"
        return pick.choice((*AGENTS, *AGENTS, *TEAMS, "global", "agent:unknown"))

    def _amounts(self) -> Any:
        pick = self._random
        return {"tokens": pick.choice((0, 1, 17, 45, 120, 290)), "cost": pick.randrange(90_000)}

    def _hold(self) -> str:
        recent = self._holds[-30:]
        return self._random.choice(recent) if recent else "none"

    def _command(self) -> Any:
        pick = self._random
        kind = pick.choices(
            ("reserve", "settle", "extend", "release", "usage", "manage", "carve", "adjust", "compound"),
            (34, 22, 6, 7, 8, 9, 8, 4, 2),
        )[0]
        if kind == "reserve":
            also = (pick.choice(AGENTS),) if pick.random() < 0.08 else ()
            attributes = {"model": "gpt"} if pick.random() < 0.3 else {}
            return Reserve(
                id=f"hold-{self._count}",
                account=self._payer(),
                amounts=self._amounts(),
                also=also,
                attributes=attributes,
                lease_s=pick.choice((1, 20, 600)),
            )
        if kind == "settle":
            return Settle(id=self._hold(), total=self._amounts(), final=pick.random() < 0.8, record=self._record())
        if kind == "extend":
            return Extend(id=self._hold(), to=self._amounts(), lease_s=pick.choice((5, 60)))
        if kind == "release":
            return Release(id=self._hold(), account=pick.choice((None, "agent:b")))
        if kind == "usage":
            id = f"usage-{self._count}"
            return Settle(id=id, account=self._payer(), total=self._amounts(), record=self._record())
        if kind == "manage":
            return self._manage()
        if kind == "carve":
            return self._carve()
        if kind == "adjust":
            return self._adjust()
        first, second = f"hold-{self._count}", f"hold-{self._count}-b"
        return Compound(
            commands=(
                Reserve(id=first, account=self._payer(), amounts=self._amounts()),
                Settle(id=self._hold(), total=self._amounts()),
                Reserve(id=second, account=self._payer(), amounts=self._amounts()),
            )
        )

    def _record(self) -> CallRecord | None:
        pick = self._random
        if pick.random() < 0.5:
            return None
        tokens = Tokens(input=pick.randrange(90), output=pick.randrange(90))
        return CallRecord(model="gpt", provider="openai", tokens=tokens, user_id=f"user {pick.randrange(9)}")

    def _decided(self) -> Any:
        """Something about an override or a gate."""
        pick = self._random
        kind = pick.choice(("ask", "ask", "approve", "approve", "deny", "revoke", "gate", "sure", "sure", "reset"))
        if kind == "ask" or (not self._overrides and kind in ("approve", "deny", "revoke")):
            self._overrides.append(f"override-{self._count}")
            return RequestOverride(
                id=self._overrides[-1],
                account=pick.choice(TEAMS),
                budget="tokens-hour",
                amount=pick.choice((10, 4_000, 50_000)),
                reason="a need",
                valid_s=pick.choice((None, 3, 900)),
                open_s=pick.choice((5, 900)),
            )
        if kind in ("approve", "deny", "revoke"):
            id = pick.choice(self._overrides[-4:])
            if kind == "approve":
                return ApproveOverride(id=id, reason="so be it")
            return DenyOverride(id=id, reason="no") if kind == "deny" else RevokeOverride(id=id)
        account = pick.choice(AGENTS[4:])
        if kind == "gate":
            return PutAccount(account=account, confidence_threshold=pick.choice((0.5, None)))
        if kind == "sure":
            task = {"task": pick.choice(("review", "write"))}
            record = CallRecord(confidence=pick.choice((0.4, 0.9)))
            total: Any = {"tokens": 3}
            return Settle(id=f"sure-{self._count}", account=account, total=total, record=record, attributes=task)
        return ResetGate(account=account, task=pick.choice((None, "review")))

    def _manage(self) -> Any:
        pick = self._random
        account, agent = self._payer(), pick.choice(AGENTS)
        return pick.choice(
            (
                SetStatus(account=pick.choice(AGENTS[:4]), status="suspended", reason="said so"),
                SetStatus(account=account, status="active"),
                *(SetStatus(account=agent, status="active") for agent in AGENTS[:4]),
                SetStatus(account=f"thread:{pick.randrange(40)}", status="closed"),
                EraseName(account=f"thread:{pick.randrange(40)}"),
                PutAccount(account=pick.choice(AGENTS), labels={"n": str(self._count)}),
                PutAccount(account=f"agent:new-{pick.randrange(9)}", parent=pick.choice(TEAMS)),
                PutBudget(account=agent, unit="tokens", limit=pick.choice((0, 900, 8_000)), period="every:60"),
                PutBudget(account=account, unit="calls", limit=9, period="hour", mode=pick.choice(("warn", "observe"))),
                RemoveBudget(account=agent, budget="tokens-every:60"),
                PutKey(key=f"key{pick.randrange(5)}", digest=f"{self._count:064x}", role="viewer", label="a label"),
                RevokeKey(key=f"key{pick.randrange(5)}"),
            )
        )

    def _carve(self) -> Any:
        pick = self._random
        source, target = pick.sample((*AGENTS, *TEAMS), 2)
        return pick.choice(
            (
                Allocate(account=source, unit="tokens", to=pick.choice((400, 3_000, 9_000)), reason="a grant"),
                Allocate(account=pick.choice(AGENTS), unit="cost", to=pick.choice((90_000, 900_000))),
                Transfer(source=source, target=target, unit="tokens", amount=pick.choice((1, 40))),
                Deallocate(account=source, unit=pick.choice(("tokens", "tokens", "cost"))),
            )
        )

    def _adjust(self) -> Any:
        pick = self._random
        if self._adjustments and pick.random() < 0.4:
            return EndAdjustment(id=pick.choice(self._adjustments), account=pick.choice(TEAMS))
        self._adjustments.append(f"adjustment-{self._count}")
        amount = pick.choice((-200, 100, 900))
        return Adjust(
            id=self._adjustments[-1], account=pick.choice(TEAMS), budget="tokens-hour", amount=amount, reason="a need"
        )


def in_batches(requests: Sequence[Request], length: int) -> list[list[Request]]:
    """Requests cut into batches."""
    return [list(requests[start : start + length]) for start in range(0, len(requests), length)]

"""Commands that are worth trying in a given state: mostly sensible ones, with some that must be refused among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from msgspec import UNSET

from fiscus.core.commands import (
    THRESHOLDS_DEFAULT,
    Adjust,
    Allocate,
    ApproveOverride,
    Compound,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    Extend,
    GiveBack,
    Lend,
    LoanPart,
    OverridePolicy,
    PutAccount,
    PutBudget,
    PutTemplate,
    Release,
    RemoveBudget,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeOverride,
    SetStatus,
    Settle,
    TemplateBudget,
    Transfer,
)
from fiscus.core.records import CallRecord, Tokens
from tests.model.model import FOREVER, Model

START_MS = 1_760_004_000_000  # 2025-10-09T10:00:00Z, a full hour
STARTS_MS = (START_MS, 1_761_422_400_000, 1_774_728_000_000)  # and before two changes of the clocks in Europe
HOUR_MS = 3_600_000
NAMES = ("root", "a", "b", "c", "d", "e")
BUDGETS = ("x", "y")
PERIODS = ("lifetime", "hour", "day", "every:1800", "every:7200", "week")
ZONES = ("UTC", "UTC", "UTC", "UTC", "Europe/Berlin", "Asia/Kolkata", "America/St_Johns")
THRESHOLDS: tuple[Any, ...] = (
    THRESHOLDS_DEFAULT,
    THRESHOLDS_DEFAULT,
    {80: "critical"},
    {10: "info", 150: "exhausted"},
    {},
)
POLICIES = (
    None,
    None,
    OverridePolicy(requires_approval=False),
    OverridePolicy(max_percent=100, max_duration_s=1_800),
    OverridePolicy(approvers=(), approver_keys=("looker",)),
)
LEASES = (3600, 60, 1800, 86_400)
STEPS_MS = (1, 1000, 59_999, 600_000, HOUR_MS, 3 * HOUR_MS, 25 * HOUR_MS)


def moment(ms: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=ms)


class Wishes:
    """Makes commands out of the model's state; ``choose`` picks one of several, the simplest being the first."""

    def __init__(self, model: Model, choose: Callable[[Sequence[Any]], Any], now_ms: int) -> None:
        self.model = model
        self.choose = choose
        self.now_ms = now_ms

    # ------------------------------------------------------------------------------------------- what there is

    def seldom(self, times: int = 6) -> bool:
        """True once in so many times."""
        return bool(self.choose(range(times)) == times - 1)

    def account(self) -> str:
        threads = [name for name in self.model.accounts if name.startswith("thread:")]
        if self.model.templates and self.seldom(8):
            return str(self.choose(("thread:0", "thread:1", "thread:2")))
        return str(self.choose([*NAMES, *threads]))

    def scope(self) -> str | None:
        """Mostly none: who asks may do anything."""
        return self.account() if self.seldom(10) else None

    def hold(self) -> str:
        """Mostly one that is still open."""
        known = list(self.model.holds)
        still_open = [h.id for h in self.model.holds.values() if h.state in ("held", "expired")]
        if self.seldom(12):
            return "nobody"
        return str(self.choose(still_open if still_open and not self.seldom() else known or ["nobody"]))

    def budget(self) -> tuple[str, str]:
        known = [(b.account, b.name) for b in self.model.budgets.values() if not b.removed]
        if not known or self.seldom(12):
            return self.account(), str(self.choose(BUDGETS))
        return tuple(self.choose(known))  # type: ignore[return-value]

    def allocation(self) -> tuple[str, Any]:
        known = list(self.model.grants)
        if not known or self.seldom(8):
            return self.account(), self.choose(("tokens", "cost"))
        return tuple(self.choose(known))  # type: ignore[return-value]

    def amounts(self, most: int, whole: bool) -> dict[str, int]:
        """Amounts that bound the usual units (``whole``), or some of them."""
        amounts: dict[str, int] = {}
        if whole or not self.seldom(4):
            amounts["tokens"] = self.choose(range(most + 1))
        if not self.seldom(4) if whole else self.seldom(2):
            amounts["cost"] = self.choose(range(most + 1))
        if self.seldom(8):
            amounts["calls"] = self.choose(range(4))
        if self.seldom(8):
            amounts["input_tokens"] = self.choose(range(most + 1))
            if not self.seldom(3):
                amounts["output_tokens"] = self.choose(range(most + 1))
                if not self.seldom(3):
                    amounts.pop("tokens", None)
        return amounts

    def record(self) -> CallRecord | None:
        if not self.seldom(8):
            return None
        tokens = Tokens(input=self.choose(range(20)), output=self.choose(range(20)), reasoning=3)
        confidence = self.choose((None, 0.5, 0.9))
        return CallRecord(tokens=tokens, cost_nanousd=self.choose((None, 7, 30)), confidence=confidence)

    def also(self) -> tuple[str, ...]:
        return (self.account(),) if self.seldom(4) else ()

    def attributes(self) -> dict[str, str]:
        attributes = {"model": "x"} if self.seldom(3) else {}
        return {**attributes, "task": "t"} if self.seldom(4) else attributes

    def policy(self) -> Any:
        return self.choose(("deny", "deny", "deny", "suspend", "terminate"))

    def until(self) -> datetime | None:
        hours = self.choose((None, None, 1, 2, 30, 0))
        return None if hours is None else moment(self.now_ms + hours * HOUR_MS)

    # ------------------------------------------------------------------------------------------- what is asked

    def time(self) -> int:
        """When to go on: a while later, or exactly when something is due (a millisecond before, after)."""
        due = self.model._next_due()
        if due < FOREVER and not self.seldom(3):
            return max(self.now_ms, due + self.choose((0, 0, 0, -1, 1)))
        return int(self.now_ms + self.choose(STEPS_MS))

    def reserve(self) -> Reserve:
        return Reserve(
            id=self.hold() if self.seldom(10) else f"h{len(self.model.holds)}",
            account=self.account(),
            amounts=self.amounts(30, whole=True),
            also=self.also(),
            lease_s=self.choose(LEASES),
            attributes=self.attributes(),
            leave=self.leave(),
        )

    def leave(self) -> dict[str, int]:
        return self.amounts(40, whole=True) if self.seldom(3) else {}

    def reserve_again(self) -> Reserve:
        said = [hold.body for hold in self.model.holds.values() if hold.body is not None]
        return self.choose(said) if said else self.reserve()  # type: ignore[no-any-return]

    def extend(self) -> Extend:
        return Extend(id=self.hold(), to=self.amounts(50, whole=False), lease_s=self.choose(LEASES), leave=self.leave())

    def settle(self) -> Settle:
        return Settle(
            id=self.hold(),
            total=self.amounts(45, whole=False),
            final=self.choose((True, False)),
            record=self.record(),
        )

    def usage(self) -> Settle:
        return Settle(
            id=self.hold() if self.seldom(6) else f"h{len(self.model.holds)}",
            total=self.amounts(30, whole=False),
            final=not self.seldom(4),
            account=self.account(),
            also=self.also(),
            attributes=self.attributes(),
            record=self.record(),
        )

    def release(self) -> Release:
        if self.seldom(5):
            return Release(id=f"h{len(self.model.holds)}", account=self.account())
        return Release(id=self.hold())

    def put_account(self) -> PutAccount:
        if self.seldom(8):
            return PutAccount(account=f"new:{len(self.model.accounts)}", parent=self.account())
        kept = {"tokens": self.choose(range(20))}
        return PutAccount(account=self.account(), priority=self.choose((1, 1, 2)), min_reserve=kept)

    def set_status(self) -> SetStatus:
        asleep = [a.name for a in self.model.accounts.values() if a.status == "suspended"]
        if asleep and not self.seldom(3):
            return SetStatus(account=self.choose(asleep), status="active")
        statuses = ("suspended", "suspended", "suspended", "active", "terminated", "closed")
        return SetStatus(account=self.account(), status=self.choose(statuses))

    def put_budget(self) -> PutBudget:
        account, budget = self.budget() if self.seldom(3) else (self.account(), self.choose(BUDGETS))
        old = self.model._find_budget(account, budget)
        if old is not None and not self.seldom():
            unit, period = old.unit, old.period
        else:
            unit = self.choose(("tokens", "tokens", "tokens", "tokens", "cost", "cost", "calls", "input_tokens"))
            period = self.choose(PERIODS)
        return PutBudget(
            account=account,
            unit=unit,
            limit=self.choose(range(150)),
            budget=budget,
            period=period,
            zone=self.choose(ZONES),
            thresholds=self.choose(THRESHOLDS),
            mode=self.choose(("enforce", "enforce", "enforce", "warn", "observe")),
            match=self.choose(({}, {}, {}, {"model": "x"})),
            on_exhaustion=self.policy(),
            carry_over=self.choose(("none", "unused")),
            carry_max=self.choose((None, 20, 50, 0)),
            carry_debt=self.choose((False, True)),
            force=self.seldom(3),
            override=self.choose(POLICIES),
        )

    def remove_budget(self) -> RemoveBudget:
        account, budget = self.budget()
        return RemoveBudget(account=account, budget=budget)

    def allocate(self) -> Allocate:
        account, unit = self.allocation() if self.seldom(2) else (self.account(), self.choose(("tokens", "cost")))
        return Allocate(
            account=account,
            unit=unit,
            to=self.choose(range(60)),
            valid_until=self.until() if self.seldom(4) else None,
            on_exhaustion=self.policy(),
        )

    def deallocate(self) -> Deallocate:
        account, unit = self.allocation()
        return Deallocate(account=account, unit=unit)

    def transfer(self) -> Transfer:
        source, unit = self.allocation()
        others = [account for account, its in self.model.grants if its == unit and account != source]
        target = self.choose(others) if others and not self.seldom() else self.account()
        return Transfer(source=source, target=target, unit=unit, amount=self.choose(range(20)))

    def lend(self) -> Lend:
        borrower, unit = self.allocation()
        others = [account for account, its in self.model.grants if its == unit and account != borrower] or ["root"]
        sources = dict.fromkeys(self.choose(others) for _ in range(self.choose((1, 1, 2))))
        return Lend(
            id=self.loan() if self.seldom(8) else f"l{len(self.model.loans)}",
            account=borrower,
            unit=unit,
            parts=tuple(LoanPart(source=source, amount=self.choose(range(1, 25))) for source in sources),
            valid_until=self.until() if self.seldom(3) else None,
        )

    def loan(self) -> str:
        return str(self.choose(list(self.model.loans) or ["l0"]))

    def give_back(self) -> GiveBack:
        return GiveBack(id=self.loan())

    def reserve_what_was_lent(self) -> Reserve:
        free = [loan for loan in self.model.loans.values() if loan.active and loan.hold is None]
        if not free or self.seldom():
            return msgspec.structs.replace(self.reserve(), loans=(self.loan(),))
        loan = self.choose(free)
        return msgspec.structs.replace(self.reserve(), account=loan.account, also=(), parent=None, loans=(loan.id,))

    def actor(self) -> str:
        return str(self.choose(("boss", "boss", "asker", "asker", "other", "looker", "")))

    def override(self) -> str:
        """Mostly one that is pending."""
        pending = [one.id for one in self.model.overrides.values() if one.state == "pending"]
        known = list(self.model.overrides)
        return str(self.choose(pending if pending and not self.seldom() else known or ["o0"]))

    def request_override(self) -> RequestOverride:
        account, budget = self.budget()
        valid_s = self.choose((None, 60, 1_800, 7_200))
        return RequestOverride(
            id=self.override() if self.seldom(8) else f"o{len(self.model.overrides)}",
            account=account,
            budget=budget,
            amount=self.choose(range(1, 90)),
            reason="why not",
            valid_s=valid_s,
            valid_until=self.until() if valid_s is None and self.seldom(3) else None,
            open_s=self.choose((3_600, 60, 604_800)),
        )

    def approve_override(self) -> ApproveOverride:
        return ApproveOverride(id=self.override(), amount=self.choose((None, None, 1, 20)))

    def end_override(self) -> DenyOverride | RevokeOverride:
        kind = self.choose((RevokeOverride, RevokeOverride, DenyOverride))
        return kind(id=self.override())  # type: ignore[no-any-return]

    def set_gate(self) -> PutAccount:
        return PutAccount(
            account=self.account(),
            confidence_threshold=self.choose((0.5, 0.5, 0.0, None, UNSET)),
            gate_s=self.choose((UNSET, UNSET, 60, 3_600, None)),
        )

    def reset_gate(self) -> ResetGate:
        return ResetGate(account=self.account(), task=self.choose((None, "", "t")))

    def adjust(self) -> Adjust:
        account, budget = self.budget()
        known = list(self.model.adjustments)
        return Adjust(
            id=self.choose(known) if known and self.seldom(8) else f"adj{len(known)}",
            account=account,
            budget=budget,
            amount=self.choose(range(-40, 60)),
            reason="r",
            valid_until=self.until(),
            force=self.seldom(3),
        )

    def adjust_again(self) -> Adjust:
        said = [adjustment.body for adjustment in self.model.adjustments.values()]
        return self.choose(said) if said else self.adjust()  # type: ignore[no-any-return]

    def end_adjustment(self) -> EndAdjustment:
        known = [(a.id, a.account) for a in self.model.adjustments.values()]
        id, account = self.choose(known) if known else ("nothing", "root")
        return EndAdjustment(id=id, account=account)

    def put_template(self) -> PutTemplate:
        return PutTemplate(
            pattern="thread:*",
            parent=self.choose(NAMES),
            budgets=(TemplateBudget(unit="calls", limit=self.choose(range(1, 4)), budget="x"),),
            allocations={"tokens": self.choose(range(20))} if self.seldom(2) else {},
        )

    def compound(self) -> Compound:
        makes: Sequence[Callable[[], Any]] = (
            self.reserve,
            self.settle,
            self.usage,
            self.release,
            self.extend,
            self.allocate,
            self.transfer,
            self.adjust,
            self.set_status,
            self.put_budget,
        )
        return Compound(commands=tuple(self.choose(makes)() for _ in range(self.choose((1, 2, 3)))))

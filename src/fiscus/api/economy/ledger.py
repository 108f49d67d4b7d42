"""What the token economy asks of the treasury: its accounts, and the few commands it gives."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import msgspec
import structlog

from fiscus.api.economy.books import GrantNote
from fiscus.contract.errors import BudgetUnavailable, refusal
from fiscus.contract.queries import AccountView, HoldView, ListTemplates, ReadAccount, ReadHold, TemplatesView
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import (
    Allocate,
    Compound,
    PutAccount,
    PutBudget,
    Request,
    SetStatus,
    Settle,
    SingleCommand,
    Status,
)
from fiscus.core.granting import Granting
from fiscus.core.outcomes import AccountAnswer, Balance, BudgetView, CompoundAnswer, Refused
from fiscus.core.patterns import best_pattern
from fiscus.core.records import CallRecord

POOL_ACCOUNT = "global"
POOL_BUDGET = "pool"
STATUSES_AT_ONCE = 500

log = structlog.get_logger()


class EconomyLedger:
    """The accounts of the economy in one tenant: the pool, and the agents below it."""

    def __init__(self, treasury: Treasury, *, tenant: str) -> None:
        self._treasury = treasury
        self._tenant = tenant

    async def open_pool(self, pool_tokens: int) -> Balance:
        """Make the pool if there is none; one that is there stays as it is, so a restart never mints.

        Raises:
            Refusal: the ledger does not take it.
        """
        made = await self._execute(PutAccount(account=POOL_ACCOUNT), scope=None)
        if isinstance(made, Refused):
            raise refusal(made)
        command = PutBudget(account=POOL_ACCOUNT, unit="tokens", limit=pool_tokens, budget=POOL_BUDGET, if_version=0)
        made = await self._execute(command, scope=None)
        if isinstance(made, Refused) and made.code != "precondition_failed":
            raise refusal(made)
        pool = await self.pool()
        if pool.limit != pool_tokens:
            log.info("token_economy_pool_kept", limit_tokens=pool.limit, configured_tokens=pool_tokens)
        return pool

    async def pool(self) -> Balance:
        """What the pool has.

        Raises:
            BudgetUnavailable: an operator removed it.
        """
        view = await self.account(POOL_ACCOUNT)
        balance = pool_balance(view.account) if isinstance(view, AccountView) else None
        if balance is None:
            raise BudgetUnavailable(f"the account {POOL_ACCOUNT} has no budget {POOL_BUDGET}")
        return balance

    async def account(self, account: str, scope: str | None = None) -> AccountView | Refused:
        """An account, if it is in scope."""
        view = await self._treasury.read(ReadAccount(account=account, scope=scope, tenant=self._tenant))
        assert isinstance(view, AccountView | Refused), "an account is answered with an account"
        return view

    async def granting_of_new(self, account: str) -> Granting:
        """The strategy that an account will have that is opened below the pool: its template's, else the pool's."""
        view = await self._treasury.read(ListTemplates(tenant=self._tenant))
        assert isinstance(view, TemplatesView), "templates are answered with templates"
        templates = {template.pattern: template for template in view.templates}
        pattern = best_pattern(account, templates)
        if pattern is not None and (strategy := templates[pattern].grant_strategy) is not None:
            return Granting(strategy, "template")
        pool = await self.account(POOL_ACCOUNT)
        if isinstance(pool, AccountView) and (strategy := pool.account.grant_strategy_effective) is not None:
            return Granting(strategy, "above")
        return Granting()

    async def allocate(
        self,
        account: str,
        *,
        is_new: bool,
        to: int,
        if_version: int,
        valid_until: datetime | None,
        note: GrantNote,
        actor: str,
    ) -> Balance | Refused:
        """Let an allocation grow to ``to`` tokens, and open the account for it, or do nothing.

        Args:
            account: of the agent; ``is_new`` when it must be opened below the pool.
            is_new: see ``account``.
            to: the wanted total.
            if_version: what the allocation's version must be; 0: there must be none.
            valid_until: the end of the pool's window, with which grants end; None for a pool without end.
            note: kept in the journal; its ``grant`` is the idempotency key.
            actor: for the audit trail.

        Returns:
            The pool right after it; ``precondition_failed`` if the allocation has another version by now.
        """
        outcome = await self._execute(
            PutAccount(account=account, parent=POOL_ACCOUNT if is_new else None),
            Allocate(
                account=account,
                unit="tokens",
                to=to,
                valid_until=valid_until,
                on_exhaustion="terminate",
                reason=msgspec.json.encode(note).decode(),
                if_version=if_version,
            ),
            PutAccount(account=POOL_ACCOUNT),
            actor=actor,
            idempotency_key=note.grant,
        )
        if isinstance(outcome, Refused):
            return outcome
        pool = pool_balance(_last_account(outcome))
        assert pool is not None, "what a grant is carved from has a budget"
        return pool

    async def booked_tokens(self, report: str) -> int | None:
        """What a report has booked; None if it is not on the books."""
        view = await self._treasury.read(ReadHold(id=report, scope=POOL_ACCOUNT, tenant=self._tenant))
        return view.hold.booked.get("tokens", 0) if isinstance(view, HoldView) else None

    async def book(
        self, account: str, *, report: str, tokens: int, value: float, actor: str
    ) -> AccountAnswer | Refused:
        """Book what an agent has used, once per report, whatever its status and whatever it has left.

        Returns:
            The account right after it.
        """
        usage = Settle(
            id=report,
            account=account,
            total={"tokens": tokens, "calls": 1 if tokens else 0},
            record=CallRecord(action="consume", value=value),
        )
        outcome = await self._execute(usage, PutAccount(account=account), actor=actor)
        return outcome if isinstance(outcome, Refused) else _last_account(outcome)

    async def terminate(self, account: str, *, is_new: bool, reason: str, actor: str) -> None:
        """Terminate an agent for good: its allocation ends, and what is unused of it goes back to the pool.

        Raises:
            Refusal: the ledger does not take it.
        """
        outcome = await self._execute(
            PutAccount(account=account, parent=POOL_ACCOUNT if is_new else None),
            SetStatus(account=account, status="terminated", reason=reason),
            actor=actor,
        )
        if isinstance(outcome, Refused) and outcome.code != "conflict":
            raise refusal(outcome)

    async def set_status(self, accounts: Sequence[str], status: Status, *, reason: str, actor: str) -> int:
        """Suspend or resume agents, each by itself; how many of them have the status now."""
        requests = [
            Request(
                command=SetStatus(account=account, status=status, reason=reason),
                tenant=self._tenant,
                actor=actor,
                scope=POOL_ACCOUNT,
            )
            for account in accounts
        ]
        done = 0
        for start in range(0, len(requests), STATUSES_AT_ONCE):
            for outcome in await self._treasury.execute_many(requests[start : start + STATUSES_AT_ONCE]):
                done += isinstance(outcome, AccountAnswer)
        return done

    async def _execute(
        self,
        *commands: SingleCommand,
        actor: str = "",
        idempotency_key: str | None = None,
        scope: str | None = POOL_ACCOUNT,
    ) -> CompoundAnswer | Refused:
        """Give commands as one; by default they may only concern the pool's account and those below it."""
        outcome = await self._treasury.execute(
            Request(
                command=Compound(commands=commands),
                tenant=self._tenant,
                idempotency_key=idempotency_key,
                actor=actor,
                scope=scope,
            )
        )
        assert isinstance(outcome, CompoundAnswer | Refused), "a compound is answered as one"
        return outcome


def pool_balance(account: AccountAnswer) -> Balance | None:
    """The running window of the pool's budget."""
    return next((view.balance for view in account.budgets if view.budget == POOL_BUDGET), None)


def allocation(account: AccountAnswer) -> BudgetView | None:
    """An account's allocation in tokens, if it has one."""
    return next((view for view in account.budgets if view.allocated and view.unit == "tokens"), None)


def allocation_balance(account: AccountAnswer) -> Balance | None:
    """The balance of an account's allocation in tokens, if it has one."""
    view = allocation(account)
    return view.balance if view is not None else None


def _last_account(outcome: CompoundAnswer) -> AccountAnswer:
    account = outcome.answers[-1]
    assert isinstance(account, AccountAnswer), "the last command asks for an account"
    return account

"""The face of the treasury: the same in process and remote, refusals as exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any

import msgspec
import uuid_utils
from msgspec import UNSET, UnsetType

from fiscus.client.backoff import Backoff
from fiscus.contract import (
    AccountAnswer,
    Adjust,
    AdjustmentAnswer,
    Allocate,
    AllocationAnswer,
    Alternative,
    Amounts,
    AnyCommand,
    AnyOutcome,
    ApproveOverride,
    Balance,
    BudgetAnswer,
    CallRecord,
    Compound,
    CompoundAnswer,
    Deallocate,
    DenyOverride,
    EndAdjustment,
    Extend,
    GiveBack,
    GrantStrategy,
    HoldAnswer,
    Lend,
    LoanAnswer,
    LoanPart,
    OverrideAnswer,
    PutAccount,
    PutBudget,
    PutTemplate,
    Refused,
    Release,
    RemoveBudget,
    RemoveTemplate,
    RequestOverride,
    Reserve,
    ResetGate,
    RevokeOverride,
    SetStatus,
    Settle,
    ShortageStep,
    SingleCommand,
    TemplateAnswer,
    TemplateBudget,
    Transfer,
    TransferAnswer,
    Unit,
)
from fiscus.contract.alerts import AlertDesk, AlertsView, DeliveryState, OwnAlerts, Tested
from fiscus.contract.chains import OwnBudget, own_budget, read_chain
from fiscus.contract.errors import ConfigurationInvalid, FiscusError, refusal
from fiscus.contract.queries import (
    PAGE_LENGTH_DEFAULT,
    PAGE_LENGTH_MAX,
    AccountsPage,
    AccountView,
    AnyQuery,
    Entry,
    HoldView,
    ListAccounts,
    ListOverrides,
    LoanView,
    OverridesPage,
    OverrideView,
    ReadAccount,
    ReadHold,
    ReadLoan,
    ReadOverride,
    ReadReallocation,
    ReadSpared,
    ReallocationView,
    Spared,
    SparedView,
    View,
)
from fiscus.contract.treasury import Readiness
from fiscus.contract.treasury import Treasury as Ledger
from fiscus.core.commands import LEASE_S_DEFAULT, OVERRIDE_OPEN_S_DEFAULT, Status
from fiscus.core.outcomes import OverrideState
from fiscus.sdk.analyses import Analyses
from fiscus.sdk.completion import Completion, Family, Models, complete, question, stream
from fiscus.sdk.decorator import Function, held
from fiscus.sdk.hold import Hold, amounts_of
from fiscus.sdk.prices import Prices
from fiscus.sdk.teller import Teller
from fiscus.sdk.usage import reading
from fiscus.spool.outbox import Outbox
from fiscus.spool.spool import Spool

BOOKED_AFTER_S = (0.0, 0.005, 0.02, 0.1, 0.5)


class Treasury(Analyses, Prices):
    """Budgets of one tenant. Made by ``fiscus.open`` and ``fiscus.connect``; close it, or use it with ``async with``.

    Every method that asks the ledger raises ``Refusal`` when it says no and ``TreasuryError`` when it cannot be asked
    (``contract.errors`` has the tree). Amounts are integers in 0 … 2^53 − 1; costs are nano-USD. Ids that are not given
    are made here (UUIDv7); give one to be able to repeat a call whose outcome is not known.
    """

    def __init__(
        self,
        ledger: Ledger,
        spool: Spool,
        *,
        tenant: str = "default",
        redelivery: Backoff | None = None,
        models: Callable[[Outbox], Models] | None = None,
        alerts: AlertDesk | None = None,
    ) -> None:
        self._ledger = ledger
        self._outbox = Outbox(ledger, spool, redelivery)
        self._models = models(self._outbox) if models is not None else None
        self._teller = Teller(ledger, self._outbox, tenant)
        self._tenant = tenant
        self._alerts = alerts
        self._is_closed = False

    async def __aenter__(self) -> Treasury:
        """Begin to deliver what waits in the spool, and to tell what happens."""
        self._outbox.start()
        if isinstance(self._alerts, OwnAlerts):
            await self._alerts.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        await self.close()

    async def close(self) -> None:
        """Finish what is under way, deliver what waits as far as that is possible at once, and let the ledger go.

        A second time does nothing.
        """
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._models is not None:
                await self._models.close()
            await self._outbox.close()
            if isinstance(self._alerts, OwnAlerts):
                await self._alerts.finish()
        finally:
            if isinstance(self._alerts, OwnAlerts):
                await self._alerts.close()
            await self._ledger.close()

    # Calls of a model

    async def complete(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        account: str | None = None,
        thread: str | None = None,
        agent: str | None = None,
        metadata: Mapping[str, str] | None = None,
        family: Family | None = None,
        **more: Any,
    ) -> Completion:
        """Ask a model through the gateway: counted, held once, tried again and elsewhere, booked as it was billed.

        Args:
            model: as it is called in the gateway's file.
            messages: ``{"role": ..., "content": ...}``; what the provider takes besides, it is given.
            account: who pays, by its whole name; else ``thread:<thread>``, then ``agent:<agent>``.
            thread, agent: whose call it is.
            metadata: ``user``, ``feature``, ``project``, ``team``, ``workflow``, ``task`` and ``parent-request`` are
                attributed as the gateway's headers are; all else stands in the record.
            family: whose wire it takes; by default what the name of the model says.
            more: fields of the request, such as ``max_tokens``, ``temperature`` and ``tools``.

        Raises:
            Refusal: there is no budget for it; the model was not asked.
            ProviderFailed: the provider gave an error, or no answer.
            TreasuryError: nobody could be asked.
            ConfigurationInvalid: there is no gateway.
        """
        named: dict[str, Any] = {
            "account": account,
            "thread": thread,
            "agent": agent,
            "metadata": metadata,
            "family": family,
        }
        asked = question(model, messages, **named, **more)
        return await complete(self._gateway(), asked, self._cost_of)

    def stream(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        account: str | None = None,
        thread: str | None = None,
        agent: str | None = None,
        metadata: Mapping[str, str] | None = None,
        family: Family | None = None,
        **more: Any,
    ) -> AsyncIterator[str | Completion]:
        """As ``complete``, but the text as it comes; the last item is the whole, without tool calls.

        To leave before the end (``aclose``) ends the call at the provider, and books what has come.
        """
        named: dict[str, Any] = {
            "account": account,
            "thread": thread,
            "agent": agent,
            "metadata": metadata,
            "family": family,
        }
        asked = question(model, messages, stream=True, **named, **more)
        return stream(self._gateway(), asked, self._cost_of)

    def _gateway(self) -> Models:
        if self._models is None:
            raise ConfigurationInvalid("there is no gateway: name its file in fiscus.open(gateway=...)")
        return self._models

    async def _cost_of(self, hold: str) -> int | None:
        """What a call cost, once it is booked: the gateway does not keep an answer waiting for that."""
        for wait_s in BOOKED_AFTER_S:
            await asyncio.sleep(wait_s)
            try:
                answer = (await self._read(HoldView, ReadHold(id=hold))).hold
            except FiscusError:
                break  # it is booked later
            if answer.state != "held":
                return answer.booked.get("cost")
        return None

    def hold(
        self,
        account: str,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_nanousd: int | None = None,
        calls: int | None = None,
        also: Sequence[str] = (),
        model: str | None = None,
        feature: str | None = None,
        attributes: Mapping[str, str] | None = None,
        lease_s: int = LEASE_S_DEFAULT,
        parent: str | None = None,
        leave: Amounts | None = None,
        wait_s: int = 0,
        least: Amounts | None = None,
        alternatives: Sequence[Alternative] = (),
        id: str | None = None,
        keep_alive: bool = True,
        first: Sequence[SingleCommand] = (),
    ) -> Hold:
        """Budget for one call, as a context manager: reserved on entry, settled or given back on exit.

        Args:
            account: who pays.
            tokens, input_tokens, output_tokens, cost_nanousd, calls: upper bounds of the call; ``calls`` defaults to 1.
            also: up to 8 more accounts that are charged.
            model, feature: attributes of the same name, for budgets with ``match``, and for the record of the call.
            attributes: more of them.
            lease_s: seconds after which the hold expires, 1 … 86,400, unless it is renewed.
            parent: the parent for an account that is opened from a template.
            leave: what has to stay free besides, per unit: a reserve for calls that do not ask for it.
            wait_s: seconds to wait for room, 0 … 3,600, in line with others that wait for the same budget. Not with
                ``first``.
            least: the smallest bounds that are of use, per unit: where there is no room, what fits is held
                (``hold.amounts``) if it is no less.
            alternatives: cheaper models with their bounds, tried in this order where there is no room;
                ``hold.answer.model`` says which one was taken.
            id: of the hold; repeating a call with the same id holds nothing twice.
            keep_alive: renew the lease while the body runs.
            first: commands that are done with the reserve, all or none, such as transfers that make room for it, or
                loans, which go back as far as they are not used.
        """
        reserve = Reserve(
            id=_id(id),
            account=account,
            amounts=amounts_of(
                tokens=tokens,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
                cost_nanousd=cost_nanousd,
                calls=calls,
            ),
            also=tuple(also),
            lease_s=lease_s,
            attributes=_attributes(attributes, model, feature),
            parent=parent,
            leave=leave or {},
            wait_s=wait_s,
            least=least or {},
            alternatives=tuple(alternatives),
            loans=tuple(command.id for command in first if isinstance(command, Lend)),
        )
        record = CallRecord(model=model, feature=feature)
        return Hold(self._teller, reserve, record=record, id_is_ours=id is None, is_kept_alive=keep_alive, first=first)

    def held(self, account: str, **bounds: Any) -> Callable[[Function], Function]:
        """Decorate a coroutine function so that every call of it runs in a hold; arguments as of ``hold``, without id.

        A parameter named ``hold`` gets the hold. What the function returns is its final reading, unless it gave one
        itself, if it is, or carries, a usage that can be read.
        """
        return held(lambda: self.hold(account, **bounds), is_async=True)

    async def reserve(
        self,
        account: str,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_nanousd: int | None = None,
        calls: int | None = None,
        also: Sequence[str] = (),
        model: str | None = None,
        feature: str | None = None,
        attributes: Mapping[str, str] | None = None,
        lease_s: int = LEASE_S_DEFAULT,
        parent: str | None = None,
        leave: Amounts | None = None,
        wait_s: int = 0,
        least: Amounts | None = None,
        alternatives: Sequence[Alternative] = (),
        id: str | None = None,
    ) -> HoldAnswer:
        """Hold budget for a call; arguments as of ``hold``. Settle or release it; nothing renews its lease.

        Raises:
            BudgetUnavailable: whether it is held is not known: repeat with the same id, or release the id.
        """
        hold = self.hold(
            account,
            tokens=tokens,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_nanousd=cost_nanousd,
            calls=calls,
            also=also,
            model=model,
            feature=feature,
            attributes=attributes,
            lease_s=lease_s,
            parent=parent,
            leave=leave,
            wait_s=wait_s,
            least=least,
            alternatives=alternatives,
            id=id,
        )
        return await self._teller.ask(HoldAnswer, hold.command)

    async def extend(
        self,
        id: str,
        *,
        tokens: int | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        cost_nanousd: int | None = None,
        calls: int | None = None,
        lease_s: int = LEASE_S_DEFAULT,
    ) -> HoldAnswer:
        """Raise a hold to these totals (not by them), and renew its lease."""
        to = amounts_of(
            tokens=tokens,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            cost_nanousd=cost_nanousd,
            calls=calls,
        )
        return await self._teller.ask(HoldAnswer, Extend(id=id, to=to, lease_s=lease_s))

    async def settle(
        self,
        id: str,
        usage: object = None,
        *,
        cost_nanousd: int | None = None,
        record: CallRecord | None = None,
        account: str | None = None,
        final: bool = True,
    ) -> HoldAnswer | None:
        """Book what a held call has used in total; what is left of the hold goes back.

        Args:
            id: of the hold.
            usage: as the provider returned it, or ours: see ``fiscus.sdk.usage``.
            cost_nanousd: what the call cost (nano-USD); unless given, what the prices say of its model.
            record: what else is known of the call.
            account: who pays if the ledger does not know the hold.
            final: False for the running total of a stream.

        Returns:
            The hold; None if the ledger is away: the settlement is in a spool, here or at the service, and will be
            booked.

        Raises:
            SpoolUnavailable: the ledger is away and the spool is full or cannot be written. It is not booked.
        """
        read = reading(usage, cost_nanousd=cost_nanousd, record=record)
        return await self._book(Settle(id=id, total=read.total, record=read.record, account=account, final=final))

    async def release(self, id: str, *, account: str | None = None) -> HoldAnswer | None:
        """Give a hold back: nothing (more) was spent.

        Args:
            id: of the hold.
            account: its payer; then the release also counts when it arrives before the reserve.

        Returns:
            The hold; None if the ledger is away: the release is in a spool and will be done.
        """
        return await self._book(Release(id=id, account=account))

    async def usage(
        self,
        account: str,
        usage: object = None,
        *,
        cost_nanousd: int | None = None,
        record: CallRecord | None = None,
        also: Sequence[str] = (),
        model: str | None = None,
        feature: str | None = None,
        attributes: Mapping[str, str] | None = None,
        parent: str | None = None,
        id: str | None = None,
    ) -> HoldAnswer | None:
        """Book a call that was made without a hold. It is never refused for lack of budget.

        Args:
            account: who pays; the rest as in ``hold`` and ``settle``.
            id: of the call; repeating it books nothing twice.

        Returns:
            What was booked; None if the ledger is away: it is in a spool and will be booked.
        """
        read = reading(usage, cost_nanousd=cost_nanousd, record=record)
        known = read.record
        return await self._book(
            Settle(
                id=_id(id),
                total=read.total,
                record=msgspec.structs.replace(known, model=known.model or model, feature=known.feature or feature),
                account=account,
                also=tuple(also),
                attributes=_attributes(attributes, model, feature),
                parent=parent,
            )
        )

    async def hold_answer(self, id: str) -> HoldAnswer:
        """A hold as it is now."""
        return (await self._read(HoldView, ReadHold(id=id))).hold

    # Accounts, and what they may spend

    async def put_account(
        self,
        account: str,
        *,
        parent: str | None = None,
        labels: Mapping[str, str] | None = None,
        priority: int | None = None,
        min_reserve: Amounts | None = None,
        confidence_threshold: float | UnsetType | None = UNSET,
        gate_s: int | UnsetType | None = UNSET,
        shortage: Sequence[ShortageStep] | None = None,
        grant_strategy: GrantStrategy | UnsetType | None = UNSET,
        if_labels: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> AccountAnswer:
        """Open an account, or change what is given of one. See ``PutAccount``."""
        command = PutAccount(
            account=account,
            parent=parent,
            labels=None if labels is None else dict(labels),
            priority=priority,
            min_reserve=min_reserve,
            confidence_threshold=confidence_threshold,
            gate_s=gate_s,
            shortage=None if shortage is None else tuple(shortage),
            grant_strategy=grant_strategy,
            if_labels=None if if_labels is None else dict(if_labels),
        )
        return await self._teller.ask(AccountAnswer, command, idempotency_key)

    async def account(self, account: str) -> AccountAnswer:
        """An account with its budgets, and the windows that run."""
        return (await self._read(AccountView, ReadAccount(account=account))).account

    async def balance(self, account: str) -> tuple[Balance, ...]:
        """The running windows of all budgets of an account, allocations included; those of its ancestors are not."""
        budgets = (await self.account(account)).budgets
        return tuple(budget.balance for budget in budgets if budget.balance is not None)

    async def own_budget(self, account: str) -> OwnBudget:
        """What the next call of an account may use: its budgets and those of all above it that the key may see."""
        views = await read_chain(self._ledger, account, tenant=self._tenant)
        if isinstance(views, Refused):
            raise refusal(views)
        return own_budget(views)

    async def accounts(
        self, *, prefix: str | None = None, parent: str | None = None, status: Status | None = None
    ) -> AsyncIterator[AccountAnswer]:
        """All accounts in the order in which they were opened, from the read model (at most a second behind)."""
        after: int | None = 0
        while after is not None:
            page = await self._read(
                AccountsPage,
                ListAccounts(
                    after=after,
                    limit=PAGE_LENGTH_MAX,
                    prefix=prefix,
                    parent=parent,
                    status=status,
                ),
            )
            for account in page.accounts:
                yield account
            after = page.next

    async def suspend(self, account: str, *, reason: str = "") -> AccountAnswer:
        """Admit no new holds below an account until it is resumed."""
        return await self._set_status(account, "suspended", reason)

    async def resume(self, account: str, *, reason: str = "") -> AccountAnswer:
        """Admit holds again."""
        return await self._set_status(account, "active", reason)

    async def terminate(self, account: str, *, reason: str = "") -> AccountAnswer:
        """Stop an account for good."""
        return await self._set_status(account, "terminated", reason)

    async def close_account(self, account: str, *, reason: str = "") -> AccountAnswer:
        """End an account that has done its work."""
        return await self._set_status(account, "closed", reason)

    async def put_budget(
        self,
        account: str,
        unit: Unit,
        limit: int,
        *,
        period: str = "lifetime",
        idempotency_key: str | None = None,
        **more: Any,
    ) -> BudgetAnswer:
        """Limit an account in one unit per period. ``more`` are the other fields of ``PutBudget``."""
        command = PutBudget(account=account, unit=unit, limit=limit, period=period, **more)
        return await self._teller.ask(BudgetAnswer, command, idempotency_key)

    async def remove_budget(
        self, account: str, budget: str, *, if_version: int | None = None, idempotency_key: str | None = None
    ) -> BudgetAnswer:
        """End a budget: it limits nothing from now on."""
        command = RemoveBudget(account=account, budget=budget, if_version=if_version)
        return await self._teller.ask(BudgetAnswer, command, idempotency_key)

    async def allocate(
        self,
        account: str,
        unit: Unit,
        to: int,
        *,
        valid_until: datetime | None = None,
        idempotency_key: str | None = None,
        **more: Any,
    ) -> AllocationAnswer:
        """Carve a total out of the chain above an account as its own. ``more`` are the other fields of ``Allocate``."""
        command = Allocate(account=account, unit=unit, to=to, valid_until=valid_until, **more)
        return await self._teller.ask(AllocationAnswer, command, idempotency_key)

    async def deallocate(self, account: str, unit: Unit, *, idempotency_key: str | None = None) -> AllocationAnswer:
        """End an account's allocation: it draws on its parent again."""
        return await self._teller.ask(AllocationAnswer, Deallocate(account=account, unit=unit), idempotency_key)

    async def transfer(
        self,
        source: str,
        target: str,
        unit: Unit,
        amount: int,
        *,
        reason: str = "",
        idempotency_key: str | None = None,
    ) -> TransferAnswer:
        """Move unused allocation from one account to another."""
        command = Transfer(source=source, target=target, unit=unit, amount=amount, reason=reason)
        return await self._teller.ask(TransferAnswer, command, idempotency_key)

    async def spared(self, account: str) -> tuple[Spared, ...]:
        """What the account's budgets in mode ``warn`` or ``observe`` would have refused in their running windows."""
        return (await self._read(SparedView, ReadSpared(account=account))).budgets

    async def reallocation(self, account: str, unit: Unit, amount: int) -> ReallocationView:
        """What would move so that an amount is free for a call of an account, and why. Nothing moves."""
        return await self._read(ReallocationView, ReadReallocation(account=account, unit=unit, amount=amount))

    async def lend(
        self,
        account: str,
        unit: Unit,
        parts: Mapping[str, int],
        *,
        valid_until: datetime | None = None,
        reason: str = "",
        id: str | None = None,
    ) -> LoanAnswer:
        """Move unused allocation from others (lender → amount) to an account for a time. See ``Lend``."""
        shares = tuple(LoanPart(source=source, amount=amount) for source, amount in parts.items())
        command = Lend(id=_id(id), account=account, unit=unit, parts=shares, valid_until=valid_until, reason=reason)
        return await self._teller.ask(LoanAnswer, command)

    async def give_back(self, id: str) -> LoanAnswer:
        """End a loan now: what is free of it goes back. A reallocation is undone in this way."""
        return await self._teller.ask(LoanAnswer, GiveBack(id=id))

    async def loan(self, id: str) -> LoanAnswer:
        """A loan: what was lent by whom, what came back, what was used."""
        return (await self._read(LoanView, ReadLoan(id=id))).loan

    async def adjust(
        self,
        account: str,
        budget: str,
        amount: int,
        *,
        reason: str,
        valid_until: datetime | None = None,
        force: bool = False,
        id: str | None = None,
    ) -> AdjustmentAnswer:
        """Raise (or lower) a budget's running window for a time. See ``Adjust``."""
        command = Adjust(
            id=_id(id),
            account=account,
            budget=budget,
            amount=amount,
            reason=reason,
            valid_until=valid_until,
            force=force,
        )
        return await self._teller.ask(AdjustmentAnswer, command)

    async def end_adjustment(self, account: str, id: str, *, idempotency_key: str | None = None) -> AdjustmentAnswer:
        """End an adjustment now."""
        return await self._teller.ask(AdjustmentAnswer, EndAdjustment(id=id, account=account), idempotency_key)

    # Overrides and gates

    async def request_override(
        self,
        account: str,
        budget: str,
        amount: int,
        *,
        reason: str,
        valid_s: int | None = None,
        valid_until: datetime | None = None,
        open_s: int = OVERRIDE_OPEN_S_DEFAULT,
        id: str | None = None,
    ) -> OverrideAnswer:
        """Ask for more in the running window of a budget; somebody else decides. See ``RequestOverride``."""
        command = RequestOverride(
            id=_id(id),
            account=account,
            budget=budget,
            amount=amount,
            reason=reason,
            valid_s=valid_s,
            valid_until=valid_until,
            open_s=open_s,
        )
        return await self._teller.ask(OverrideAnswer, command)

    async def approve_override(
        self, id: str, *, amount: int | None = None, reason: str = "", idempotency_key: str | None = None
    ) -> OverrideAnswer:
        """Grant what was asked, or ``amount`` of it. It takes another key, which the budget's policy names."""
        command = ApproveOverride(id=id, amount=amount, reason=reason)
        return await self._teller.ask(OverrideAnswer, command, idempotency_key)

    async def deny_override(self, id: str, *, reason: str = "", idempotency_key: str | None = None) -> OverrideAnswer:
        """Refuse what was asked."""
        return await self._teller.ask(OverrideAnswer, DenyOverride(id=id, reason=reason), idempotency_key)

    async def revoke_override(self, id: str, *, reason: str = "", idempotency_key: str | None = None) -> OverrideAnswer:
        """End an override now; what is in use of it stays covered. One's own request is withdrawn so."""
        return await self._teller.ask(OverrideAnswer, RevokeOverride(id=id, reason=reason), idempotency_key)

    async def override(self, id: str) -> OverrideAnswer:
        """An override as it is now: pending, granted, or not."""
        return (await self._read(OverrideView, ReadOverride(id=id))).override

    async def overrides(
        self, *, state: OverrideState | None = None, account: str | None = None
    ) -> AsyncIterator[OverrideAnswer]:
        """Overrides, pending and past ones, in the order of their ids (at most a second behind)."""
        after: str | None = ""
        while after is not None:
            query = ListOverrides(after=after, limit=PAGE_LENGTH_MAX, state=state, account=account)
            page = await self._read(OverridesPage, query)
            for override in page.overrides:
                yield override
            after = page.next

    async def reset_gate(
        self, account: str, task: str | None = None, *, idempotency_key: str | None = None
    ) -> AccountAnswer:
        """Open the confidence gate of a task again, or (None) all of an account. See ``ResetGate``."""
        return await self._teller.ask(AccountAnswer, ResetGate(account=account, task=task), idempotency_key)

    async def put_template(
        self,
        pattern: str,
        *,
        parent: str | None = None,
        budgets: Sequence[TemplateBudget] = (),
        idempotency_key: str | None = None,
        **more: Any,
    ) -> TemplateAnswer:
        """Say how accounts that match a pattern are opened. ``more`` are the other fields of ``PutTemplate``."""
        command = PutTemplate(pattern=pattern, parent=parent, budgets=tuple(budgets), **more)
        return await self._teller.ask(TemplateAnswer, command, idempotency_key)

    async def remove_template(self, pattern: str, *, idempotency_key: str | None = None) -> TemplateAnswer:
        """Open no more accounts by a pattern."""
        return await self._teller.ask(TemplateAnswer, RemoveTemplate(pattern=pattern), idempotency_key)

    # Anything

    async def compound(
        self, commands: Sequence[SingleCommand], *, idempotency_key: str | None = None
    ) -> tuple[AnyOutcome, ...]:
        """Several commands as one: all or none, but settlements are booked by themselves.

        Returns:
            One answer per command, in order.

        Raises:
            Refusal: none was done; ``refused.index`` is the position of the one that was refused.
        """
        return (await self._teller.ask(CompoundAnswer, Compound(commands=tuple(commands)), idempotency_key)).answers

    async def execute(self, command: AnyCommand, *, idempotency_key: str | None = None) -> AnyOutcome:
        """Have any command decided. Nothing goes through the spool.

        Returns:
            Its answer, never a refusal.
        """
        outcome = await self._ledger.execute(self._teller.request(command, idempotency_key))
        if isinstance(outcome, Refused):
            raise refusal(outcome)
        return outcome

    async def execute_many(self, commands: Sequence[AnyCommand]) -> list[AnyOutcome]:
        """Have up to 1,000 commands decided that are independent of each other.

        Returns:
            One outcome per command, in order; refusals are values here.
        """
        return await self._ledger.execute_many([self._teller.request(command) for command in commands])

    async def read(self, query: AnyQuery) -> View:
        """Answer any query, of this tenant."""
        view = await self._ledger.read(msgspec.structs.replace(query, tenant=self._tenant))
        if isinstance(view, Refused):
            raise refusal(view)
        return view

    def events(self, *, after: int = 0) -> AsyncIterator[Entry]:
        """All entries of the journal after a sequence number, in order: those that are there, then as they come."""
        return self._ledger.follow(after, self._tenant)

    async def readiness(self) -> Readiness:
        """Whether calls are admitted now, and if not, why."""
        return await self._ledger.readiness()

    # What is told outside

    async def alerts(
        self, state: DeliveryState | None = None, *, after: int = 0, limit: int = PAGE_LENGTH_DEFAULT
    ) -> AlertsView:
        """The channels of alerts, and a page of deliveries: ``waiting``, ``sent`` or ``dead``, or all.

        Raises:
            ConfigurationInvalid: nothing is told outside from here.
        """
        return await self._desk().view(state, after, limit)

    async def retry_alerts(self, id: str | None = None) -> int:
        """Send again what was given up, one delivery or all; returns how many are tried again."""
        return await self._desk().retry(id)

    async def test_alerts(self, channel: str) -> Tested:
        """Send a message to a channel now, past the outbox, and say what became of it.

        Raises:
            ConfigurationInvalid: there is no such channel in use.
        """
        tested = await self._desk().test(channel)
        if tested is None:
            raise ConfigurationInvalid(f"channel: no channel {channel!r} is in use")
        return tested

    def _desk(self) -> AlertDesk:
        if self._alerts is None:
            raise ConfigurationInvalid("nothing is told outside from here: give fiscus.open `alerts`")
        return self._alerts

    @property
    def spooled(self) -> int:
        """How many settlements and releases wait on the local disk for the ledger."""
        return len(self._outbox)

    async def _book(self, command: Settle | Release) -> HoldAnswer | None:
        return await self._teller.uninterrupted(self._teller.book(command))

    async def _set_status(self, account: str, status: Status, reason: str) -> AccountAnswer:
        return await self._teller.ask(AccountAnswer, SetStatus(account=account, status=status, reason=reason))


def _id(given: str | None) -> str:
    return str(uuid_utils.uuid7()) if given is None else given


def _attributes(given: Mapping[str, str] | None, model: str | None, feature: str | None) -> dict[str, str]:
    named = {"model": model, "feature": feature}
    return {**{name: value for name, value in named.items() if value is not None}, **(given or {})}

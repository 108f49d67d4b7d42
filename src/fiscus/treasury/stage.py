"""The ledger in memory on which recorded calls are rehearsed: accounts as the ledger has them, then a declaration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from fiscus.contract.declaration import Declaration, DeclaredAccount, DeclaredAllocation, Origin, path_text
from fiscus.contract.queries import TemplateView
from fiscus.core.answers import account_answer
from fiscus.core.commands import PutBudget, PutTemplate, Request, TemplateBudget
from fiscus.core.decide import decide, new_draft
from fiscus.core.outcomes import AccountAnswer, BudgetView, Refused
from fiscus.core.scopes import template_for
from fiscus.core.state import Rules
from fiscus.core.windows import parse_period
from fiscus.policy.plan import Known, Step, make_plan

SECOND_MS = 1_000


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """An account as the ledger has it.

    Attributes:
        parent: its number.
        template: by which it was opened; None: by a command, or its name was erased.
        anchors: by budget, when its windows of ``every`` are counted from (ms).
    """

    answer: AccountAnswer
    parent: int | None
    template: str | None
    anchors: dict[str, int]


class Stage:
    """Accounts are made before the first call; those that a template opened are opened by it again when first used.

    Args:
        start: ms; before the first call.
        find: an account of the ledger by its number.
        templates: of the ledger.
    """

    def __init__(
        self, start: int, rules: Rules, find: Callable[[int], Kept], templates: Sequence[TemplateView]
    ) -> None:
        self.draft = new_draft(rules)
        self.left_out: Counter[str] = Counter()
        self.with_status: frozenset[str] = frozenset()
        self._start = start
        self._find = find
        self._templates = templates
        self._parents = {template.pattern: template.parent for template in templates}

    def set_up(self, kept: Sequence[Kept], declaration: Declaration) -> Refused | None:
        """Make what the ledger has, then what is declared.

        Args:
            kept: each with all above it.
            declaration: what is in force from the start.

        Raises:
            ConfigurationInvalid: the declaration contradicts the ledger.
        """
        self._make(kept, self._templates, self._start)
        self.with_status = frozenset(one.account for one in declaration.accounts if one.status is not None)
        for step in make_plan(declaration, self._known()):
            outcome = self._do(step, self._start)
            if isinstance(outcome, Refused):
                field = path_text(step.path)
                return msgspec.structs.replace(outcome, field=field, detail=f"{field}: {outcome.detail}")
        return None

    def name(self, number: int, at: int) -> tuple[str, str | None]:
        """The name of a recorded account, which is there or can be opened by a template, and the parent then."""
        kept = self._find(number)
        name, parent = kept.answer.account, kept.answer.parent
        if self.draft.names.find(name) is not None:
            return name, None
        if kept.template is None or template_for(self.draft, name) is None:
            self._make(self._missing(kept), (), at)
            return name, None
        return name, parent if parent != self._parents.get(kept.template) else None

    def known(self, number: int) -> str | None:
        """The name of a recorded account that is there."""
        name = self._find(number).answer.account
        return name if self.draft.names.find(name) is not None else None

    def _missing(self, kept: Kept) -> list[Kept]:
        """The account with all above it that are not there."""
        missing = [kept]
        while (parent := missing[-1].parent) is not None:
            above = self._find(parent)
            if self.draft.names.find(above.answer.account) is not None:
                break
            missing.append(above)
        return missing

    def _make(self, kept: Sequence[Kept], templates: Iterable[TemplateView], at: int) -> None:
        """Make accounts and templates as they are; what finds no room is left out."""
        anchors = {one.answer.account: one.anchors for one in kept}
        declared = Declaration(
            accounts=tuple(map(_declared, kept)), templates=tuple(map(_template, templates)), origin=Origin("", {})
        )
        names = {one.answer.parent for one in kept} | {template.parent for template in declared.templates}
        for step in make_plan(declared, Known(accounts=self._answers(names), templates={})):
            if isinstance(self._do(step, _aligned(step, anchors, at)), Refused):
                self.left_out[f"{step.subject}_refused"] += 1

    def _do(self, step: Step, at: int) -> object:
        outcome = decide(self.draft, Request(command=step.command, actor="rehearsal"), at)
        self.draft.commit()
        return outcome

    def _known(self) -> Known:
        return Known(
            accounts=self._answers({account.name for account in self.draft.accounts.values()}),
            templates={template.pattern: template for template in self._templates},
        )

    def _answers(self, names: Iterable[str | None]) -> dict[str, AccountAnswer]:
        """Those of the accounts that are there."""
        numbers = {name: self.draft.names.find(name) for name in names if name is not None}
        accounts = {name: self.draft.accounts[number] for name, number in numbers.items() if number is not None}
        return {name: account_answer(self.draft, account) for name, account in accounts.items()}


def _declared(kept: Kept) -> DeclaredAccount:
    """An account of the ledger as a file would declare it; active."""
    account = kept.answer
    return DeclaredAccount(
        account=account.account,
        parent=account.parent,
        priority=account.priority,
        min_reserve=account.min_reserve or None,
        confidence_threshold=account.confidence_threshold,
        gate_s=account.gate_s,
        shortage=account.shortage or None,
        grant_strategy=account.grant_strategy,
        budgets=tuple(_budget(view) for view in account.budgets if not view.allocated),
        allocations={
            view.unit: DeclaredAllocation(to=view.limit, on_exhaustion=view.on_exhaustion)
            for view in account.budgets
            if view.allocated
        },
    )


def _budget(view: BudgetView) -> TemplateBudget:
    return TemplateBudget(**{name: getattr(view, name) for name in TemplateBudget.__struct_fields__})


def _template(view: TemplateView) -> PutTemplate:
    return PutTemplate(**{name: getattr(view, name) for name in PutTemplate.__struct_fields__})


def _aligned(step: Step, anchors: dict[str, dict[str, int]], at: int) -> int:
    """When a step is done: windows of ``every`` begin when those of the ledger do."""
    command = step.command
    if not isinstance(command, PutBudget):
        return at
    length_s = parse_period(command.period).every_s
    anchor = anchors.get(command.account, {}).get(command.budget or "")
    return at - (at - anchor) % (length_s * SECOND_MS) if length_s and anchor is not None else at

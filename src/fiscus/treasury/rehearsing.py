"""Reads what a rehearsal needs from the tables and the journal, page by page, in the caller's thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from fiscus.contract.declaration import Declaration, Faults, Origin, declare
from fiscus.contract.errors import BudgetUnavailable, ConfigurationInvalid
from fiscus.contract.queries import TemplatesView
from fiscus.contract.rehearsal import REFUSALS_SHOWN_MAX, REHEARSED_CALLS_MAX, RehearsalView, Rehearse
from fiscus.core.answers import account_answer
from fiscus.core.checks import check_time, invalid, to_ms
from fiscus.core.outcomes import Refused
from fiscus.core.state import NEVER, Account, Draft, Rules
from fiscus.treasury.codec import decode_event, kind_of
from fiscus.treasury.reading import FOLLOWER_WAIT, decoded_account, entries_after, view_draft
from fiscus.treasury.rehearsal import KINDS_TAKEN, Rehearsal
from fiscus.treasury.stage import Kept, Stage
from fiscus.treasury.store import Store, StoredEntry

PAGE_ENTRIES = 1_000
PAGE_ACCOUNTS = 1_000
ACCOUNTS_MAX = 20_000
"""Accounts that no template has opened, and which are therefore made before the first call."""


def rehearse(
    store: Store, tenant: int, query: Rehearse, templates: TemplatesView, rules: Rules
) -> RehearsalView | Refused:
    """What would have become of the recorded calls; the live ledger is neither asked nor locked.

    Args:
        store, tenant: whose journal.
        query: the declaration and the bounds.
        templates: of the ledger, as of now.
        rules: by which the ledger decides.

    Raises:
        BudgetUnavailable: the tables have not reached ``min_seq`` yet.
        EntriesArchived: entries were archived while it went on.
    """
    wrong = _check(query)
    if wrong is not None:
        return wrong
    try:
        faults = Faults(Origin("", {}))
        declaration = declare(list(enumerate(query.accounts)), list(enumerate(query.templates)), faults)
        return _rehearse(store, tenant, query, declaration, templates, rules)
    except ConfigurationInvalid as error:
        return Refused(code="invalid", detail=str(error).partition("\n")[0], field=error.field)


def _rehearse(
    store: Store, tenant: int, query: Rehearse, declaration: Declaration, templates: TemplatesView, rules: Rules
) -> RehearsalView | Refused:
    watermark = store.views.watermark(tenant)
    head = watermark.seq if watermark is not None else 0
    if head < query.min_seq:
        raise BudgetUnavailable(FOLLOWER_WAIT)
    after, first_at = _beginning(store, tenant, query.since, head)
    ledger = _Ledger(store, tenant)
    stage = Stage(first_at, rules, ledger.find, templates.templates)
    kept = ledger.kept(_named(declaration, templates))
    refused = kept if isinstance(kept, Refused) else stage.set_up(kept, declaration)
    if refused is not None:
        return refused
    rehearsal = Rehearsal(stage, query.refusals)
    until = to_ms(query.until) if query.until is not None else NEVER
    for entry in _entries(store, tenant, after, head, until):
        if kind_of(entry.body) not in KINDS_TAKEN:
            continue
        event = decode_event(entry.body, entry.private)
        if rehearsal.calls == query.limit and rehearsal.begins(event):
            return rehearsal.view(head, entry.seq - 1)
        rehearsal.fold(entry.at, event)
    return rehearsal.view(head, None)


def _check(query: Rehearse) -> Refused | None:
    """What is wrong with the bounds, whatever the declaration says."""
    if query.scope is not None:
        return Refused(code="forbidden", detail="a rehearsal is about all accounts, for who may see all of them")
    if type(query.limit) is not int or not 1 <= query.limit <= REHEARSED_CALLS_MAX:
        return invalid("limit", f"must be an integer in 1 … {REHEARSED_CALLS_MAX}")
    if type(query.refusals) is not int or not 0 <= query.refusals <= REFUSALS_SHOWN_MAX:
        return invalid("refusals", f"must be an integer in 0 … {REFUSALS_SHOWN_MAX}")
    for field in ("since", "until"):
        wrong = check_time(field, getattr(query, field))
        if wrong is not None:
            return wrong
    if query.since is not None and query.until is not None and query.until <= query.since:
        return invalid("until", "must be after since")
    return None


def _named(declaration: Declaration, templates: TemplatesView) -> set[str]:
    """Accounts that the declaration and the templates speak of."""
    names = {name for account in declaration.accounts for name in (account.account, account.parent)}
    names.update(template.parent for template in declaration.templates)
    names.update(template.parent for template in templates.templates)
    return {name for name in names if name is not None}


def _beginning(store: Store, tenant: int, since: datetime | None, head: int) -> tuple[int, int]:
    """Behind which entry the rehearsal begins, and its time (ms): times rise with the sequence."""
    oldest = store.journal.entries(tenant, 0, 1)
    if not oldest:
        return head, to_ms(since) if since is not None else 0
    low, high = oldest[0].seq, head + 1
    if since is None:
        return low - 1, oldest[0].at
    start = to_ms(since)
    while low < high:  # the first entry that is not before
        middle = (low + high) // 2
        found = store.journal.entries(tenant, middle - 1, 1)
        if found and found[0].at < start:
            low = middle + 1
        else:
            high = middle
    return low - 1, start


def _entries(store: Store, tenant: int, after: int, head: int, until: int) -> Iterator[StoredEntry]:
    """Entries behind ``after`` up to ``head``, before ``until`` (ms)."""
    while after < head:
        page = entries_after(store, tenant, after, min(PAGE_ENTRIES, head - after))
        for entry in page:
            if entry.at >= until:
                return
            yield entry
        if not page:
            return
        after = page[-1].seq


class _Ledger:
    """Accounts of the ledger, from the tables."""

    def __init__(self, store: Store, tenant: int) -> None:
        self._store = store
        self._tenant = tenant
        self._draft: Draft = view_draft(store, tenant)
        self._found: dict[int, Kept] = {}

    def find(self, number: int) -> Kept:
        """The account with this number; an entry of the journal that the tables have reached names it."""
        kept = self._found.get(number)
        if kept is None:
            kept = self._found[number] = self._kept(self._draft.accounts[number])
        return kept

    def kept(self, names: set[str]) -> Sequence[Kept] | Refused:
        """Those that no template has opened and those with these names, with all above them."""
        wanted = [number for name in sorted(names) if (number := self._draft.names.find(name)) is not None]
        after = 0
        while bodies := self._store.views.accounts(self._tenant, after, PAGE_ACCOUNTS, None, None, None):
            for body in bodies:
                account = decoded_account(body)
                after = account.number
                if account.template is None:
                    wanted.append(after)
            if len(wanted) > ACCOUNTS_MAX:
                detail = f"more than {ACCOUNTS_MAX} accounts were opened without a template"
                return Refused(code="too_many_accounts", detail=detail)
        found: dict[int, Kept] = {}
        for number in wanted:
            above: int | None = number
            while above is not None and above not in found:
                found[above] = self.find(above)
                above = found[above].parent
        return list(found.values())

    def _kept(self, account: Account) -> Kept:
        draft = self._draft
        return Kept(
            answer=account_answer(draft, account),
            parent=account.parent,
            template=account.template if account.name is not None else None,
            anchors={draft.budgets[number].name: draft.budgets[number].anchor for number in account.budgets},
        )

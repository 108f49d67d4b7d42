"""Views of a ledger: exact ones from the state in memory, lists from the tables that follow."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from fiscus.contract.analysis import AnalysisQuery, AnalysisView, UsageQuery
from fiscus.contract.errors import BudgetUnavailable, EntriesArchived
from fiscus.contract.queries import (
    PAGE_LENGTH_MAX,
    AccountsPage,
    AccountView,
    AnyQuery,
    CheckReserve,
    CheckView,
    EntriesPage,
    Entry,
    FindKey,
    HoldView,
    KeysView,
    ListAccounts,
    ListEntries,
    ListKeys,
    ListOverrides,
    ListPrices,
    ListQuery,
    ListTemplates,
    ListUsage,
    LoanView,
    OverridesPage,
    OverrideView,
    PricesView,
    ReadAccount,
    ReadHold,
    ReadLoan,
    ReadOverride,
    ReadReallocation,
    ReadSpared,
    TemplatesView,
    TemplateView,
    Usage,
    UsagePage,
    View,
)
from fiscus.core.answers import account_answer, effective_status, hold_answer, key_answer, override_answer, price_answer
from fiscus.core.checks import check_id, check_name, check_reserve, check_time, invalid, to_datetime, to_ms
from fiscus.core.commands import Request, Reserve
from fiscus.core.decide import new_draft
from fiscus.core.holds import admission, find_hold
from fiscus.core.outcomes import AccountAnswer, OverrideAnswer, Refused
from fiscus.core.overrides import find_override
from fiscus.core.records import CallRecord
from fiscus.core.routes import allocation_cell, running_cell
from fiscus.core.scopes import find_account, in_scope
from fiscus.core.sight import within_sight
from fiscus.core.state import ENDED, ENTITY_TYPES, PARKED, Account, Draft, Hold, Kind, Override
from fiscus.core.units import Amounts
from fiscus.treasury.analysis import analysis_view, check_analysis
from fiscus.treasury.codec import kind_of
from fiscus.treasury.reallocations import loan_view, reallocation_view
from fiscus.treasury.sealing import base_seal, joined, sealed_rows, table_of
from fiscus.treasury.spared import spared_view
from fiscus.treasury.store import Store, StoredEntry, UsageRow

FOLLOWER_WAIT = "the read models are behind; try again"
REMEMBERED_MAX = 100_000
"""Accounts and holds that a reader of the journal remembers; older ones are in the views by then."""

K = TypeVar("K")
V = TypeVar("V")
BY_LENDER = frozenset(("parts", "returned"))
BY_CELL = frozenset(("warned", "spared"))
NAME_FIELDS = ("account", "parent", "source", "target")
HOLD_KINDS = frozenset(
    {
        "held",
        "queued",
        "ticket_changed",
        "ticket_ended",
        "settled",
        "released",
        "extended",
        "expired",
        "quarantine_closed",
    }
)
TELLING = frozenset((b"account_opened", b"name_erased", b"budget_put", b"window_opened", b"adjusted"))
"""Kinds of entries from which it is known what others are about."""

CATCH_UP_PAGE = 5_000
NOT_ABOUT_ROOM = frozenset(("invalid", "unknown_account", "forbidden"))
"""Refusals that say that the question itself is wrong."""

_decoders: dict[Kind, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(entity_type) for kind, entity_type in ENTITY_TYPES.items()
}
_numbers: msgspec.json.Decoder[tuple[int, ...]] = msgspec.json.Decoder(tuple[int, ...])
_amounts: msgspec.json.Decoder[Amounts] = msgspec.json.Decoder(Amounts)
_record = msgspec.json.Decoder(CallRecord)


def read_view(draft: Draft, as_of_seq: int, query: AnyQuery, now: int) -> View | Refused:
    """Answer an exact query between two batches; windows that have ended are shown as they would open now."""
    view, scope = _view(draft, as_of_seq, query, now), query.scope
    if scope is None:
        return view
    if isinstance(view, HoldView):
        return msgspec.structs.replace(view, hold=within_sight(draft, view.hold, scope))
    if isinstance(view, AccountView):
        return msgspec.structs.replace(view, account=within_sight(draft, view.account, scope))
    if isinstance(view, LoanView):
        return msgspec.structs.replace(view, loan=within_sight(draft, view.loan, scope))
    if isinstance(view, CheckView):
        return msgspec.structs.replace(view, refused=within_sight(draft, view.refused, scope))
    return within_sight(draft, view, scope)


def _view(draft: Draft, as_of_seq: int, query: AnyQuery, now: int) -> View | Refused:
    if isinstance(query, ReadAccount):
        wrong = check_name("account", query.account)
        account = wrong or find_account(draft, query.account, query.scope)
        if isinstance(account, Refused):
            return account
        return AccountView(as_of_seq=as_of_seq, account=rolled_over(draft, account, now))
    if isinstance(query, ReadHold):
        wrong = check_id("id", query.id)
        hold = wrong or find_hold(draft, query.id, query.scope)
        if isinstance(hold, Refused):
            return hold
        return HoldView(as_of_seq=as_of_seq, hold=hold_answer(draft, hold))
    if isinstance(query, ReadOverride):
        wrong = check_id("id", query.id)
        override = wrong or find_override(draft, query.id, query.scope)
        if isinstance(override, Refused):
            return override
        return OverrideView(as_of_seq=as_of_seq, override=override_answer(draft, override))
    if isinstance(query, ReadSpared):
        return spared_view(draft, as_of_seq, query, now)
    if isinstance(query, ReadLoan):
        return loan_view(draft, as_of_seq, query)
    if isinstance(query, ReadReallocation):
        return reallocation_view(draft, as_of_seq, query, now)
    if isinstance(query, CheckReserve):
        return check_view(draft, as_of_seq, query, now)
    if isinstance(query, ListTemplates):
        return TemplatesView(as_of_seq=as_of_seq, templates=template_views(draft))
    if isinstance(query, ListPrices):
        return _prices(draft, as_of_seq, query)
    if isinstance(query, ListKeys):
        keys = sorted((key for key in draft.keys.values() if not key.revoked), key=lambda key: key.key)
        return KeysView(as_of_seq=as_of_seq, keys=tuple(key_answer(draft, key) for key in keys))
    assert isinstance(query, FindKey), "lists are read from the tables"
    found = (key for key in draft.keys.values() if key.digest == query.digest and not key.revoked)
    return KeysView(as_of_seq=as_of_seq, keys=tuple(key_answer(draft, key) for key in found))


def check_view(draft: Draft, as_of_seq: int, query: CheckReserve, now: int) -> CheckView | Refused:
    """What a reserve would be answered; all that it would do is undone."""
    command = Reserve(
        id="check",
        account=query.account,
        amounts=query.amounts,
        also=query.also,
        attributes=query.attributes,
        parent=query.parent,
    )
    wrong = check_reserve(command)
    if wrong is not None:
        return wrong
    mark = draft.mark()
    draft.isolate()
    draft.now = now
    request = Request(command=command, tenant=query.tenant, scope=query.scope, may_open=query.may_open)
    outcome = admission(draft, request, command, now)
    binding = outcome.binding if isinstance(outcome, Refused) else None
    is_above = binding is not None and isinstance(find_account(draft, binding.account, query.scope), Refused)
    draft.rollback(mark)
    if not isinstance(outcome, Refused):
        return CheckView(as_of_seq=as_of_seq, admitted=True, refused=None)
    if outcome.code in NOT_ABOUT_ROOM:
        return outcome
    if is_above:  # a key that is bound to an account is not told the figures of accounts above it
        detail = f"a budget above {query.scope} lacks room"
        outcome = msgspec.structs.replace(outcome, detail=detail, binding=None)
    return CheckView(as_of_seq=as_of_seq, admitted=False, refused=outcome)


def rolled_over(draft: Draft, account: Account, now: int) -> Any:
    mark = draft.mark()
    draft.isolate()
    draft.now = now
    for number in account.budgets:
        budget = draft.budgets[number]
        if budget.allocated:
            if effective_status(draft, account) == "active":
                allocation_cell(draft, budget, now)
        else:
            running_cell(draft, budget, now)
    answer = account_answer(draft, draft.accounts[account.number])
    draft.rollback(mark)
    return answer


def template_views(draft: Draft) -> tuple[TemplateView, ...]:
    """The templates that are in force, by pattern."""
    return tuple(
        TemplateView(
            pattern=template.pattern,
            parent=draft.accounts[template.parent].display_name if template.parent is not None else None,
            budgets=template.budgets,
            allocations=template.allocations,
            priority=template.priority,
            max_children=template.max_children,
            max_new_per_minute=template.max_new_per_minute,
            idle_close_s=template.idle_close_s,
            confidence_threshold=template.gate.confidence_threshold if template.gate is not None else None,
            gate_s=template.gate.closed_s if template.gate is not None else None,
            shortage=template.shortage,
            grant_strategy=template.grant_strategy,
        )
        for template in sorted(draft.templates.values(), key=lambda template: template.pattern)
        if not template.removed
    )


def _prices(draft: Draft, as_of_seq: int, query: ListPrices) -> PricesView:
    version = max((price.order for price in draft.prices.values()), default=0)
    changed = query.unless_version != version
    ordered = sorted(draft.prices.values(), key=lambda price: -price.order) if changed else ()
    return PricesView(as_of_seq=as_of_seq, version=version, prices=tuple(map(price_answer, ordered)))


# -- lists -----------------------------------------------------------------------------------------------------------


def list_view(
    store: Store, tenant: int, query: ListQuery
) -> AccountsPage | OverridesPage | EntriesPage | UsagePage | Refused:
    """Answer a list query from the tables, in the caller's thread.

    Raises:
        BudgetUnavailable: the tables have not reached ``min_seq`` yet.
    """
    if type(query.limit) is not int or not 1 <= query.limit <= PAGE_LENGTH_MAX:
        return invalid("limit", f"must be an integer in 1 … {PAGE_LENGTH_MAX}")
    wrong = _wrong_times(query) if isinstance(query, ListUsage) else None
    if wrong is not None:
        return wrong
    if isinstance(query, ListOverrides):
        if wrong := check_id("after", query.after or "-"):
            return wrong
    elif type(query.after) is not int or not 0 <= query.after < 2**62:
        return invalid("after", "must be an integer ≥ 0")
    if isinstance(query, ListEntries):
        return _entries_page(store, tenant, query)
    watermark = store.views.watermark(tenant)
    as_of_seq = watermark.seq if watermark is not None else 0
    if as_of_seq < query.min_seq:
        raise BudgetUnavailable(FOLLOWER_WAIT)
    if isinstance(query, ListAccounts):
        return _accounts_page(store, tenant, query, as_of_seq)
    if isinstance(query, ListOverrides):
        return _overrides_page(store, tenant, query, as_of_seq)
    return _usage_page(store, tenant, query, as_of_seq)


def _wrong_times(query: ListUsage) -> Refused | None:
    return check_time("since", query.since) or check_time("until", query.until)


def read_analysis(store: Store, tenant: int, query: AnalysisQuery, now: int) -> AnalysisView | Refused:
    """Answer a question about what was used from the tables, in the caller's thread, at ``now`` (ms).

    Raises:
        BudgetUnavailable: the tables have not reached ``min_seq`` yet.
    """
    wrong = check_analysis(query)
    if wrong is not None:
        return wrong
    watermark = store.views.watermark(tenant)
    as_of_seq = watermark.seq if watermark is not None else 0
    if as_of_seq < query.min_seq:
        raise BudgetUnavailable(FOLLOWER_WAIT)
    within: int | None = None
    name = (query.account if isinstance(query, UsageQuery) else None) or query.scope
    if name is not None:
        found = check_name("account", name) or find_account(view_draft(store, tenant), name, query.scope)
        if isinstance(found, Refused):
            return found
        within = found.number
    return analysis_view(store, tenant, query, as_of_seq, now, within)


def view_draft(store: Store, tenant: int) -> Draft:
    """A state that reads everything from the views, for answers only."""
    draft = new_draft()
    views = store.views
    for table in (draft.accounts, draft.budgets, draft.cells, draft.loans):
        kind = table.kind

        def load(key: Any, kind: Kind = kind) -> Any:
            body = views.load(tenant, kind, key)
            return _decoders[kind].decode(body) if body is not None else None

        table.load = load
    draft.names.load = lambda name: views.load_name(tenant, name)
    return draft


def decoded_account(body: bytes) -> Account:
    """An account as the views keep it."""
    account: Account = _decoders["account"].decode(body)
    return account


def _accounts_page(store: Store, tenant: int, query: ListAccounts, as_of_seq: int) -> AccountsPage | Refused:
    draft = view_draft(store, tenant)
    within: int | None = None
    parent: int | None = None
    if query.scope is not None:
        within = draft.names.find(query.scope)
        if within is None:
            return AccountsPage(as_of_seq=as_of_seq, accounts=(), next=None)
    if query.parent is not None:
        found = find_account(draft, query.parent, query.scope, "parent")
        if isinstance(found, Refused):
            return found
        parent = found.number
    answers: list[AccountAnswer] = []
    after, more = query.after, True
    while more and len(answers) < query.limit:
        bodies = store.views.accounts(tenant, after, query.limit, query.prefix, parent, within)
        more = len(bodies) == query.limit
        for body in bodies:
            account: Account = _decoders["account"].decode(body)
            after = account.number
            if query.status is None or account.status == query.status:
                answers.append(within_sight(draft, account_answer(draft, account), query.scope))
                if len(answers) == query.limit:
                    more = True
                    break
    return AccountsPage(as_of_seq=as_of_seq, accounts=tuple(answers), next=after if more else None)


def _overrides_page(store: Store, tenant: int, query: ListOverrides, as_of_seq: int) -> OverridesPage | Refused:
    draft = view_draft(store, tenant)
    within: int | None = None
    name = query.account or query.scope
    if name is not None:
        found = find_account(draft, name, query.scope)
        if isinstance(found, Refused):
            return found
        within = found.number
    answers: list[OverrideAnswer] = []
    after, more, pending = query.after, True, query.state == "pending"
    while more and len(answers) < query.limit:
        bodies = store.views.overrides(tenant, after, query.limit, within, pending)
        more = len(bodies) == query.limit
        for body in bodies:
            override: Override = _decoders["override"].decode(body)
            after = override.id
            if query.state is None or override.state == query.state:
                answers.append(override_answer(draft, override))
                if len(answers) == query.limit:
                    more = True
                    break
    return OverridesPage(as_of_seq=as_of_seq, overrides=tuple(answers), next=after if more else None)


def _usage_page(store: Store, tenant: int, query: ListUsage, as_of_seq: int) -> UsagePage | Refused:
    draft = view_draft(store, tenant)
    within: int | None = None
    name = query.account or query.scope
    if name is not None:
        found = find_account(draft, name, query.scope)
        if isinstance(found, Refused):
            return found
        within = found.number
    rows = store.views.usage(
        tenant,
        query.after,
        query.limit,
        within,
        to_ms(query.since) if query.since is not None else None,
        to_ms(query.until) if query.until is not None else None,
    )
    return UsagePage(
        as_of_seq=as_of_seq,
        usage=tuple(_usage(draft, row, query.scope) for row in rows),
        next=rows[-1].seq if len(rows) == query.limit else None,
    )


def _usage(draft: Draft, row: UsageRow, scope: str | None) -> Usage:
    also = (draft.accounts[number] for number in _numbers.decode(row.also))
    return Usage(
        seq=row.seq,
        at=to_datetime(row.at),
        hold=row.hold,
        account=draft.accounts[row.account].display_name,
        also=tuple(account.display_name for account in also if in_scope(draft, account, scope)),
        amounts=_amounts.decode(row.amounts),
        uncovered=_amounts.decode(row.uncovered),
        estimated=row.estimated,
        record=_record.decode(row.record) if row.record is not None else None,
    )


def _entries_page(store: Store, tenant: int, query: ListEntries) -> EntriesPage | Refused:
    head = store.journal.head(tenant)
    as_of_seq = head.seq if head is not None else 0
    if as_of_seq < query.min_seq:
        raise BudgetUnavailable(FOLLOWER_WAIT)
    stored = entries_after(store, tenant, query.after, query.limit)
    names = AccountNames(store, tenant)
    if stored:
        names.catch_up(query.after)
    wanted = Kinds(query.kinds)
    entries = [entry for one in stored if (entry := wanted.entry(one, names)) is not None]
    scope = names.number(query.scope) if query.scope is not None else None
    if query.scope is not None:
        entries = [names.seen(entry, scope) for entry in entries if scope is not None and names.concerns(entry, scope)]
    return EntriesPage(
        as_of_seq=as_of_seq,
        entries=tuple(entries),
        next=stored[-1].seq if len(stored) == query.limit else None,
    )


class Kinds:
    """Tells entries of some kinds from others by their bytes, mostly without reading them."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self._fields: dict[bytes, bytes | None] = {}
        for kind in kinds:
            name, _, field = kind.partition(".")
            self._fields[name.encode()] = b'"%b":' % field.encode() if field else None
        self._telling = TELLING | ({b"held", b"queued"} if HOLD_KINDS.intersection(kinds) else frozenset())

    def entry(self, stored: StoredEntry, names: AccountNames) -> Entry | None:
        """An entry of one of the kinds; None: it is of another. ``names`` learn from it either way."""
        if not self._fields or self._take(stored.body):
            return names.entry(stored)
        if kind_of(stored.body) in self._telling:
            names.entry(stored)
        return None

    def _take(self, body: bytes) -> bool:
        kind = kind_of(body)
        if kind not in self._fields:
            return False
        field = self._fields[kind]
        return field is None or field in body


def entries_after(store: Store, tenant: int, after: int, limit: int) -> list[StoredEntry]:
    """Entries after a sequence number, in order.

    Raises:
        EntriesArchived: the first of them is not there any more.
    """
    stored = store.journal.entries(tenant, after, limit)
    if stored and stored[0].seq != after + 1:
        first_seq = stored[0].seq
        detail = f"entries {after + 1} to {first_seq - 1} were archived; begin with {first_seq}"
        raise EntriesArchived(detail, first_seq)
    return stored


def sealed_allocations(store: Store, tenant: int) -> tuple[int, list[Entry]]:
    """The allocations of tokens in the state that an archived journal begins with, told as entries.

    Who folds the journal for what was granted and used begins with these: each allocation that stood then, what was
    booked in it, and the holds that were open.

    Returns:
        The last entry that is not there any more (0: all are), and the entries, all with that sequence number.
    """
    first = store.journal.entries(tenant, 0, 1)
    seq = first[0].seq - 1 if first else 0
    seal = base_seal(store.journal, tenant, seq) if seq else None
    if seal is None:
        return 0, []
    draft = new_draft()
    for kind, key, entity in joined(sealed_rows(store.journal, tenant, seal)):
        table_of(draft, kind)[key] = entity
    entries: list[Entry] = []

    def tell(kind: str, account: int, **data: Any) -> None:
        name = draft.accounts[account].name
        names = {str(account): name} if name is not None else {}
        told = {"account": account, **data}
        entries.append(Entry(seq=seal.seq, at=to_datetime(seal.at), kind=kind, data=told, names=names, hash=""))

    open_holds: dict[int, list[Hold]] = {}
    for hold in draft.holds.values():
        if hold.open and not hold.tombstone and hold.state != "waiting":
            open_holds.setdefault(hold.account, []).append(hold)
    for cell in draft.cells.values():
        if cell.unit != "tokens" or cell.phase == ENDED or not draft.budgets[cell.budget].allocated:
            continue
        account = cell.account
        tell("allocation_put", account, unit="tokens", cell=cell.number, size=cell.limit, parked=cell.phase == PARKED)
        holds = open_holds.get(account, ())
        settled = cell.covered + cell.uncovered - sum(hold.booked.get("tokens", 0) for hold in holds)
        if settled > 0:
            tell("settled", account, id=f"sealed {cell.number}", total={"tokens": settled})
        for hold in holds:
            tell("held", account, id=hold.id, amounts=hold.reserved)
            if hold.booked:
                tell("settled", account, id=hold.id, total=hold.booked, final=False)
    return seal.seq, entries


class AccountNames:
    """Names and parents of accounts for readers of the journal, from the entries themselves and the views."""

    def __init__(self, store: Store, tenant: int) -> None:
        self._store = store
        self._tenant = tenant
        self._known: dict[int, tuple[str | None, int | None]] = {}
        self._owners: dict[tuple[Kind, int | str], int] = {}

    def catch_up(self, seq: int) -> None:
        """Take note of the entries up to a sequence number that the views do not know yet."""
        watermark = self._store.views.watermark(self._tenant)
        after = watermark.seq if watermark is not None else 0
        while after < seq:
            stored = self._store.journal.entries(self._tenant, after, min(CATCH_UP_PAGE, seq - after))
            if not stored:
                return
            for entry in stored:
                self.entry(entry)
            after = stored[-1].seq

    def number(self, name: str) -> int | None:
        """The number of an account."""
        return self._store.views.load_name(self._tenant, name) or next(
            (number for number, (known, _) in self._known.items() if known == name), None
        )

    def entry(self, stored: StoredEntry) -> Entry:
        """An entry as readers see it, with the names of the accounts in it."""
        data = msgspec.json.decode(stored.body)
        kind = data.pop("kind")
        private = msgspec.json.decode(stored.private) if stored.private is not None else None
        if private is not None:
            data["private"] = private
        if kind == "account_opened":
            name = private.get("name") if private is not None else None
            _remember(self._known, data["account"], (name, data.get("parent")))
        elif kind == "name_erased":
            _remember(self._known, data["account"], (None, self._find(data["account"])[1]))
        numbers = {data[field] for field in NAME_FIELDS if isinstance(data.get(field), int)}
        numbers.update(number for number in data.get("also", ()) if isinstance(number, int))
        owner = self.owner(kind, data)
        if owner is not None:
            numbers.add(owner)
            data.setdefault("account", owner)
        names = {str(number): name for number in sorted(numbers) if (name := self._find(number)[0]) is not None}
        return Entry(
            seq=stored.seq, at=to_datetime(stored.at), kind=kind, data=data, names=names, hash=stored.hash.hex()
        )

    def owner(self, kind: str, data: dict[str, Any]) -> int | None:
        """The account that an entry concerns, looked up through its hold, cell or budget where it is not named."""
        entities = list(_entities(kind, data))
        account = data.get("account")
        if not isinstance(account, int):
            owners = (self._owner_of(*entity) for entity in entities)
            account = next((owner for owner in owners if owner is not None), None)
        if account is not None:
            for entity in entities:
                _remember(self._owners, entity, account)
        return account

    def _owner_of(self, kind: Kind, key: int | str) -> int | None:
        known = self._owners.get((kind, key))
        if known is not None:
            return known
        body = self._store.views.load(self._tenant, kind, key)
        return int(msgspec.json.decode(body)["account"]) if body is not None else None

    def concerns(self, entry: Entry, scope: int) -> bool:
        """Whether an entry is about the scope's account or one below it."""
        if entry.kind in (
            "key_put",
            "key_revoked",
            "price_put",
            "price_removed",
            "template_put",
            "template_removed",
            "checkpoint",
            "transferred",
        ):
            return False
        return self._is_within(entry.data.get("account"), scope)

    def seen(self, entry: Entry, scope: int) -> Entry:
        """An entry without the names of accounts outside the scope, and what it says of them."""
        names = {number: name for number, name in entry.names.items() if self._is_within(int(number), scope)}
        data: dict[str, Any] = dict(entry.data)
        if "also" in data:
            data["also"] = [number for number in data["also"] if self._is_within(number, scope)]
        for field in BY_LENDER & data.keys():
            data[field] = [part for part in data[field] if self._is_within(part[0], scope)]
        for field in BY_CELL & data.keys():
            cells = [cell for cell in data[field] if self._is_within(self._owner_of("cell", int(cell)), scope)]
            data[field] = {cell: data[field][cell] for cell in cells} if isinstance(data[field], dict) else cells
        return msgspec.structs.replace(entry, names=names, data=data)

    def _is_within(self, number: object, scope: int) -> bool:
        while isinstance(number, int):
            if number == scope:
                return True
            number = self._find(number)[1]
        return False

    def _find(self, number: int) -> tuple[str | None, int | None]:
        known = self._known.get(number)
        if known is None:
            body = self._store.views.load(self._tenant, "account", number)
            if body is None:
                return None, None
            account: Account = _decoders["account"].decode(body)
            known = (account.name, account.parent)
            _remember(self._known, number, known)
        return known


def _entities(kind: str, data: dict[str, Any]) -> Iterator[tuple[Kind, int | str]]:
    """The hold or adjustment, cell and budget of an entry: whoever owns one of them owns all."""
    if kind in HOLD_KINDS:
        yield "hold", data["id"]
    elif kind in ("adjusted", "adjustment_ended"):
        yield "adjustment", data["id"]
    if isinstance(data.get("cell"), int) and kind not in HOLD_KINDS:  # who waits for a cell does not own it
        yield "cell", data["cell"]
    if isinstance(data.get("budget"), int):
        yield "budget", data["budget"]


def _remember(table: dict[K, V], key: K, value: V) -> None:
    """Keep something for later entries, and let go of the oldest beyond the bound."""
    table[key] = value
    if len(table) > REMEMBERED_MAX:
        del table[next(iter(table))]


__all__ = [
    "AccountNames",
    "decoded_account",
    "entries_after",
    "list_view",
    "read_analysis",
    "read_view",
    "sealed_allocations",
    "template_views",
    "view_draft",
]

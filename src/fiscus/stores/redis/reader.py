"""Accounts as of one entry of the journal: what changed comes with the snapshots, the rest from the views."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from fiscus.core.answers import effective_status
from fiscus.core.decide import new_draft
from fiscus.core.outcomes import AccountAnswer
from fiscus.core.routes import chain, has_lapsed
from fiscus.core.state import ENDED, ENTITY_TYPES, KINDS, PARKED, Account, AnyEntity, Draft, Kind
from fiscus.treasury.codec import genesis
from fiscus.treasury.reading import rolled_over
from fiscus.treasury.store import Snapshot, Store, Watermark

ENTITIES_MAX = 150_000
"""Entities in memory beyond which all are let go; they are in the views."""

PAGE = 1_000
BALANCES: tuple[Kind, ...] = ("account", "budget", "cell")
"""What balances are made of; they come first in the order of the kinds."""

_decode = {kind: msgspec.json.Decoder(ENTITY_TYPES[kind]).decode for kind in BALANCES}


class Shown(msgspec.Struct, frozen=True):
    """An account as ``GET /v1/accounts`` shows it.

    Attributes:
        chain: names of the account and all above it, leaf first.
        is_live: neither terminated nor closed.
        is_pending: whether an allocation is shown as it would be carved again or resumed, which depends on the room
            there is above: it may change without any change of the account.
    """

    answer: AccountAnswer
    chain: tuple[str, ...]
    is_live: bool
    is_pending: bool


class LedgerReader:
    """Accounts of one tenant as of entry ``seq``.

    What is loaded from the views may be of a later entry, if they have moved on: ``loads`` counts it, and whoever has
    loaded something looks whether the views are as of ``seq`` still.
    """

    def __init__(self, store: Store, tenant: int) -> None:
        self.seq = 0
        self.loads = 0
        self._views = store.views
        self._tenant = tenant
        self._draft = self._new_draft()

    def _new_draft(self) -> Draft:
        draft = new_draft()
        for table in (draft.accounts, draft.budgets, draft.cells):
            table.load = self._loader(table.kind)
        draft.names.load = self._load_name
        return draft

    def _loader(self, kind: Kind) -> Any:
        decode = _decode[kind]

        def load(key: int | str) -> AnyEntity | None:
            self.loads += 1
            body = self._views.load(self._tenant, kind, key)
            return decode(body) if body is not None else None

        return load

    def _load_name(self, name: str) -> int | None:
        self.loads += 1
        return self._views.load_name(self._tenant, name)

    # -- moving on ------------------------------------------------------------------------------------------------

    def merge(self, snapshot: Snapshot) -> set[int]:
        """Move on to a snapshot, if it is a later one; returns the numbers of the accounts that changed in it."""
        rows: list[tuple[Kind, int | str, Any]] = [
            (row.kind, row.key, _decode[row.kind](row.body)) for row in snapshot.entities if row.kind in _decode
        ]
        if snapshot.watermark.seq > self.seq:
            if snapshot.after > self.seq or self._entities > ENTITIES_MAX:
                self._draft = self._new_draft()
            for kind, key, entity in rows:
                self._keep(kind, key, entity)
            self._reach(snapshot.watermark)
        return {entity.number if isinstance(entity, Account) else entity.account for _, _, entity in rows}

    def restart(self, mark: Watermark) -> None:
        """Let go of everything: the views are as of another entry."""
        self._draft = self._new_draft()
        self._reach(mark)

    @classmethod
    def sealed(cls, store: Store, tenant: int, name: str, check: Callable[[], None]) -> tuple[LedgerReader, Watermark]:
        """All accounts in one consistent view, with what of their windows is still of use.

        Args:
            store: the ledger.
            tenant: its number; ``name``: its name.
            check: called now and then; raises to have it given up.
        """
        reader = cls(store, tenant)
        if store.views.watermark(tenant) is None:
            return reader, Watermark(0, genesis(name), 0, 0, 0, 0)
        draft = reader._draft
        with store.views.sealed(tenant) as (mark, rows):
            for count, (number, key, body) in enumerate(rows):
                if count % PAGE == 0:
                    check()
                kind = KINDS[number]
                if kind not in _decode:
                    break
                entity: Any = _decode[kind](body)
                if kind != "cell" or draft.budgets[entity.budget].cell == key:
                    reader._keep(kind, key, entity)
        reader._reach(mark)
        return reader, mark

    @property
    def _entities(self) -> int:
        draft = self._draft
        return len(draft.accounts) + len(draft.budgets) + len(draft.cells)

    def _keep(self, kind: Kind, key: int | str, entity: Any) -> None:
        draft = self._draft
        table: Any = {"account": draft.accounts, "budget": draft.budgets, "cell": draft.cells}[kind]
        table[key] = entity
        if isinstance(entity, Account) and entity.name is not None:
            draft.names[entity.name] = entity.number

    def _reach(self, mark: Watermark) -> None:
        draft = self._draft
        self.seq = mark.seq
        draft.accounts_opened, draft.budgets_made, draft.cells_opened = mark.accounts, mark.budgets, mark.cells

    # -- looking --------------------------------------------------------------------------------------------------

    def numbers(self) -> list[int]:
        """All accounts in memory, in the order of their numbers."""
        return sorted(self._draft.accounts)

    def number(self, name: str) -> int | None:
        """The account with a name."""
        number = self._draft.names.find(name)
        account = self._draft.accounts.find(number) if number is not None else None
        return number if account is not None and account.name == name else None

    def below(self, number: int) -> Iterator[int]:
        """The accounts below one, as the views have them now."""
        after = 0
        while True:
            page = self._views.accounts(self._tenant, after, PAGE, None, None, number)
            for body in page:
                after = _decode["account"](body).number  # type: ignore[union-attr]
                yield after
            if len(page) < PAGE:
                return

    def name(self, number: int) -> str | None:
        """The name of an account; None if there is none or it was erased."""
        account = self._draft.accounts.find(number)
        return account.name if account is not None else None

    def show(self, number: int, now_ms: int) -> Shown | None:
        """An account as it is shown at an instant; None if there is none."""
        draft = self._draft
        account = draft.accounts.find(number)
        if account is None:
            return None
        shown = Shown(
            answer=rolled_over(draft, account, now_ms),
            chain=tuple(one.display_name for one in chain(draft, account)),
            is_live=account.status in ("active", "suspended"),
            is_pending=self._is_pending(account, now_ms),
        )
        draft.deadlines.clear()
        draft.carved_since.clear()
        draft.commit()
        return shown

    def _is_pending(self, account: Account, now_ms: int) -> bool:
        draft = self._draft
        for number in account.allocations.values():
            budget = draft.budgets[number]
            cell = draft.cells[budget.cell]
            if (cell.phase in (PARKED, ENDED) or cell.end <= now_ms) and not has_lapsed(budget, now_ms):
                return effective_status(draft, account) == "active"
        return False

"""A rehearsal: the grants that the journal records, as another strategy would have sized them.

The formula alone is rehearsed, with the history as it was when each grant was asked for. What agents went on to use,
and what the pool had left, stay as they are recorded: nobody knows what an agent would have done with more, or less.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import floor
from typing import Any

import msgspec

from fiscus.api.economy.books import Books, GrantNote
from fiscus.contract.queries import Entry
from fiscus.core.commands import GrantStrategy
from fiscus.policy.efficiency import BASE_TOKENS_MAX, grant_multiplier
from fiscus.policy.grants import History, middle_of, standing

GRANTS = frozenset(("allocation_put", "allocation_resized"))


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """What one agent asked for, was granted, and would have been granted by the formula alone, in tokens.

    ``strategy``: the one of the rehearsal.
    """

    agent_id: str
    strategy: GrantStrategy
    grants: int
    requested_tokens: int
    granted_tokens: int
    rehearsed_tokens: int


class Rehearsal:
    """Folds entries of the journal in order; ``rows`` are the agents so far.

    Args:
        strategy: by which grants are sized anew.
        by_agent: agents for which another one counts.
    """

    def __init__(self, strategy: GrantStrategy, by_agent: Mapping[str, GrantStrategy] | None = None) -> None:
        self._strategy: GrantStrategy = strategy
        self._by_agent = by_agent or {}
        self._books = Books()
        self._rows: dict[int, Rehearsed] = {}

    def fold(self, entries: Iterable[Entry]) -> None:
        """Take the next entries."""
        for entry in entries:
            if entry.kind in GRANTS:
                self._rehearse(entry)
            self._books.fold(entry)

    def rows(self) -> list[Rehearsed]:
        """The agents, in the order of their first grant."""
        return list(self._rows.values())

    def _rehearse(self, entry: Entry) -> None:
        note = _note(entry.data)
        if note is None:
            return
        number: int = entry.data["account"]
        name = entry.names.get(str(number), f"agent:erased:{number}").removeprefix("agent:")
        strategy = self._by_agent.get(name, self._strategy)
        base = min(Fraction(str(note.requested_tokens)), Fraction(BASE_TOKENS_MAX))
        tokens = floor(base * grant_multiplier(self._historical(strategy, note.parent_agent_id or name, entry)))
        before = self._books.agents.get(number)
        had = before.allocated if before is not None and entry.kind == "allocation_resized" else 0
        row = self._rows.get(number)
        self._rows[number] = Rehearsed(
            agent_id=name,
            strategy=strategy,
            grants=(row.grants if row is not None else 0) + 1,
            requested_tokens=(row.requested_tokens if row is not None else 0) + floor(note.requested_tokens),
            granted_tokens=(row.granted_tokens if row is not None else 0) + entry.data["size"] - had,
            rehearsed_tokens=(row.rehearsed_tokens if row is not None else 0) + tokens,
        )

    def _historical(self, strategy: GrantStrategy, agent_id: str, entry: Entry) -> Fraction:
        book = self._books.agent(agent_id)
        if strategy == "classic" and book is not None:
            return book.historical_efficiency()
        history = book.history(entry.at) if book is not None else History()
        return standing(strategy, history, middle_of(self._books.others(agent_id))).historical


def _note(data: dict[str, Any]) -> GrantNote | None:
    """The grant's own note; None: it was no grant, or the agent's name was erased and the note with it."""
    reason = (data.get("private") or {}).get("reason") or ""
    try:
        return msgspec.json.decode(reason, type=GrantNote)
    except msgspec.DecodeError:
        return None

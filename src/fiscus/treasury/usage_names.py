"""Whom a call is attributed to where its record does not say: the nearest account of a kind that it was charged to."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fiscus.core.state import Account
from fiscus.treasury.store import Store

PREFIXES: dict[str, str] = {
    "user_id": "user:",
    "project_id": "project:",
    "team_id": "team:",
    "feature": "feature:",
    "agent_id": "agent:",
}
CHAIN_LENGTH_MAX = 64

_account = msgspec.json.Decoder(Account)
_numbers: msgspec.json.Decoder[tuple[int, ...]] = msgspec.json.Decoder(tuple[int, ...])


class Names:
    """Names and parents of accounts, out of the views."""

    def __init__(self, store: Store, tenant: int) -> None:
        self._views = store.views
        self._tenant = tenant
        self._known: dict[int, tuple[str | None, int | None]] = {}

    def name(self, number: int) -> str | None:
        """The name of an account; None: there is none, or it was erased."""
        self._load([number])
        return self._known[number][0]

    def chain(self, number: int) -> list[str]:
        """The names of an account and of those above it, leaf first."""
        names: list[str] = []
        above: int | None = number
        while above is not None and len(names) < CHAIN_LENGTH_MAX:
            self._load([above])
            name, above = self._known[above]
            names.append(name or "")
        return names

    def attribution(self, charged: Iterable[tuple[str, str]], scope: str | None = None) -> Attribution:
        """For calls with these payers and these other accounts, as they stand in the keys of sums.

        Args:
            charged: them.
            scope: nothing is told of accounts that are not within it.
        """
        pairs = list(charged)
        level = {int(account) for account, _ in pairs if account}
        level.update(number for _, also in pairs for number in _numbers.decode(also))
        depth = 0
        while level and depth < CHAIN_LENGTH_MAX:
            self._load(level)
            level = {parent for number in level if (parent := self._known[number][1]) is not None} - self._known.keys()
            depth += 1
        return Attribution(self, scope)

    def _load(self, numbers: Iterable[int]) -> None:
        wanted = [number for number in numbers if number not in self._known]
        if not wanted:
            return
        bodies = self._views.load_many(self._tenant, "account", wanted)
        for number in wanted:
            body = bodies.get(number)
            account = _account.decode(body) if body is not None else None
            self._known[number] = (account.name, account.parent) if account is not None else (None, None)


class Attribution:
    """What follows from accounts for each dimension; worked out once for each payer with its other accounts."""

    def __init__(self, names: Names, scope: str | None) -> None:
        self._names = names
        self._scope = scope
        self._found: dict[tuple[str, str, str], str | None] = {}

    def of(self, dimension: str, account: str, also: str) -> str | None:
        """The rest of the name of the nearest account of this kind: on the payer's chain, then on the others'."""
        key = (dimension, account, also)
        if key not in self._found:
            self._found[key] = self._find(PREFIXES[dimension], account, also)
        return self._found[key]

    def _find(self, prefix: str, account: str, also: str) -> str | None:
        numbers = ([int(account)] if account else []) + list(_numbers.decode(also))
        for number in numbers:
            chain = self._names.chain(number)
            if self._scope is not None:
                chain = chain[: chain.index(self._scope) + 1] if self._scope in chain else []
            for name in chain:
                if name.startswith(prefix):
                    return name.removeprefix(prefix)
        return None

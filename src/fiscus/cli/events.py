"""``fiscus events``: the journal, as it is and as it grows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, cast

import msgspec
import typer

from fiscus.cli.connection import Connection
from fiscus.cli.output import time_text, write_json, write_line
from fiscus.contract.queries import PAGE_LENGTH_MAX, AccountView, EntriesPage, Entry, ListEntries, ReadAccount
from fiscus.core.commands import CHAIN_LENGTH_MAX

SHOWN_LENGTH_MAX = 240
ACCOUNTS_KNOWN_MAX = 100_000

After = Annotated[int, typer.Option(min=0, help="Begin behind this sequence number.")]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")]
AccountGiven = Annotated[str | None, typer.Option("--account", help="Only what concerns it or an account below.")]


async def write_events(connection: Connection, *, after: int, follow: bool, account: str | None, json: bool) -> None:
    """Write entries of the journal in order, one a line."""
    entries = _followed(connection, after, account) if follow else _known(connection, after, account)
    async with aclosing(cast("Any", entries)):
        async for entry in entries:
            if json:
                write_json(entry)
            else:
                write_line(entry_text(entry))


def entry_text(entry: Entry) -> str:
    """One entry on one line, its accounts by name."""
    name = entry.names.get(str(entry.data.get("account")), "")
    rest = {field: value for field, value in entry.data.items() if field not in {"kind", "commitment"}}
    text = msgspec.json.encode(rest).decode()
    shown = text if len(text) <= SHOWN_LENGTH_MAX else text[:SHOWN_LENGTH_MAX] + "…"
    return f"{entry.seq:>8}  {time_text(entry.at)}  {entry.kind:<18} {name:<24} {shown}"


def _followed(connection: Connection, after: int, account: str | None) -> AsyncIterator[Entry]:
    """What was and what comes."""
    return connection.treasury.follow(after, connection.tenant, account)


async def _known(connection: Connection, after: int, account: str | None) -> AsyncIterator[Entry]:
    """What is in the journal now."""
    lineage = Lineage(connection)
    if account is not None:
        await connection.read(AccountView, ReadAccount(tenant=connection.tenant, account=account))
    position: int | None = after
    while position is not None:
        query = ListEntries(tenant=connection.tenant, after=position, limit=PAGE_LENGTH_MAX)
        page = await connection.read(EntriesPage, query)
        for entry in page.entries:
            if account is None or account in await lineage.of(entry):
                yield entry
        position = page.next


class Lineage:
    """Which accounts an entry concerns: its own and all above. What it learns it keeps."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._parents: dict[str, str | None] = {}

    async def of(self, entry: Entry) -> list[str]:
        """The chain of an entry's account, leaf first; empty if it has none, or its name was erased."""
        name = entry.names.get(str(entry.data.get("account")))
        chain: list[str] = []
        while name is not None and len(chain) < CHAIN_LENGTH_MAX:
            chain.append(name)
            name = await self._parent(name)
        return chain

    async def _parent(self, name: str) -> str | None:
        if name not in self._parents:
            if len(self._parents) >= ACCOUNTS_KNOWN_MAX:
                self._parents.clear()
            query = ReadAccount(tenant=self._connection.tenant, account=name)
            self._parents[name] = (await self._connection.read(AccountView, query)).account.parent
        return self._parents[name]

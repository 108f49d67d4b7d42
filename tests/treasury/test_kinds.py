"""Entries of some kinds out of the journal: as they are among all, with the names that the others tell."""

from __future__ import annotations

from uuid import uuid4

import pytest

from fiscus.api import ApiOptions, create_app
from fiscus.client import RemoteTreasury
from fiscus.contract.queries import EntriesPage, ListEntries
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.outcomes import Refused
from tests.api.service import ledger, serving


async def fill(treasury) -> None:
    commands = [PutAccount(account="agent:x"), PutBudget(account="agent:x", unit="tokens", limit=10, mode="warn")]
    for amount in (5, 50):
        id = str(uuid4())
        commands += [Reserve(id=id, account="agent:x", amounts={"tokens": amount}), Settle(id=id, total={"tokens": 5})]
    for command in commands:
        assert not isinstance(await treasury.execute(Request(command=command)), Refused)


@pytest.mark.parametrize(
    "kinds", [("settled",), ("held.warned",), ("threshold_crossed", "budget_put"), ("released",), ()]
)
async def test_they_are_those_of_the_whole_journal_with_all_that_is_known(kinds):
    async with ledger() as treasury:
        await fill(treasury)
        whole = await treasury.read(ListEntries(limit=1_000))
        page = await treasury.read(ListEntries(limit=1_000, kinds=kinds))
    assert isinstance(whole, EntriesPage)
    assert isinstance(page, EntriesPage)
    wanted = {kind.partition(".")[0] for kind in kinds}
    assert page.entries == tuple(
        entry
        for entry in whole.entries
        if not kinds or (entry.kind in wanted and (kinds != ("held.warned",) or entry.data.get("warned")))
    )
    assert len(page.entries) == {("settled",): 2, ("held.warned",): 1, ("released",): 0}.get(kinds, len(page.entries))


async def test_a_page_ends_where_reading_did_and_the_next_goes_on_from_there():
    async with ledger() as treasury:
        await fill(treasury)
        found, after, pages = [], 0, 0
        while after is not None:
            page = await treasury.read(ListEntries(after=after, limit=2, kinds=("settled",)))
            assert isinstance(page, EntriesPage)
            found += page.entries
            after = page.next
            pages += 1
    assert [entry.kind for entry in found] == ["settled", "settled"]
    assert pages > 3


async def test_a_service_picks_the_same_and_says_what_is_no_list_of_kinds():
    async with ledger() as treasury, serving(create_app(treasury, ApiOptions())) as url:
        await fill(treasury)
        remote = RemoteTreasury(url)
        query = ListEntries(kinds=("held.warned", "settled"))
        assert await remote.read(query) == await treasury.read(query)
        refused = await remote.read(ListEntries(kinds=("Held; DROP",)))
        assert isinstance(refused, Refused)
        assert (refused.code, refused.field) == ("invalid", "kinds")
        await remote.close()

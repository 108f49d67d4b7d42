"""What a command asks of a service."""

from __future__ import annotations

from typing import Any

import pytest

from fiscus.cli.connection import Connection
from fiscus.contract.analysis import AggregateUsage, UsageTotals
from fiscus.contract.errors import BudgetUnavailable
from fiscus.contract.queries import AccountsPage, ListAccounts, ListTemplates, TemplatesView
from fiscus.contract.treasury import Readiness
from fiscus.settings import load_settings

ADDRESS = "http://127.0.0.1:1"


class Service:
    """Its views follow its journal by a moment: it answers what it is asked for, as of what it was asked for."""

    def __init__(self, *, ready: bool = True, is_deaf: bool = False) -> None:
        self.asked: list[Any] = []
        self._ready = ready
        self._is_deaf = is_deaf

    async def readiness(self) -> Readiness:
        if self._is_deaf:
            raise BudgetUnavailable("a connection broke")
        return Readiness(ready=self._ready, head_seq=7)

    async def read(self, query: Any) -> Any:
        self.asked.append(query)
        if isinstance(query, ListAccounts):
            return AccountsPage(as_of_seq=query.min_seq, accounts=(), next=None)
        if isinstance(query, AggregateUsage):
            return _totals(query.min_seq)
        return TemplatesView(as_of_seq=7, templates=())


def _totals(seq: int) -> UsageTotals:
    empty = dict.fromkeys(UsageTotals.__struct_fields__, 0)
    return UsageTotals(**{**empty, "as_of_seq": seq, "groups": (), "by": ()})  # type: ignore[arg-type]


@pytest.mark.parametrize(("kind", "query"), [(AccountsPage, ListAccounts()), (UsageTotals, AggregateUsage())])
async def test_lists_and_sums_of_a_service_are_as_of_now(kind, query):
    assert (await Connection(Service(), load_settings(), address=ADDRESS).read(kind, query)).as_of_seq == 7


@pytest.mark.parametrize("service", [Service(ready=False), Service(is_deaf=True)], ids=["not ready", "not asked"])
async def test_what_is_known_is_listed_where_nobody_says_what_is_new(service):
    assert (
        await Connection(service, load_settings(), address=ADDRESS).read(AccountsPage, ListAccounts())
    ).as_of_seq == 0


async def test_what_is_exact_anyway_is_asked_once():
    service = Service()
    await Connection(service, load_settings(), address=ADDRESS).read(TemplatesView, ListTemplates())
    assert service.asked == [ListTemplates()]

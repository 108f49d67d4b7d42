"""Whole replays against the engine in this process; over HTTP they are run in ``tests/cli/test_replay.py``."""

from collections.abc import Iterator

import msgspec
import pytest

from fiscus.cli.replay.performance import BuiltIn, Settings, perform
from fiscus.cli.replay.screen import Silent
from fiscus.cli.traces import Call
from fiscus.contract.errors import BudgetUnavailable, Conflict, TreasuryError
from fiscus.contract.queries import ListEntries
from fiscus.core.commands import PutBudget, Request, Settle
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury

pytestmark = pytest.mark.slow

SETTINGS = Settings(agents=3, in_flight=64, seed=1, chaos=0.3, speed=None, id_seed="test", own_ledger=True, lease_s=1)
SOURCE = BuiltIn(1, 600)


class Calls(msgspec.Struct, frozen=True):
    """A source of calls that are given."""

    given: tuple[Call, ...]
    name: str = "given"

    def digest(self) -> str:
        return repr(self.given)

    def calls(self) -> Iterator[Call]:
        return iter(self.given)


class Faulty:
    """A treasury with a planted fault between the caller and the ledger."""

    def __init__(self, ledger):
        self.ledger = ledger
        self.requests = 0

    def __getattr__(self, name):
        return getattr(self.ledger, name)

    async def execute(self, request):
        self.requests += 1
        return await self.ledger.execute(await self.spoil(request))

    async def execute_many(self, requests):
        return await self.ledger.execute_many([await self.spoil(request) for request in requests])

    async def spoil(self, request: Request) -> Request:
        return request


def changed(request, **fields):
    return msgspec.structs.replace(request, command=msgspec.structs.replace(request.command, **fields))


class LosesTokens(Faulty):
    """Every settlement books one output token less than was used."""

    async def spoil(self, request):
        if not isinstance(request.command, Settle):
            return request
        record = request.command.record
        less = msgspec.structs.replace(record.tokens, output=max(0, record.tokens.output - 1))
        return changed(request, record=msgspec.structs.replace(record, tokens=less))


class NeverCloses(Faulty):
    """Settlements stay running totals: what is left of a hold is never given back."""

    async def spoil(self, request):
        return changed(request, final=False) if isinstance(request.command, Settle) else request


class Lenient(Faulty):
    """Budgets count and do not limit."""

    async def spoil(self, request):
        return changed(request, mode="observe") if isinstance(request.command, PutBudget) else request


class Breaks(Faulty):
    """Goes away for good after 700 requests."""

    async def spoil(self, request):
        if self.requests > 700:
            raise TreasuryError("away")
        return request


class Overloaded(Faulty):
    """Turns away every tenth request; it never reaches the ledger."""

    async def execute(self, request):
        self.requests += 1
        if self.requests % 10 == 0:
            raise BudgetUnavailable("queue full", retry_after_s=1)
        return await self.ledger.execute(request)


@pytest.fixture
async def ledger(tmp_path):
    treasury = LocalTreasury(Engine(open_store(f"sqlite:///{tmp_path / 'replay.db'}")))
    yield treasury
    await treasury.close()


async def replayed(treasury, source=SOURCE, settings=SETTINGS, **changes):
    summary, rows = await perform(treasury, source, msgspec.structs.replace(settings, **changes), Silent())
    return summary, rows


def balances(rows):
    """What is on the books; which account refused is only told the first time, a barred id is just refused."""
    return [msgspec.structs.replace(row, refused=0) for row in rows]


# covers E2, E4, E14
async def test_the_books_are_exactly_what_the_calls_produced_whatever_their_callers_do(ledger):
    summary, rows = await replayed(ledger)
    assert summary.right, summary
    assert summary.calls == summary.admitted + summary.refused == 600
    assert min(summary.refused, summary.killed, summary.late, summary.retried) > 10
    assert summary.in_flight_max == 64
    assert summary.quarantined_tokens > 0, "before the provider's report the killed calls were held at their bounds"
    assert rows[0].tokens_produced == rows[0].tokens_booked == summary.tokens > 0
    assert sum(row.refused for row in rows) == summary.refused
    assert all(row.difference == row.overspend == 0 for row in rows)


# covers E7
async def test_the_same_calls_with_the_same_ids_change_nothing_the_second_time(ledger):
    first, first_rows = await replayed(ledger)
    second, second_rows = await replayed(ledger)
    assert second.right, second
    assert second.head_seq == first.head_seq, "the journal has not grown"
    assert balances(second_rows) == balances(first_rows)
    assert second.repeated == second.admitted == first.admitted
    assert second.refused == first.refused


async def test_other_ids_are_other_calls(ledger):
    first, _ = await replayed(ledger, own_ledger=False)
    second, _ = await replayed(ledger, own_ledger=False, id_seed="another")
    assert second.right
    assert second.repeated == 0
    assert second.head_seq > first.head_seq


async def test_the_same_ids_with_other_options_are_a_conflict_that_says_so(ledger):
    await replayed(ledger, source=BuiltIn(1, 50))
    with pytest.raises(Conflict, match="--id-seed test"):
        await replayed(ledger, source=BuiltIn(1, 50), chaos=0.1)


async def test_a_replay_that_broke_off_is_finished_by_running_it_again(ledger):
    with pytest.raises(TreasuryError, match="away"):
        await replayed(Breaks(ledger))
    summary, _ = await replayed(ledger)
    assert summary.right, summary
    assert 0 < summary.repeated < summary.admitted


async def test_a_service_that_turns_requests_away_changes_nothing_but_the_time_it_takes(ledger):
    summary, _ = await replayed(Overloaded(ledger), source=BuiltIn(1, 60))
    assert summary.right, summary
    assert summary.calls == 60


@pytest.mark.parametrize("fault", [LosesTokens, NeverCloses])
async def test_books_that_are_wrong_are_found(ledger, fault):
    summary, rows = await replayed(fault(ledger), source=BuiltIn(1, 200))
    assert not summary.right
    assert summary.difference_tokens > 0
    assert summary.difference_before_report_tokens > 0
    assert any(row.difference for row in rows)


async def test_a_ledger_that_lets_limits_be_passed_is_found(ledger):
    summary, rows = await replayed(Lenient(ledger), source=BuiltIn(1, 300))
    assert not summary.right
    assert summary.overspend_tokens > 0
    assert summary.overspend_cost_nanousd > 0
    assert any(row.overspend for row in rows)


async def test_a_call_longer_than_its_lease_renews_it_and_settles_in_time(ledger):
    calls = tuple(
        Call(row=row, at_s=0.0, model="gpt-35-turbo-16k", input_tokens=10, output_tokens=10, duration_s=120.0)
        for row in range(1, 4)
    )
    summary, _ = await replayed(ledger, source=Calls(calls), speed=60.0, chaos=0.0)
    assert summary.right
    assert summary.seconds > 2
    page = await ledger.read(ListEntries(limit=1_000))
    kinds = [entry.kind for entry in page.entries]
    assert kinds.count("extended") >= 3
    assert "expired" not in kinds


async def test_calls_start_when_the_trace_says_at_the_speed_that_is_asked(ledger):
    calls = tuple(
        Call(row=row, at_s=30.0 * row, model="gpt-35-turbo-16k", input_tokens=10, output_tokens=10, duration_s=0.1)
        for row in range(3)
    )
    summary, _ = await replayed(ledger, source=Calls(calls), speed=60.0, chaos=0.0)
    assert summary.seconds >= 1.0
    assert summary.in_flight_max == 1

"""One whole replay: open the accounts, send the calls, reconcile, tell."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from fiscus.cli.replay.driver import LEASE_S, Driver, Options, Tally
from fiscus.cli.replay.fleet import COUNTED, LEVELS, Account, Fleet, Names, paths, plan_fleet
from fiscus.cli.replay.provider import Provider
from fiscus.cli.replay.reconciliation import Books, Reconciliation, read_books, reconcile
from fiscus.cli.table import LiveRow, ReconciledRow
from fiscus.cli.traces import Call, content_digest, read_calls
from fiscus.cli.workload import generate
from fiscus.contract.errors import ConfigurationInvalid, Conflict, refusal
from fiscus.contract.queries import AccountView, ReadAccount
from fiscus.contract.treasury import Treasury
from fiscus.core.commands import Request
from fiscus.core.outcomes import Refused

OPTIONS_LABEL = "replay"
SETUP_LENGTH_MAX = 200
LIVE_ROWS_MAX = 15
LIVE_PERIOD_S = 0.5
RUN_LENGTH = 16


class Source(Protocol):
    """Where calls come from; they can be read again."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    def digest(self) -> str:
        """What identifies the calls."""
        ...

    def calls(self) -> Iterator[Call]:
        """The calls in time order."""
        ...


class TraceFile(msgspec.Struct, frozen=True):
    """The first ``limit`` calls of a recorded trace, or all."""

    path: Path
    limit: int | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def digest(self) -> str:
        """A hash of the file's content."""
        return content_digest(self.path)

    def calls(self) -> Iterator[Call]:
        """The calls in time order."""
        return islice(read_calls(self.path), self.limit)


class BuiltIn(msgspec.Struct, frozen=True):
    """The built-in workload."""

    seed: int
    count: int

    @property
    def name(self) -> str:
        """For people."""
        return "built-in workload"

    def digest(self) -> str:
        """Its seed says all."""
        return f"built-in/{self.seed}"

    def calls(self) -> Iterator[Call]:
        """The calls in time order."""
        return generate(self.seed, self.count)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a replay is run.

    Attributes:
        speed: seconds of the trace per second; None: as fast as it goes.
        id_seed: with the source, makes the ids.
        own_ledger: whether nobody else uses the ledger, so that the root may be called ``global``.
        lease_s: of every hold.
    """

    agents: int
    in_flight: int
    seed: int
    chaos: float
    speed: float | None
    id_seed: str
    own_ledger: bool
    lease_s: int = LEASE_S

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigurationInvalid: names the option.
        """
        if self.agents < 1:
            raise ConfigurationInvalid(f"--agents {self.agents}: there is at least one agent")
        if self.in_flight < 1:
            raise ConfigurationInvalid(f"--in-flight {self.in_flight}: at least one call must be under way")
        if not 0 <= self.chaos <= 1:
            raise ConfigurationInvalid(f"--chaos {self.chaos}: the part of the callers that misbehave is in 0 … 1")
        if self.speed is not None and not 0 < self.speed < float("inf"):
            raise ConfigurationInvalid(f"--speed {self.speed}: a speed is a positive number, or max")


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """The last word on a replay.

    Attributes:
        calls: all that were tried: ``admitted`` + ``refused``.
        killed, late, retried: of the admitted ones, those whose callers misbehaved in these ways.
        repeated: of the admitted ones, those that an earlier run had settled.
        contradictions: answers that were not what the caller must get; 0.
        tokens, cost_nanousd: what the provider really produced.
        quarantined_tokens, quarantined_cost_nanousd: what the killed calls held before the provider's report came.
        overspend_*, difference_*: as in ``reconciliation.Line``, summed over all accounts; 0.
        difference_before_report_*: the same before the provider's report, when the killed calls were in quarantine; 0.
        in_flight_max: most calls under way at once.
        seconds: from the first call to the last account read.
        head_seq: the journal's head at the end.
    """

    source: str
    calls: int
    admitted: int
    refused: int
    killed: int
    late: int
    retried: int
    repeated: int
    contradictions: int
    accounts: int
    tokens: int
    cost_nanousd: int
    quarantined_tokens: int
    quarantined_cost_nanousd: int
    overspend_tokens: int
    overspend_cost_nanousd: int
    difference_before_report_tokens: int
    difference_before_report_cost_nanousd: int
    difference_tokens: int
    difference_cost_nanousd: int
    difference_counts: int
    in_flight_max: int
    behind_s_max: float
    seconds: float
    head_seq: int
    id_seed: str

    @property
    def right(self) -> bool:
        """Whether the books are exactly what happened, and no limit was passed."""
        return not (
            self.contradictions
            or self.overspend_tokens
            or self.overspend_cost_nanousd
            or self.difference_before_report_tokens
            or self.difference_before_report_cost_nanousd
            or self.difference_tokens
            or self.difference_cost_nanousd
            or self.difference_counts
        )


class Screen(Protocol):
    """Who shows what is going on."""

    def planned(self, fleet: Fleet, source: str) -> None:
        """The accounts are known."""
        ...

    def running(self, tally: Tally, total: int, seconds: float, rows: Sequence[LiveRow]) -> None:
        """Called every ``LIVE_PERIOD_S``."""
        ...

    def stage(self, text: str) -> None:
        """Something else than calls is being done."""
        ...


async def perform(
    treasury: Treasury, source: Source, settings: Settings, screen: Screen
) -> tuple[Summary, list[ReconciledRow]]:
    """Replay the calls of ``source`` against ``treasury`` and compare the books with the provider's count.

    Raises:
        Invalid: the source is a file that cannot be read. Conflict: the same ids were used with other options.
        TreasuryError: the service cannot be reached.
    """
    settings.check()
    run = run_name(source, settings)
    names = Names(
        root="global" if settings.own_ledger else f"project:{run}",
        prefix="" if settings.own_ledger else f"{run[:6]}-",
        agents=settings.agents,
    )
    fleet = plan_fleet(source.calls(), names, settings.in_flight, settings.seed)
    if not fleet.accounts:
        raise ConfigurationInvalid(f"{source.name}: there are no calls in it")
    screen.planned(fleet, source.name)
    resuming = await open_accounts(treasury, fleet, settings)
    options = Options(
        run=run,
        seed=settings.seed,
        chaos=settings.chaos,
        speed=settings.speed,
        in_flight=settings.in_flight,
        lease_s=settings.lease_s,
        resuming=resuming,
    )
    provider = Provider()
    driver = Driver(treasury, provider, options)
    started_s = time.monotonic()
    watcher = asyncio.create_task(_watch(treasury, fleet, driver.tally, screen))
    try:
        await driver.run(paths(source.calls(), names))
        screen.stage("waiting for the leases of killed calls to end")
        await driver.wait_for_expiry()
    finally:
        watcher.cancel()
        with suppress(asyncio.CancelledError):
            await watcher
    accounts = list(fleet.accounts.values())
    before = reconcile(fleet, provider, driver.lost, await read_books(treasury, accounts))
    screen.stage("booking the killed calls from the provider's report")
    await driver.report()
    books = await read_books(treasury, accounts)
    after = reconcile(fleet, provider, (), books)
    summary = Summary(
        source=source.name,
        calls=driver.tally.calls,
        admitted=driver.tally.admitted,
        refused=driver.tally.refused,
        killed=driver.tally.killed,
        late=driver.tally.late,
        retried=driver.tally.retried,
        repeated=driver.tally.repeated,
        contradictions=driver.tally.contradictions,
        accounts=len(accounts),
        tokens=provider.produced[fleet.root.name]["tokens"],
        cost_nanousd=provider.produced[fleet.root.name]["cost"],
        quarantined_tokens=before.quarantined("tokens"),
        quarantined_cost_nanousd=before.quarantined("cost"),
        overspend_tokens=before.overspend("tokens") + after.overspend("tokens"),
        overspend_cost_nanousd=before.overspend("cost") + after.overspend("cost"),
        difference_before_report_tokens=before.difference("tokens"),
        difference_before_report_cost_nanousd=before.difference("cost"),
        difference_tokens=after.difference("tokens"),
        difference_cost_nanousd=after.difference("cost"),
        difference_counts=sum(after.difference(unit) for unit in COUNTED),
        in_flight_max=driver.tally.in_flight_max,
        behind_s_max=round(driver.tally.behind_s_max, 3),
        seconds=round(time.monotonic() - started_s, 3),
        head_seq=(await treasury.readiness()).head_seq,
        id_seed=settings.id_seed,
    )
    return summary, _reconciled_rows(fleet, after, driver.tally)


def run_name(source: Source, settings: Settings) -> str:
    """Begins the ids of a run: the same for the same calls and ``id_seed``."""
    return sha256(f"{source.digest()}/{settings.id_seed}".encode()).hexdigest()[:RUN_LENGTH]


async def open_accounts(treasury: Treasury, fleet: Fleet, settings: Settings) -> bool:
    """Open the accounts and set their budgets; returns whether an earlier run has done it already.

    The options stand on the root as a label. Putting what is there already changes nothing.

    Raises:
        Refusal: the ledger does not take one of them; ``Conflict`` if the earlier run had other options.
    """
    options = f"agents {settings.agents}, in flight {settings.in_flight}, seed {settings.seed}, chaos {settings.chaos}"
    label = f"{options}, calls {fleet.root.calls}"
    found = await treasury.read(ReadAccount(account=fleet.root.name))
    before = found.account.labels.get(OPTIONS_LABEL) if isinstance(found, AccountView) else None
    if before is not None and before != label:
        detail = f"these calls were replayed with --id-seed {settings.id_seed} before, with other options ({before})"
        raise Conflict(Refused(code="conflict", detail=detail, field="id_seed"))
    requests = [Request(command=command) for command in fleet.commands({OPTIONS_LABEL: label})]
    for start in range(0, len(requests), SETUP_LENGTH_MAX):
        for outcome in await treasury.execute_many(requests[start : start + SETUP_LENGTH_MAX]):
            if isinstance(outcome, Refused):
                raise refusal(outcome)
    return before is not None


async def _watch(treasury: Treasury, fleet: Fleet, tally: Tally, screen: Screen) -> None:
    """Show the balances of the accounts that matter most, until cancelled."""
    shown = _most_important(fleet)
    started_s = last_s = time.monotonic()
    admitted = dict.fromkeys((account.name for account in shown), 0)
    while True:
        await asyncio.sleep(LIVE_PERIOD_S)
        books = await read_books(treasury, shown)
        now_s = time.monotonic()
        rows = []
        for account in shown:
            rate = (tally.admitted_by[account.name] - admitted[account.name]) / (now_s - last_s)
            admitted[account.name] = tally.admitted_by[account.name]
            rows.append(_live_row(fleet, account, books, tally, rate))
        last_s = now_s
        screen.running(tally, fleet.root.calls, now_s - started_s, rows)


def _most_important(fleet: Fleet) -> list[Account]:
    """Root and teams, then the busiest account of every level in turn, in the order of the tree."""
    by_level: dict[str, list[Account]] = {}
    for account in fleet.accounts.values():
        by_level.setdefault(account.level, []).append(account)
    for accounts in by_level.values():
        accounts.sort(key=lambda account: (bool(account.allocated), account.calls), reverse=True)
    chosen: list[str] = []
    while len(chosen) < LIVE_ROWS_MAX and any(by_level.values()):
        for accounts in by_level.values():
            if accounts and len(chosen) < LIVE_ROWS_MAX:
                chosen.append(accounts.pop(0).name)
    return [account for account in _in_tree_order(fleet) if account.name in chosen]


def _in_tree_order(fleet: Fleet) -> Iterator[Account]:
    children: dict[str | None, list[Account]] = {}
    for account in fleet.accounts.values():
        children.setdefault(account.parent, []).append(account)
    waiting = [fleet.root]
    while waiting:
        account = waiting.pop()
        yield account
        waiting.extend(reversed(children.get(account.name, [])))


def _live_row(fleet: Fleet, account: Account, books: Books, tally: Tally, rate: float) -> LiveRow:
    return LiveRow(
        account=account.name,
        depth=sum(1 for _ in fleet.upward(account)) - 1,
        tokens=books[account.name, "tokens"],
        cost=books[account.name, "cost"],
        refused=tally.refused_by[account.name],
        calls_per_s=rate,
    )


def _reconciled_rows(fleet: Fleet, reconciliation: Reconciliation, tally: Tally) -> list[ReconciledRow]:
    by_account = {(line.account, line.unit): line for line in reconciliation.lines}
    rows = []
    for account in sorted(_in_tree_order(fleet), key=lambda account: LEVELS.index(account.level)):
        tokens, cost = by_account[account.name, "tokens"], by_account[account.name, "cost"]
        rows.append(
            ReconciledRow(
                account=account.name,
                level=account.level,
                tokens_produced=tokens.produced,
                tokens_booked=tokens.spent,
                cost_produced=cost.produced,
                cost_booked=cost.spent,
                refused=tally.refused_by[account.name],
                difference=tokens.difference + cost.difference,
                overspend=tokens.overspend + cost.overspend,
            )
        )
    return rows

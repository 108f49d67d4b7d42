"""Follows the journal and usage, and puts what somebody wants to know into the outbox.

    read entries ▸ read usage ▸ look at watched budgets ─▶ one step: progress, what was told, deliveries; or nothing

On several nodes one of them reads, whoever has the lead; a step of a node that has lost it is not taken. So each alert
is made once, whatever is killed when.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

import msgspec

from fiscus.alerts.catalogue import SOURCES
from fiscus.alerts.entries import (
    account_of,
    budget_of,
    delivery_of,
    entry_alert,
    finding_alert,
    name_of,
    severity_of,
)
from fiscus.alerts.filters import Filters
from fiscus.alerts.measures import MINUTE_MS, Kept, Measures
from fiscus.alerts.memory import FOR_EVER_MS, Chains, Memory
from fiscus.alerts.options import AlertOptions
from fiscus.alerts.rules import Finding, Rule, look, usage_findings
from fiscus.alerts.threads import Aside
from fiscus.contract.alerts import Alert, AlertStore, Delivery, Progress, Step
from fiscus.contract.errors import EntriesArchived, FiscusError
from fiscus.contract.logs import get_logger
from fiscus.contract.queries import (
    AccountView,
    EntriesPage,
    Entry,
    HoldView,
    ListEntries,
    ListUsage,
    ReadAccount,
    ReadHold,
    Usage,
    UsagePage,
)
from fiscus.contract.treasury import Treasury
from fiscus.core.outcomes import AccountAnswer, BudgetView

PAGE = 1_000
PAGES_MAX = 10
"""Pages of usage in one turn; the rest in the next."""

LEAD_MS = 6_000
"""How long a node that was killed keeps the others from reading; one that is slow only loses its turn."""

TURN_S = 0.5
RETRY_S = 2.0
LOOK_MS = 5_000
"""How often balances are looked at and rules are applied."""

LOOKS_MAX = 50
"""Accounts that are read in one look; the others have their turn in the next ones."""

FIRST_WATCHED_PER_CENT = 50
ERASED = ("name_erased",)
WATCHING = ("threshold_crossed",)
UNREADY = frozenset(("drift", "ledger_corrupt", "unknown_format", "clock_stepped"))
HEAD = 2**62 - 1

log = get_logger(__name__)


class Follower:
    """See the module.

    Args:
        treasury: is read only.
        store: the outbox.
        options: who wants what, and the figures of the rules.
        node: names this process.
        tenant: whose journal is read.
        aside: where the outbox is called.
        clock_ms: ms since the epoch.
        on_deliveries: called when something was put into the outbox.
        is_full: whether no more is put into the outbox for a channel.
    """

    def __init__(
        self,
        treasury: Treasury,
        store: AlertStore,
        options: AlertOptions,
        *,
        node: str,
        tenant: str,
        aside: Aside,
        clock_ms: Callable[[], int],
        on_deliveries: Callable[[], None],
        is_full: Callable[[str], bool],
    ) -> None:
        self._treasury = treasury
        self._store = store
        self._rules = options.rules
        self._filters = Filters(options.active)
        self._node = node
        self._tenant = tenant
        self._aside = aside
        self._clock_ms = clock_ms
        self._on_deliveries = on_deliveries
        self._is_full = is_full
        self._chains = Chains()
        self._progress = Progress()
        self._memory = Memory()
        self._measures = Measures(Kept())
        self._leads_until_ms = 0
        self._looked_ms = 0
        self._measures_kept_ms = 0
        self._deliveries: list[Delivery] = []
        self._news = asyncio.Event()
        self.leads = False
        self.lag_entries = 0

    def wake(self) -> None:
        """Something was written: read on without waiting for the next turn."""
        self._news.set()

    @property
    def seq(self) -> int:
        """The entry up to which this node knows that the journal was read."""
        return max(0, self._progress.seq)

    async def run(self) -> None:
        """Follow until it is cancelled."""
        while True:
            try:
                self._news.clear()
                more = await self.turn()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(0 if more else TURN_S):
                        await self._news.wait()
            except FiscusError as error:
                self.leads = False
                log.warning("alerts_wait", code=error.code, error=str(error))
                await asyncio.sleep(RETRY_S)

    async def turn(self) -> bool:
        """Read on, and keep what came of it; whether there is more at once.

        Raises:
            TreasuryError: the ledger or the outbox cannot be reached; nothing of this turn was kept.
        """
        if not await self._lead():
            return False
        try:
            return await self._read_on()
        except BaseException:
            self.leads = False  # what is in memory is not what is kept: begin from that again
            raise

    async def _lead(self) -> bool:
        """Take or keep the lead; what another node has kept meanwhile is taken over."""
        now_ms = self._clock_ms()
        if self.leads and now_ms < self._leads_until_ms - LEAD_MS // 2:
            return True
        progress = await self._aside(self._store.lead, self._node, now_ms, now_ms + LEAD_MS)
        if progress is None:
            self.leads = False
            return False
        if not self.leads or progress.version != self._progress.version:
            self._take_over(progress)
        self.leads = True
        self._leads_until_ms = now_ms + LEAD_MS
        return True

    def _take_over(self, progress: Progress) -> None:
        self._progress = progress
        self._memory = msgspec.json.decode(progress.memory, type=Memory) if progress.memory else Memory()
        kept = msgspec.json.decode(progress.measures, type=Kept) if progress.measures else Kept()
        self._measures = Measures(kept)
        self._measures_kept_ms = self._clock_ms()

    async def _read_on(self) -> bool:
        now_ms = self._clock_ms()
        self._deliveries = []
        if self._progress.seq < 0 and not await self._begin(now_ms):
            return False
        seq, more, erased = await self._read_entries()
        if not 0 <= now_ms - self._looked_ms < LOOK_MS:  # a clock that is set back does not keep it waiting
            self._looked_ms = now_ms if await self._read_usage(seq) else 0
            await self._apply_rules(now_ms, seq)
        keeps_measures = not 0 <= now_ms - self._measures_kept_ms < MINUTE_MS
        changed = seq != self._progress.seq or bool(self._deliveries)
        if changed or keeps_measures:
            await self._keep(seq, erased, keeps_measures=keeps_measures)
        return more

    async def _begin(self, now_ms: int) -> bool:
        """The first time: what was before is not told. False: another node has begun."""
        journal = await self._treasury.read(ListEntries(tenant=self._tenant, after=HEAD, limit=1))
        usage = await self._treasury.read(ListUsage(tenant=self._tenant, after=HEAD, limit=1))
        assert isinstance(journal, EntriesPage), "everybody may read the whole journal"
        assert isinstance(usage, UsagePage), "and all usage"
        self._measures = Measures(Kept(usage_after=usage.as_of_seq, began_ms=now_ms))
        return await self._keep(journal.as_of_seq, [], keeps_measures=True)

    async def _keep(self, seq: int, erased: list[int], *, keeps_measures: bool) -> bool:
        """One step, in one transaction; False: another node has taken one, and this one begins from what that kept."""
        progress = Progress(
            version=self._progress.version,
            seq=seq,
            memory=msgspec.json.encode(self._memory),
            measures=msgspec.json.encode(self._measures.kept()) if keeps_measures else self._progress.measures,
        )
        step = Step(progress=progress, deliveries=self._deliveries, erased=erased)
        if not await self._aside(self._store.step, step):
            self.leads = False
            return False
        self._progress = msgspec.structs.replace(progress, version=progress.version + 1)
        if keeps_measures:
            self._measures_kept_ms = self._clock_ms()
        if self._deliveries:
            self._on_deliveries()
        return True

    # -- entries ------------------------------------------------------------------------------------------------------

    async def _read_entries(self) -> tuple[int, bool, list[int]]:
        """The entry up to which was read, whether there are more, and the accounts that were erased."""
        after = self._progress.seq
        query = ListEntries(tenant=self._tenant, after=after, limit=PAGE, kinds=(*SOURCES, *ERASED))
        try:
            page = await self._treasury.read(query)
        except EntriesArchived as error:
            if error.first_seq is None:
                raise
            self._tell_missed(after, error.first_seq - 1)
            return error.first_seq - 1, True, []
        assert isinstance(page, EntriesPage), "everybody may read the whole journal"
        if page.as_of_seq < after:  # an older journal was restored
            self._measures.usage_after = min(self._measures.usage_after, page.as_of_seq)
            return page.as_of_seq, False, []
        erased: list[int] = []
        for entry in page.entries:
            if entry.kind in ERASED:
                erased.append(entry.data["account"])
            else:
                await self._tell_entry(entry)
        seq = page.next if page.next is not None else max([page.as_of_seq, *(entry.seq for entry in page.entries)])
        self.lag_entries = max(0, page.as_of_seq - seq)
        return seq, page.next is not None, erased

    def _tell_missed(self, after: int, last_seq: int) -> None:
        log.error("alerts_entries_missed", first_seq=after + 1, last_seq=last_seq)
        finding = Finding(name="entries_missed", data={"first_seq": after + 1, "last_seq": last_seq})
        self._put(self._finding_alert(finding, last_seq, str(last_seq)), None, ())

    async def _tell_entry(self, entry: Entry) -> None:
        """Put an entry into the outbox, if somebody wants it; see which budgets are worth watching."""
        name = name_of(entry)
        watches = entry.kind in WATCHING and entry.data["percent"] >= FIRST_WATCHED_PER_CENT
        wanted = name is not None and self._filters.any_wants(name, severity_of(name, entry))
        if not wanted and not watches:
            return
        account = await self._account(account_of(entry))
        budget = budget_of(account, entry.data.get("budget")) if account is not None else None
        if watches and account is not None and budget is not None:
            self._memory.watch(entry.data["budget"], account.account, budget.budget)
        if name is None or not wanted:
            return
        warnings: tuple[str, ...] = ()
        if name == "budget_warned":
            cells = [cell for cell in entry.data["warned"] if self._is_new(f"budget_warned {cell}", FOR_EVER_MS)]
            if not cells:
                return
            warnings = await self._warnings(entry.data["id"])
        alert = entry_alert(entry, name, self._tenant, budget, warnings)
        self._put(alert, account.number if account is not None else None, self._chains.chain(alert.account))

    def _is_new(self, key: str, until_ms: int) -> bool:
        return self._memory.may_tell(key, self._clock_ms(), until_ms)

    async def _warnings(self, id: str) -> tuple[str, ...]:
        view = await self._treasury.read(ReadHold(id=id, tenant=self._tenant))
        return view.hold.warnings if isinstance(view, HoldView) else ()

    async def _account(self, name: str | None) -> AccountAnswer | None:
        """An account as it is now, with its ancestors in ``_chains``; None: there is none of this name any more."""
        if name is None:
            return None
        view = await self._treasury.read(ReadAccount(account=name, tenant=self._tenant))
        if not isinstance(view, AccountView):
            return None
        self._chains.put(name, view.account.parent)
        above = view.account.parent
        while above is not None and not self._chains.known(above):
            parent = await self._treasury.read(ReadAccount(account=above, tenant=self._tenant))
            if not isinstance(parent, AccountView):
                break
            self._chains.put(above, parent.account.parent)
            above = parent.account.parent
        return view.account

    # -- what is derived ----------------------------------------------------------------------------------------------

    async def _read_usage(self, seq: int) -> bool:
        """Count what was booked, and see who has gone over; whether all of it was read."""
        beyond: dict[str, None] = {}
        is_all = False
        for _ in range(PAGES_MAX):
            query = ListUsage(tenant=self._tenant, after=self._measures.usage_after, limit=PAGE)
            page = await self._treasury.read(query)
            assert isinstance(page, UsagePage), "everybody may read all usage"
            self._measures.add(page.usage)
            beyond.update(_beyond(page.usage))
            if page.next is None:
                is_all = True
                break
        if self._rules.overdrawn.on:
            for name in list(beyond)[:LOOKS_MAX]:
                await self._look_for_overdraft(name, seq)
        return is_all

    async def _look_for_overdraft(self, name: str, seq: int) -> None:
        """Tell of the budgets of an account, and of those above it, that are overdrawn: once in each window."""
        account = await self._account(name)
        for above in self._chains.chain(name):
            if above != name:
                account = await self._account(above)
            for budget in account.budgets if account is not None else ():
                balance = budget.balance
                if account is None or balance is None or not balance.overdrawn:
                    continue
                data = {
                    "budget": budget.budget,
                    "unit": budget.unit,
                    "limit": balance.limit,
                    "overdrawn": balance.overdrawn,
                    "window_end": balance.window_end,
                }
                about = f"{budget.budget} {balance.window_start.isoformat()}"
                self._tell(Finding(name="overdrawn", about=about, account=above, data=data), account, seq, FOR_EVER_MS)

    async def _apply_rules(self, now_ms: int, seq: int) -> None:
        self._measures.forget(now_ms)
        self._memory.forget(now_ms)
        for finding in usage_findings(self._measures, self._rules, now_ms):
            account = await self._account(finding.account)
            rule: Rule = getattr(self._rules, finding.name)
            self._tell(finding, account, seq, now_ms + rule.cool_down_s * 1_000)
        await self._look_at_watched(now_ms, seq)
        await self._look_at_readiness(now_ms, seq)

    async def _look_at_watched(self, now_ms: int, seq: int) -> None:
        """Look at the budgets that have been waiting longest for a look."""
        watched = self._memory.watched
        for number in list(watched)[:LOOKS_MAX]:
            one = watched.pop(number)
            account = await self._account(one.account)
            budget = budget_of(account, number) if account is not None else None
            if account is None or budget is None or not _is_worth_watching(budget):
                continue
            watched[number] = one
            assert budget.balance is not None, "it is worth watching"
            for finding in look(one, budget.balance, self._rules, now_ms):
                self._tell(finding, account, seq, FOR_EVER_MS)

    async def _look_at_readiness(self, now_ms: int, seq: int) -> None:
        """Tell of what stops admissions and does not go away by itself."""
        rule = self._rules.ledger_unready
        readiness = await self._treasury.readiness()
        reasons = sorted({*readiness.reasons, *readiness.tenants.values()} & UNREADY)
        if rule.on and reasons:
            finding = Finding(name="ledger_unready", about=" ".join(reasons), data={"reasons": reasons})
            self._tell(finding, None, seq, now_ms + rule.cool_down_s * 1_000)

    def _tell(self, finding: Finding, account: AccountAnswer | None, seq: int, until_ms: int) -> None:
        """Tell what was found, unless it was told already and that counts until an instant."""
        number = account.number if account is not None else None  # a name would stay when it is erased
        key = f"{finding.name} {number or ''} {finding.about}"
        if self._is_new(key, until_ms):
            alert = self._finding_alert(finding, seq, f"{key} {self._clock_ms()}")
            self._put(alert, number, self._chains.chain(finding.account))

    def _finding_alert(self, finding: Finding, seq: int, key: str) -> Alert:
        at = datetime.fromtimestamp(self._clock_ms() / 1_000, UTC)
        return finding_alert(finding, self._tenant, at, seq, key=key)

    def _put(self, alert: Alert, account: int | None, chain: tuple[str, ...]) -> None:
        now_ms = self._clock_ms()
        for channel in self._filters.wanting(alert.name, alert.severity, chain):
            if not self._is_full(channel):
                self._deliveries.append(delivery_of(alert, channel, account, now_ms))


def _beyond(usages: Iterable[Usage]) -> dict[str, None]:
    """Who has booked more than was held, in order."""
    return {usage.account: None for usage in usages if usage.uncovered}


def _is_worth_watching(budget: BudgetView) -> bool:
    """Whether half of it is used: less than that crosses a threshold before it matters."""
    balance = budget.balance
    if balance is None or balance.limit <= 0:
        return False
    return (balance.limit - balance.available) * 100 >= FIRST_WATCHED_PER_CENT * balance.limit

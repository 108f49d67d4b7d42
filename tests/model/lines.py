"""An independent model of reserves that wait: a short tree, whole lists, everything worked out anew at every step.

Written from the texts (design.md §3 "reserve", docs/guides/waiting.md), not from the code of the core. It knows
accounts below one root, a budget of tokens for some of them, which may be renewed, and calls; no allocations. A call
may say what else it would do with: so many at least, or other amounts, of cheaper models.

The rules: a call that finds no room waits in the line of the budget that binds it, if it said so and it can be of use.
Lines are in order of turns, and a turn is when a call came, earlier by the ageing for each level of its priority.
Nobody who comes later in a line gets room before one who comes earlier and could get it with no call in flight.
Who would do with something else waits for the least (of other amounts the last), and gets the best that fits by then.
"""

from __future__ import annotations

from dataclasses import dataclass, field

CLAIM_MS, LEASE_MS = 10_000, 30_000
NEVER = 2**62


@dataclass
class Limit:
    """A budget: ``period_ms`` 0 is for good."""

    account: str
    amount: int
    period_ms: int = 0
    raised: dict[int, int] = field(default_factory=dict)
    """By window."""

    def window(self, now: int) -> int:
        return now // self.period_ms if self.period_ms else 0

    def end(self, window: int) -> int:
        return (window + 1) * self.period_ms if self.period_ms else NEVER


@dataclass
class Call:
    """``windows``: of each limit that it is charged to. State as in the ledger, or ``new``.

    ``least``, ``others``: what else it would do with, as far as it may; 0 and none: nothing. ``got``: what is held
    for it, and ``by`` which step, if it is something else.
    """

    id: str
    account: str
    amount: int
    came: int
    turn: int
    until: int
    lease_ms: int
    state: str = "new"
    line: str = ""
    """The account whose budget binds it."""
    line_window: int = 0
    windows: dict[str, int] = field(default_factory=dict)
    booked: int = 0
    expires: int = 0
    closes: int = 0
    claimed: bool = True
    why: str = ""
    least: int = 0
    others: tuple[int, ...] = ()
    got: int = 0
    by: str = ""

    @property
    def needed(self) -> int:
        """What it waits for."""
        return min(self.least, self.amount) if self.least else self.others[-1] if self.others else self.amount


class Lines:
    """The ledger as far as waiting is concerned."""

    def __init__(self, ageing_ms: int, quarantine_ms: int, per_budget_max: int, max: int) -> None:
        self.ageing_ms, self.quarantine_ms = ageing_ms, quarantine_ms
        self.per_budget_max, self.max = per_budget_max, max
        self.parents: dict[str, str | None] = {}
        self.priorities: dict[str, int] = {}
        self.stopped: set[str] = set()
        self.limits: dict[str, Limit] = {}
        self.calls: list[Call] = []
        self.now = 0

    # -- figures -------------------------------------------------------------------------------------------------

    def chain(self, account: str | None) -> list[str]:
        return [account, *self.chain(self.parents[account])] if account is not None else []

    def find(self, id: str) -> Call | None:
        return next((call for call in self.calls if call.id == id), None)

    def limit(self, account: str) -> int:
        its = self.limits[account]
        return its.amount + its.raised.get(its.window(self.now), 0)

    def taken(self, account: str, *states: str) -> int:
        """What calls of these states have in the running window of a budget, held, in doubt or used."""
        window = self.limits[account].window(self.now)
        total = 0
        for call in self.calls:
            if call.windows.get(account) == window and account in self.chain(call.account):
                total += call.booked if call.state in ("settled", "released") else 0
                total += call.got if call.state in states else 0
        return total

    def free(self, account: str) -> int:
        return self.limit(account) - self.taken(account, "held", "expired")

    def too_much(self, account: str, amount: int) -> bool:
        """Whether it would not fit even with no call in flight."""
        return amount > self.limit(account) - self.taken(account, "expired")

    def of_use(self, account: str, call: Call) -> bool:
        """Whether waiting may help: calls end, late ones are settled for less, or the window ends in time."""
        its = self.limits[account]
        if call.needed <= self.limit(account) - self.taken(account):
            return True
        return its.end(its.window(self.now)) <= call.until and call.needed <= its.amount

    # -- room ----------------------------------------------------------------------------------------------------

    def in_order(self) -> list[Call]:
        waiting = [call for call in self.calls if call.state == "waiting"]
        return sorted(waiting, key=lambda call: (call.turn, call.came, self.calls.index(call)))

    def comes_before(self, call: Call) -> list[Call]:
        """Who waits and comes first: by the turn, then by who came first."""
        order = self.in_order()
        if call in order:
            return order[: order.index(call)]
        return [other for other in order if other.turn <= call.turn]

    def limited(self, call: Call) -> list[str]:
        return [account for account in self.chain(call.account) if account in self.limits]

    def lacking(self, call: Call, amount: int) -> tuple[str, str] | None:
        """(code, account) of what binds so much for a call now, or None: there is room, and nobody is overtaken."""
        limited = self.limited(call)
        short = [account for account in limited if amount > max(0, self.free(account))]
        for account in short:
            if self.too_much(account, amount):
                return "budget_exceeded", account
        if short:
            return "budget_busy", short[0]
        for account in limited:
            window = self.limits[account].window(self.now)
            for other in self.comes_before(call):
                if (other.line, other.line_window) == (account, window) and not self.too_much(account, other.needed):
                    return "budget_busy", account
        return None

    def best(self, call: Call) -> tuple[int, str] | None:
        """The best of what it would do with that can be held now, and by which step; None: nothing of it."""
        if self.lacking(call, call.amount) is None:
            return call.amount, ""
        if call.least:
            fits = min([call.amount, *(max(0, self.free(account)) for account in self.limited(call))])
            if fits >= call.least and self.lacking(call, fits) is None:
                return fits, "clamp"
        for other in call.others:
            if self.lacking(call, other) is None:
                return other, "downgrade"
        return None

    def admit(self, call: Call, got: int, by: str = "") -> None:
        call.state, call.got, call.by = "held", got, by
        self.pin(call)

    def look(self) -> None:
        """Everybody who waits is looked at, in order; who has to go on waiting keeps those behind him."""
        kept: set[str] = set()
        for call in self.in_order():
            if call.line in kept:
                continue
            its = self.limits[call.line]
            if call.line_window == its.window(self.now) and call.needed > max(0, self.free(call.line)):
                if not self.of_use(call.line, call):  # no room where it waits: nowhere else is looked
                    self.end(call, "budget_exceeded")
                elif not self.too_much(call.line, call.needed):
                    kept.add(call.line)
                continue
            best, lacking = self.best(call), self.lacking(call, call.needed)
            if best is not None:
                self.admit(call, *best)
                call.claimed, call.expires = False, self.now + CLAIM_MS
                continue
            assert lacking is not None, "the least would fit"
            if not self.of_use(lacking[1], call):
                self.end(call, lacking[0])
            else:
                stays = call.line == lacking[1]
                call.line, call.line_window = lacking[1], self.limits[lacking[1]].window(self.now)
                if stays and not self.too_much(call.line, call.needed):
                    kept.add(call.line)

    def end(self, call: Call, why: str) -> None:
        call.state, call.why = "refused", why

    # -- time ----------------------------------------------------------------------------------------------------

    def next_due(self) -> int:
        due = [NEVER]
        for call in self.calls:
            if call.state == "held":
                due.append(call.expires)
            elif call.state == "expired":
                due.append(call.closes)
            elif call.state == "waiting":
                due += [call.expires, self.limits[call.line].end(call.line_window)]
        return min(due)

    def pass_to(self, now: int) -> None:
        """An instant at which something is due: holds, then doubts, then those who wait; each in the order of ids."""
        self.now = now
        calls = sorted(self.calls, key=lambda call: call.id)
        for call in [call for call in calls if call.state == "held" and call.expires <= now]:
            if call.claimed or call.booked:
                call.state, call.closes = "expired", now + self.quarantine_ms
            else:
                self.end(call, "gone")
            self.look()
        for call in [call for call in calls if call.state == "expired" and call.closes <= now]:
            call.state = "closed"
            self.look()
        self.look()
        for call in [call for call in calls if call.state == "waiting" and call.expires <= now]:
            if call.state == "waiting":
                code = "budget_exceeded" if self.too_much(call.line, call.needed) else "budget_busy"
                self.end(call, code if now >= call.until else "gone")
                self.look()

    # -- commands ------------------------------------------------------------------------------------------------

    def reserve(
        self, id: str, account: str, amount: int, lease_ms: int, wait_ms: int, least: int, others: tuple[int, ...]
    ) -> str:
        """The state of the call after it, or the code of a refusal.

        ``least``, ``others``: what else it would do with, 0 and none where it says nothing of that, or may not.
        """
        known = self.find(id)
        if known is not None and known.state != "refused":
            if known.state == "waiting" or (known.state == "held" and not known.claimed):
                self.attend(id)
            return "waiting" if known.state == "waiting" else "held"
        for above in self.chain(account):
            if above in self.stopped:
                return "account_suspended"
        turn = self.now - self.priorities[account] * self.ageing_ms
        call = Call(id, account, amount, self.now, turn, self.now + wait_ms, lease_ms, least=least, others=others)
        best = self.best(call)
        if best is None:
            lacking = self.lacking(call, call.needed if wait_ms else amount)
            assert lacking is not None, "something would fit"
            code, where = lacking
            waiting = [other for other in self.calls if other.state == "waiting"]
            window = self.limits[where].window(self.now)
            here = [other for other in waiting if (other.line, other.line_window) == (where, window)]
            is_full = len(here) >= self.per_budget_max or len(waiting) >= self.max
            if not wait_ms or is_full or not self.of_use(where, call):
                return code
            call.state, call.line, call.line_window = "waiting", where, window
            call.expires = min(call.until, self.now + LEASE_MS)
        else:
            self.admit(call, *best)
            call.expires = self.now + lease_ms
        if known is not None:
            self.calls.remove(known)
        self.calls.append(call)
        self.look()
        return call.state

    def attend(self, id: str, *, gone: bool = False) -> str:
        call = self.find(id)
        assert call is not None
        if gone and (call.state == "waiting" or (call.state == "held" and not call.claimed)):
            self.end(call, "gone")
        elif call.state == "waiting" and call.expires - self.now < LEASE_MS // 2:
            call.expires = min(call.until, self.now + LEASE_MS)
        elif call.state == "held" and not call.claimed:
            call.claimed, call.expires = True, self.now + call.lease_ms
        self.look()
        return call.state

    def settle(self, id: str, amount: int) -> None:
        """A call that was given back stays so: what it has used is booked all the same."""
        call = self.find(id)
        assert call is not None
        if not call.windows:
            self.pin(call)
        elif call.state in ("refused", "released") and amount > call.booked:
            for account in [account for account in call.windows if self.is_gone(account, call)]:
                call.windows[account] = self.limits[account].window(self.now)
        call.booked = max(amount, call.booked)
        call.state = "settled" if call.state != "released" else "released"
        self.look()

    def release(self, id: str) -> None:
        call = self.find(id)
        assert call is not None
        if not call.windows:
            self.pin(call)
        call.state = "released"
        self.look()

    def pin(self, call: Call) -> None:
        """What it may still use is of the windows that run."""
        call.windows = {account: self.limits[account].window(self.now) for account in self.limited(call)}

    def is_gone(self, account: str, call: Call) -> bool:
        """Whether a window has ended, and no other call is open in it."""
        window = call.windows[account]
        in_flight = (other for other in self.calls if other.state in ("held", "expired"))
        is_open = any(other.windows.get(account) == window for other in in_flight)
        return window != self.limits[account].window(self.now) and not is_open

    def adjust(self, account: str, amount: int) -> None:
        its = self.limits[account]
        window = its.window(self.now)
        its.raised[window] = its.raised.get(window, 0) + amount
        self.look()

    def stop(self, account: str, *, stopped: bool) -> None:
        if stopped:
            self.stopped.add(account)
            for call in self.in_order():
                if account in self.chain(call.account):
                    self.end(call, "account_suspended")
        else:
            self.stopped.discard(account)
        self.look()

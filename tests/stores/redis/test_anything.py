"""Any sequence of commands, losses and times: what a plain client reads at ``seq`` is what the ledger answers there."""

import random
from datetime import timedelta

import pytest

from fiscus.core.checks import to_datetime
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Deallocate,
    PutAccount,
    PutBudget,
    Release,
    RemoveBudget,
    Reserve,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.core.outcomes import Refused
from fiscus.stores.redis.accounts import PENDING_MS
from fiscus.stores.redis.projector import GRACE_MS, LOOK_MS
from tests.stores.redis.live import Live, same_as_the_ledger

pytestmark = pytest.mark.slow

STEPS = 120
NAMES = ("global", "team:a", "team:b", "agent:a", "agent:b", "agent:c", "agent:d")
PARENTS = {
    "team:a": "global",
    "team:b": "global",
    "agent:a": "team:a",
    "agent:b": "team:a",
    "agent:c": "team:b",
    "agent:d": "global",
}


class Walk:
    """Random commands and losses from a seed."""

    def __init__(self, live, other, client, seed):
        self.live, self.other, self.client = live, other, client
        self.random = random.Random(seed)
        self.names = {"global"}
        self.old = {}
        self.number = 0

    def command(self):
        pick = self.random
        name = pick.choice(sorted(self.names))
        tokens = pick.choice((0, 1, 30, 400))
        self.number += 1
        until = to_datetime(self.live.clock.wall_ms()) + timedelta(seconds=pick.choice((5, 100)))
        return pick.choice(
            (
                lambda: Reserve(id=f"h{self.number}", account=name, amounts={"tokens": tokens}, lease_s=5),
                lambda: Reserve(id=f"h{self.number}", account=name, amounts={"tokens": tokens}),
                lambda: Settle(id=f"h{pick.randint(1, self.number)}", total={"tokens": tokens}),
                lambda: Settle(id=f"u{self.number}", account=name, total={"tokens": tokens}),
                lambda: Release(id=f"h{pick.randint(1, self.number)}"),
                lambda: Allocate(account=name, unit="tokens", to=tokens, valid_until=pick.choice((None, until))),
                lambda: Deallocate(account=name, unit="tokens"),
                lambda: Transfer(source=name, target=pick.choice(NAMES), unit="tokens", amount=tokens),
                lambda: SetStatus(account=name, status=pick.choice(("suspended", "active", "active", "active"))),
                lambda: PutBudget(
                    account=name, unit="tokens", limit=1_000, period=pick.choice(("hour", "every 7 seconds"))
                ),
                lambda: PutBudget(
                    account="global", unit="tokens", limit=pick.choice((500, 5_000)), budget="pool", force=True
                ),
                lambda: RemoveBudget(account=name, budget="tokens-hour"),
                lambda: Adjust(
                    id=f"a{self.number}",
                    account=name,
                    budget="tokens-hour",
                    amount=50,
                    reason="test",
                    valid_until=until,
                ),
            )
        )()

    def open_next(self):
        missing = [name for name in NAMES if name not in self.names and PARENTS[name] in self.names]
        if missing:
            outcome = self.live.do(PutAccount(account=missing[0], parent=PARENTS[missing[0]]))[0]
            if not isinstance(outcome, Refused):  # below one that is suspended
                self.names.add(missing[0])

    def lose(self):
        loss = self.random.choice(("nothing", "nothing", "flush", "keep", "old", "seq", "other", "deaf"))
        if loss == "flush":
            self.client.flushall()
        elif loss == "keep":
            self.old = {key: self.client.dump(key) for key in self.client.scan_iter()}
        elif loss == "old":
            self.client.flushall()
            for key, dump in self.old.items():
                self.client.restore(key, 0, dump)
        elif loss == "seq":
            self.client.delete("fiscus:default:seq")
        elif loss == "other":
            self.live, self.other = self.other, self.live
        elif loss == "deaf":
            self.live.deafen()
            self.live.do(self.command())
            self.live.listen()

    def step(self):
        if self.random.random() < 0.2:
            self.open_next()
        for _ in range(self.random.randint(1, 4)):
            self.live.do(self.command())
        if self.random.random() < 0.3:
            self.lose()
        if self.random.random() < 0.3:
            self.live.turn(self.random.choice((10, 1_000, 8_000, 3_600_000)))
        if self.random.random() < 0.6:
            self.settle()

    def settle(self):
        """Both nodes take turns until there is nothing to do, then what is there is right."""
        for _ in range(3):
            self.other.turn(LOOK_MS)
            self.live.turn(GRACE_MS)
        self.live.settle()
        # What is shown as it would be carved now is looked at again, and so is all that has ended meanwhile.
        assert self.live.turn(PENDING_MS) == "current"
        same_as_the_ledger(self.live, self.client, *sorted(self.names))


# covers D10, E12
@pytest.mark.parametrize("seed", range(3))
def test_after_any_commands_losses_and_times_plain_reads_are_the_ledgers_answers(live, client, shared, seed):
    other = Live(live.desk, live.clock, shared)
    live.do(PutAccount(account="global"), PutBudget(account="global", unit="tokens", limit=5_000, budget="pool"))
    walk = Walk(live, other, client, seed)
    for _ in range(STEPS):
        walk.step()
    walk.settle()
    other.close()

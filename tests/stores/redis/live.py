"""A ledger, a real server, and the projector between them, one turn after the other; and what a plain client reads."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import redis

from fiscus.api.economy.ledger import POOL_ACCOUNT, pool_balance
from fiscus.api.economy.service import agent_status
from fiscus.contract.queries import ReadAccount
from fiscus.core.outcomes import AccountAnswer
from fiscus.stores.redis.accounts import Economy
from fiscus.stores.redis.projector import Projector
from fiscus.stores.redis.server import RedisServer
from tests.servers.valkey import Server
from tests.treasury.clock import ManualClock
from tests.treasury.desk import Desk

ECONOMY = Economy(tenant="default", pool_account=POOL_ACCOUNT, pool_balance=pool_balance, agent_status=agent_status)
AMOUNTS = ("limit", "covered", "held", "quarantined", "uncovered", "spent", "available", "overdrawn")
STREAM_LENGTH = 1_000


class Live:
    """One node: a desk, and its projector to ``server``."""

    def __init__(
        self, desk: Desk, clock: ManualClock, server: Server, *, stream_length_max: int = STREAM_LENGTH
    ) -> None:
        self.desk = desk
        self.clock = clock
        self.server = server
        self.redis = RedisServer(server.url, timeout_ms=2_000, stream_length_max=stream_length_max)
        self.projector = Projector(
            desk.engine.store,
            self.redis,
            now_ms=clock.wall_ms,
            economy=ECONOMY,
            monotonic_ms=clock.monotonic_ms,
        )
        desk.engine.view_observers.append(self.projector.observe)

    def deafen(self) -> None:
        """From here on this node hears nothing of what is written to the views, as if another one wrote them."""
        self.desk.engine.view_observers.remove(self.projector.observe)

    def listen(self) -> None:
        self.desk.engine.view_observers.append(self.projector.observe)

    def do(self, *commands: Any) -> list[Any]:
        """Commands, one after the other, each with its own batch; the views follow, and Redis does not yet."""
        outcomes = [self.desk.do(command) for command in commands]
        self.desk.write_views()
        return outcomes

    def turn(self, after_ms: int = 0) -> str:
        """Let time pass, then the projector do what it does in one turn; returns its state."""
        self.clock.advance(after_ms)
        self.desk.ask()
        self.desk.write_views()
        self.projector.turn()
        return self.projector.status().state

    def settle(self) -> None:
        """Turns until Redis has everything."""
        for _ in range(20):
            if self.turn() == "current":
                return
            self.clock.advance(100)
        raise AssertionError(self.projector.status())

    @property
    def head(self) -> int:
        """The last entry of the journal."""
        return self.desk.engine.ledger("default").head.seq

    def close(self) -> None:
        self.redis.close()


def contents(client: redis.Redis) -> dict[str, Any]:
    """Everything that stands there, by key."""
    read: dict[str, Any] = {
        "string": client.get,
        "hash": client.hgetall,
        "zset": lambda key: dict(client.zrange(key, 0, -1, withscores=True)),
        "stream": client.xrange,
    }
    return {key: read[client.type(key)](key) for key in sorted(client.keys())}


def same_as_the_ledger(live: Live, client: redis.Redis, *names: str, tenant: str = "default") -> None:
    """What a plain client reads of accounts is what the ledger answers at that sequence, and no more is there."""
    seq = client.get(f"fiscus:{tenant}:seq")
    prefix = f"fiscus:{tenant}:account:"
    shown = {key.removeprefix(prefix) for key in client.scan_iter() if key.startswith(prefix)}
    views = {name: live.desk.ask(ReadAccount(tenant=tenant, account=name))[0] for name in names}
    answers = {name: view.account for name, view in views.items()}
    assert seq == str(next(iter(views.values())).as_of_seq)
    assert shown == {name for name, answer in answers.items() if answer.status in ("active", "suspended")}
    for name in shown:
        same_account(client.hgetall(prefix + name), answers[name])
    assert client.hgetall(f"fiscus:{tenant}:names") == {str(answers[name].number): name for name in shown}


def same_account(found: dict[str, str], answer: AccountAnswer) -> None:
    """A hash has what an answer has, and no other fields."""
    expected = {
        "number": str(answer.number),
        "parent": answer.parent or "",
        "status": answer.status,
        "status_effective": answer.status_effective,
    }
    for view in answer.budgets:
        balance = view.balance
        assert balance is not None
        told = msgspec.to_builtins(balance)
        expected |= {f"{view.budget}:{field}": str(told[field]) for field in AMOUNTS}
        expected |= {
            f"{view.budget}:{field}": told[field] or "" for field in ("unit", "mode", "window_start", "window_end")
        }
        expected[f"{view.budget}:allocated"] = "1" if balance.allocated else "0"
    rest = {name: value for name, value in found.items() if name not in ("as_of_seq", "as_of", "budgets")}
    wrong = {
        name: (rest.get(name), expected.get(name)) for name in rest | expected if rest.get(name) != expected.get(name)
    }
    assert not wrong, f"{answer.account}, found and expected: {wrong}; written {found['as_of']}"
    assert json.loads(found["budgets"]) == [view.budget for view in answer.budgets]

"""Overrides, gates, pauses and carry-over in any order, over HTTP at two nodes: nobody gets more than is his."""

from __future__ import annotations

import random
from typing import Any

import pytest

from fiscus.api import ApiOptions, store_first_key
from fiscus.treasury.engine import Engine
from fiscus.treasury.local import LocalTreasury
from fiscus.treasury.verify import verify
from tests.api.service import FIRST_SECRET, PEPPER, Answer, Api
from tests.api.test_keys import issued

STEPS = 300
BASE = 1_000
ACCOUNTS = ("team:a", "agent:x")


class Court:
    """Two nodes, everybody's keys, and what must hold after every answer."""

    def __init__(self, nodes: list[Api], seed: int) -> None:
        self.nodes = nodes
        self.random = random.Random(seed)
        self.keys: dict[str, dict[str, Any]] = {}
        self.asked: dict[str, str] = {}
        self.holds: dict[str, int] = {}
        self.made = 0

    async def open(self) -> None:
        """team:a (1,000 tokens for good) ← agent:x (300 tokens a second, carries over, gated); team:b beside it."""
        api = self.nodes[0]
        for account, parent, gate in (("team:a", None, None), ("agent:x", "team:a", 0.9), ("team:b", None, None)):
            body = {"parent": parent, "confidence_threshold": gate}
            assert (await api.put(f"/v1/accounts/{account}", body, key=FIRST_SECRET)).status == 200
        for account, name, more in (
            ("team:a", "main", {"limit": BASE}),
            (
                "agent:x",
                "second",
                {"limit": 300, "period": "every 1 seconds", "carry_over": "unused", "carry_max": 500},
            ),
        ):
            made = await api.put(f"/v1/accounts/{account}/budgets/{name}", {"unit": "tokens", **more}, key=FIRST_SECRET)
            assert made.status == 200, made
        for name, fields in {
            "boss": {"role": "admin"},
            "asker": {"role": "operator"},
            "other": {"role": "operator"},
            "looker": {"role": "viewer"},
            "of_a": {"role": "account", "account": "team:a"},
            "of_x": {"role": "account", "account": "agent:x"},
            "stranger": {"role": "account", "account": "team:b"},
        }.items():
            self.keys[name] = await issued(api, **fields)

    async def call(self, method: str, target: str, body: Any = None, *, who: str) -> Answer:
        """At any node; nothing is ever a fault of the service."""
        api = self.random.choice(self.nodes)
        answer = await api.call(method, target, body, key=self.keys[who]["secret"])
        assert answer.status < 500, answer
        if who == "stranger":
            assert answer.status in (401, 403, 404), (method, target, answer)
        return answer

    async def step(self) -> None:
        anybody = self.random.choice(list(self.keys))
        await self.random.choice((
            self.ask, self.decide, self.decide, self.hold, self.hold, self.hold, self.settle, self.settle, self.pause,
            self.resume, self.resume, self.reset_gate, self.peek,
        ))(anybody)  # fmt: skip

    async def ask(self, who: str) -> None:
        self.made += 1
        account, budget = self.random.choice((("team:a", "main"), ("agent:x", "second")))
        id = f"o{self.made}"
        amount = self.random.choice((1, 50, 150, 400, 501, 10**9))
        body = {"id": id, "account": account, "budget": budget, "amount": amount, "reason": "more", "valid_s": 2}
        if (await self.call("POST", "/v1/overrides", body, who=who)).status == 201:
            self.asked[id] = self.keys[who]["id"]

    async def decide(self, who: str) -> None:
        if not self.asked:
            return
        id = self.random.choice(list(self.asked))
        verb = self.random.choice(("approve", "approve", "approve", "deny", "revoke"))
        answer = await self.call("POST", f"/v1/overrides/{id}/{verb}", who=who)
        if answer.status == 200 and verb in ("approve", "deny"):
            assert self.keys[who]["id"] != self.asked[id], "nobody decides on what he has asked for"
            assert who in ("boss", "other", "asker", "of_a"), "a viewer and a leaf decide nothing"

    async def hold(self, who: str) -> None:
        self.made += 1
        id, account = f"h{self.made}", self.random.choice(ACCOUNTS)
        amount = self.random.choice((1, 40, 250))
        attributes = {"task": self.random.choice("st")} if account == "agent:x" else {}
        body = {
            "id": id,
            "account": account,
            "amounts": {"tokens": amount},
            "attributes": attributes,
        }
        if (await self.call("POST", "/v1/holds", body, who=who)).status == 201:
            self.holds[id] = amount

    async def settle(self, who: str) -> None:
        if not self.holds:
            return
        id = self.random.choice(list(self.holds))
        record = {"confidence": self.random.choice((0.1, 0.95))}
        body = {"total": {"tokens": self.random.randint(0, self.holds[id])}, "record": record}
        if (await self.call("POST", f"/v1/holds/{id}/settle", body, who=who)).status == 200:
            del self.holds[id]

    async def pause(self, who: str) -> None:
        await self.call("POST", f"/v1/accounts/{self.random.choice(ACCOUNTS)}/suspend", who=who)

    async def resume(self, who: str) -> None:
        await self.call("POST", f"/v1/accounts/{self.random.choice(ACCOUNTS)}/resume", who=who)

    async def reset_gate(self, who: str) -> None:
        await self.call("POST", "/v1/accounts/agent:x/gates/reset", who=who)

    async def peek(self, who: str) -> None:
        """A key of another account sees nothing of these."""
        targets = ["/v1/accounts/team:a", "/v1/accounts/agent:x", "/v1/balances/team:a", "/v1/accounts/agent:x/budgets"]
        targets += [f"/v1/overrides/{id}" for id in list(self.asked)[-1:]]
        targets += [f"/v1/holds/{id}" for id in list(self.holds)[-1:]]
        for target in targets:
            await self.call("GET", target, who="stranger")
        for node in self.nodes:
            for target, name in (("/v1/overrides", "overrides"), ("/v1/usage", "usage")):
                page = await node.get(target, key=self.keys["stranger"]["secret"])
                assert page.status == 403 or page.json[name] == []

    async def check(self) -> None:
        """E1, E2, E13 and the bound of overrides, as each node shows them."""
        for node in self.nodes:
            for account in ACCOUNTS:
                answer = await node.get(f"/v1/balances/{account}", key=FIRST_SECRET)
                for one in answer.json["balances"]:
                    assert min(one[part] for part in ("covered", "held", "quarantined", "uncovered")) >= 0
                    assert one["covered"] + one["held"] + one["quarantined"] <= one["limit"], one
                    assert one["uncovered"] == 0
                    carried = 500 if one["budget"] == "second" else 0
                    base = 300 if one["budget"] == "second" else BASE
                    assert base <= one["limit"] <= base + carried + base // 2, one


# covers R8, R31, T12, E1, E2, E13
@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
async def test_whoever_asks_whatever_in_whatever_order_gets_no_more_than_is_his(open_node, seed):
    ledgers = [LocalTreasury(Engine(open_node())) for _ in range(2)]
    await store_first_key(ledgers[0], FIRST_SECRET, PEPPER)
    court = Court([Api(one, ApiOptions(key_pepper=PEPPER, keys_required=True)) for one in ledgers], seed)
    await court.open()
    for _ in range(STEPS):
        await court.step()
        await court.check()
    for one in ledgers:
        await one.close()
    assert court.asked
    assert verify(open_node()).faults == ()

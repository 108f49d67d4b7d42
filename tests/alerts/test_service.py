"""Alerts of a real service: killed between sending and noting, asked by command line and HTTP."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec
import pytest

from fiscus.alerts.desk import now_ms
from fiscus.client import RemoteTreasury
from fiscus.core.commands import PutAccount, PutBudget, Settle
from fiscus.stores.sqlite.alerts import SqliteAlerts
from tests.alerts.rig import SECRET, Clock, Receiver, do, receiver
from tests.alerts.test_dispatcher import put
from tests.cli.processes import Service, answer, answers, fiscus, service

WAIT_S = 15
FILE = f"""
[[channels]]
name = "ops"
kind = "webhook"
url_variable = "OPS_URL"
secrets = ["{SECRET}"]
kinds = ["threshold_crossed"]
severity = "warning"
send_s_max = 2
"""


@contextmanager
def serving(folder: Path, hook: Receiver, **settings: str):
    (folder / "alerts.toml").write_text(FILE)
    with service(folder, FISCUS_ALERTS_PATH="alerts.toml", OPS_URL=hook.url, **settings) as running:
        yield running


async def until(condition) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.05)


async def begin(treasury: RemoteTreasury, *nodes: Service) -> None:
    """Make an account, and wait until a node reads on from there: what was before is not told."""
    await do(treasury, PutAccount(account="agent:x"))
    async with aiohttp.ClientSession() as session, asyncio.timeout(WAIT_S):
        while True:
            for node in nodes:
                async with session.get(f"{node.url}/v1/alerts") as response:
                    if (await response.json())["as_of_seq"]:
                        return
            await asyncio.sleep(0.05)


async def spend(treasury: RemoteTreasury, tokens: int, id: str) -> None:
    await do(treasury, Settle(id=id, account="agent:x", total={"tokens": tokens}))


@pytest.mark.slow
async def test_a_kill_between_sending_and_noting_sends_again_under_the_same_id(tmp_path):
    async with receiver() as hook:
        with serving(tmp_path, hook) as node:
            treasury = RemoteTreasury(node.url)
            await begin(treasury, node)
            await do(treasury, PutBudget(account="agent:x", unit="tokens", limit=100))
            hook.mode = "hang"
            await spend(treasury, 80, "one")
            await until(lambda: hook.requests)
            await treasury.close()
            node.stop(signal.SIGKILL)
        hook.mode = 204
        with serving(tmp_path, hook) as node:
            await until(lambda: hook.taken)
            await asyncio.sleep(1)
            async with aiohttp.ClientSession() as session, session.get(f"{node.url}/v1/alerts?state=sent") as response:
                listed = await response.json()
            assert node.stop() == 0
    assert {headers["webhook-id"] for headers, _ in hook.requests} == {listed["deliveries"][0]["id"]}
    assert len(hook.taken) == 1
    assert hook.bodies[0]["data"]["facts"]["percent"] == 75
    (shown,) = listed["channels"]
    assert (shown["channel"], shown["state"], shown["waiting"]) == ("ops", "ok", 0)


@pytest.mark.slow
async def test_dead_letters_are_listed_and_sent_again_by_command(tmp_path):
    store = SqliteAlerts(tmp_path / "fiscus.db-alerts", "default")
    clock = Clock(now_ms() - 1_000)
    made = put(store, clock, 2)
    for one in store.claim("ops", "test", clock(), clock() + 1, 10):
        store.note(msgspec.structs.replace(one, state="dead"))
    store.close()
    async with receiver() as hook:
        with serving(tmp_path, hook) as node:
            assert {one["id"] for one in answers(tmp_path, "alerts", "dead", "--url", node.url)} == {
                one.id for one in made
            }
            assert answer(tmp_path, "alerts", "retry", made[0].id, "--url", node.url) == {"retried": 1}
            await until(lambda: hook.taken)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"{node.url}/metrics") as response:
                    metrics = await response.text()
                async with session.get(f"{node.url}/v1/alerts?state=nonsense") as response:
                    assert response.status == 422
                async with session.post(f"{node.url}/v1/alerts/test", json={"channel": "pigeon"}) as response:
                    assert (response.status, (await response.json())["field"]) == (422, "channel")
                async with session.post(f"{node.url}/v1/alerts/test", json={"channel": "ops"}) as response:
                    assert await response.json() == {"channel": "ops", "delivered": True, "detail": ""}
            assert node.stop() == 0
        here = {"FISCUS_ALERTS_PATH": "alerts.toml", "OPS_URL": hook.url}
        hook.mode = 500
        failed = await asyncio.to_thread(fiscus, tmp_path, "alerts", "test", "ops", code=1, **here)
        assert "answered 500" in failed.stdout
        assert [one["id"] for one in answers(tmp_path, "alerts", "dead", **here)] == [made[1].id]
        assert answer(tmp_path, "alerts", "retry", **here) == {"retried": 1}
    assert hook.ids[0] == made[0].id
    assert [body["type"] for body in hook.bodies] == ["tool_spike", "test"]
    assert 'fiscus_alerts_sent_total{channel="ops"} 1.0' in metrics
    assert "fiscus_alerts_lag_entries 0.0" in metrics
    assert hook.url not in (tmp_path / "service.log").read_text()


@pytest.mark.slow
def test_an_outbox_that_cannot_be_opened_keeps_nobody_from_the_ledger(tmp_path):
    (tmp_path / "fiscus.db-alerts").write_bytes(b"this was a database once" * 1_000)
    (tmp_path / "alerts.toml").write_text(FILE)
    with service(tmp_path, FISCUS_ALERTS_PATH="alerts.toml", OPS_URL="https://example.org") as node:
        assert answer(tmp_path, "status", "--url", node.url)["readiness"]["ready"]
        assert answers(tmp_path, "alerts", "list", "--url", node.url) == []
    assert "alerts_unavailable" in (tmp_path / "service.log").read_text()


def test_a_file_that_makes_no_sense_keeps_the_service_from_starting_and_names_the_field(tmp_path):
    (tmp_path / "alerts.toml").write_text(FILE.replace('"threshold_crossed"', '"nonsense"'))
    secret = {"FISCUS_ALERTS_PATH": "alerts.toml", "OPS_URL": "https://example.org/secret-token"}
    failed = fiscus(tmp_path, "serve", "--port", "0", code=1, **secret)
    assert "alerts.toml: channels[0].kinds: there is no alert 'nonsense'" in failed.stderr
    assert "secret-token" not in failed.stderr
    (tmp_path / "alerts.toml").write_text(FILE)
    failed = fiscus(tmp_path, "alerts", "test", "ops", code=1, FISCUS_ALERTS_PATH="alerts.toml")
    assert "OPS_URL: is not set in the environment" in failed.stderr

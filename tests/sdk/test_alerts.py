"""Alerts of programs that have their ledger in their own process, and of those that use a service."""

from __future__ import annotations

import asyncio

import pytest

import fiscus
from fiscus.alerts import desk as desks
from fiscus.api import ApiOptions, create_app
from fiscus.contract import PutAccount, PutBudget, Settle
from fiscus.contract.errors import ConfigurationInvalid, StoreUnavailable
from fiscus.contract.queries import PAGE_LENGTH_DEFAULT
from tests.alerts.rig import SECRET, alerts, channel, options, receiver
from tests.alerts.rig import Clock as AlertClock
from tests.api.service import ledger, serving

FILE = f"""
[[channels]]
name = "ops"
kind = "webhook"
url_variable = "OPS_URL"
secrets = ["{SECRET}"]
kinds = ["threshold_crossed"]
severity = "info"
send_s_max = 1
"""


def spent(hook) -> list[int]:
    return sorted(body["data"]["facts"]["percent"] for body in hook.bodies)


# covers R18, R30
async def test_a_program_that_ends_at_once_has_told_what_it_did_and_the_next_one_repeats_nothing(tmp_path, monkeypatch):
    url, file = f"sqlite:///{tmp_path}/fiscus.db", tmp_path / "alerts.toml"
    file.write_text(FILE)
    async with receiver() as hook:
        monkeypatch.setenv("OPS_URL", hook.url)
        async with fiscus.open(url, alerts=file) as treasury:
            await treasury.put_account("agent:x")
            await treasury.put_budget("agent:x", "tokens", 100)
            await treasury.usage("agent:x", {"tokens": 80})
        assert spent(hook) == [50, 75]
        async with fiscus.open(url, alerts=str(file)) as treasury:
            await treasury.usage("agent:x", {"tokens": 1})
        assert spent(hook) == [50, 75]
        async with fiscus.open(url) as treasury:  # not told outside, and told by the next one that does
            await treasury.usage("agent:x", {"tokens": 10})
        assert spent(hook) == [50, 75]
        async with fiscus.open(url, alerts=file) as treasury:
            await treasury.usage("agent:x", {"tokens": 1})
        assert spent(hook) == [50, 75, 90]
        assert len(set(hook.ids)) == len(hook.requests) == 3


async def test_a_program_without_an_event_loop_tells_too(tmp_path):
    async with receiver() as hook:

        def program() -> None:
            treasury = fiscus.open_sync(f"sqlite:///{tmp_path}/fiscus.db", alerts=options(channel(hook)))
            treasury.put_account("agent:x")
            treasury.put_budget("agent:x", "tokens", 100)
            treasury.usage("agent:x", {"tokens": 50})
            assert treasury.test_alerts("ops").delivered
            treasury.close()

        await asyncio.to_thread(program)
    assert "threshold_crossed" in {body["type"] for body in hook.bodies}


async def test_a_receiver_that_hangs_keeps_neither_the_calls_nor_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(desks, "FINISH_S_MAX", 0.3)
    url = f"sqlite:///{tmp_path}/fiscus.db"
    async with receiver() as hook:
        wishes = options(channel(hook, kinds=("threshold_crossed",), send_s_max=300))
        hook.mode = "hang"
        loop = asyncio.get_running_loop()
        began = loop.time()
        async with fiscus.open(url, alerts=wishes) as treasury:
            await treasury.put_account("agent:x")
            await treasury.put_budget("agent:x", "tokens", 100)
            await treasury.usage("agent:x", {"tokens": 50})
            async with asyncio.timeout(10):
                while not hook.requests:
                    await asyncio.sleep(0.01)
            await treasury.usage("agent:x", {"tokens": 1})
        assert loop.time() - began < 10
        hook.mode = 204
        async with fiscus.open(url, alerts=wishes) as treasury:
            async with asyncio.timeout(10):
                while not hook.taken:
                    await asyncio.sleep(0.01)
        assert {headers["webhook-id"] for headers, _ in hook.requests} == set(hook.ids)


async def test_what_was_given_up_is_listed_and_sent_again(tmp_path):
    async with receiver() as hook:
        hook.mode = 410
        wishes = options(channel(hook, kinds=("threshold_crossed",)))
        async with fiscus.open(f"sqlite:///{tmp_path}/fiscus.db", alerts=wishes) as treasury:
            await treasury.put_account("agent:x")
            await treasury.put_budget("agent:x", "tokens", 100)
            await treasury.usage("agent:x", {"tokens": 50})
            async with asyncio.timeout(10):
                while not (await treasury.alerts("dead")).deliveries:
                    await asyncio.sleep(0.01)
            hook.mode = 204
            assert await treasury.retry_alerts() == 1
            async with asyncio.timeout(10):
                while not hook.taken:
                    await asyncio.sleep(0.05)
            assert not (await treasury.alerts("dead")).deliveries
            with pytest.raises(ConfigurationInvalid, match="no channel 'pigeon'"):
                await treasury.test_alerts("pigeon")


async def test_those_of_a_service_are_reached_by_the_same_names(tmp_path):
    async with (
        receiver() as hook,
        ledger() as served,
        alerts(served, options(channel(hook)), AlertClock()) as desk,
        serving(create_app(served, ApiOptions(alerts=desk))) as url,
        fiscus.connect(url, "", spool_directory=tmp_path) as treasury,
    ):
        assert (await treasury.test_alerts("ops")).delivered
        assert await treasury.retry_alerts() == 0
        assert await treasury.retry_alerts("msg_none") == 0
        view = await treasury.alerts("dead", limit=PAGE_LENGTH_DEFAULT)
        assert [one.channel for one in view.channels] == ["ops"]
        assert view.next is None
        with pytest.raises(ConfigurationInvalid, match="no channel 'pigeon'"):
            await treasury.test_alerts("pigeon")


async def test_the_very_first_thing_that_a_program_does_is_told(tmp_path):
    commands = (
        PutAccount(account="agent:x"),
        PutBudget(account="agent:x", unit="tokens", limit=100, thresholds={50: "info"}),
        Settle(id="u", account="agent:x", total={"tokens": 60}),
    )
    async with receiver() as hook:
        wishes = options(channel(hook, kinds=("threshold_crossed",)))
        async with fiscus.open(f"sqlite:///{tmp_path}/fiscus.db", alerts=wishes) as treasury:
            await treasury.compound(commands)
    assert spent(hook) == [50]


async def test_what_is_wrong_is_said_when_it_is_opened_and_the_ledger_is_free_again(tmp_path):
    url = f"sqlite:///{tmp_path}/fiscus.db"
    with pytest.raises(ConfigurationInvalid, match=r"alerts: .*nowhere\.toml"):
        fiscus.open(url, alerts=tmp_path / "nowhere.toml")
    (tmp_path / "fiscus.db-alerts").write_bytes(b"this was a database once" * 1_000)
    async with receiver() as hook:
        with pytest.raises(StoreUnavailable):
            fiscus.open(url, alerts=options(channel(hook)))
    async with fiscus.open(url) as treasury:
        with pytest.raises(ConfigurationInvalid, match=r"give fiscus\.open `alerts`"):
            await treasury.alerts()

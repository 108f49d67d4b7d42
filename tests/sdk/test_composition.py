from __future__ import annotations

from pathlib import Path

import pytest

import fiscus
from fiscus.api import ApiOptions, create_app, store_first_key
from fiscus.contract.errors import ConfigurationInvalid, LedgerBusy, TreasuryError
from tests.api.service import FIRST_SECRET, PEPPER, ledger, serving


async def test_what_was_booked_is_there_when_the_ledger_is_opened_again(tmp_path):
    # covers E11
    url = f"sqlite:///{tmp_path}/fiscus.db"
    async with fiscus.open(url) as treasury:
        await treasury.put_account("agent:x")
        await treasury.usage("agent:x", {"tokens": 5}, id="u")
    async with fiscus.open(url) as treasury:
        assert (await treasury.hold_answer("u")).booked["tokens"] == 5


async def test_the_default_ledger_is_a_file_in_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    async with fiscus.open() as treasury:
        await treasury.put_account("agent:x")
    assert (tmp_path / "fiscus.db").is_file()


async def test_a_second_opener_is_told(tmp_path):
    url = f"sqlite:///{tmp_path}/fiscus.db"
    async with fiscus.open(url):
        with pytest.raises(LedgerBusy):
            fiscus.open(url)


async def test_tenants_do_not_see_each_other(tmp_path):
    url = f"sqlite:///{tmp_path}/fiscus.db"
    async with fiscus.open(url, tenant="one") as treasury:
        await treasury.put_account("agent:x")
    async with fiscus.open(url, tenant="two") as treasury:
        with pytest.raises(fiscus.contract.errors.Unknown):
            await treasury.account("agent:x")


async def test_it_can_be_closed_without_the_context_manager(tmp_path):
    treasury = fiscus.open(f"sqlite:///{tmp_path}/fiscus.db")
    await treasury.put_account("agent:x")
    await treasury.close()
    async with fiscus.open(f"sqlite:///{tmp_path}/fiscus.db") as again:
        assert (await again.account("agent:x")).status == "active"


async def test_a_url_that_names_no_store_is_told():
    with pytest.raises(ConfigurationInvalid):
        fiscus.open("mongodb://x")


async def test_the_key_comes_from_the_settings_unless_it_is_given(tmp_path, monkeypatch):
    async with ledger() as served:
        await store_first_key(served, FIRST_SECRET, PEPPER)
        async with serving(create_app(served, ApiOptions(key_pepper=PEPPER, keys_required=True))) as url:
            monkeypatch.setenv("FISCUS_API_KEY", FIRST_SECRET)
            async with fiscus.connect(url, spool_directory=tmp_path) as treasury:
                assert (await treasury.put_account("agent:x")).account == "agent:x"
            async with fiscus.connect(url, "another", spool_directory=tmp_path) as treasury:
                with pytest.raises(TreasuryError):
                    await treasury.account("agent:x")


async def test_settlements_of_one_service_never_reach_another(tmp_path):
    async with fiscus.connect("http://127.0.0.1:1", "", timeout_s=0.1, spool_directory=tmp_path) as away:
        assert await away.usage("agent:x", {"tokens": 1}, id="u") is None
        other = fiscus.connect("http://127.0.0.1:2", "", timeout_s=0.1, spool_directory=tmp_path)
        assert other.spooled == 0
        await other.close()
    same = fiscus.connect("http://127.0.0.1:1/", "", timeout_s=0.1, spool_directory=tmp_path)
    assert same.spooled == 1
    await same.close()


async def test_settlements_wait_in_the_state_directory_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    async with fiscus.connect("http://127.0.0.1:1", "", timeout_s=0.1) as away:
        await away.usage("agent:x", {"tokens": 1})
        assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()] == [".spool"]

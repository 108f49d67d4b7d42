from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from fiscus.api import ApiOptions, create_app, store_first_key
from fiscus.client import RemoteTreasury
from fiscus.contract import (
    Adjust,
    Allocate,
    Compound,
    PutAccount,
    PutBudget,
    Refused,
    Release,
    Request,
    Reserve,
    Settle,
    Transfer,
)
from fiscus.contract.errors import BudgetUnavailable, ConfigurationInvalid, TreasuryError
from fiscus.contract.queries import ListAccounts, ListEntries, ReadAccount
from tests.api.service import FIRST_SECRET, PEPPER, ledger, serving
from tests.client.conftest import QUICKLY


def requests_for(*commands):
    return [Request(command=command) for command in commands]


async def tree(treasury, limit=1_000):
    """``team:a`` with a budget, ``agent:x`` and ``agent:y`` below it."""
    outcomes = await treasury.execute_many(
        requests_for(
            PutAccount(account="team:a"),
            PutAccount(account="agent:x", parent="team:a"),
            PutAccount(account="agent:y", parent="team:a"),
            PutBudget(account="team:a", unit="tokens", limit=limit),
        )
    )
    assert not [outcome for outcome in outcomes if isinstance(outcome, Refused)]


async def journal(treasury):
    """What happened, by kind. A reading that only says again what an earlier one said is left out: it moves nothing."""
    page = await treasury.read(ListEntries(limit=1_000))
    said, kinds = set(), []
    for entry in page.entries:
        reading = (entry.kind, entry.data.get("id"), str(entry.data.get("total")))
        if entry.kind != "settled" or reading not in said:
            kinds.append(entry.kind)
        said.add(reading)
    return kinds


async def balance(treasury, account="team:a"):
    view = await treasury.read(ReadAccount(account=account))
    return view.account.budgets[0].balance


WRITES = [
    ("reserve", Reserve(id="h2", account="agent:x", amounts={"tokens": 10})),
    ("settle", Settle(id="h1", total={"tokens": 7})),
    ("release", Release(id="h1")),
    ("usage", Settle(id="u1", account="agent:x", total={"tokens": 7})),
    ("put_account", PutAccount(account="agent:z", parent="team:a")),
    ("put_budget", PutBudget(account="agent:x", unit="tokens", limit=5)),
    ("allocate", Allocate(account="agent:x", unit="tokens", to=200)),
    ("transfer", Transfer(source="agent:x", target="agent:y", unit="tokens", amount=30)),
    ("adjust", Adjust(id="a1", account="team:a", budget="tokens-lifetime", amount=5, reason="more")),
    ("compound", Compound(commands=(Settle(id="h1", total={"tokens": 7}), PutAccount(account="agent:q")))),
]


@pytest.mark.parametrize("lost", ["drop_replies", "drop_requests"])
@pytest.mark.parametrize("command", [command for _, command in WRITES], ids=[name for name, _ in WRITES])
async def test_a_write_whose_reply_was_lost_is_repeated_and_has_one_effect(local, remote, proxy, command, lost):
    # covers R49, R50, E7
    async def prepare(treasury):
        await tree(treasury)
        await treasury.execute(Request(command=Reserve(id="h1", account="agent:x", amounts={"tokens": 100})))
        if isinstance(command, Transfer):
            for account in ("agent:x", "agent:y"):
                await treasury.execute(Request(command=Allocate(account=account, unit="tokens", to=100)))

    await prepare(local)
    async with ledger() as undisturbed:
        await prepare(undisturbed)
        expected = await undisturbed.execute(Request(command=command))
        entries, left = await journal(undisturbed), await balance(undisturbed)

    setattr(proxy, lost, 2)
    outcome = await remote.execute(Request(command=command))

    assert len(proxy.requests) == 3
    assert len(set(proxy.requests)) == 1
    assert type(outcome) is type(expected)
    assert not isinstance(outcome, Refused)
    assert await journal(local) == entries
    assert await balance(local) == left


async def test_a_batch_whose_reply_was_lost_is_repeated_and_has_one_effect(local, remote, proxy):
    await tree(local)
    for account in ("agent:x", "agent:y"):
        await local.execute(Request(command=Allocate(account=account, unit="tokens", to=100)))
    move = Transfer(source="agent:x", target="agent:y", unit="tokens", amount=10)
    proxy.drop_replies = 1
    outcomes = await remote.execute_many(requests_for(move, move, PutAccount(account="agent:z")))
    assert len(proxy.requests) == 2
    assert [type(outcome).__name__ for outcome in outcomes] == ["TransferAnswer", "TransferAnswer", "AccountAnswer"]
    assert (await balance(local, "agent:x")).limit == 80
    assert (await balance(local, "agent:y")).limit == 120


async def test_a_refusal_is_not_repeated(local, remote, proxy):
    await tree(local)
    outcome = await remote.execute(Request(command=Reserve(id="h", account="agent:x", amounts={"tokens": 5_000})))
    assert isinstance(outcome, Refused)
    assert outcome.code == "budget_exceeded"
    assert proxy.requests == ["POST /v1/holds"]


async def test_repeats_end_with_the_attempts(proxy):
    treasury = RemoteTreasury(proxy.url, timeout_s=60, attempts_max=3, backoff=QUICKLY)
    proxy.is_down = True
    with pytest.raises(BudgetUnavailable):
        await treasury.read(ReadAccount(account="a"))
    await treasury.close()
    assert proxy.connections <= 6  # aiohttp itself tries a GET once more on a fresh connection


async def test_repeats_end_with_the_time(proxy):
    treasury = RemoteTreasury(proxy.url, timeout_s=0.3, attempt_s_max=0.1, attempts_max=1_000, backoff=QUICKLY)
    proxy.stall_replies = 1_000
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    with pytest.raises(BudgetUnavailable, match="no answer in time"):
        await treasury.execute(Request(command=PutAccount(account="a")))
    assert loop.time() - started_s < 3
    await treasury.close()


async def test_a_service_that_does_not_answer_at_all_is_unavailable():
    treasury = RemoteTreasury("http://127.0.0.1:1", timeout_s=0.2, backoff=QUICKLY)
    with pytest.raises(BudgetUnavailable) as caught:
        await treasury.readiness()
    assert caught.value.retryable
    await treasury.close()


class Fixed:
    """An ASGI application that says what it is told to, in order, and then 200."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.times = []

    async def __call__(self, scope, receive, send):
        while (await receive()).get("more_body"):
            pass
        self.times.append(asyncio.get_running_loop().time())
        status, headers, body = self.answers.pop(0) if self.answers else (200, [], b'{"ready": true}')
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})


async def test_a_retry_after_is_honoured():
    app = Fixed((503, [(b"retry-after", b"1")], b"busy"))
    async with serving(app) as url:
        treasury = RemoteTreasury(url, timeout_s=10, backoff=QUICKLY)
        await treasury.confirm_clock()
        await treasury.close()
    assert app.times[1] - app.times[0] >= 1


async def test_a_retry_after_beyond_the_time_is_not_waited_for():
    app = Fixed((503, [(b"retry-after", b"600")], b"busy"))
    async with serving(app) as url:
        treasury = RemoteTreasury(url, timeout_s=10, backoff=QUICKLY)
        with pytest.raises(BudgetUnavailable) as caught:
            await treasury.confirm_clock()
        await treasury.close()
    assert len(app.times) == 1
    assert caught.value.retry_after_s == 600


@pytest.mark.parametrize(
    "answer", [(500, [], b"oops"), (200, [], b"<html>"), (200, [], b"[]"), (302, [(b"location", b"/elsewhere")], b"")]
)
async def test_what_is_no_answer_of_a_ledger_is_an_error_and_not_repeated(answer):
    app = Fixed(answer)
    async with serving(app) as url:
        treasury = RemoteTreasury(url, timeout_s=10, backoff=QUICKLY)
        with pytest.raises(TreasuryError) as caught:
            await treasury.execute(Request(command=Reserve(id="h", account="a")))
        await treasury.close()
    assert not isinstance(caught.value, BudgetUnavailable)
    assert len(app.times) == 1


async def test_a_wrong_key_is_an_error_and_not_a_refusal():
    async with ledger() as local:
        await store_first_key(local, FIRST_SECRET, PEPPER)
        async with serving(create_app(local, ApiOptions(key_pepper=PEPPER, keys_required=True))) as url:
            stranger, admin = RemoteTreasury(url, "wrong", timeout_s=5), RemoteTreasury(url, FIRST_SECRET, timeout_s=5)
            with pytest.raises(TreasuryError) as caught:
                await stranger.execute(Request(command=PutAccount(account="a")))
            assert caught.value.code == "unauthorized"
            assert not isinstance(await admin.execute(Request(command=PutAccount(account="a"))), Refused)
            await stranger.close()
            await admin.close()


@pytest.mark.parametrize("url", ["", "localhost:8091", "ftp://h", "http://", "http://h/?a=b", "sqlite:///x.db"])
def test_a_url_that_is_none_is_refused_at_once(url):
    with pytest.raises(ConfigurationInvalid, match="url"):
        RemoteTreasury(url)


@pytest.mark.parametrize(
    "request_",
    [
        Request(command=PutAccount(account="a"), tenant="other"),
        Request(command=PutAccount(account="a"), scope="team:a"),
        Request(command=PutAccount(account="a"), may_open=False),
    ],
)
async def test_what_only_a_key_can_say_is_not_silently_left_out(remote, proxy, request_):
    with pytest.raises(TreasuryError):
        await remote.execute(request_)
    assert proxy.requests == []


async def test_one_unreadable_command_does_not_take_the_others_of_a_batch_along(local, remote):
    await tree(local)
    outcomes = await remote.execute_many(
        requests_for(
            Reserve(id="h1", account="agent:x", amounts={"tokens": 1.5}),
            Reserve(id="h2", account="agent:x", amounts={"tokens": 10}),
        )
    )
    assert outcomes[0].code == "invalid"
    assert outcomes[0].field == "amounts.tokens"
    assert outcomes[1].state == "held"


async def test_pages_go_on_where_they_ended(local, remote):
    await local.execute_many([Request(command=PutAccount(account=f"agent:{n:03}")) for n in range(25)])
    seen, after = [], 0
    while after is not None:
        page = await remote.read(ListAccounts(after=after, limit=10, min_seq=25))
        seen += [account.account for account in page.accounts]
        after = page.next
    assert seen == [f"agent:{n:03}" for n in range(25)]


async def test_readiness_is_told_also_when_it_says_no(local):
    app = create_app(local)
    async with serving(app) as url:
        treasury = RemoteTreasury(url, timeout_s=5)
        assert (await treasury.readiness()).ready
        app.drain()
        unready = await treasury.readiness()
        await treasury.close()
    assert not unready.ready
    assert unready.reasons == ("draining",)


async def test_a_closed_client_says_so(remote):
    await remote.close()
    with pytest.raises(TreasuryError, match="closed"):
        await remote.read(ReadAccount(account="a"))


async def test_events_come_in_order_and_without_gap_through_lost_connections(local, remote, proxy):
    # covers E9
    await local.execute_many([Request(command=PutAccount(account=f"agent:{n}")) for n in range(5)])
    seen = []
    async with aclosing(remote.follow(after=2)) as entries:
        async for entry in entries:
            seen.append(entry.seq)
            if entry.seq >= 5:
                proxy.cut()
                await local.execute(Request(command=PutAccount(account=f"agent:1{entry.seq}")))
            if entry.seq == 10:
                break
    assert seen == list(range(3, 11))
    assert sum(request.startswith("GET /v1/events") for request in proxy.requests) == 6


async def test_events_end_with_an_error_when_the_service_cannot_be_reached():
    treasury = RemoteTreasury("http://127.0.0.1:1", timeout_s=0.2, backoff=QUICKLY)
    with pytest.raises(BudgetUnavailable):
        await anext(treasury.follow())
    await treasury.close()


async def test_many_callers_share_one_client(local, remote):
    await tree(local)
    outcomes = await asyncio.gather(
        *(
            remote.execute(Request(command=Reserve(id=f"h{n}", account="agent:x", amounts={"tokens": 10})))
            for n in range(200)
        )
    )
    held = [outcome for outcome in outcomes if not isinstance(outcome, Refused)]
    assert len(held) == 100
    assert (await balance(local)).held == 1_000

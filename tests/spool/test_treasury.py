"""A service while its database is away: over HTTP, with a real ledger whose writes fail, hang or lose their answers."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import fiscus
from fiscus.api import ApiOptions, store_first_key
from fiscus.contract import Compound, PutAccount, Release, Request, Settle
from fiscus.contract.errors import BudgetUnavailable
from fiscus.spool.spool import read_set_aside
from fiscus.spool.treasury import bookings
from tests.api.service import FIRST_SECRET, PEPPER
from tests.spool.outage import PATIENCE_S, Served, served

AT_ONCE_S = 1.0
"""Generous: it is milliseconds."""

ADMISSIONS = [
    ("POST", "/v1/holds", {"id": "new", "account": "agent:x", "amounts": {"tokens": 1}}),
    ("POST", "/v1/holds/h0/extend", {"to": {"tokens": 60}}),
    ("PUT", "/v1/accounts/agent:y", {}),
    ("POST", "/v1/accounts/agent:x/suspend", {}),
    ("PUT", "/v1/accounts/agent:x/budgets/more", {"unit": "tokens", "limit": 1}),
    ("DELETE", "/v1/accounts/agent:x/budgets/tokens-lifetime", None),
    ("PUT", "/v1/accounts/agent:x/allocations/tokens", {"to": 1}),
    ("DELETE", "/v1/accounts/agent:x/allocations/tokens", None),
    ("POST", "/v1/transfers", {"source": "agent:x", "target": "agent:y", "unit": "tokens", "amount": 1}),
    (
        "POST",
        "/v1/accounts/agent:x/adjustments",
        {"id": "a", "budget": "tokens-lifetime", "amount": 1, "reason": "because"},
    ),
    ("DELETE", "/v1/accounts/agent:x/adjustments/a", None),
    ("PUT", "/v1/templates/thread:*", {}),
    ("DELETE", "/v1/accounts/agent:x/name", None),
    ("POST", "/v1/clock/confirm", {}),
    ("GET", "/v1/accounts/agent:x", None),
    ("GET", "/v1/accounts", None),
]


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as service:
        yield service


async def gone(service: Served) -> Served:
    """The database is away, and the service knows it."""
    service.outage.is_down = True
    assert (await service.post("/v1/holds", {"id": "x", "account": "agent:x", "amounts": {"tokens": 1}}))[0] == 503
    return service


async def test_what_was_used_is_kept_and_booked_when_the_database_is_back(service):
    # covers R53, E11, E14
    await gone(service)
    assert await service.post("/v1/holds/h0/settle", {"total": {"tokens": 7}}) == (
        202,
        {"outcome": "spooled", "id": "h0", "state": "spooled"},
    )
    assert (await service.post("/v1/holds/h1/settle", {"total": {"tokens": 60}, "record": {"model": "m"}}))[0] == 202
    assert (await service.post("/v1/holds/h2/release"))[0] == 202
    usage = {"id": "u", "account": "agent:x", "total": {"tokens": 100}, "record": {"model": "m"}}
    assert (await service.post("/v1/usage", usage))[0] == 202
    assert len(service.spool) == 4
    service.outage.is_down = False
    await service.until_delivered()
    assert await service.balance() == (167, 350)
    assert await service.booked() == [("h0", 7), ("h1", 60), ("u", 100)]
    assert await service.post("/v1/holds/h3/settle", {"total": {"tokens": 1}}) != 202
    assert list((service.spool.directory).glob("*.spool")) != []
    await service.treasury.close_spool()
    assert list((service.spool.directory).glob("*")) == []


@pytest.mark.parametrize(("method", "path", "body"), ADMISSIONS)
async def test_nothing_else_is_answered_but_by_an_error_at_once(service, method, path, body):
    # covers E11
    await gone(service)
    status, answer, headers, took_s = await service.call(method, path, body)
    assert (status, answer["code"]) == (503, "budget_unavailable")
    assert int(headers["Retry-After"]) >= 1
    assert took_s < AT_ONCE_S
    assert len(service.spool) == 0


async def test_alive_is_not_ready(service):
    # covers R53
    assert (await service.get("/ready"))[0] == 200
    await gone(service)
    await service.post("/v1/holds/h0/settle", {"total": {"tokens": 7}})
    assert (await service.get("/health"))[0] == 200
    status, ready = await service.get("/ready")
    assert (status, ready["reasons"]) == (503, ["store_unavailable"])
    assert (ready["spooled"], ready["spooled_bytes"]) == (1, service.spool.waiting_bytes)
    assert ready["spooled_bytes"] > 0
    assert ready["spooled_age_s"] == 0
    service.outage.is_down = False
    await service.until_delivered()
    status, ready = await service.get("/ready")
    assert (status, ready["reasons"], ready["spooled"]) == (200, [], 0)


async def test_a_database_that_hangs_makes_nobody_wait_for_long_and_the_next_ones_not_at_all(service):
    # covers R53, E11
    service.outage.hang()
    first = asyncio.create_task(service.call("POST", "/v1/holds/h0/settle", {"total": {"tokens": 7}}))
    await asyncio.to_thread(service.outage.hangs.wait)
    hold = {"account": "agent:x", "amounts": {"tokens": 1}}
    reserves = [service.call("POST", "/v1/holds", {**hold, "id": f"r{n}"}) for n in range(64)]
    answers = await asyncio.gather(*reserves)
    assert {status for status, _, _, _ in answers} == {503}
    assert max(took_s for _, _, _, took_s in answers) < PATIENCE_S * 1.5 + AT_ONCE_S
    status, _, _, took_s = await first
    assert status == 202
    for path, body, expected in (("/v1/holds", {**hold, "id": "late"}, 503), ("/v1/holds/h1/release", {}, 202)):
        status, _, _, took_s = await service.call("POST", path, body)
        assert status == expected
        assert took_s < AT_ONCE_S
    assert (await service.get("/health"))[0] == 200
    assert (await service.get("/ready"))[1]["reasons"] == ["store_unavailable"]
    service.outage.go_on()
    await service.until_delivered()
    assert [usage for usage in await service.booked() if usage[0] == "h0"] == [("h0", 7)]
    assert (await service.post("/v1/holds", {**hold, "id": "late"}))[0] == 201


async def test_a_slow_database_is_not_taken_for_one_that_is_away(service):
    """Others are answered meanwhile: those who wait for their turn go on waiting."""
    patience = service.treasury._patience
    task = asyncio.create_task(asyncio.sleep(PATIENCE_S * 3))

    async def waits() -> None:
        inside = patience.enter()
        try:
            await task
        finally:
            patience.leave(inside)

    waiting = asyncio.create_task(waits())
    while not task.done():
        assert (await service.post("/v1/holds/h0/extend", {"to": {"tokens": 1}}))[0] == 200
        await asyncio.wait([task], timeout=PATIENCE_S / 4)
    await waiting
    assert not service.treasury.is_away


async def test_an_outcome_that_nobody_knows_is_booked_once(service):
    # covers E7, E11
    service.outage.loses_answers = True
    usage = {"id": "u", "account": "agent:x", "total": {"tokens": 100}}
    assert (await service.post("/v1/usage", usage))[0] == 202  # it is in the journal already, which nobody can know
    assert (await service.post("/v1/holds/h0/settle", {"total": {"tokens": 7}}))[0] == 202
    service.outage.loses_answers = service.outage.is_down = False
    await service.until_delivered()
    assert await service.balance() == (107, 450)
    assert await service.booked() == [("u", 100), ("h0", 7)]


async def test_a_running_total_is_not_booked_behind_the_final_one(service):
    # covers E7
    await gone(service)
    for tokens, final in ((10, False), (20, False), (15, True)):
        assert (await service.post("/v1/holds/h0/settle", {"total": {"tokens": tokens}, "final": final}))[0] == 202
    service.outage.is_down = False
    await service.until_delivered()
    assert await service.balance() == (15, 450)


async def test_what_is_new_about_a_call_waits_behind_what_waits_and_nothing_else_does(service):
    await gone(service)
    deliver = service.treasury.outbox._deliver_oldest

    async def not_yet() -> bool:
        return False

    service.treasury.outbox._deliver_oldest = not_yet
    assert (await service.post("/v1/holds/h0/settle", {"total": {"tokens": 1}, "final": False}))[0] == 202
    service.outage.is_down = False

    async def is_back() -> None:
        while service.treasury.is_away:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(is_back(), 10)
    assert (await service.post("/v1/holds/h0/settle", {"total": {"tokens": 2}}))[0] == 202
    assert (await service.post("/v1/holds/h1/settle", {"total": {"tokens": 3}}))[0] == 200
    batch = {"operations": [{"op": "settle", "id": "h0", "total": {"tokens": 2}}, {"op": "release", "id": "h2"}]}
    status, answer = await service.post("/v1/batch", batch)
    assert (status, [item["status"] for item in answer["answers"]]) == (200, [202, 200])
    assert (await service.post("/v1/batch", {**batch, "atomic": True}))[0] == 200
    service.treasury.outbox._deliver_oldest = deliver
    await service.until_delivered()
    assert await service.balance() == (5, 350)


async def test_of_a_batch_each_settlement_is_kept_by_itself(service):
    # covers E14
    await gone(service)
    settle = [{"op": "settle", "id": f"h{n}", "total": {"tokens": n}} for n in range(3)]
    wrong = {"op": "settle", "id": "h3", "total": {"tokens": -1}}
    status, answer = await service.post("/v1/batch", {"operations": [*settle, wrong, {"op": "release", "id": "h4"}]})
    assert status == 200
    assert [item["status"] for item in answer["answers"]] == [202, 202, 202, 422, 202]
    reserve = {"op": "reserve", "id": "new", "account": "agent:x", "amounts": {"tokens": 1}}
    late = {"op": "settle", "id": "h5", "total": {"tokens": 5}}
    status, answer = await service.post("/v1/batch", {"operations": [reserve, late]})
    assert (status, answer["code"]) == (503, "budget_unavailable")
    assert "settlements are kept" in answer["detail"]
    service.outage.is_down = False
    await service.until_delivered()
    assert await service.balance() == (8, 250)


async def test_an_atomic_batch_is_kept_whole_if_it_only_books_else_only_its_settlements(service):
    # covers E14
    await gone(service)
    settle = [{"op": "settle", "id": f"h{n}", "total": {"tokens": n}} for n in range(2)]
    release = {"op": "release", "id": "h2"}
    status, answer = await service.post("/v1/batch", {"operations": [*settle, release], "atomic": True})
    assert (status, [item["status"] for item in answer["answers"]]) == (200, [202, 202, 202])
    assert len(service.spool) == 1
    reserve = {"op": "reserve", "id": "new", "account": "agent:x", "amounts": {"tokens": 1}}
    mixed = [{"op": "settle", "id": "h3", "total": {"tokens": 3}}, {"op": "release", "id": "h4"}, reserve]
    assert (await service.post("/v1/batch", {"operations": mixed, "atomic": True}))[0] == 503
    assert len(service.spool) == 2
    service.outage.is_down = False
    await service.until_delivered()
    assert await service.balance() == (4, 300)


async def test_what_is_wrong_in_itself_is_refused_and_not_kept(service):
    await gone(service)
    status, answer = await service.post("/v1/holds/h0/settle", {"total": {"tokens": -1}})
    assert (status, answer["code"], answer["field"]) == (422, "invalid", "total.tokens")
    assert len(service.spool) == 0


async def test_a_full_spool_is_an_error_and_what_it_took_is_booked(tmp_path):
    # covers E11
    async with served(tmp_path, records_max=2) as service:
        await gone(service)
        answers = [await service.post(f"/v1/holds/h{n}/settle", {"total": {"tokens": 1}}) for n in range(4)]
        assert [status for status, _ in answers] == [202, 202, 503, 503]
        assert "no more fit" in answers[2][1]["detail"]
        service.outage.is_down = False
        await service.until_delivered()
        assert await service.balance() == (2, 400)


async def test_a_spool_that_cannot_be_written_is_an_error_and_never_an_acknowledgement(tmp_path):
    # covers E11
    failing = True

    def fsync(descriptor: int) -> None:
        if failing:
            raise OSError(28, "No space left on device")
        os.fsync(descriptor)

    async with served(tmp_path, fsync=fsync) as service:
        await gone(service)
        status, answer = await service.post("/v1/holds/h0/settle", {"total": {"tokens": 1}})
        assert (status, answer["code"]) == (503, "budget_unavailable")
        assert "No space left" in answer["detail"]
        failing = False
        assert (await service.post("/v1/holds/h1/settle", {"total": {"tokens": 2}}))[0] == 202
        service.outage.is_down = False
        await service.until_delivered()
        assert await service.balance() == (2, 450)


async def test_a_full_queue_is_no_outage(tmp_path):
    """The ledger is there: whoever asks is to ask again, and nothing goes to the disk."""
    async with served(tmp_path, patience_s=30, queue_max=13) as service:
        service.outage.hang()
        calls = [
            asyncio.create_task(service.post(f"/v1/holds/h{n % 10}/settle", {"total": {"tokens": 1}}))
            for n in range(30)
        ]
        done, _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        assert {task.result()[0] for task in done} == {503}
        service.outage.go_on()
        answers = await asyncio.gather(*calls)
        assert {status for status, _ in answers} == {200, 503}
        assert len(service.spool) == 0
        assert not service.treasury.is_away


async def test_what_the_ledger_refuses_later_is_kept_with_the_reason_and_counted(service):
    # covers E14
    await gone(service)
    assert (await service.post("/v1/holds/unknown/settle", {"total": {"tokens": 5}}))[0] == 202
    assert (await service.post("/v1/holds/h0/settle", {"total": {"tokens": 7}}))[0] == 202
    service.outage.is_down = False
    await service.until_delivered()
    assert await service.balance() == (7, 450)
    (refused,) = read_set_aside(service.spool.refused_path)
    assert (refused.request.command.id, refused.request.command.total) == ("unknown", {"tokens": 5})
    assert refused.refused.code == "unknown_hold"
    assert service.spool.set_aside_count == 1


async def test_keys_are_believed_while_the_ledger_cannot_be_asked_and_strangers_are_not(tmp_path):
    # covers R53
    now_s = 0.0
    options = ApiOptions(key_pepper=PEPPER, keys_required=True, monotonic_s=lambda: now_s)
    async with served(tmp_path, options=options) as service:
        await store_first_key(service.treasury, FIRST_SECRET, PEPPER)
        key = {"Authorization": f"Bearer {FIRST_SECRET}"}
        assert (await service.post("/v1/holds/h0/settle", {"total": {"tokens": 1}, "final": False}, **key))[0] == 200
        service.outage.is_down = True
        now_s = 60.0
        assert (await service.post("/v1/holds/h0/settle", {"total": {"tokens": 7}}, **key))[0] == 202
        now_s = 120.0  # what is known of the key is old, and the ledger cannot be asked
        assert (await service.post("/v1/holds/h2/release", {}, **key))[0] == 202
        assert (await service.post("/v1/holds", {"id": "r", "account": "agent:x"}, **key))[0] == 503
        assert (await service.post("/v1/holds/h1/settle", {"total": {}}, Authorization="Bearer other"))[0] == 503
        assert (await service.post("/v1/holds/h1/settle", {"total": {}}))[0] == 401
        now_s = 7_200.0
        assert (await service.post("/v1/holds/h1/settle", {"total": {"tokens": 7}}, **key))[0] == 503
        service.outage.is_down = False
        await service.until_delivered()
        assert await service.balance() == (7, 400)


async def test_a_program_of_the_sdk_goes_on_and_its_own_spool_stays_empty(service, tmp_path):
    # covers R53, E14
    async with fiscus.connect(service.url, "", timeout_s=2, spool_directory=tmp_path / "own") as treasury:
        async with treasury.hold("agent:x", tokens=30) as hold:
            service.outage.is_down = True
            await hold.reading({"tokens": 5})
            hold.settle({"tokens": 9})
        assert await treasury.usage("agent:x", {"tokens": 100}, id="after the fact") is None
        assert await treasury.release("h0") is None
        assert treasury.spooled == 0
        with pytest.raises(BudgetUnavailable):
            async with treasury.hold("agent:x", tokens=1):
                raise AssertionError("never held")
        service.outage.is_down = False
        await service.until_delivered()
        assert await service.balance() == (109, 450)


async def test_what_a_dead_process_left_is_booked_by_the_next_start(tmp_path):
    # covers R53, E11
    async with served(tmp_path) as service:
        await gone(service)
        await service.post("/v1/holds/h0/settle", {"total": {"tokens": 7}})
        await service.treasury.close_spool()
        service.outage.is_down = False
    async with served(tmp_path) as service:
        await service.until_delivered()
        assert await service.balance() == (7, 450)


def test_settlements_of_a_compound_are_booked_by_themselves():
    settle, release, account = Settle(id="a"), Release(id="b"), PutAccount(account="x")

    def request(*commands):
        return Request(command=Compound(commands=commands), idempotency_key="k", actor="someone", scope="team:a")

    only_books = request(settle, release)
    assert bookings(only_books) == [only_books]
    assert bookings(request(settle, release, account)) == [Request(command=settle, actor="someone", scope="team:a")]
    assert bookings(request(release, account)) == []
    assert bookings(Request(command=account)) == []
    assert bookings(Request(command=release)) == [Request(command=release)]

"""What any other program reads in Redis is what the ledger says at the same sequence, whatever happens to Redis."""

import json
import re
from datetime import timedelta
from pathlib import Path

import pytest

from fiscus.core.checks import to_datetime
from fiscus.core.commands import (
    Adjust,
    Allocate,
    Deallocate,
    EraseName,
    PutAccount,
    PutBudget,
    RemoveBudget,
    Reserve,
    SetStatus,
    Settle,
    Transfer,
)
from fiscus.stores import open_store
from fiscus.stores.redis.projector import GRACE_MS, LOOK_MS, QUEUE_ROWS_MAX
from fiscus.stores.redis.server import Publication, RedisServer
from fiscus.treasury.codec import genesis, link
from tests.stores.redis.live import Live, contents, same_as_the_ledger
from tests.treasury.clock import START_MS, ManualClock
from tests.treasury.desk import Desk

TREE = ("global", "team:search", "agent:a", "agent:b", "agent:c")


def tree(live: Live) -> None:
    live.do(
        PutAccount(account="global"),
        PutBudget(account="global", unit="tokens", limit=10_000, budget="pool"),
        PutAccount(account="team:search", parent="global"),
        PutBudget(account="team:search", unit="calls", limit=50, period="day"),
        PutAccount(account="agent:a", parent="team:search"),
        PutAccount(account="agent:b", parent="global"),
        PutAccount(account="agent:c", parent="team:search"),
        Allocate(account="agent:a", unit="tokens", to=1_000),
        Allocate(account="agent:b", unit="tokens", to=500),
    )


CHANGES = [
    pytest.param([Reserve(id="h", account="agent:a", amounts={"tokens": 70})], id="a hold"),
    pytest.param([Settle(id="s", account="agent:b", total={"tokens": 620})], id="usage beyond the allocation"),
    pytest.param([Settle(id="s", account="agent:c", total={"tokens": 62})], id="usage of an account without budgets"),
    pytest.param([Transfer(source="agent:a", target="agent:b", unit="tokens", amount=300)], id="a transfer"),
    pytest.param([Deallocate(account="agent:b", unit="tokens")], id="an allocation that ends"),
    pytest.param([RemoveBudget(account="team:search", budget="calls-day")], id="a budget that is removed"),
    pytest.param([PutBudget(account="agent:c", unit="cost", limit=2**53 - 1)], id="the largest amount"),
    pytest.param([SetStatus(account="team:search", status="suspended")], id="a suspension above"),
    pytest.param(
        [SetStatus(account="team:search", status="suspended"), SetStatus(account="team:search", status="active")],
        id="a suspension and its end",
    ),
    pytest.param([SetStatus(account="agent:b", status="terminated")], id="a termination"),
    pytest.param([SetStatus(account="agent:c", status="closed")], id="a close"),
    pytest.param([Adjust(id="raise", account="global", budget="pool", amount=5_000, reason="for today")], id="a raise"),
    pytest.param([RemoveBudget(account="global", budget="pool")], id="a pool that is removed"),
]


# covers D10, E12
@pytest.mark.parametrize("commands", CHANGES)
def test_after_a_change_a_plain_read_is_what_the_ledger_answers_at_that_sequence(live, client, commands):
    tree(live)
    live.settle()
    same_as_the_ledger(live, client, *TREE)
    outcomes = live.do(*commands)
    assert not any(type(outcome).__name__ == "Refused" for outcome in outcomes), outcomes
    live.settle()
    same_as_the_ledger(live, client, *TREE)
    before = contents(client)
    client.flushall()
    live.turn(LOOK_MS)
    live.settle()
    assert without_times(contents(client)) == without_times(before)


def without_times(found):
    """Contents without when, and as of which entry, each of them was written."""
    times = ("as_of", "as_of_seq")
    return {
        key: {name: text for name, text in value.items() if name not in times} if isinstance(value, dict) else value
        for key, value in found.items()
    }


# covers D51, D55
def test_the_keys_of_the_token_economy_are_there_in_their_plain_form(live, client):
    tree(live)
    live.do(Settle(id="s", account="agent:a", total={"tokens": 250}))
    live.settle()
    assert client.hgetall("agent_allocation:a") == {
        "allocated": "1000",
        "consumed": "250",
        "remaining": "750",
        "as_of_seq": str(live.head),
    }
    assert client.get("global_budget_remaining") == "8500"
    assert not client.exists("agent_allocation:c"), "it has no allocation"
    live.do(SetStatus(account="agent:a", status="terminated", reason="enough"))
    live.settle()
    assert not client.exists("agent_allocation:a")
    assert client.get("global_budget_remaining") == "9250"


def test_an_agent_that_is_not_below_the_pool_is_none_of_the_economy(live, client):
    tree(live)
    live.do(
        PutAccount(account="other"),
        PutBudget(account="other", unit="tokens", limit=100),
        PutAccount(account="agent:d", parent="other"),
        Allocate(account="agent:d", unit="tokens", to=50),
    )
    live.settle()
    assert client.exists("fiscus:default:account:agent:d")
    assert not client.exists("agent_allocation:d")


# covers D51
def test_a_termination_is_told_once_with_its_reason(live, client):
    tree(live)
    live.settle()
    with client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe("agent_termination")
        heard.get_message(timeout=5)
        live.do(
            SetStatus(
                account="agent:a", status="terminated", reason="Token budget exhausted. Allocated: 9: Consumed: 10"
            ),
            SetStatus(account="agent:b", status="terminated"),
            SetStatus(account="agent:c", status="suspended", reason="a pause"),
            SetStatus(account="team:search", status="terminated", reason="no agent"),
        )
        live.settle()
        client.flushall()
        live.turn(LOOK_MS)
        live.settle()
        client.publish("agent_termination", "the end")
        told = []
        while (message := heard.get_message(timeout=5)) and message["data"] != "the end":
            told.append(message["data"])
    assert told == ["a:Token budget exhausted. Allocated: 9: Consumed: 10", "b:terminated"]


# -- the stream ------------------------------------------------------------------------------------------------------


# covers D10, E9
def test_the_stream_has_every_entry_once_in_order_with_the_journals_own_bytes(live, client):
    tree(live)
    live.settle()
    live.do(*(Settle(id=f"s{number}", account="agent:a", total={"tokens": 1}) for number in range(40)))
    live.settle()
    entries = client.xrange("fiscus:default:events")
    assert [id for id, _ in entries] == [f"{seq}-0" for seq in range(1, live.head + 1)]
    chain = genesis("default")
    for seq, (_, entry) in enumerate(entries, 1):
        chain = link(chain, seq, int(entry["at"]), entry["body"].encode())
        assert entry["hash"] == chain.hex()
        assert json.loads(entry["body"])["kind"] == entry["kind"]
    assert client.get("fiscus:default:chain") == chain.hex()


def test_the_stream_is_bounded_and_what_is_older_is_left_out_after_a_flush(shared, client):
    clock = ManualClock()
    live = Live(Desk(open_store("memory:"), clock), clock, shared, stream_length_max=5)
    live.do(*(PutAccount(account=f"user:{number}") for number in range(20)))
    live.settle()
    last_five = [f"{seq}-0" for seq in range(16, 21)]
    assert [id for id, _ in client.xrange("fiscus:default:events")] == last_five
    client.flushall()
    live.turn(LOOK_MS)
    live.settle()
    assert [id for id, _ in client.xrange("fiscus:default:events")] == last_five
    live.close()
    live.desk.engine.close()


def test_entries_beyond_the_streams_length_are_left_out_of_it_and_of_nothing_else(shared, client):
    clock = ManualClock()
    live = Live(Desk(open_store("memory:"), clock), clock, shared, stream_length_max=5)
    tree(live)
    live.settle()
    rebuilds = live.projector.status().rebuilds
    live.do(
        SetStatus(account="team:search", status="suspended"),
        *(Settle(id=f"s{number}", account="agent:a", total={"tokens": 1}) for number in range(20)),
    )
    live.settle()
    assert client.hget("fiscus:default:account:agent:c", "status_effective") == "suspended"
    same_as_the_ledger(live, client, *TREE)
    last = [int(id.split("-")[0]) for id, _ in client.xrange("fiscus:default:events")]
    assert last == list(range(live.head - 4, live.head + 1))
    assert live.projector.status().rebuilds == rebuilds
    live.close()
    live.desk.engine.close()


def test_a_group_of_consumers_gets_each_entry_once_also_over_a_rebuild(live, client):
    tree(live)
    live.settle()
    client.xgroup_create("fiscus:default:events", "readers", id="0")

    def read():
        pages = client.xreadgroup("readers", "one", {"fiscus:default:events": ">"})
        return [id for _, page in pages for id, _ in page]

    got = read()
    client.delete("fiscus:default:seq")
    live.do(Settle(id="s", account="agent:a", total={"tokens": 1}))
    live.turn(LOOK_MS)
    live.settle()
    got += read()
    assert got == [f"{seq}-0" for seq in range(1, live.head + 1)]


# -- losing it -------------------------------------------------------------------------------------------------------


# covers E12
def test_deleting_everything_and_rebuilding_gives_the_same(live, client):
    tree(live)
    live.do(Reserve(id="h", account="agent:a", amounts={"tokens": 70}))
    live.settle()
    before = contents(client)
    client.flushall()
    live.turn(LOOK_MS)
    live.settle()
    assert without_times(contents(client)) == without_times(before)
    assert {value["as_of_seq"] for value in contents(client).values() if "as_of_seq" in value} == {str(live.head)}
    assert live.projector.status().rebuilds == 2, "the first one, and this"


def test_keys_that_do_not_belong_there_go_with_a_rebuild_and_those_of_others_stay(live, client):
    tree(live)
    live.settle()
    before = contents(client)
    client.hset("fiscus:default:account:ghost", mapping={"number": "77", "as_of_seq": "3"})
    client.hset("agent_allocation:ghost", mapping={"allocated": "5"})
    client.hset("fiscus:default:names", "77", "ghost")
    client.zadd("fiscus:default:ends", {"77": 1})
    client.set("fiscus:other:account:x", "another tenant's")
    client.set("session:1", "another program's")
    client.delete("fiscus:default:seq")
    live.turn(LOOK_MS)
    live.settle()
    after = contents(client)
    assert after.pop("fiscus:other:account:x")
    assert after.pop("session:1")
    assert without_times(after) == without_times(before)


def test_a_tenants_name_is_no_pattern(live, client):
    live.desk.do(PutAccount(account="user:x"), tenant="a*")
    live.do(PutAccount(account="user:y"))
    client.set("fiscus:ab:account:z", "another tenant's")
    live.settle()
    assert client.get("fiscus:a*:seq") == "1"
    assert client.hget("fiscus:a*:account:user:x", "number") == "1"
    assert client.exists("fiscus:ab:account:z")


def test_an_old_dump_is_noticed_and_made_new(live, client, shared):
    tree(live)
    live.settle()
    old = {key: client.dump(key) for key in client.scan_iter()}
    live.do(*CHANGES[1].values[0], *CHANGES[9].values[0])
    live.settle()
    before = contents(client)
    client.flushall()
    for key, dump in old.items():
        client.restore(key, 0, dump)
    assert client.exists("agent_allocation:b"), "the agent that was terminated since"
    live.turn(LOOK_MS)
    live.turn(GRACE_MS)
    live.settle()
    assert without_times(contents(client)) == without_times(before)


def test_a_dump_of_another_ledger_is_noticed_even_at_the_same_sequence(live, client):
    tree(live)
    live.settle()
    before = contents(client)
    client.set("fiscus:default:chain", "00" * 32)
    client.hset("fiscus:default:account:global", "pool:available", "1")
    last_id, _ = client.xrevrange("fiscus:default:events", count=1)[0]
    client.xdel("fiscus:default:events", last_id)
    live.turn(LOOK_MS)
    live.settle()
    assert without_times(contents(client)) == without_times(before)


def test_what_has_been_archived_from_the_journal_is_not_missed(live, client, monkeypatch):
    tree(live)
    live.settle()
    before = contents(client)
    rebuilds = live.projector.status().rebuilds
    monkeypatch.setattr(live.desk.engine.store.journal, "entries", lambda tenant, after, limit: [])
    for _ in range(3):
        live.projector.turn()
        live.clock.advance(LOOK_MS)
    assert live.projector.status().state == "current"
    assert live.projector.status().rebuilds == rebuilds
    assert contents(client) == before


def test_a_ledger_that_began_anew_replaces_what_a_longer_one_left(live, client):
    client.set("fiscus:default:seq", "9000")
    client.set("fiscus:default:chain", "00" * 32)
    client.xadd("fiscus:default:events", {"at": "1", "kind": "held", "body": "{}", "hash": "00"}, id="9000-0")
    client.hset("agent_allocation:of_old", mapping={"allocated": "5"})
    tree(live)
    live.settle()
    same_as_the_ledger(live, client, *TREE)
    assert [id for id, _ in client.xrange("fiscus:default:events")] == [f"{seq}-0" for seq in range(1, live.head + 1)]
    assert not client.exists("agent_allocation:of_old")


def test_snapshots_beyond_the_queue_are_dropped_and_all_is_made_anew(live, client, monkeypatch):
    tree(live)
    live.settle()
    rebuilds = live.projector.status().rebuilds
    monkeypatch.setattr("fiscus.stores.redis.projector.QUEUE_ROWS_MAX", 3)
    assert QUEUE_ROWS_MAX > 3
    live.do(*(PutAccount(account=f"user:{number}") for number in range(10)))
    live.settle()
    same_as_the_ledger(live, client, *TREE, *(f"user:{number}" for number in range(10)))
    assert live.projector.status().rebuilds == rebuilds + 1


# -- several writers -------------------------------------------------------------------------------------------------


@pytest.fixture
def other(live, shared):
    """Another node over the same ledger."""
    node = Live(live.desk, live.clock, shared)
    yield node
    node.close()


# covers E10, E12
def test_a_late_writer_changes_nothing_that_is_newer(live, other, client):
    tree(live)
    live.settle()
    other.settle()
    live.do(Settle(id="s1", account="agent:a", total={"tokens": 10}))  # both hear of it, live writes late
    other.do(Settle(id="s2", account="agent:a", total={"tokens": 20}))
    other.projector.turn()
    newer = contents(client)
    assert newer["agent_allocation:a"]["consumed"] == "30"
    live.projector.turn()
    assert contents(client) == newer


@pytest.mark.parametrize("mode", ["step", "last"])
def test_a_step_that_arrives_after_a_newer_publication_has_begun_is_not_done(live, client, mode):
    tree(live)
    live.settle()
    keys = next(iter(live.projector._tenants.values())).keys
    seq = live.head
    chain = "00" * 32
    begun = live.redis.publish(keys, "step", Publication(after=seq, seq=seq + 2, chain=chain, as_of=seq + 2), [])
    assert begun == "done"
    before = contents(client)
    late = live.redis.publish(keys, mode, Publication(after=seq, seq=seq + 1, chain=chain, as_of=seq + 1), [])
    assert late == "newer"
    assert contents(client) == before


def test_a_writer_that_has_not_heard_of_everything_waits_then_makes_all_anew(live, other, client):
    tree(live)
    live.settle()
    other.settle()
    rebuilds = other.projector.status().rebuilds
    live.deafen()
    other.deafen()
    live.do(Settle(id="lost", account="agent:b", total={"tokens": 10}))  # whoever wrote this to the views has died
    other.listen()
    other.do(Settle(id="heard", account="agent:a", total={"tokens": 20}))
    seq = client.get("fiscus:default:seq")
    assert other.turn() == "behind"
    assert client.get("fiscus:default:seq") == seq, "it may be that somebody else is about to write what is missing"
    assert other.turn(GRACE_MS // 2) == "behind"
    assert client.get("fiscus:default:seq") == seq
    other.turn(GRACE_MS)
    other.settle()
    same_as_the_ledger(other, client, *TREE)
    assert other.projector.status().rebuilds == rebuilds + 1


def test_readers_can_tell_that_a_rebuild_is_under_way_and_a_dead_one_is_taken_over(live, client):
    tree(live)
    live.settle()
    keys = next(iter(live.projector._tenants.values())).keys
    assert live.redis.begin(keys, "another node", live.redis.look(keys), is_fork=False) == "begun"
    assert client.get("fiscus:default:seq") is None
    live.do(Settle(id="s", account="agent:a", total={"tokens": 20}))
    live.turn(LOOK_MS)
    assert live.turn(LOOK_MS) == "rebuilding"
    assert client.get("fiscus:default:seq") is None
    assert client.pttl("fiscus:default:rebuild") > 0, "it goes by itself"
    client.delete("fiscus:default:rebuild")
    live.turn(LOOK_MS)
    live.settle()
    same_as_the_ledger(live, client, *TREE)


def test_one_of_two_rebuilds_wins_and_the_other_one_stops(live, client):
    tree(live)
    live.settle()
    keys = next(iter(live.projector._tenants.values())).keys
    seen = live.redis.look(keys)
    assert live.redis.begin(keys, "one", seen, is_fork=False) == "begun"
    assert live.redis.begin(keys, "two", seen, is_fork=False) == "held"
    mine = Publication(seq=5, chain="00" * 32, as_of=5, token="two")
    assert live.redis.publish(keys, "rebuild", mine, []) == "lost"
    assert live.redis.publish(keys, "rebuilt", mine, []) == "lost"
    assert client.get("fiscus:default:seq") is None


# -- time and names --------------------------------------------------------------------------------------------------


# covers E12
def test_a_window_that_ended_without_a_call_is_shown_as_the_ledger_shows_it(live, client):
    tree(live)
    live.do(Settle(id="s", account="agent:c", total={"calls": 7}))
    live.settle()
    key = "fiscus:default:account:team:search"
    assert client.hget(key, "calls-day:spent") == "7"
    tomorrow = to_datetime(START_MS).replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    assert client.hget(key, "calls-day:window_end") == tomorrow.strftime("%Y-%m-%dT%H:%M:%SZ")
    live.clock.advance(24 * 3_600_000)
    live.projector.turn()
    assert client.hget(key, "calls-day:spent") == "0"
    same_as_the_ledger(live, client, *TREE)


def test_an_agent_whose_grant_has_ended_by_time_has_none(live, client):
    tree(live)
    live.do(Allocate(account="agent:a", unit="tokens", to=1_000, valid_until=to_datetime(START_MS + 60_000)))
    live.settle()
    assert client.hget("agent_allocation:a", "remaining") == "1000"
    live.turn(61_000)
    live.settle()
    assert not client.exists("agent_allocation:a")
    same_as_the_ledger(live, client, *TREE)


# covers E12
def test_a_name_that_is_erased_stands_nowhere_any_more(live, client):
    tree(live)
    live.do(
        PutAccount(account="user:jane", parent="global", labels={"mail": "jane@example.org"}),
        PutAccount(account="agent:jane", parent="user:jane"),
        PutAccount(account="agent:d", parent="user:jane"),
        Allocate(account="agent:jane", unit="tokens", to=10, reason="for jane"),
    )
    live.settle()
    assert client.hget("fiscus:default:account:agent:d", "parent") == "user:jane"
    live.do(
        SetStatus(account="agent:jane", status="terminated", reason="jane left"),
        SetStatus(account="user:jane", status="closed"),
        EraseName(account="agent:jane"),
        EraseName(account="user:jane"),
    )
    live.settle()
    assert {key: value for key, value in contents(client).items() if "jane" in key or "jane" in str(value)} == {}
    number = live.desk.account("agent:d").parent
    assert client.hget("fiscus:default:account:agent:d", "parent") == number
    same_as_the_ledger(live, client, *TREE, "agent:d")


# -- rights ----------------------------------------------------------------------------------------------------------

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "redis.md"


def test_the_rights_that_the_guide_names_are_enough(live, client, shared):
    rights = re.search(r"with the rights `([^`]*)`", GUIDE.read_text(encoding="utf-8"))
    assert rights is not None
    client.execute_command("ACL", "SETUSER", "fiscus", "reset", "on", ">password", *rights[1].split())
    live.redis = RedisServer(
        f"redis://fiscus:password@127.0.0.1:{shared.port}/0", timeout_ms=2_000, stream_length_max=1_000
    )
    live.projector._server = live.redis
    tree(live)
    live.settle()
    live.do(SetStatus(account="agent:a", status="terminated"))
    live.clock.advance(24 * 3_600_000)
    live.settle()
    client.flushall()
    live.turn(LOOK_MS)
    live.settle()
    same_as_the_ledger(live, client, *TREE)
    assert live.projector.status().failures == 0
    client.execute_command("ACL", "DELUSER", "fiscus")

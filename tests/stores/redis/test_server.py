"""What a server does is done as a whole or not at all, once, and never over what is newer; its silence has a bound."""

import time

import pytest

from fiscus.contract.errors import ConfigurationInvalid
from fiscus.stores.redis.keys import keys_of
from fiscus.stores.redis.server import AccountState, Publication, RedisServer, ServerUnavailable, StreamEntry
from tests.servers.valkey import PROGRAMS, running
from tests.stores.redis.live import contents

KEYS = keys_of("default", is_economy=True)
CHAIN = "00" * 32
TIMEOUT_MS = 200


@pytest.fixture
def server(shared):
    opened = RedisServer(shared.url, timeout_ms=2_000, stream_length_max=100)
    yield opened
    opened.close()


def entry(seq: int, told: str = "") -> StreamEntry:
    return StreamEntry(str(seq), "1", "held", '{"kind":"held"}', CHAIN, told)


def account(available: int, seq: int) -> AccountState:
    fields = ["number", "1", "pool:available", str(available), "as_of_seq", str(seq)]
    return AccountState("1", "global", "", fields, [])


def publication(after: int, seq: int, **more) -> Publication:
    return Publication(after=after, seq=seq, chain=CHAIN, as_of=seq, **more)


def begin(server: RedisServer, seq: int) -> None:
    """Redis has everything up to an entry."""
    assert server.begin(KEYS, "token", server.look(KEYS), is_fork=False) == "begun"
    done = server.publish(KEYS, "rebuilt", publication(0, seq, token="token"), [account(100, seq)])
    assert done == "done"


def test_nothing_is_written_to_a_server_that_lacks_everything(server, client):
    assert server.publish(KEYS, "last", publication(0, 5), [account(1, 5)]) == "absent"
    assert server.publish(KEYS, "refresh", publication(0, 5), [account(1, 5)]) == "absent"
    assert contents(client) == {}


# covers E12
def test_accounts_and_sequence_are_reached_in_one_step(server, client):
    begin(server, 5)
    assert server.publish(KEYS, "last", publication(5, 7), [account(80, 7)]) == "done"
    assert client.get("fiscus:default:seq") == "7"
    assert client.hgetall("fiscus:default:account:global") == {"number": "1", "pool:available": "80", "as_of_seq": "7"}
    assert server.publish(KEYS, "last", publication(5, 7), [account(0, 7)]) == "newer", "the same once more"
    assert client.hget("fiscus:default:account:global", "pool:available") == "80"


def test_a_refresh_is_only_for_the_entry_that_has_been_reached(server, client):
    begin(server, 5)
    for seq in (4, 6):
        assert server.publish(KEYS, "refresh", publication(0, seq), [account(0, seq)]) == "busy"
    assert client.hget("fiscus:default:account:global", "pool:available") == "100"
    assert server.publish(KEYS, "refresh", publication(0, 5), [account(90, 5)]) == "done"
    assert client.hget("fiscus:default:account:global", "pool:available") == "90"


def test_an_account_that_is_newer_already_is_left_as_it_is(server, client):
    begin(server, 5)
    ahead = Publication(after=5, seq=6, chain=CHAIN, as_of=9)
    assert server.publish(KEYS, "last", ahead, [account(60, 9)]) == "done"
    assert server.publish(KEYS, "last", publication(6, 8), [account(70, 8)]) == "done"
    assert client.hget("fiscus:default:account:global", "pool:available") == "60"
    assert client.get("fiscus:default:seq") == "8"


# covers D10
def test_entries_are_appended_once_and_without_a_gap(server, client):
    assert server.append(KEYS, [entry(1), entry(2)]) == 2
    assert server.append(KEYS, [entry(1), entry(2), entry(3)]) == 3
    assert server.append(KEYS, [entry(5)]) == 3, "4 is missing"
    assert server.append(KEYS, [entry(4), entry(6)]) == 4, "5 is missing"
    assert [id for id, _ in client.xrange("fiscus:default:events")] == ["1-0", "2-0", "3-0", "4-0"]
    assert server.append(KEYS, [entry(9), entry(10)], may_jump=True) == 10, "what was left out was too old"


def test_amounts_are_written_digit_by_digit(server, client):
    begin(server, 5)
    largest = 2**53 - 1
    assert server.publish(KEYS, "last", publication(5, largest), [account(-largest, largest)]) == "done"
    assert client.get("fiscus:default:seq") == str(largest)
    assert client.hget("fiscus:default:account:global", "pool:available") == str(-largest)


@pytest.fixture(params=sorted(PROGRAMS))
def own(request, tmp_path):
    """A server that may be paused."""
    with running(request.param, tmp_path) as started:
        yield started


def test_the_silence_of_a_server_has_a_bound_and_what_it_does_later_changes_nothing_newer(own):
    late = RedisServer(own.url, timeout_ms=TIMEOUT_MS, stream_length_max=100)
    server = RedisServer(own.url, timeout_ms=10_000, stream_length_max=100)
    begin(server, 5)
    late.look(KEYS)
    own.pause()
    began = time.monotonic()
    with pytest.raises(ServerUnavailable):
        late.publish(KEYS, "last", publication(5, 6), [account(60, 6)])  # it lies in the server's socket now
    with pytest.raises(ServerUnavailable):
        late.look(KEYS)
    assert time.monotonic() - began < 10 * TIMEOUT_MS / 1_000
    own.resume()
    server.publish(KEYS, "last", publication(5, 7), [account(70, 7)])
    assert late.look(KEYS).seq == 7, "the same client goes on over a new connection"
    with own.client() as client:
        assert client.hget("fiscus:default:account:global", "pool:available") == "70"
    late.close()
    server.close()


def test_an_error_of_the_server_is_no_crash(server, client):
    client.set("fiscus:default:events", "somebody else's")
    with pytest.raises(ServerUnavailable, match="WRONGTYPE"):
        server.append(KEYS, [entry(1)])


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://localhost", "redis://localhost:port/0"])
def test_a_url_that_cannot_be_read_is_refused(url):
    with pytest.raises(ConfigurationInvalid, match="redis_url"):
        RedisServer(url, timeout_ms=100, stream_length_max=1)

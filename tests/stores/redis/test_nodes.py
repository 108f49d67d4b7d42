"""Several nodes on one database and one Redis: whoever writes the views writes Redis, and nobody what is older."""

from collections import Counter
from threading import Event, Thread

import pytest

from fiscus.contract.queries import ReadAccount
from fiscus.core.commands import Allocate, PutAccount, PutBudget, Request, Reserve, Settle
from fiscus.core.outcomes import Refused
from fiscus.stores import open_store
from fiscus.stores.redis.projector import Projector
from fiscus.stores.redis.server import RedisServer
from fiscus.treasury.engine import Engine
from tests.servers.postgres import server as postgres_server
from tests.servers.valkey import running
from tests.stores.redis.live import ECONOMY, same_account
from tests.stores.redis.test_service import until

pytestmark = pytest.mark.slow

AGENTS = 12
PAIRS = 400


class Port:
    """One caller of an engine, which waits for each answer."""

    def __init__(self, engine):
        self.engine = engine
        self.answered = Event()
        self.answer = None

    def deliver(self, answers):
        ((_, self.answer),) = answers
        self.answered.set()

    def ask(self, wish):
        self.answered.clear()
        self.engine.submit(self, None, wish)
        assert self.answered.wait(30)
        return self.answer

    def do(self, command):
        outcome = self.ask(Request(command=command))
        assert not isinstance(outcome, Refused | Exception), outcome
        return outcome


class Node:
    """An engine and its projector, with their threads."""

    def __init__(self, database, redis_url):
        self.engine = Engine(open_store(database))
        self.projector = Projector(
            self.engine.store,
            RedisServer(redis_url, timeout_ms=1_000, stream_length_max=100_000),
            now_ms=lambda: self.engine.now_ms,
            economy=ECONOMY,
        )
        self.engine.view_observers.append(self.projector.observe)
        self.engine.start()
        self.engine.errand(lambda: None)
        self.projector.start()

    def die(self):
        """Redis hears nothing any more of what this node writes to the views."""
        self.engine.view_observers.clear()
        self.projector.close()

    def close(self):
        self.projector.close()
        self.engine.close()


@pytest.fixture
def redis_server(tmp_path):
    with running("valkey", tmp_path) as started:
        yield started


@pytest.fixture
def nodes(redis_server):
    database = postgres_server("18").migrated_database()
    opened = [Node(database, redis_server.url) for _ in range(2)]
    yield opened
    for node in opened:
        node.close()


def make(node):
    port = Port(node.engine)
    port.do(PutAccount(account="global"))
    port.do(PutBudget(account="global", unit="tokens", limit=10**9, budget="pool"))
    for number in range(AGENTS):
        port.do(PutAccount(account=f"agent:a{number}", parent="global"))
        port.do(Allocate(account=f"agent:a{number}", unit="tokens", to=10**6))


def work(node, name):
    port = Port(node.engine)
    for number in range(PAIRS):
        hold = f"{name}-{number}"
        port.do(Reserve(id=hold, account=f"agent:a{number % AGENTS}", amounts={"tokens": 100}))
        port.do(Settle(id=hold, total={"tokens": 60}))


def load(nodes):
    callers = [
        Thread(target=work, args=(node, f"{index}-{caller}")) for index, node in enumerate(nodes) for caller in (0, 1)
    ]
    for caller in callers:
        caller.start()
    return callers


def right(node, client):
    """Plain reads are what the ledger answers, once Redis is where the ledger is."""
    port = Port(node.engine)
    journal = node.engine.store.journal
    head = journal.head(journal.tenants()["default"]).seq
    until(lambda: client.get("fiscus:default:seq") == str(head), f"{node.projector.status()} is not at {head}")
    for name in ("global", *(f"agent:a{number}" for number in range(AGENTS))):
        view = port.ask(ReadAccount(account=name, min_seq=head))
        assert view.as_of_seq == head
        same_account(client.hgetall(f"fiscus:default:account:{name}"), view.account)
    ids = Counter(int(id.split("-")[0]) for id, _ in client.xrange("fiscus:default:events"))
    assert sorted(ids.elements()) == list(range(1, head + 1)), "every entry once"
    return head


# covers D10, E10, E12
def test_two_nodes_under_load_keep_redis_right_without_writing_it_anew(nodes, redis_server):
    make(nodes[0])
    with redis_server.client() as client:
        right(nodes[0], client)
        before = sum(node.projector.status().rebuilds for node in nodes)
        for caller in load(nodes):
            caller.join()
        right(nodes[0], client)
        assert client.hget("agent_allocation:a0", "consumed") == str(4 * 60 * len(range(0, PAIRS, AGENTS)))
        assert sum(node.projector.status().rebuilds for node in nodes) == before


def test_what_a_node_wrote_to_the_views_and_not_to_redis_before_it_died_is_written_by_another_one(nodes, redis_server):
    make(nodes[0])
    with redis_server.client() as client:
        right(nodes[0], client)
        nodes[1].die()
        for caller in load(nodes):
            caller.join()
        right(nodes[0], client)
        Port(nodes[1].engine).do(Settle(id="the last", account="agent:a0", total={"tokens": 1}))
        right(nodes[0], client)
        assert client.hget("agent_allocation:a0", "consumed") == str(1 + 4 * 60 * len(range(0, PAIRS, AGENTS)))

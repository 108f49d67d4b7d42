"""The service with a real server beside it: other programs read there what the HTTP API answers; it decides nothing."""

import json
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cli.processes import environment, fiscus, service
from tests.servers.valkey import PROGRAMS, running
from tests.stores.redis.live import AMOUNTS

pytestmark = pytest.mark.slow

WAIT_S = 20
POOL = 1_000_000


@pytest.fixture(params=sorted(PROGRAMS))
def server(request, tmp_path):
    folder = tmp_path / request.param
    folder.mkdir()
    with running(request.param, folder) as started:
        yield started


@pytest.fixture
def serving(server, tmp_path):
    settings = {"REDIS_URL": server.url, "GLOBAL_TOKEN_BUDGET": str(POOL), "FISCUS_REDIS_TIMEOUT_MS": "300"}
    with service(tmp_path, **settings) as started:
        yield started


def call(url, body=None):
    """Status and body of a GET, or of a POST of ``body``."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=WAIT_S) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def until(found, what=""):
    """The first value of ``found()`` that is true; looks again and again, for a bounded time."""
    deadline = time.monotonic() + WAIT_S
    while True:
        value = found()
        if value:
            return value
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def live_state(url):
    status, ready = call(f"{url}/ready")
    assert status == 200, ready
    return ready["live_state"]


def until_current(url):
    """Wait until Redis has reached the journal's head; returns the sequence."""

    def reached():
        ready = call(f"{url}/ready")[1]
        live = ready["live_state"]
        return live["state"] == "current" and live["as_of_seq"] == ready["head_seq"] and ready["head_seq"]

    return until(reached, "Redis does not get there")


def spend(url, agent, *, grants=1, reports=5):
    """An agent of the token economy that gets grants and reports what it used."""
    economy = f"{url}/api/v1/tokens"
    for _ in range(grants):
        assert call(f"{economy}/allocate", {"agent_id": agent, "requested_tokens": 1_000})[0] == 200
    for number in range(reports):
        assert (
            call(f"{economy}/consume", {"agent_id": agent, "tokens_consumed": 7 + number, "value_generated": 1})[0]
            == 200
        )


def same_as_http(url, client, agents):
    """Plain reads give the numbers of the economy API and of ``GET /v1/accounts``, all at one sequence."""
    seq = until_current(url)
    assert client.get("fiscus:default:seq") == str(seq)
    economy = call(f"{url}/api/v1/tokens/status")[1]
    assert client.get("global_budget_remaining") == str(economy["remaining_budget"])
    for agent in agents:
        status, answer = call(f"{url}/api/v1/tokens/agent/{agent}")
        found = client.hgetall(f"agent_allocation:{agent}")
        if status == 404:
            assert found == {}
        else:
            assert int(found.pop("as_of_seq")) <= seq
            assert found == {name: str(answer[name]) for name in ("allocated", "consumed", "remaining")}
    page = call(f"{url}/v1/accounts?limit=1000")[1]
    assert page["as_of_seq"] == seq
    for listed in page["accounts"]:
        name = listed["account"]
        found = client.hgetall(f"fiscus:default:account:{name}")
        answer = call(f"{url}/v1/accounts/{name}")[1]["account"]
        if answer["status"] in ("terminated", "closed"):
            assert found == {}
            continue
        assert found["status_effective"] == answer["status_effective"]
        for budget in answer["budgets"]:
            for field in AMOUNTS:
                assert found[f"{budget['budget']}:{field}"] == str(budget["balance"][field]), (name, field)
            assert found[f"{budget['budget']}:window_end"] == (budget["balance"]["window_end"] or "")
    assert until_current(url) == seq, "nothing has happened meanwhile"


# covers D10, D51, D55, E12
def test_plain_reads_are_what_the_http_api_answers_also_after_a_flush_and_a_rebuild(server, serving):
    agents = [f"agent_{number}" for number in range(8)]
    for agent in agents:
        spend(serving.url, agent, grants=2)
    assert (
        call(
            f"{serving.url}/api/v1/tokens/consume",
            {"agent_id": agents[0], "tokens_consumed": 10**6, "value_generated": 0},
        )[0]
        == 403
    )
    call(f"{serving.url}/v1/holds", {"id": "h", "account": "agent:agent_1", "amounts": {"tokens": 50}})
    with server.client() as client:
        same_as_http(serving.url, client, agents)
        rebuilds = live_state(serving.url)["rebuilds"]
        client.flushall()
        until(lambda: live_state(serving.url)["rebuilds"] > rebuilds, "the flush is not noticed")
        same_as_http(serving.url, client, agents)


# covers D51
def test_a_termination_is_heard_by_another_program(server, serving):
    spend(serving.url, "agent_001")
    with server.client() as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        until_current(serving.url)
        heard.subscribe("agent_termination")
        heard.get_message(timeout=5)
        call(
            f"{serving.url}/api/v1/tokens/consume",
            {"agent_id": "agent_001", "tokens_consumed": 5_000, "value_generated": 0},
        )
        message = until(lambda: heard.get_message(timeout=1))
    assert message["data"] == "agent_001:Token budget exhausted. Allocated: 1000, Consumed: 5045"


def test_a_restarted_service_finds_redis_as_it_left_it_and_writes_nothing_anew(server, tmp_path):
    settings = {"REDIS_URL": server.url, "GLOBAL_TOKEN_BUDGET": str(POOL)}
    with service(tmp_path, **settings) as first:
        spend(first.url, "agent_001")
        assert first.stop() == 0
    with server.client() as client:
        seq = client.get("fiscus:default:seq")
        assert client.hget("agent_allocation:agent_001", "consumed") == "45", (
            "the last entries were written on the way out"
        )
        with service(tmp_path, **settings) as second:
            assert str(until_current(second.url)) == seq
            assert live_state(second.url)["rebuilds"] == 0
            same_as_http(second.url, client, ["agent_001"])


# -- losing it, under load -------------------------------------------------------------------------------------------

FAULTS = ("paused", "killed and restarted empty", "restarted from an old dump", "flushed")


def fault(server, kind, old):
    """Take the server away for a while, or what is in it; the load goes on meanwhile."""
    if kind == "paused":
        server.pause()
        yield
        server.resume()
    elif kind == "flushed":
        with server.client() as client:
            client.flushall()
        yield
    else:
        server.kill()
        server.dump.unlink(missing_ok=True)
        yield
        if kind == "restarted from an old dump":
            server.dump.write_bytes(old)
        server.start()


# covers D10, E11, E12
@pytest.mark.parametrize("kind", FAULTS)
def test_losing_redis_under_load_refuses_admits_delays_and_loses_nothing(server, serving, kind):
    agents = [f"agent_{number}" for number in range(4)]
    for agent in agents:
        spend(serving.url, agent, grants=10, reports=0)
    until_current(serving.url)
    old = server.save()
    acknowledged = dict.fromkeys(agents, 0)
    slowest_s = {"before": 0.0, "during": 0.0}
    phase = ["before"]

    def work(agent):
        while phase[0] != "after":
            began = time.monotonic()
            status, answer = call(
                f"{serving.url}/api/v1/tokens/consume", {"agent_id": agent, "tokens_consumed": 1, "value_generated": 1}
            )
            slowest_s[phase[0] if phase[0] in slowest_s else "during"] = max(
                slowest_s.get(phase[0], 0.0), time.monotonic() - began
            )
            assert status == 200, answer
            acknowledged[agent] += 1

    def rise(count):
        enough = sum(acknowledged.values()) + count
        until(
            lambda: sum(acknowledged.values()) >= enough or any(one.done() for one in workers), "the load stands still"
        )

    with ThreadPoolExecutor(len(agents)) as pool:
        workers = [pool.submit(work, agent) for agent in agents]
        try:
            rise(50)
            phase[0] = "during"
            steps = fault(server, kind, old)
            next(steps)
            if kind != "flushed":
                until(lambda: live_state(serving.url)["state"] == "unreachable", "nobody noticed")
                assert live_state(serving.url)["lag_ms"] > 0
            rise(200)
            next(steps, None)
            rise(50)
        finally:
            phase[0] = "after"
        for worker in workers:
            worker.result()
    with server.client() as client:
        same_as_http(serving.url, client, agents)
        for agent in agents:
            assert client.hget(f"agent_allocation:{agent}", "consumed") == str(acknowledged[agent])
        stream = client.xrange("fiscus:default:events")
    numbers = [int(id.split("-")[0]) for id, _ in stream]
    assert numbers == list(range(numbers[0], numbers[-1] + 1)), "each entry once, in order"
    assert slowest_s["during"] < 1.0, slowest_s


def test_a_service_starts_and_works_while_redis_is_not_there(server, tmp_path):
    server.kill()
    with service(tmp_path, REDIS_URL=server.url, GLOBAL_TOKEN_BUDGET=str(POOL)) as running_service:
        spend(running_service.url, "agent_001")
        assert live_state(running_service.url)["state"] == "unreachable"
        server.start()
        with server.client() as client:
            same_as_http(running_service.url, client, ["agent_001"])
            server.kill()
        until(lambda: live_state(running_service.url)["state"] == "unreachable")
        assert running_service.stop() == 0, "nor does it hold up the end"


def test_the_lag_is_a_metric(server, serving):
    spend(serving.url, "agent_001")
    seq = until_current(serving.url)
    with urllib.request.urlopen(f"{serving.url}/metrics", timeout=WAIT_S) as response:
        lines = response.read().decode().splitlines()
    shown = dict(line.rsplit(" ", 1) for line in lines if line.startswith("fiscus_live_state"))
    assert shown["fiscus_live_state_current"] == "1.0"
    assert shown["fiscus_live_state_seq"] == str(float(seq))
    assert shown["fiscus_live_state_lag_entries"] == "0.0"
    assert shown["fiscus_live_state_lag_seconds"] == "0.0"
    assert float(shown["fiscus_live_state_rebuilds_total"]) >= 1
    assert shown["fiscus_live_state_failures_total"] == "0.0"


@pytest.mark.parametrize("url", ["nonsense", "http://127.0.0.1/0"])
def test_a_url_that_cannot_be_read_is_said_at_the_start(tmp_path, url):
    done = fiscus(tmp_path, "serve", "--port", "0", code=1, REDIS_URL=url)
    assert "redis_url" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_package_is_imported_only_where_redis_is_used():
    code = "import sys, fiscus.app, fiscus.stores; sys.exit('redis' in sys.modules)"
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code], env=environment(), cwd=Path.cwd(), timeout=WAIT_S, check=False)
    assert done.returncode == 0

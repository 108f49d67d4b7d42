"""The service as a process: how it starts, whom it lets in, and how it ends."""

import asyncio
import json
import signal
import socket
import ssl
import stat
import subprocess
import urllib.error
import urllib.request
from contextlib import closing
from itertools import count
from pathlib import Path
from time import monotonic

import aiohttp
import pytest

from fiscus.app import is_loopback, listen
from fiscus.contract.errors import ConfigurationInvalid, LedgerBusy
from fiscus.stores import open_store
from tests.cli.processes import LEDGER, answer, answers, fiscus, service

pytestmark = pytest.mark.slow

SECRET = "the first secret of this ledger"
CALLERS = 32
ACKNOWLEDGED_BEFORE_THE_SIGNAL = 300

# Made for this test and for nothing else: CN=localhost, valid for a hundred years.
CERTIFICATE = """\
-----BEGIN CERTIFICATE-----
MIIBmzCCAUGgAwIBAgIURKh5t+T9aRMpZXtJK02i5xGurZswCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNDE5NTIwM1oYDzIxMjYxMDMx
MTk1MjAzWjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAAQ+FizaexTB2zntKlpyUgrJVSrP2RQRf+8yUGHYpbA5H9+vHeBPomJg
b3N1ko9pGqmIFNUqvR2wwXQ+pg0ux7fKo28wbTAdBgNVHQ4EFgQUGIplg5/auARA
g0ogUeHS2Ev6eU8wHwYDVR0jBBgwFoAUGIplg5/auARAg0ogUeHS2Ev6eU8wDwYD
VR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgglsb2NhbGhvc3SHBH8AAAEwCgYIKoZI
zj0EAwIDSAAwRQIge4GulzHVGtvDbXVuQemnJ72CyGFgBwxYJqbgc46RSNQCIQC+
a4k+VZKb5LW4GB9s7vvwZGpdCzVH2iP9Ewzj97y8nw==
-----END CERTIFICATE-----
"""
CERTIFICATE_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgaVg8BoqsavtTw/yg
mjZ4yvg4U+gMSQK9+XK8afQzN+ahRANCAAQ+FizaexTB2zntKlpyUgrJVSrP2RQR
f+8yUGHYpbA5H9+vHeBPomJgb3N1ko9pGqmIFNUqvR2wwXQ+pg0ux7fK
-----END PRIVATE KEY-----
"""


def get(url: str, secret: str | None = None, *, body: object = None, context: ssl.SSLContext | None = None):
    """Status and body of one request."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_the_first_line_says_where_it_serves_which_ledger_and_whether_keys_are_needed(tmp_path):
    with service(tmp_path) as running:
        assert running.url.startswith("http://127.0.0.1:")
        assert not running.keys_required
        assert get(f"{running.url}/ready")[0] == 200
        assert running.stop() == 0


def test_a_second_opener_is_told_where_the_ledger_is_served(tmp_path):
    url = f"sqlite:///{tmp_path / LEDGER}"
    with service(tmp_path) as running:
        with pytest.raises(LedgerBusy) as busy:
            open_store(url)
        assert busy.value.address == running.url
        second = fiscus(tmp_path, "serve", "--port", "0", code=1)
        assert second.stderr.strip().endswith(f"which serves it at {running.url}")
        assert second.stdout == ""
        assert running.stop() == 0
    with closing(open_store(url)):
        pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_an_address_that_others_can_reach_needs_a_key(tmp_path, host):
    if host == "::" and not socket.has_ipv6:
        return
    refused = fiscus(tmp_path, "serve", "--host", host, "--port", "0", code=1)
    assert f"{host} can be reached from other machines, and this ledger has no keys" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    with service(tmp_path, "--host", host, FISCUS_BOOTSTRAP_KEY=SECRET) as running:
        assert running.keys_required
        assert get(f"{running.url}/v1/accounts")[0] == 401
        assert get(f"{running.url}/v1/accounts", SECRET)[0] == 200


def test_the_first_key_is_stored_once_and_holds_over_a_restart_without_the_setting(tmp_path):
    with service(tmp_path, FISCUS_BOOTSTRAP_KEY=SECRET) as running:
        head = answer(tmp_path, "status", FISCUS_API_KEY=SECRET)["head_seq"]
        assert running.stop() == 0
    pepper = tmp_path / f"{LEDGER}-pepper"
    kept = pepper.read_bytes()
    assert stat.S_IMODE(pepper.stat().st_mode) == 0o600
    with service(tmp_path, FISCUS_BOOTSTRAP_KEY=SECRET) as running:
        assert answer(tmp_path, "status", FISCUS_API_KEY=SECRET)["head_seq"] == head
        assert running.stop() == 0
    with service(tmp_path) as running:
        assert running.keys_required
        assert get(f"{running.url}/v1/accounts", SECRET)[0] == 200
    assert pepper.read_bytes() == kept


def test_a_pepper_that_is_set_is_used_and_none_is_written(tmp_path):
    with service(tmp_path, FISCUS_BOOTSTRAP_KEY=SECRET, FISCUS_KEY_PEPPER="a pepper from elsewhere") as running:
        assert get(f"{running.url}/v1/accounts", SECRET)[0] == 200
    assert not (tmp_path / f"{LEDGER}-pepper").exists()
    with service(tmp_path, FISCUS_KEY_PEPPER="another pepper altogether") as running:
        assert get(f"{running.url}/v1/accounts", SECRET)[0] == 401


# covers E11
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_under_load_loses_nothing_that_was_acknowledged(tmp_path, number):
    fiscus(tmp_path, "accounts", "put", "global")
    fiscus(tmp_path, "budgets", "put", "global", "tokens", "1_000_000_000")
    acknowledged: set[str] = set()
    refused: list[int] = []
    enough = asyncio.Event()
    with service(tmp_path) as running:
        numbers = count()
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:

            async def call_until_it_is_gone() -> None:
                while True:
                    hold = f"hold-{next(numbers)}"
                    body = {"id": hold, "account": "global", "amounts": {"tokens": 7}}
                    try:
                        async with session.post(f"{running.url}/v1/holds", json=body) as response:
                            await response.read()
                    except aiohttp.ClientError:
                        return
                    if response.status == 200 or response.status == 201:
                        acknowledged.add(hold)
                    else:
                        refused.append(response.status)
                        return
                    if len(acknowledged) >= ACKNOWLEDGED_BEFORE_THE_SIGNAL:
                        enough.set()

            async with asyncio.TaskGroup() as group:
                for _ in range(CALLERS):
                    group.create_task(call_until_it_is_gone())
                await enough.wait()
                running.process.send_signal(number)
        assert await asyncio.to_thread(running.process.wait, 30) == 0
    assert set(refused) <= {503}
    held = {entry["data"]["id"] for entry in answers(tmp_path, "events") if entry["kind"] == "held"}
    assert len(acknowledged) >= ACKNOWLEDGED_BEFORE_THE_SIGNAL
    assert acknowledged <= held
    assert fiscus(tmp_path, "verify").returncode == 0


async def test_a_call_that_is_half_read_when_the_signal_comes_is_answered(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    body = b'{"id": "slow", "account": "global"}'
    with service(tmp_path) as running:
        host, port = running.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v1/holds HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body[:10])
        await writer.drain()
        async with aiohttp.ClientSession() as session:  # an answer on another connection: the first bytes were read
            await (await session.get(f"{running.url}/health")).read()
        running.process.send_signal(signal.SIGTERM)
        async with aiohttp.ClientSession() as session:
            await until_it_drains(session, running.url)
            # covers D31
            began = monotonic()
            while monotonic() - began < 0.5:  # longer than a server takes that closes its doors at once
                async with session.get(f"{running.url}/health", headers={"Connection": "close"}) as alive:
                    assert alive.status == 200
            body_of_another = {"id": "late", "account": "global"}
            async with session.post(f"{running.url}/v1/holds", json=body_of_another) as late:
                assert late.status == 503
                assert late.headers["Retry-After"] == "1"
                assert late.headers["Connection"] == "close"
        with pytest.raises(subprocess.TimeoutExpired):  # the service waits for the call
            await asyncio.to_thread(running.process.wait, 1)
        writer.write(body[10:])
        answered = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        assert answered.split(b" ", 2)[1] in {b"200", b"201"}, answered
        assert await asyncio.to_thread(running.process.wait, 30) == 0
    assert [entry["data"]["id"] for entry in answers(tmp_path, "events") if entry["kind"] == "held"] == ["slow"]


async def until_it_drains(session: aiohttp.ClientSession, url: str) -> None:
    """Return once the signal has arrived."""
    while True:
        async with session.get(f"{url}/ready") as response:
            if (await response.json())["reasons"] == ["draining"]:
                assert response.status == 503
                return


async def test_an_open_event_stream_does_not_hold_up_the_end(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    with service(tmp_path) as running:
        async with aiohttp.ClientSession() as session, session.get(f"{running.url}/v1/events") as stream:
            while not (await stream.content.readline()).startswith(b"data:"):
                pass
            running.process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(stream.content.read(), 10)
        assert await asyncio.to_thread(running.process.wait, 10) == 0


def test_an_address_that_is_taken_is_said_to_be(tmp_path):
    with closing(listen("127.0.0.1", 0)) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        refused = fiscus(tmp_path, "serve", "--port", str(port), code=1)
    assert refused.stderr == f"fiscus: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
    with pytest.raises(ConfigurationInvalid, match=r"cannot listen on no-such-host\.invalid"):
        listen("no-such-host.invalid", 0)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_only_this_machine_counts_as_loopback(host, loopback):
    assert is_loopback(host) is loopback


def test_tls_is_on_when_a_certificate_is_set(tmp_path):
    (tmp_path / "cert.pem").write_text(CERTIFICATE)
    (tmp_path / "key.pem").write_text(CERTIFICATE_KEY)
    settings = {"FISCUS_TLS_CERTIFICATE_PATH": "cert.pem", "FISCUS_TLS_KEY_PATH": "key.pem"}
    with service(tmp_path, **settings) as running:
        assert running.url.startswith("https://")
        context = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        assert get(f"{running.url}/health", context=context)[0] == 200


# covers D53
def test_the_pool_is_made_by_the_first_call_of_its_api_or_at_the_start_when_its_size_is_set(tmp_path):
    body = {"agent_id": "a", "requested_tokens": 1000, "task_complexity": 0.5}
    with service(tmp_path) as running:
        assert fiscus(tmp_path, "accounts", "show", "global", code=1).stderr
        status, granted = get(f"{running.url}/api/v1/tokens/allocate", body=body)
        assert (status, granted["remaining_global_budget"]) == (200, 99_000)
    with service(tmp_path, GLOBAL_TOKEN_BUDGET="5") as running:
        assert get(f"{running.url}/api/v1/tokens/status")[1]["global_budget"] == 100_000
    other = tmp_path / "other"
    other.mkdir()
    with service(other, GLOBAL_TOKEN_BUDGET="5000") as running:
        assert get(f"{running.url}/api/v1/tokens/status")[1]["global_budget"] == 5_000


def test_a_running_service_seals_its_state_when_an_operator_asks(tmp_path):
    with service(tmp_path, FISCUS_BOOTSTRAP_KEY=SECRET) as running:
        viewer = answer(tmp_path, "keys", "create", "--role", "viewer", FISCUS_API_KEY=SECRET)["secret"]
        assert get(f"{running.url}/v1/checkpoint", viewer, body={})[1]["code"] == "forbidden"
        sealed = answer(tmp_path, "checkpoint", FISCUS_API_KEY=SECRET)["state_seq"]
        assert sealed == 2  # the two keys
        assert "/v1/checkpoint" in get(f"{running.url}/v1/openapi.json")[1]["paths"]


def test_the_state_is_sealed_after_each_interval_in_which_something_happened(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    with service(tmp_path, FISCUS_CHECKPOINT_INTERVAL_S="1") as running:
        get(f"{running.url}/v1/batch", body={"operations": [{"op": "put_account", "account": "another"}]})
        with urllib.request.urlopen(f"{running.url}/v1/events", timeout=20) as stream:
            kinds = (json.loads(line[5:])["kind"] for line in stream if line.startswith(b"data:"))
            assert [next(kinds) for _ in range(3)] == ["account_opened", "account_opened", "checkpoint"]


def test_files_beside_the_ledger_are_only_its_own(tmp_path):
    fiscus(tmp_path, "accounts", "put", "global")
    with service(tmp_path) as running:
        assert running.stop() == 0
    assert {path.name.removeprefix(LEDGER) for path in Path(tmp_path).iterdir() if path.name.startswith(LEDGER)} == {
        "",
        "-lock",
        "-pepper",
        "-views",
    }

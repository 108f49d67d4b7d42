"""The client of providers, against a real server that sends given bytes."""

import asyncio
import socket
import ssl
import time
from contextlib import asynccontextmanager

import pytest

from fiscus.gateway import connection as wire
from fiscus.gateway.client import Client
from fiscus.gateway.connection import UpstreamFailed
from tests.test_app import CERTIFICATE, CERTIFICATE_KEY

GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"
CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class Server:
    """Answers the n-th request of all connections with the n-th of ``answers``: pieces, then None for the end."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.connections = 0
        self.requests = []
        self.serving = []
        self.reads_bodies = True
        self.left = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def serve(self, reader, writer):
        self.connections += 1
        self.serving.append(asyncio.current_task())
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await self.may_read.wait()
                length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
                self.requests.append(head + (await reader.readexactly(length) if self.reads_bodies else b""))
                for piece in self.answers.pop(0):
                    if piece is None:
                        writer.close()
                        return
                    if isinstance(piece, float):
                        await asyncio.sleep(piece)
                        continue
                    writer.write(piece)
                    await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            self.left.set()
        finally:
            writer.close()


@asynccontextmanager
async def asked_of(*answers, tls=(None, None), **given):
    """A server and a client of it."""
    server = Server(*answers)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls[0])
    scheme = "https" if tls[0] else "http"
    url = f"{scheme}://localhost:{listening.sockets[0].getsockname()[1]}/v1"
    client = Client(url, tls=tls[1], **{"connect_s": 2, "answer_s": 2, "silence_s": 2, **given})
    try:
        yield server, client
    finally:
        await client.close()
        listening.close()
        for task in server.serving:
            task.cancel()
        await asyncio.gather(*server.serving, return_exceptions=True)
        await asyncio.sleep(0.01)


async def read(client, request=GET, **more):
    answer = await client.ask(request, **more)
    return answer.status, await answer.read(1 << 24)


async def test_a_connection_is_used_again_and_answers_are_read_however_they_are_split():
    body = b"hello world" * 500
    framed = [
        [b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body],
        [CHUNKED, *(b"%x\r\n%b\r\n" % (len(body[at : at + 7]), body[at : at + 7]) for at in range(0, len(body), 7))],
        [CHUNKED[:20], 0.01, CHUNKED[20:] + b"%x\r\n" % len(body), 0.01, body, b"\r\n0\r\ntrailer: x\r\n\r\n"],
    ]
    framed[1].append(b"0\r\n\r\n")
    async with asked_of(*framed, [b"HTTP/1.1 204 No\r\n\r\n"]) as (server, client):
        for _ in framed:
            assert await read(client) == (200, body)
        assert await read(client) == (204, b"")
        assert server.connections == 1


async def test_calls_at_once_have_a_connection_each():
    async with asked_of([0.05, OK], [0.05, OK], [OK]) as (server, client):
        assert await asyncio.gather(read(client), read(client)) == [(200, b"hi")] * 2
        assert await read(client) == (200, b"hi")
        assert server.connections == 2


@pytest.mark.parametrize(
    ("head", "is_kept"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2", False),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 2", False),
        (b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2", False),
        (b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=9\r\ncontent-length: 2", True),
    ],
)
async def test_a_connection_that_its_other_end_gives_up_is_not_used_again(head, is_kept):
    async with asked_of([head + b"\r\n\r\nhi"], [OK]) as (server, client):
        await read(client)
        await asyncio.sleep(0.02)
        await read(client)
        assert server.connections == (1 if is_kept else 2)


async def test_a_body_without_a_length_ends_with_the_connection():
    async with asked_of([b"HTTP/1.1 200 OK\r\n\r\nsome", 0.01, b"thing", None]) as (_, client):
        assert await read(client) == (200, b"something")


async def test_interim_answers_are_passed_over():
    async with asked_of([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\n", OK], [OK]) as (
        _,
        client,
    ):
        answer = await client.ask(GET)
        assert answer.status == 200
        assert answer.headers == [(b"content-length", b"2")]
        assert await answer.read(10) == b"hi"


@pytest.mark.parametrize(
    "answer",
    [
        [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi", None],
        [CHUNKED + b"2\r\nhi\r\n", None],
        [CHUNKED + b"2\r\nhi\r\nzz\r\n"],
    ],
    ids=["length", "chunks", "nonsense"],
)
async def test_an_answer_that_is_cut_is_never_whole(answer):
    async with asked_of(answer) as (_, client):
        with pytest.raises(UpstreamFailed) as failed:
            await read(client)
        assert failed.value.was_sent


@pytest.mark.parametrize(
    "answer",
    [
        [b"SSH-2.0-whatever\r\n\r\n"],
        [b"HTTP/1.1 101 Switching\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * wire.HEAD_BYTES_MAX + b"\r\n", 0.1, b"\r\n"],
        [b"HTTP/1.1 200 OK\r\n", *[b"x: %b\r\n" % (b"y" * 60_000)] * 6, 0.1],
    ],
    ids=["other protocol", "upgrade", "two lengths", "long header", "long head"],
)
async def test_what_is_no_answer_is_none(answer):
    async with asked_of(answer) as (_, client):
        with pytest.raises(UpstreamFailed, match="sent") as failed:
            await read(client)
        assert failed.value.was_sent


async def test_a_second_answer_that_nobody_asked_for_is_never_anothers():
    async with asked_of(
        [OK + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"], [OK], [OK, 0.05, OK], [OK]
    ) as found:
        server, client = found
        assert await read(client) == (200, b"hi")
        assert await read(client) == (200, b"hi")
        assert server.connections == 2
        assert await read(client) == (200, b"hi")
        await asyncio.sleep(0.1)
        assert await read(client) == (200, b"hi")
        assert server.connections == 3


async def test_only_what_is_repeatable_is_sent_again_over_a_connection_that_was_closed_in_the_meantime():
    async with asked_of([OK], [None], [OK], [None], [OK]) as (server, client):
        await read(client)
        assert await read(client, is_repeatable=True) == (200, b"hi")
        with pytest.raises(UpstreamFailed) as failed:
            await read(client)
        assert failed.value.was_sent
        assert len(server.requests) == 4
        assert await read(client) == (200, b"hi")


async def test_an_answer_that_began_is_not_asked_for_again():
    async with asked_of([OK], [b"HTTP/1.1 2", None], [OK]) as (server, client):
        await read(client)
        with pytest.raises(UpstreamFailed):
            await read(client, is_repeatable=True)
        assert len(server.requests) == 2


async def test_where_nobody_listens_nothing_was_sent():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    client = Client(f"http://127.0.0.1:{port}", connect_s=1, answer_s=1, silence_s=1)
    with pytest.raises(UpstreamFailed) as failed:
        await client.ask(GET)
    assert not failed.value.was_sent


async def test_a_connection_that_does_not_come_about_in_time_was_not_sent_anything():
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    address = listening.getsockname()
    waiting = [socket.socket() for _ in range(4)]
    for one in waiting:
        one.setblocking(False)
        one.connect_ex(address)
    client = Client(f"http://127.0.0.1:{address[1]}", connect_s=0.2, answer_s=1, silence_s=1)
    with pytest.raises(UpstreamFailed) as failed:
        await client.ask(GET)
    assert not failed.value.was_sent
    for one in (*waiting, listening):
        one.close()


async def test_there_are_only_so_many_connections():
    async with asked_of([0.2, OK], [OK], connections_max=1) as (server, client):
        first = asyncio.create_task(read(client))
        await asyncio.sleep(0.05)
        with pytest.raises(UpstreamFailed, match="connections") as failed:
            await read(client)
        assert not failed.value.was_sent
        assert await first == (200, b"hi")
        assert await read(client) == (200, b"hi")
        assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "given"),
    [
        ([1.0, OK], {"answer_s": 0.15}),
        ([b"HTTP/1.1 200 OK\r\n", *[0.05, b"x: y\r\n"] * 20], {"answer_s": 0.15}),
        ([CHUNKED + b"2\r\nhi\r\n", 1.0], {"silence_s": 0.15}),
    ],
    ids=["no answer", "a head that never ends", "silence"],
)
async def test_who_says_nothing_is_left(answer, given):
    async with asked_of(answer, **given) as (server, client):
        async with asyncio.timeout(0.8):
            with pytest.raises(UpstreamFailed) as failed:
                await read(client)
        assert failed.value.was_sent
        assert failed.value.is_timeout
        assert server.connections == 1


async def test_pauses_that_are_short_enough_are_no_silence():
    pieces = [0.08, b"1\r\nx\r\n"] * 5
    async with asked_of([CHUNKED, *pieces, b"0\r\n\r\n"], silence_s=0.2, answer_s=0.2) as (_, client):
        assert await read(client) == (200, b"x" * 5)


async def test_idle_connections_are_closed(monkeypatch):
    monkeypatch.setattr(wire, "IDLE_S_MAX", 0.05)
    async with asked_of([OK], [OK]) as (server, client):
        await read(client)
        async with asyncio.timeout(1):
            await server.left.wait()
        assert await read(client) == (200, b"hi")
        assert server.connections == 2


async def test_a_provider_waits_for_a_reader_that_is_slow():
    sent = []
    piece = b"%x\r\n%b\r\n" % (1 << 16, b"x" * (1 << 16))

    def pieces():
        yield CHUNKED
        for _ in range(400):
            sent.append(len(piece))
            yield piece
        yield b"0\r\n\r\n"

    async with asked_of(pieces(), [OK], silence_s=0.2) as (server, client):
        answer = await client.ask(GET)
        await asyncio.sleep(0.4)
        assert sum(sent) < 16_000_000, "the rest waits at the provider"
        assert answer._length < 2_000_000
        assert len(await answer.read(1 << 26)) == 400 << 16
        assert await read(client) == (200, b"hi")
        assert server.connections == 1


async def test_a_long_request_arrives_whole_and_lets_others_have_their_turn():
    body = bytes(range(256)) * 80_000
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with asked_of([OK], [OK]) as (server, client):
        server.may_read.clear()
        asking = asyncio.create_task(read(client, head, body=[body]))
        for _ in range(50):
            began_s = time.monotonic()
            await asyncio.sleep(0)
            assert time.monotonic() - began_s < 0.02
        await asyncio.sleep(0.05)
        assert not asking.done()
        server.may_read.set()
        assert await asking == (200, b"hi")
        assert server.requests[0] == head + body
        assert await read(client) == (200, b"hi")
        assert server.connections == 1


async def test_a_provider_that_answers_before_it_has_read_all_is_heard_and_not_asked_again_there():
    refusal = b"HTTP/1.1 413 Large\r\ncontent-length: 2\r\n\r\nno"
    body = b"x" * 50_000_000
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    async with asked_of([refusal, 0.3], [OK]) as (server, client):
        server.reads_bodies = False
        assert await read(client, head, body=[body]) == (413, b"no")
        assert await read(client) == (200, b"hi")
        assert server.connections == 2


async def test_who_is_left_notices_and_who_reads_is_told():
    async with asked_of([CHUNKED + b"2\r\nhi\r\n", 0.05, b"2\r\nho\r\n", 5.0], [OK]) as (server, client):
        answer = await client.ask(GET)
        assert await answer.piece() == b"hi"
        reading = asyncio.create_task(answer.piece())
        await asyncio.sleep(0)
        answer.close()
        with pytest.raises(UpstreamFailed):
            await reading
        assert await read(client) == (200, b"hi")
        assert server.connections == 2


async def test_a_call_that_is_cancelled_leaves_the_provider():
    async with asked_of([1.0, OK]) as (server, client):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await client.ask(GET)
        assert not client._idle
        assert not client._open
        assert server.connections == 1


async def test_an_answer_that_is_longer_than_it_may_be_is_left():
    async with asked_of([CHUNKED, *[b"5\r\nhello\r\n"] * 10, b"0\r\n\r\n"]) as (_, client):
        answer = await client.ask(GET)
        with pytest.raises(UpstreamFailed, match="too long"):
            await answer.read(20)


@pytest.fixture
def contexts(tmp_path):
    """Of a server, and of clients that trust it."""
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    certificate.write_text(CERTIFICATE)
    key.write_text(CERTIFICATE_KEY)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate, key)
    return server, ssl.create_default_context(cafile=str(certificate))


async def test_over_tls_only_to_who_can_prove_its_name(contexts):
    server, trusting = contexts
    async with asked_of([OK], [OK], tls=(server, trusting)) as (found, client):
        assert await read(client) == (200, b"hi")
        assert await read(client) == (200, b"hi")
        assert found.connections == 1
    async with asked_of([OK], tls=(server, None)) as (_, client):
        with pytest.raises(UpstreamFailed) as failed:
            await read(client)
        assert not failed.value.was_sent

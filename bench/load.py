"""A load generator that takes little of the machine: it shares two cores with the server that it measures.

    python -m bench.load CONNECTIONS        one JSON order a line on stdin, one JSON result a line on stdout

An order is ``{"ports": [1234], "pairs": 100, "seed": 1}``: on each connection so many reserves, each followed by its
settlement; the connections are spread over the ports in turn. The bytes of all requests are made before the clock runs;
of the responses only status and length are read.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from functools import partial

import msgspec
import uvloop

from bench.ledgers import Calls, agent, in_turn
from fiscus.core.commands import Reserve, Settle

RESERVE_OK, SETTLE_OK = b"HTTP/1.1 201", b"HTTP/1.1 200"
CONTENT_LENGTH = b"content-length: "
ROUND_S_MAX = 300.0


class Connection(asyncio.Protocol):
    """One keep-alive connection: the next request goes out when the response to the one before is whole.

    Args:
        requests: bytes to send and the status line that must come back, in order.
        done: gets the number of the responses that were not as expected.
    """

    def __init__(self, requests: Sequence[tuple[bytes, bytes]], done: asyncio.Future[int]) -> None:
        self.latencies_s: list[float] = []
        self._requests = requests
        self._done = done
        self._next = 0
        self._unexpected = 0
        self._received = b""
        self._sent_at = 0.0
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]

    def start(self) -> None:
        """Send the first request."""
        self._sent_at = time.perf_counter()
        self._transport.write(self._requests[0][0])

    def data_received(self, data: bytes) -> None:
        received = self._received + data if self._received else data
        end_of_head = received.find(b"\r\n\r\n")
        if end_of_head < 0:
            self._received = received
            return
        length_at = received.find(CONTENT_LENGTH, 0, end_of_head) + len(CONTENT_LENGTH)
        length = int(received[length_at : received.find(b"\r", length_at)])
        if len(received) < end_of_head + 4 + length:
            self._received = received
            return
        self._received = b""
        now = time.perf_counter()
        self.latencies_s.append(now - self._sent_at)
        if not received.startswith(self._requests[self._next][1]):
            self._unexpected += 1
        self._next += 1
        if self._next < len(self._requests):
            self._sent_at = now
            self._transport.write(self._requests[self._next][0])
        else:
            self._transport.close()
            self._done.set_result(self._unexpected)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("the server closed the connection"))


def requests_of(calls: Sequence[tuple[Reserve, Settle]], port: int) -> list[tuple[bytes, bytes]]:
    """The requests of one connection as bytes, with the status lines that must come back."""
    requests: list[tuple[bytes, bytes]] = []
    for reserve, settle in calls:
        body = {"id": reserve.id, "account": reserve.account, "amounts": reserve.amounts}
        requests.append((_post("/v1/holds", body, port), RESERVE_OK))
        requests.append((_post(f"/v1/holds/{settle.id}/settle", {"total": settle.total}, port), SETTLE_OK))
    return requests


def _post(path: str, body: object, port: int) -> bytes:
    encoded = msgspec.json.encode(body)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(encoded)}\r\n\r\n"
    )
    return head.encode() + encoded


async def run(ports: Sequence[int], pairs: int, seed: int, connections: int) -> dict[str, float]:
    """One round; the clock runs from the first byte out to the last response in."""
    loop = asyncio.get_running_loop()
    opened: list[Connection] = []
    done: list[asyncio.Future[int]] = []
    callers = [Calls(agent(index), seed * connections + index, records=False) for index in range(connections)]
    for index, calls in enumerate(in_turn(callers, pairs)):
        port = ports[index % len(ports)]
        requests = requests_of(calls, port)
        future: asyncio.Future[int] = loop.create_future()
        done.append(future)
        _, connection = await loop.create_connection(partial(Connection, requests, future), "127.0.0.1", port)
        opened.append(connection)
    started_cpu, started = time.process_time(), time.perf_counter()
    for connection in opened:
        connection.start()
    async with asyncio.timeout(ROUND_S_MAX):
        unexpected = sum(await asyncio.gather(*done))
    seconds = time.perf_counter() - started
    load_cpu_s = time.process_time() - started_cpu
    latencies_s = sorted(latency_s for connection in opened for latency_s in connection.latencies_s)
    return {
        "requests": 2 * pairs * connections,
        "seconds": seconds,
        "unexpected": unexpected,
        "load_cpu_s": load_cpu_s,
        "p50_ms": latencies_s[len(latencies_s) // 2] * 1e3,
        "p99_ms": latencies_s[int(len(latencies_s) * 0.99)] * 1e3,
    }


def main() -> None:
    """Take orders until stdin ends."""
    connections = int(sys.argv[1])
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(uvloop.run(run(order["ports"], order["pairs"], order["seed"], connections))), flush=True)


if __name__ == "__main__":
    main()

"""A TCP proxy that can cut, pause or swallow what passes, in each direction, also at a byte of one's choice."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

Direction = Literal["up", "down"]
"""``up``: from client to server."""

Verdict = Literal["pass", "swallow", "cut", "pass_then_cut"]
Judge = Callable[[Direction, bytes], Verdict]

CHUNK = 65_536
LINGER_OFF = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on a free loopback port and forwards to another.

    ``judge`` sees each piece before it is forwarded and says what becomes of it; None: all passes. It is called under
    a lock, one piece at a time.
    """

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self.judge: Judge | None = None
        self.accepting = True
        """Whether new connections are let through; else they are closed at once."""
        self.swallowing: set[Direction] = set()
        """Directions in which everything disappears, as on a network that drops packets."""
        self._flowing: dict[Direction, threading.Event] = {"up": threading.Event(), "down": threading.Event()}
        for flowing in self._flowing.values():
            flowing.set()
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @classmethod
    def before(cls, url: str) -> tuple[Proxy, str]:
        """A proxy before the server of a URL, and the URL that leads through it."""
        parts = urlsplit(url)
        assert parts.port is not None
        proxy = cls(parts.port, parts.hostname or "127.0.0.1")
        user = parts.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{proxy.port}" if user else f"127.0.0.1:{proxy.port}"
        return proxy, urlunsplit(parts._replace(netloc=netloc))

    @property
    def connections(self) -> int:
        """How many are open."""
        with self._lock:
            return len(self._pairs)

    def pause(self, *directions: Direction) -> None:
        """Keep back what comes, in these directions or in both, until ``resume``."""
        for direction in directions or ("up", "down"):
            self._flowing[direction].clear()

    def resume(self) -> None:
        """Let everything pass again, also what was kept back; what was swallowed is lost."""
        self.swallowing = set()
        for flowing in self._flowing.values():
            flowing.set()

    def swallow(self, *directions: Direction) -> None:
        """Let what comes disappear, in these directions or in both, until ``resume``."""
        self.swallowing = set(directions or ("up", "down"))

    def cut(self) -> None:
        """Reset all connections, on both sides."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
        for pair in pairs:
            _reset(*pair)

    def close(self) -> None:
        """Stop listening and cut everything."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.resume()
        self.cut()
        self._thread.join()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self.accepting or self._closed:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _reset(client)
                continue
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = (client, server)
            with self._lock:
                self._pairs.append(pair)
            threading.Thread(target=self._pump, args=("up", client, server, pair), daemon=True).start()
            threading.Thread(target=self._pump, args=("down", server, client, pair), daemon=True).start()

    def _pump(
        self,
        direction: Direction,
        source: socket.socket,
        sink: socket.socket,
        pair: tuple[socket.socket, socket.socket],
    ) -> None:
        hard = False
        with contextlib.suppress(OSError):
            while data := source.recv(CHUNK):
                self._flowing[direction].wait()
                if direction in self.swallowing:
                    continue
                with self._lock:
                    verdict = self.judge(direction, data) if self.judge is not None else "pass"
                if verdict.startswith("pass"):
                    sink.sendall(data)
                if verdict.endswith("cut"):
                    hard = True
                    break
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
        if hard:
            _reset(source)
        # What was forwarded arrives before the end does.
        _end(sink)
        _end(source)


def _end(one: socket.socket) -> None:
    """Close: the other side reads what was sent, and then the end."""
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()


def _reset(*sockets: socket.socket) -> None:
    """Close at once: the other side gets a reset."""
    for one in sockets:
        with contextlib.suppress(OSError):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_OFF)
        with contextlib.suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()

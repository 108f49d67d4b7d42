"""A TCP proxy with a thread of its own that cuts, holds back and loses bytes, each direction by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Literal

Direction = Literal["up", "down"]
"""``up``: from the client to the server."""

How = Literal["unsent", "partly sent", "sent", "answered"]
"""What becomes of what a cut hits: the server gets nothing, some bytes, all of it, or has answered it already."""

PIECE = 1 << 16
UNTIL_ANSWERED_S_MAX = 10.0


@dataclass
class Cut:
    """The next piece from a client with these bytes in it is the last of its connection.

    Attributes:
        hit: set when it has happened.
    """

    marker: bytes
    how: How
    hit: Event


class Proxy:
    """Listens on a free loopback port for ``host:port``. Every method may be called from any thread.

    Attributes:
        lose_replies: share of the replies that are thrown away, with their connection: the request was decided, and the
            client does not learn how.
        replies_lost: how many were.
    """

    def __init__(self, port: int, host: str = "127.0.0.1", *, seed: int = 1) -> None:
        self.upstream = host, port
        self.port = 0
        self.lose_replies = 0.0
        self.replies_lost = 0
        self._random = random.Random(seed)
        self._refuses = False
        self._cut: Cut | None = None
        self._losing: set[Direction] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._gates: dict[Direction, asyncio.Event] = {}
        started = Event()
        self._thread = Thread(target=self._run, args=(started,), name="proxy", daemon=True)
        self._thread.start()
        started.wait()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- what is done to connections --------------------------------------------------------------------------------

    def cut(self) -> None:
        """Break every connection that is open now."""
        self._do(self._abort_all)

    def refuse(self, refuses: bool) -> None:
        """Break every connection, and take no new ones until told otherwise."""

        def change() -> None:
            self._refuses = refuses
            if refuses:
                self._abort_all()

        self._do(change)

    def pause(self, *directions: Direction) -> None:
        """Pass nothing on in these directions; it waits, and goes on after ``resume``."""
        self._do(lambda: [self._gates[one].clear() for one in directions])

    def resume(self) -> None:
        """Pass on what waits. Connections of which bytes were lost are broken: they are of no use any more."""

        def change() -> None:
            if self._losing:
                self._abort_all()
            self._losing.clear()
            for gate in self._gates.values():
                gate.set()

        self._do(change)

    def lose(self, *directions: Direction) -> None:
        """Throw away what comes in these directions; both ends see an open connection."""
        self._do(lambda: self._losing.update(directions))

    def cut_at(self, marker: bytes, how: How) -> Cut:
        """Cut the connection whose client next sends these bytes."""
        cut = Cut(marker, how, Event())
        self._do(lambda: setattr(self, "_cut", cut))
        return cut

    def close(self) -> None:
        """Break everything and end."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()

    # -- the thread -------------------------------------------------------------------------------------------------

    def _do(self, change: Callable[[], object]) -> None:
        async def run() -> None:
            change()

        asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _run(self, started: Event) -> None:
        asyncio.set_event_loop(self._loop)

        async def listen() -> asyncio.Server:
            self._gates = {"up": asyncio.Event(), "down": asyncio.Event()}
            for gate in self._gates.values():
                gate.set()
            return await asyncio.start_server(self._serve, "127.0.0.1", 0)

        server = self._loop.run_until_complete(listen())
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        self._abort_all()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(self._ended())
        self._loop.close()

    async def _ended(self) -> None:
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        await asyncio.gather(*others, return_exceptions=True)

    def _abort_all(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            up_reader, up_writer = await asyncio.open_connection(*self.upstream)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, up_writer}
        self._writers |= ends
        answered = asyncio.Event()
        cutting: list[Cut] = []

        async def up(piece: bytes) -> bool:
            cut = self._cut
            if cut is None or cut.marker not in piece:
                return await pass_on("up", piece, up_writer)
            self._cut = None
            cutting.append(cut)
            if cut.how in ("sent", "answered"):
                answered.clear()
                up_writer.write(piece)
            elif cut.how == "partly sent":
                up_writer.write(piece[: self._random.randint(1, len(piece) - 1)])
            with contextlib.suppress(OSError):
                await up_writer.drain()
            if cut.how == "answered":
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(answered.wait(), UNTIL_ANSWERED_S_MAX)
            return False

        async def down(piece: bytes) -> bool:
            answered.set()
            if cutting:
                return True
            if self.lose_replies and self._random.random() < self.lose_replies:
                self.replies_lost += 1
                return False
            return await pass_on("down", piece, writer)

        async def pass_on(direction: Direction, piece: bytes, to: asyncio.StreamWriter) -> bool:
            await self._gates[direction].wait()
            if direction not in self._losing:
                to.write(piece)
                await to.drain()
            return True

        def abort() -> None:
            # What was written to the server still goes there.
            writer.transport.abort()
            up_writer.close()

        try:
            await asyncio.gather(_pump(reader, up, abort), _pump(up_reader, down, abort))
        except asyncio.CancelledError:
            pass  # the proxy ends
        finally:
            self._writers -= ends
            abort()
            for cut in cutting:
                cut.hit.set()


async def _pump(
    reader: asyncio.StreamReader, forward: Callable[[bytes], Coroutine[Any, Any, bool]], abort: Callable[[], None]
) -> None:
    with contextlib.suppress(OSError):
        while piece := await reader.read(PIECE):
            if not await forward(piece):
                break
    abort()

"""A process of its own for what would hold the interpreter, and with it all other calls, for too long."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from fiscus.gateway.connection import Part

T = TypeVar("T")

STOP_S_MAX = 5.0
NICE = 10


class ApartFailed(Exception):
    """The process has ended before it answered. The next one begins anew. Internal to the gateway."""


class Apart:
    """Does one thing after the other, in a process that starts with the first of them; ``close`` it.

    The bytes that something is to be done with go over by parts, from a thread: none of it holds the interpreter for
    long, as pickling them would. They go over once: what was sent last is still there for the next thing. The process
    has less claim on the processor than the calls that it would disturb.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._process: BaseProcess | None = None
        self._pipe: Connection[Any, Any] | None = None
        self._sent: Sequence[Part] | None = None

    async def run(self, function: Callable[..., T], parts: Sequence[Part], *given: object) -> T:
        """What a function of a module makes of these bytes, in one piece, and of the rest, which is small.

        Raises:
            ApartFailed: the process has ended.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="fiscus-apart")
        done: T = await asyncio.get_running_loop().run_in_executor(self._thread, self._exchange, function, parts, given)
        return done

    def close(self) -> None:
        """End the process; what it has not done fails."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self._stop()

    def _exchange(self, function: Callable[..., T], parts: Sequence[Part], given: tuple[object, ...]) -> T:
        try:
            pipe = self._pipe or self._start()
            is_there = parts is self._sent
            pipe.send((function, None if is_there else len(parts), given))
            for part in () if is_there else parts:
                pipe.send_bytes(part)
            self._sent = parts
            is_done, result = pipe.recv()
        except (OSError, EOFError) as error:
            self._stop()
            raise ApartFailed(str(error)) from error
        if not is_done:
            raise result
        done: T = result
        return done

    def _start(self) -> Connection[Any, Any]:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other,), name="fiscus-apart", daemon=True)
        self._process.start()
        other.close()
        return self._pipe

    def _stop(self) -> None:
        self._sent = None
        pipe, self._pipe = self._pipe, None
        process, self._process = self._process, None
        if pipe is not None:
            pipe.close()
        if process is not None:
            process.terminate()
            process.join(STOP_S_MAX)


def _serve(pipe: Connection[Any, Any]) -> None:
    """What runs in the process, until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who stops the service stops this
    if hasattr(os, "nice"):
        os.nice(NICE)
    whole = b""
    while True:
        try:
            function, count, given = pipe.recv()
            if count is not None:
                whole = b""  # the one before is not needed while the next one comes
                whole = b"".join([pipe.recv_bytes() for _ in range(count)])
        except (OSError, EOFError):
            return
        try:
            answer = (True, function(whole, *given))
        except Exception as error:  # noqa: BLE001  # raised again by who has asked
            answer = (False, error)
        pipe.send(answer)

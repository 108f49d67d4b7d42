"""The treasury for programs without an event loop: the async one on a thread of its own, forwarded to."""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from fiscus.contract.errors import TreasuryError
from fiscus.contract.forks import OF_PARENT, keep_for_parent, tell_of_forks
from fiscus.sdk.decorator import Function, held
from fiscus.sdk.hold import Hold
from fiscus.sdk.treasury import Treasury

_END = object()
T = TypeVar("T")


class SyncForward:
    """Forwards to an async object: what it would await is awaited on the loop's thread, and the caller waits.

    Coroutines give their results, async iterators become iterators, holds become context managers for ``with``.
    """

    def __init__(self, target: Any, thread: LoopThread) -> None:
        self._target = target
        self._thread = thread

    def __getattr__(self, name: str) -> Any:
        """An attribute of the async object; its methods can be called from any thread."""
        if name.startswith("_"):
            raise AttributeError(name)
        value = getattr(self._target, name)
        if not callable(value):
            return value

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._waited(value(*args, **kwargs))

        call.__name__, call.__doc__ = name, value.__doc__
        return call

    def __dir__(self) -> list[str]:
        """The public names of the async object."""
        return [name for name in dir(self._target) if not name.startswith("_")]

    def __enter__(self) -> Any:
        """Enter the async context manager, as of a hold."""
        self._thread.wait(self._target.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the async context manager."""
        self._thread.wait(self._target.__aexit__(kind, failure, trace))

    def _waited(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            return self._thread.wait(value)
        if isinstance(value, AsyncIterator):
            return self._iterated(value)
        return SyncForward(value, self._thread) if isinstance(value, Hold) else value

    def _iterated(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        try:
            while (item := self._thread.wait(anext(items, _END))) is not _END:
                yield item
        finally:
            close = getattr(items, "aclose", None)
            if close is not None and self._thread.is_open:
                self._thread.wait(close())


class SyncTreasury(SyncForward):
    """All that ``fiscus.sdk.treasury.Treasury`` has, without ``await``; safe to use from many threads.

    It works beside a running event loop too, as in a notebook, though waiting for it then holds that loop up. Close it;
    a program that ends without doing so loses nothing that was answered.
    """

    def __init__(self, make: Callable[[], Treasury], *, outlives_forks: bool = False) -> None:
        """Start the thread and make the treasury on it; what ``make`` raises is raised here.

        Args:
            make: makes it.
            outlives_forks: whether a copy in a forked process may go on: a service does not mind.
        """
        thread = LoopThread(make, outlives_forks=outlives_forks)
        super().__init__(thread.treasury, thread)
        self._finalizer = weakref.finalize(self, thread.close)
        # When the interpreter ends it is too late to close: no thread can be started any more. Nothing is lost by that.
        self._finalizer.atexit = False

    @property
    def thread(self) -> LoopThread:
        """The thread on which the async treasury lives."""
        return self._thread

    @property
    def asynchronous(self) -> Treasury:
        """The async treasury; use it on its thread only."""
        return self._thread.treasury

    def close(self) -> None:
        """Close the treasury and end the thread. A second time does nothing."""
        self._finalizer()

    def held(self, account: str, **bounds: Any) -> Callable[[Function], Function]:
        """Decorate a function so that every call of it runs in a hold; see ``Treasury.held``."""
        return held(lambda: self.hold(account, **bounds), is_async=False)

    def __enter__(self) -> SyncTreasury:
        """Nothing: it was entered when it was made."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


class LoopThread:
    """A thread with an event loop on which one treasury lives until it is closed.

    In a forked process a copy that may go on does so on a thread of its own, once it is needed.
    """

    def __init__(self, make: Callable[[], Treasury], *, outlives_forks: bool = False) -> None:
        self._mutex = threading.RLock()  # the garbage collector may close a generator inside, which hands over work
        self._outlives_forks = outlives_forks
        self._is_copy = False
        self.is_open: bool = True
        self._begin(make)
        self.treasury = self._made.result()
        tell_of_forks(self)

    def forked(self) -> None:
        """See ``contract.forks``."""
        keep_for_parent(self._loop)
        self._mutex = threading.RLock()
        self._is_copy = True
        self.is_open = self.is_open and self._outlives_forks

    def _begin(self, make: Callable[[], Treasury]) -> None:
        self._made: Future[Treasury] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(make,), name="fiscus-sync", daemon=True)
        self._thread.start()

    @property
    def is_here(self) -> bool:
        """Whether this is the loop's own thread."""
        return threading.current_thread() is self._thread

    def wait(self, work: Awaitable[Any]) -> Any:
        """Await something on the loop's thread, from another one.

        An interrupt of the waiting (Ctrl-C) cancels the work; holds are then closed as after a cancellation.
        """
        if self.is_here:
            _forget(work)
            raise RuntimeError("the loop's own thread cannot wait for itself: use the async treasury there")
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def reach(self, work: Coroutine[Any, Any, T]) -> T:
        """Await something on the loop's thread, from a coroutine of another loop.

        A cancellation of the waiting cancels the work.
        """
        if self.is_here:
            return await work
        return await asyncio.wrap_future(self._submit(work))

    def post(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have something done on the loop's thread, from another one, without anybody waiting for it."""
        self._submit(work)

    def close(self) -> None:
        """Close the treasury, end the loop and the thread; what closing raises is raised here."""
        with self._mutex:
            if not self.is_open:
                return
            self.is_open = False
            if self._is_copy:  # and nobody has asked anything of it
                return
            self._loop.call_soon_threadsafe(self._stop.set)
        if not self.is_here:  # the garbage collector may run anywhere
            self._ended.result()
            self._thread.join()

    def _submit(self, work: Awaitable[T]) -> Future[T]:
        with self._mutex:  # close() ends the loop: nothing may be handed to it after that, or it would wait for ever
            if not self.is_open:
                _forget(work)
                raise TreasuryError(OF_PARENT if self._is_copy else "this treasury is closed")
            if self._is_copy:
                self._is_copy = False
                self._begin(lambda: self.treasury)
                self._made.result()
            return asyncio.run_coroutine_threadsafe(_awaited(work), self._loop)

    def _run(self, make: Callable[[], Treasury]) -> None:
        try:
            asyncio.run(self._live(make))
        except BaseException as error:  # noqa: BLE001  (the thread's outermost frame: whoever waits gets it)
            (self._ended if self._made.done() else self._made).set_exception(error)
        else:
            self._ended.set_result(None)

    async def _live(self, make: Callable[[], Treasury]) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        async with make() as treasury:
            self._made.set_result(treasury)
            await self._stop.wait()


def _forget(work: Awaitable[Any]) -> None:
    if inspect.iscoroutine(work):
        work.close()


async def _awaited(work: Awaitable[T]) -> T:
    return await work

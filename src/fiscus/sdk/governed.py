"""The decorator ``@govern`` for functions of every kind; ``sdk.governor`` admits calls, ``sdk.calls`` books them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import Any, Protocol, TypeVar

from fiscus.contract import AMOUNT_MAX
from fiscus.contract.errors import FiscusError
from fiscus.contract.logs import get_logger
from fiscus.sdk.calls import Call, call_of, running_call
from fiscus.sdk.decorator import Function
from fiscus.sdk.governor import Governor, Terms, UsageOf
from fiscus.sdk.sync import SyncTreasury
from fiscus.sdk.treasury import Treasury

log = get_logger(__name__)
T = TypeVar("T")


class Way(Protocol):
    """How the treasury's loop is reached from where a function runs."""

    @property
    def is_here(self) -> bool:
        """Whether this is the loop's own thread, which cannot wait for it."""
        ...

    def wait(self, work: Awaitable[Any]) -> Any:
        """Await from outside any loop."""
        ...

    async def reach(self, work: Coroutine[Any, Any, T]) -> T:
        """Await from a coroutine."""
        ...

    def post(self, work: Coroutine[Any, Any, Any]) -> None:
        """Have it done some time."""
        ...


class Watch:
    """Looks at one call from where it is made; the context is left with what the call raises.

    Args:
        confidence_of: from a result to how sure it is, 0 … 1; what else it gives or raises counts as not said.
    """

    def __init__(self, confidence_of: Callable[[Any], Any] | None = None) -> None:
        self._confidence_of = confidence_of

    def __enter__(self) -> Watch:
        """The call is about to begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, failure: BaseException | None, trace: TracebackType | None
    ) -> None:
        """It is over."""

    def returned(self, result: object) -> float | None:
        """The function has returned this, and is not booked yet; gives how sure the result is (0 … 1), if it can."""
        if self._confidence_of is None:
            return None
        try:
            confidence = self._confidence_of(result)
        except Exception as error:  # noqa: BLE001  (a user's function; the work is done and must not be lost)
            log.warning("confidence_not_read", error=type(error).__name__)
            return None
        if is_confidence(confidence):
            return float(confidence)
        if confidence is not None:
            log.warning("confidence_out_of_range")
        return None

    def used(self, tokens: int) -> None:
        """So much was booked."""


def is_confidence(value: Any) -> bool:
    """Whether it is a number within 0 … 1.

    >>> is_confidence(0.5), is_confidence(float("nan")), is_confidence(True), is_confidence(1.5)
    (True, False, False, False)
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= 1


MakeWatch = Callable[[], Watch]


def govern(
    treasury: Treasury | SyncTreasury,
    account: str,
    *,
    tokens: int | None = None,
    note: str | None = None,
    usage_of: UsageOf | None = None,
    task: str | None = None,
    confidence_of: Callable[[Any], float | None] | None = None,
) -> Callable[[Function], Function]:
    """Decorate a function so that its account is asked before each call, and every call is booked by what it used.

    Coroutine functions, async generators, and over a treasury without ``await`` (``open_sync``) ordinary functions and
    generators, too. What a call used is what the result (or an exception) carries as usage; without one the texts in
    arguments and result are counted.

    Args:
        treasury: where the account is.
        account: who pays.
        tokens: what a call uses at most: then so much is held, or the function is not run. By default the smaller of
            what is left and what such calls usually need is held, which is learned.
        note: what the calls are called in the records; by default the function's name.
        usage_of: reads the result.
        task: what the calls work on, for the account's confidence gate.
        confidence_of: from a result to how sure it is, 0 … 1, which may close that gate.

    Raises:
        Refusal: there is too little left, or the gate is closed; the function has not run.
        BudgetOverrun: the function has run, and used more than was left; ``result`` is on the error.
    """
    is_sync = isinstance(treasury, SyncTreasury)
    governor = Governor(treasury.asynchronous if isinstance(treasury, SyncTreasury) else treasury)
    way: Way = treasury.thread if isinstance(treasury, SyncTreasury) else SameLoop()

    def decorate(function: Function) -> Function:
        if not is_sync and not is_asynchronous(function):
            raise TypeError(
                f"{name_of(function)} must be a coroutine function here: fiscus.open and fiscus.connect govern those, "
                "open_sync and connect_sync functions of every kind"
            )
        terms = Terms(
            account=account,
            note=note or name_of(function),
            tokens=tokens,
            usage_of=usage_of,
            task_of=None if task is None else lambda args, kwargs: task,
        )
        return governed(function, governor, terms, way, lambda: Watch(confidence_of))

    return decorate


class SameLoop:
    """The function runs on the treasury's own loop."""

    is_here = True

    def wait(self, work: Awaitable[Any]) -> Any:
        """See ``Way``."""
        raise AssertionError("only coroutine functions are governed on a loop")

    async def reach(self, work: Coroutine[Any, Any, T]) -> T:
        """See ``Way``."""
        return await work

    def post(self, work: Coroutine[Any, Any, Any]) -> None:
        """See ``Way``."""
        raise AssertionError("what runs on the same loop cleans up by itself")


def name_of(function: Callable[..., Any]) -> str:
    """What a function is called."""
    return str(getattr(function, "__name__", type(function).__name__))


def is_asynchronous(function: Callable[..., Any]) -> bool:
    """Whether calling it gives something to await, or to iterate with ``async for``."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def governed(function: Function, governor: Governor, terms: Terms, way: Way, make_watch: MakeWatch = Watch) -> Function:
    """A function whose calls are governed.

    Args:
        function: of any kind.
        governor, terms: by whom, and how.
        way: to the governor's loop.
        make_watch: what looks at each call.

    Raises:
        ValueError: the bound is no integer ≥ 1.
    """
    bound: object = terms.tokens
    if bound is not None and (type(bound) is not int or not 1 <= bound <= AMOUNT_MAX):
        raise ValueError(f"tokens must be an integer in 1 … {AMOUNT_MAX}, not {bound!r:.50}")
    desk = _Desk(governor, terms, way)

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            watch = stack.enter_context(make_watch())
            call = desk.begin(args, kwargs)
            try:
                with call.running():
                    result = function(*args, **kwargs)
            except BaseException as error:
                desk.failed(call, watch, error)
                raise
            if inspect.isawaitable(result):
                return _run_on(desk, call, watch, stack.pop_all(), result)
            if inspect.isgenerator(result):
                return _generate_on(desk, call, watch, stack.pop_all(), result)
            if inspect.isasyncgen(result):
                return _generate_async_on(desk, call, watch, stack.pop_all(), result)
            return desk.returned(call, watch, result)

    @functools.wraps(function)
    async def run_async(*args: Any, **kwargs: Any) -> Any:
        with make_watch() as watch:
            call = await desk.begin_async(args, kwargs)
            try:
                with call.running():
                    result = await function(*args, **kwargs)
            except BaseException as error:
                await desk.failed_async(call, watch, error)
                raise
            return await desk.returned_async(call, watch, result)

    @functools.wraps(function)
    def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with make_watch() as watch:
            call = desk.begin(args, kwargs)
            return (yield from _generated(desk, call, watch, function(*args, **kwargs)))

    @functools.wraps(function)
    async def generate_async(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        with make_watch() as watch:
            call = await desk.begin_async(args, kwargs)
            inner = function(*args, **kwargs)
            try:
                step = inner.asend(None)
                while True:
                    try:
                        with call.running():
                            item = await step
                    except StopAsyncIteration:
                        break
                    call.seen(item)
                    try:
                        sent = yield item
                    except GeneratorExit:
                        await inner.aclose()
                        raise
                    except BaseException as error:  # noqa: BLE001  (thrown into the generator, as it would be)
                        step = inner.athrow(error)
                    else:
                        step = inner.asend(sent)
            except BaseException as error:
                await desk.failed_async(call, watch, error)
                raise
            await desk.returned_async(call, watch, None)

    wrapper: Any = run
    if inspect.isasyncgenfunction(function):
        wrapper = generate_async
    elif inspect.iscoroutinefunction(function):
        wrapper = run_async
    elif inspect.isgeneratorfunction(function):
        wrapper = generate
    return wrapper  # type: ignore[no-any-return]  # wraps keeps the signature


async def _run_on(desk: _Desk, call: Call, watch: Watch, watched: ExitStack, result: Awaitable[Any]) -> Any:
    """Await what a plain function has returned in place of its result."""
    with watched:
        try:
            with call.running():
                value = await result
        except BaseException as error:
            await desk.failed_async(call, watch, error)
            raise
        return await desk.returned_async(call, watch, value)


def _generated(desk: _Desk, call: Call, watch: Watch, items: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """The items of a call, and its end."""
    try:
        result = yield from _Counted(items, call)
    except BaseException as error:
        desk.failed(call, watch, error)
        raise
    return desk.returned(call, watch, result)


def _generate_on(
    desk: _Desk, call: Call, watch: Watch, watched: ExitStack, items: Generator[Any, Any, Any]
) -> Generator[Any, Any, Any]:
    """Go on with the generator that a plain function has returned."""
    with watched:
        return (yield from _generated(desk, call, watch, items))


async def _generate_async_on(
    desk: _Desk, call: Call, watch: Watch, watched: ExitStack, items: AsyncGenerator[Any, Any]
) -> AsyncGenerator[Any, Any]:
    """The same with an async one; it is iterated over and closed, and nothing is sent into it."""
    with watched:
        try:
            while True:
                try:
                    with call.running():
                        item = await anext(items)
                except StopAsyncIteration:
                    break
                call.seen(item)
                yield item
        except BaseException as error:
            await items.aclose()
            await desk.failed_async(call, watch, error)
            raise
        await desk.returned_async(call, watch, None)


class _Desk:
    """Begins and ends the calls of one function, from wherever they run."""

    def __init__(self, governor: Governor, terms: Terms, way: Way) -> None:
        self._governor = governor
        self._terms = terms
        self._way = way

    def begin(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """See ``Call.begin``."""
        call, outer = self._made(args, kwargs)
        try:
            self._way.wait(call.begin(outer))
        except FiscusError:
            raise
        except BaseException:
            self._way.post(call.abandon())
            raise
        return call

    async def begin_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """See ``Call.begin``."""
        call, outer = self._made(args, kwargs)
        try:
            await self._way.reach(call.begin(outer))
        except FiscusError:
            raise
        except BaseException:
            if isinstance(self._way, SameLoop):
                await call.abandon()
            else:
                self._way.post(call.abandon())
            raise
        return call

    def returned(self, call: Call, watch: Watch, result: Any) -> Any:
        """See ``Call.returned``."""
        call.confidence = watch.returned(result)
        watch.used(self._way.wait(call.returned(result)))
        return result

    async def returned_async(self, call: Call, watch: Watch, result: Any) -> Any:
        """See ``Call.returned``."""
        call.confidence = watch.returned(result)
        watch.used(await self._way.reach(call.returned(result)))
        return result

    def failed(self, call: Call, watch: Watch, error: BaseException) -> None:
        """See ``Call.failed``; what goes wrong here does not hide the function's own exception."""
        if self._way.is_here:  # the garbage collector closes a generator on whatever thread it runs
            self._way.post(call.failed(error))
            return
        try:
            watch.used(self._way.wait(call.failed(error)))
        except FiscusError as failure:
            _add(error, failure, self._terms)

    async def failed_async(self, call: Call, watch: Watch, error: BaseException) -> None:
        """See ``failed``."""
        try:
            watch.used(await self._way.reach(call.failed(error)))
        except FiscusError as failure:
            _add(error, failure, self._terms)

    def _made(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Call, Call | None]:
        return call_of(self._governor, self._terms, args, kwargs), running_call(self._governor, self._terms.account)


def _add(error: BaseException, failure: FiscusError, terms: Terms) -> None:
    log.error("call_not_booked", account=terms.account, note=terms.note, code=failure.code, detail=str(failure))
    error.add_note(f"Besides, what {terms.note} used could not be booked: {failure}")


class _Counted:
    """A generator that tells a call what comes out of it; its body runs as part of that call."""

    def __init__(self, generator: Generator[Any, Any, Any], call: Call) -> None:
        self._generator = generator
        self._call = call

    def __iter__(self) -> _Counted:
        return self

    def __next__(self) -> Any:
        with self._running():
            item = next(self._generator)
        return self._seen(item)

    def send(self, value: Any) -> Any:
        """See ``Generator.send``."""
        with self._running():
            item = self._generator.send(value)
        return self._seen(item)

    def throw(self, error: BaseException) -> Any:
        """See ``Generator.throw``."""
        with self._running():
            item = self._generator.throw(error)
        return self._seen(item)

    def close(self) -> None:
        """See ``Generator.close``."""
        with self._running():
            self._generator.close()

    def _running(self) -> AbstractContextManager[None]:
        running: AbstractContextManager[None] = self._call.running()
        return running

    def _seen(self, item: Any) -> Any:
        self._call.seen(item)
        return item

"""``@treasury.held(...)``: every call of a function in a hold of its own."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from fiscus.contract.errors import Invalid

Function = TypeVar("Function", bound=Callable[..., Any])


def held(make_hold: Callable[[], Any], *, is_async: bool) -> Callable[[Function], Function]:
    """A decorator that runs a function in a hold, handed over as ``hold`` if it has a parameter of that name.

    Args:
        make_hold: makes the hold of one call; an async or a sync context manager.
        is_async: which of them, and so which kind of function can be decorated.
    """

    def decorate(function: Function) -> Function:
        if inspect.iscoroutinefunction(function) != is_async:
            raise TypeError(
                f"{function.__qualname__} must be {'a coroutine' if is_async else 'an ordinary'} function here: "
                "fiscus.open and fiscus.connect decorate coroutine functions, open_sync and connect_sync ordinary ones"
            )
        wants_hold = "hold" in inspect.signature(function).parameters

        @functools.wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            async with make_hold() as hold:
                result = await function(*args, **kwargs, **({"hold": hold} if wants_hold else {}))
                _settle(hold, result)
            return result

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with make_hold() as hold:
                result = function(*args, **kwargs, **({"hold": hold} if wants_hold else {}))
                _settle(hold, result)
            return result

        return run_async if is_async else run  # type: ignore[return-value]  # wraps keeps the signature

    return decorate


def _settle(hold: Any, result: object) -> None:
    """Take a result for the final reading if the function gave none and it can be read."""
    if not hold.has_reading:
        with suppress(Invalid):
            hold.settle(result)

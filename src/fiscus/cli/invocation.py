"""What every command has in common: the global options, how it is run, and how its errors are told."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

import typer

from fiscus.cli.output import Output, write_error
from fiscus.contract.errors import FiscusError

if TYPE_CHECKING:  # not imported before it is needed: `fiscus --help` is fast
    from fiscus.settings import Settings

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130
PANEL = "Global options"

Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, one object a line.", rich_help_panel=PANEL)]
Url = Annotated[
    str | None, typer.Option("--url", help="Address of a running service.", metavar="URL", rich_help_panel=PANEL)
]
Store = Annotated[
    str | None,
    typer.Option("--store", help="The ledger, as sqlite:///fiscus.db.", metavar="URL", rich_help_panel=PANEL),
]
ApiKey = Annotated[
    str | None,
    typer.Option("--api-key", help="Key for the service; better: FISCUS_API_KEY.", rich_help_panel=PANEL),
]
Tenant = Annotated[
    str | None, typer.Option("--tenant", help="Tenant to act on.", metavar="NAME", rich_help_panel=PANEL)
]

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """The global options of one command; None: as the settings say."""

    json: bool = False
    url: str | None = None
    store: str | None = None
    api_key: str | None = None
    tenant: str | None = None

    @property
    def output(self) -> Output:
        """Where the answer goes."""
        return Output(json=self.json)

    def options(self) -> dict[str, Any]:
        """The options by the names of the settings that they override."""
        return {"url": self.url, "store_url": self.store, "api_key": self.api_key, "tenant": self.tenant}

    def settings(self, **more: Any) -> Settings:
        """The settings with these options, and ``more`` of them.

        Raises:
            ConfigurationInvalid: one is wrong.
        """
        from fiscus.settings import load_settings

        return load_settings(**self.options(), **more)


_GLOBALS: dict[str, Any] = {"json": Json, "url": Url, "store": Store, "api_key": ApiKey, "tenant": Tenant}


def command(
    app: typer.Typer, name: str | None = None, **settings: Any
) -> Callable[[Callable[Concatenate[Invocation, P], R]], Callable[Concatenate[Invocation, P], R]]:
    """Register a function as a command of ``app``.

    Its first parameter is the ``Invocation``. The global options are accepted after the command's name as well as
    before it. A coroutine is run to its end; an integer that is returned is the exit code.
    """

    def register(function: Callable[Concatenate[Invocation, P], R]) -> Callable[Concatenate[Invocation, P], R]:
        hints = get_type_hints(function, include_extras=True)
        own = [parameter.replace(annotation=hints[parameter.name]) for parameter in _own_parameters(function)]

        @functools.wraps(function)
        def run(context: typer.Context, **values: Any) -> None:
            given = {option: values.pop(option) for option in _GLOBALS}
            _run(function, _merged(context, given), values)

        shared = [
            inspect.Parameter(
                option,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if option == "json" else None,
                annotation=annotation,
            )
            for option, annotation in _GLOBALS.items()
        ]
        context = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
        keyword = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own]
        parameters = [context, *keyword, *shared]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # what typer reads
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, **settings)(run)
        return function

    return register


def remember(context: typer.Context, invocation: Invocation) -> None:
    """Keep the global options that stand before the command's name."""
    context.obj = invocation


def _own_parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The parameters of a command but for the invocation."""
    return list(inspect.signature(function).parameters.values())[1:]


def _merged(context: typer.Context, given: dict[str, Any]) -> Invocation:
    """The options after the command's name, and where they are not given, those before it."""
    before = context.obj if isinstance(context.obj, Invocation) else Invocation()
    return replace(before, **{option: value for option, value in given.items() if value})


def _run(function: Callable[..., Any], invocation: Invocation, values: dict[str, Any]) -> None:
    """Run a command to its end and turn what it raises into one line and an exit code."""
    try:
        result = function(invocation, **values)
        code = asyncio.run(result) if inspect.iscoroutine(result) else result
    except FiscusError as error:
        write_error(error, json=invocation.json)
        raise typer.Exit(EXIT_ERROR) from error
    except BrokenPipeError as error:
        # The reader (head, less) has gone; what is still buffered must not complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(EXIT_ERROR) from error
    except OSError as error:
        write_error(FiscusError(str(error)), json=invocation.json)
        raise typer.Exit(EXIT_ERROR) from error
    except KeyboardInterrupt as error:
        raise typer.Exit(EXIT_INTERRUPTED) from error
    if isinstance(code, int) and code:
        raise typer.Exit(code)

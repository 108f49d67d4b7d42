"""The command ``fiscus``. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from fiscus.cli.accounts import accounts
from fiscus.cli.alerts import alerts
from fiscus.cli.budgets import budgets
from fiscus.cli.invocation import ApiKey, Invocation, Json, Store, Tenant, Url, command, remember
from fiscus.cli.keys import keys
from fiscus.cli.loans import loans
from fiscus.cli.manager import COMMANDS as MANAGER_COMMANDS
from fiscus.cli.overrides import overrides
from fiscus.cli.prices import prices
from fiscus.cli.times import FORMATS, in_utc
from fiscus.cli.tokens import tokens
from fiscus.cli.usage import COMMANDS as USAGE_COMMANDS

SERVICE, DECLARED, JOURNAL, TRAFFIC = "The service", "Accounts and budgets", "The journal", "Traffic"
USED = "What was used"

app = typer.Typer(
    name="fiscus",
    help="A treasury for AI agents: budgets that hold before the money is spent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(accounts, name="accounts", rich_help_panel=DECLARED)
app.add_typer(budgets, name="budgets", rich_help_panel=DECLARED)
app.add_typer(loans, name="loans", rich_help_panel=DECLARED)
app.add_typer(overrides, name="overrides", rich_help_panel=DECLARED)
for _name, _function in (*USAGE_COMMANDS, *MANAGER_COMMANDS):
    command(app, _name, rich_help_panel=USED)(_function)
app.add_typer(prices, name="prices", rich_help_panel=DECLARED)
app.add_typer(tokens, name="tokens", rich_help_panel=DECLARED)
app.add_typer(keys, name="keys", rich_help_panel=SERVICE)
app.add_typer(alerts, name="alerts", rich_help_panel=SERVICE)


def main() -> None:
    """Run the command line."""
    app()


@app.callback(invoke_without_command=False)
def root(
    context: typer.Context,
    json: Json = False,
    url: Url = None,
    store: Store = None,
    api_key: ApiKey = None,
    tenant: Tenant = None,
) -> None:
    """A treasury for AI agents: budgets that hold before the money is spent."""
    remember(context, Invocation(json=json, url=url, store=store, api_key=api_key, tenant=tenant))


Declared = Annotated[Path, typer.Argument(help="TOML; YAML if its name ends with .yaml or .yml.", metavar="FILE")]
Force = Annotated[bool, typer.Option("--force", help="Also set limits below what is in use.")]


@command(app, "version", rich_help_panel=SERVICE)
def show_version(invocation: Invocation) -> None:
    """Show the version."""
    from fiscus import __version__

    invocation.output.answer({"version": __version__}, f"fiscus {__version__}")


@command(app, "serve", rich_help_panel=SERVICE)
def serve(
    invocation: Invocation,
    host: Annotated[str | None, typer.Option(help="Address to listen on; the setting unless given.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65_535, help="0 takes a free one.")] = None,
) -> None:
    """Serve a ledger over HTTP until SIGTERM or Ctrl-C."""
    from fiscus.cli.serve import run_service

    run_service(invocation, host, port)


@command(app, "status", rich_help_panel=SERVICE)
async def status(invocation: Invocation) -> int:
    """Show whether calls are admitted, and the budgets of the roots; exit code 1 when not."""
    from fiscus.cli.serve import show_status

    return await show_status(invocation)


@command(app, "settings", rich_help_panel=SERVICE)
def settings(invocation: Invocation) -> None:
    """List every setting with its value and where that comes from; secrets are masked."""
    from fiscus.cli.settings_command import list_all

    list_all(invocation)


@command(app, "spool", rich_help_panel=SERVICE)
def spool(invocation: Invocation) -> None:
    """List what waits on this machine's disk for the ledger, and what the ledger has refused of it."""
    from fiscus.cli.spool_command import list_spool

    list_spool(invocation)


@command(app, "openapi", rich_help_panel=SERVICE)
def openapi(invocation: Invocation) -> None:
    """Print the OpenAPI document of the HTTP API."""
    from fiscus.app import openapi_document
    from fiscus.cli.output import write_json

    write_json(openapi_document())


@command(app, "confirm-clock", rich_help_panel=SERVICE)
async def confirm_clock(invocation: Invocation) -> None:
    """Say that the host's clock is right after it stepped, so that roll-over and expiry go on."""
    from fiscus.cli.connection import connected

    async with connected(invocation) as connection:
        await connection.treasury.confirm_clock(connection.tenant, "cli")
    invocation.output.answer({"confirmed": True}, f"{connection.place}: the clock is confirmed")


@command(app, "plan", rich_help_panel=DECLARED)
async def plan(invocation: Invocation, file: Declared, force: Force = False) -> int:
    """Show what apply would do. Exit code 0: nothing; 2: something; 1: the file is wrong."""
    from fiscus.cli.apply import plan_file

    return await plan_file(invocation, file, force=force)


@command(app, "apply", rich_help_panel=DECLARED)
async def apply(invocation: Invocation, file: Declared, force: Force = False) -> None:
    """Make accounts, budgets, allocations and templates as a file says. A second time changes nothing."""
    from fiscus.cli.apply import apply_file

    await apply_file(invocation, file, force=force)


@command(app, "events", rich_help_panel=JOURNAL)
async def events(
    invocation: Invocation,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")] = False,
    after: Annotated[int, typer.Option(min=0, help="Begin behind this sequence number.")] = 0,
    account: Annotated[str | None, typer.Option(help="Only what concerns it or an account below.")] = None,
) -> None:
    """Write the journal's entries in order, one a line."""
    from fiscus.cli.connection import connected
    from fiscus.cli.events import write_events

    async with connected(invocation) as connection:
        await write_events(connection, after=after, follow=follow, account=account, json=invocation.json)


@command(app, "grants", rich_help_panel=JOURNAL)
async def grants(
    invocation: Invocation,
    strategy: Annotated[
        Literal["classic", "proven", "configured"],
        typer.Option(help="By which they are sized anew; 'configured': as accounts, templates, setting say now."),
    ] = "proven",
    after: Annotated[int, typer.Option(min=0, help="Begin behind this sequence number.")] = 0,
) -> None:
    """Show what the token economy's grants in the journal would have been by another strategy. Nothing is granted."""
    from fiscus.cli.connection import connected
    from fiscus.cli.grants import rehearse

    async with connected(invocation) as connection:
        await rehearse(invocation, connection, strategy, after)


@command(app, "rehearse", rich_help_panel=JOURNAL)
async def rehearse(
    invocation: Invocation,
    file: Declared,
    since: Annotated[datetime | None, typer.Option(help="Only what is recorded from then on.", formats=FORMATS)] = None,
    until: Annotated[datetime | None, typer.Option(help="Only what is recorded before.", formats=FORMATS)] = None,
    limit: Annotated[int, typer.Option(min=1, max=50_000, help="Calls at most.")] = 10_000,
    refusals: Annotated[int, typer.Option(min=0, max=1_000, help="Refusals that are shown one by one.")] = 20,
) -> None:
    """Show what would have become of the recorded calls if a file had been in force. Nothing is changed."""
    from fiscus.cli.rehearse import rehearse_file

    await rehearse_file(invocation, file, since=in_utc(since), until=in_utc(until), limit=limit, refusals=refusals)


@command(app, "verify", rich_help_panel=JOURNAL)
def verify(
    invocation: Invocation,
    from_start: Annotated[bool, typer.Option("--from-start", help="Not from the last checkpoint.")] = False,
) -> int:
    """Check the hash chain and every invariant. Exit code 1 and the first broken entry on a fault."""
    from fiscus.cli.journal import verify_ledger

    return verify_ledger(invocation, from_start=from_start)


@command(app, "backup", rich_help_panel=JOURNAL)
def backup(
    invocation: Invocation, destination: Annotated[Path, typer.Argument(help="A new file.", metavar="DEST")]
) -> None:
    """Copy a ledger to a new file, also while it is in use."""
    from fiscus.cli.journal import backup_ledger

    backup_ledger(invocation, destination)


@command(app, "export", rich_help_panel=JOURNAL)
def export(invocation: Invocation, file: Annotated[Path, typer.Argument(help="A new file.", metavar="FILE")]) -> None:
    """Write the journal as JSON lines with hashes, also while it is in use."""
    from fiscus.cli.journal import export_ledger

    export_ledger(invocation, file)


@command(app, "import", rich_help_panel=JOURNAL)
def import_(
    invocation: Invocation,
    files: Annotated[
        list[Path], typer.Argument(help="An export, after the archives that it goes on from.", metavar="FILE…")
    ],
    until: Annotated[
        str | None, typer.Option(help="Only to this point: a sequence number, or a time as 2026-11-24T10:00:00Z.")
    ] = None,
) -> None:
    """Make a new ledger from an export, each entry verified."""
    from fiscus.cli.journal import import_ledger

    import_ledger(invocation, files, until)


@command(app, "checkpoint", rich_help_panel=JOURNAL)
async def checkpoint(invocation: Invocation) -> None:
    """Seal the state as of now, so that verify can begin there."""
    from fiscus.cli.journal import seal_ledger

    await seal_ledger(invocation)


@command(app, "archive", rich_help_panel=JOURNAL)
async def archive(
    invocation: Invocation,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be archived.")] = False,
) -> None:
    """Archive entries that are older than retention_days and sealed, verify the file, and drop them."""
    from fiscus.cli.journal import archive_ledger

    await archive_ledger(invocation, dry_run=dry_run)


@command(app, "migrate", rich_help_panel=SERVICE)
def migrate(
    invocation: Invocation,
    sql: Annotated[bool, typer.Option("--sql", help="Only print the SQL of all migrations.")] = False,
    raise_format: Annotated[
        bool,
        typer.Option("--raise-format", help="Then let the nodes write this version's events: older versions stop."),
    ] = False,
) -> None:
    """Bring a PostgreSQL database to the schema that this version needs; several nodes may do so at once."""
    from fiscus.cli.migrate import migrate_database

    migrate_database(invocation, sql=sql, raise_to_newest=raise_format)


@command(app, "repair", rich_help_panel=JOURNAL)
async def repair(invocation: Invocation) -> None:
    """Make what is kept of the tenant anew from its journal, and admit calls again after drift."""
    from fiscus.cli.journal import repair_ledger

    await repair_ledger(invocation)


@command(app, "demo", rich_help_panel=TRAFFIC)
def demo(
    invocation: Invocation,
    trace: Annotated[Path | None, typer.Option(help="Replay this trace instead of the built-in workload.")] = None,
    wait: Annotated[bool, typer.Option(help="Stay up until Ctrl-C; else end with one JSON object.")] = True,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Where the service listens.")] = 8091,
    seed: Annotated[int, typer.Option(help="Of the built-in workload.")] = 1,
    calls: Annotated[int, typer.Option(min=1, help="Calls of the built-in workload.")] = 6_000,
) -> int:
    """Run a fleet of agents against a service of its own, then compare the books with what it really used."""
    from fiscus.cli.demo import run_demo

    return run_demo(trace, wait, port, seed, calls)


@command(app, "replay", rich_help_panel=TRAFFIC)
def replay(
    invocation: Invocation,
    file: Annotated[Path, typer.Argument(help="An Azure or Claude Code trace, gzipped or not.", metavar="FILE")],
    speed: Annotated[str, typer.Option(help="Seconds of the trace per second, or max.")] = "1",
    agents: Annotated[int, typer.Option(min=1, help="Agents that the calls are dealt to.")] = 12,
    in_flight: Annotated[int, typer.Option(min=1, help="Calls that may be under way at once.")] = 64,
    seed: Annotated[int, typer.Option(help="Decides who misbehaves, and which budgets are too small.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first calls.")] = None,
    chaos: Annotated[float, typer.Option(min=0, max=1, help="Part of the callers that misbehaves.")] = 0.06,
    id_seed: Annotated[str | None, typer.Option(help="Makes the ids; the same again changes nothing.")] = None,
) -> int:
    """Send a recorded trace through the HTTP API, then compare the books with what its calls really used."""
    from fiscus.cli.connection import api_key
    from fiscus.cli.replay.command import run_replay

    set_ = invocation.settings()
    return run_replay(
        file,
        set_.url,
        speed,
        agents,
        in_flight,
        seed,
        invocation.json,
        limit,
        chaos,
        id_seed,
        api_key=api_key(set_),
    )

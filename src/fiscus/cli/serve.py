"""``fiscus serve`` and ``fiscus status``."""

from __future__ import annotations

from fiscus.cli.accounts import COLUMNS, account_rows, read_roots
from fiscus.cli.connection import connected
from fiscus.cli.invocation import EXIT_ERROR, Invocation
from fiscus.cli.logs import configure_logging
from fiscus.cli.output import write_json, write_line, write_table
from fiscus.contract.queries import ListTemplates, TemplatesView


def run_service(invocation: Invocation, host: str | None, port: int | None) -> None:
    """Serve a ledger until SIGTERM or Ctrl-C."""
    from fiscus.api.watching import add_request
    from fiscus.app import Started, serve
    from fiscus.cli.options import service_options

    def tell(started: Started) -> None:
        if invocation.json:
            write_json(started)
            return
        keys = "required" if started.keys_required else "not required"
        write_line(f"Fiscus {started.version} serves {started.url} (ledger {started.store}, keys {keys})")

    settings = invocation.settings(host=host, port=port)
    configure_logging(settings.log_level, settings.log_format, add_request)
    serve(service_options(settings), tell)


async def show_status(invocation: Invocation) -> int:
    """Show whether calls are admitted, and the roots' budgets; returns 1 when none are."""
    async with connected(invocation) as connection:
        templates = await connection.read(TemplatesView, ListTemplates(tenant=connection.tenant))
        readiness = await connection.treasury.readiness()
        roots = await read_roots(connection)
    if invocation.json:
        write_json({"place": connection.place, "head_seq": templates.as_of_seq, "readiness": readiness, "roots": roots})
    else:
        state = "ready" if readiness.ready else f"not ready: {', '.join(readiness.reasons)}"
        write_line(
            f"{connection.place}: {state}; journal at {templates.as_of_seq:,}, views {readiness.followers_lag_ms:,} ms "
            f"behind, {readiness.queue_depth:,} calls wait"
        )
        rows = [row for account in roots for row in account_rows(account)]
        if rows:
            write_table(COLUMNS, rows)
    return 0 if readiness.ready else EXIT_ERROR

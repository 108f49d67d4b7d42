"""``fiscus migrate``: bring a PostgreSQL database to the schema that this version needs."""

from __future__ import annotations

from fiscus.cli.invocation import Invocation
from fiscus.cli.output import write_line
from fiscus.contract.errors import ConfigurationInvalid
from fiscus.stores import POSTGRES_SCHEMES


def migrate_database(invocation: Invocation, *, sql: bool, raise_to_newest: bool) -> None:
    """Run the migrations that are missing, or print the SQL of all of them.

    ``raise_to_newest``: then let the nodes write the newest format of events. Nodes of older versions stop.

    Raises:
        ConfigurationInvalid: the ledger is none that is migrated, or what speaks PostgreSQL is not installed.
        StoreUnavailable: the database cannot be reached, or refused.
    """
    try:
        from fiscus.stores.postgres.migrations import migrate, migration_sql, raise_format
    except ModuleNotFoundError as error:
        raise ConfigurationInvalid(
            f"PostgreSQL needs the package {error.name}: install fiscus with the extra `postgres`"
        ) from error
    if sql:
        write_line(migration_sql())
        return
    url = invocation.settings().store_url
    if not url.startswith(POSTGRES_SCHEMES):
        raise ConfigurationInvalid("store_url: only a ledger at postgresql://… is migrated; others make themselves")
    before, after = migrate(url)
    done = "is at" if before == after else "was brought to"
    answer: dict[str, object] = {"before": before, "after": after}
    lines = [f"the database {done} migration {after}"]
    if raise_to_newest:
        answer["format_before"], answer["format"] = raise_format(url)
        lines.append(f"the nodes may write format {answer['format']} now; older versions that cannot read it stop")
    invocation.output.answer(answer, "\n".join(lines))

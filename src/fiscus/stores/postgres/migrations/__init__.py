"""Migrations of the schema: forward only, SQL in files, run by ``fiscus migrate``."""

from __future__ import annotations

import io
from functools import cache
from pathlib import Path

import alembic.command
import psycopg
import sqlalchemy
from alembic import op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory

from fiscus.contract.errors import StoreUnavailable
from fiscus.core.events import FORMAT
from fiscus.stores.queries import queries

SCHEMA = "fiscus"
CREATE_SCHEMA = "CREATE SCHEMA IF NOT EXISTS fiscus"
SET_FORMAT = "UPDATE fiscus.formats SET min_format = %s"
MIGRATION_LOCK = 0x46495300
"""Key of the advisory lock that serialises nodes which migrate at once; bigger than any lock of two numbers."""

LOCK_S_MAX = 60
MONTHS_AHEAD = 3


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    config.set_main_option("path_separator", "os")
    return config


@cache
def newest_revision() -> str:
    """The migration that this version needs."""
    newest = ScriptDirectory.from_config(_config()).get_current_head()
    assert newest is not None
    return newest


def migrate(url: str) -> tuple[str | None, str]:
    """Bring a database to the newest schema; several nodes may do so at once.

    Args:
        url: ``postgresql://…``.

    Returns:
        The revision before and after.

    Raises:
        StoreUnavailable: the database cannot be reached, or refused.
    """
    try:
        return _migrate(url)
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as error:
        raise StoreUnavailable(f"postgresql: {str(error).strip()}") from error


def _migrate(url: str) -> tuple[str | None, str]:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(url, connect_timeout=5, application_name="fiscus migrate"),
        poolclass=sqlalchemy.NullPool,
    )
    with engine.connect() as connection:
        connection.exec_driver_sql(f"SET lock_timeout = '{LOCK_S_MAX}s'")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})")
        connection.exec_driver_sql(CREATE_SCHEMA)
        context = MigrationContext.configure(connection, opts={"version_table_schema": SCHEMA})
        before = context.get_current_revision()
        config = _config()
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, "head")
        connection.exec_driver_sql(f"SELECT fiscus.make_months({MONTHS_AHEAD})")
        if before is None:  # no older node can be running on it
            connection.exec_driver_sql(SET_FORMAT, (FORMAT,))
        connection.commit()
    return before, newest_revision()


def raise_format(url: str) -> tuple[int, int]:
    """Let the nodes write the events of this version: all of them run it, or a newer one.

    Returns:
        The format before and after.

    Raises:
        StoreUnavailable: the database cannot be reached, or refused.
    """
    try:
        with psycopg.connect(url, connect_timeout=5, application_name="fiscus migrate") as connection:
            row = connection.execute("SELECT min_format FROM fiscus.formats FOR UPDATE").fetchone()
            assert row is not None
            after = max(int(row[0]), FORMAT)
            connection.execute(SET_FORMAT, (after,))
    except psycopg.Error as error:
        raise StoreUnavailable(f"postgresql: {str(error).strip()}") from error
    return int(row[0]), after


def migration_sql() -> str:
    """The SQL of all migrations, for whoever wants to read it or run it by hand."""
    config = _config()
    config.output_buffer = written = io.StringIO()
    alembic.command.upgrade(config, "head", sql=True)
    return written.getvalue()


def run_file(name: str) -> None:
    """Run the statements of a file of this folder, in order; called by a migration."""
    for statement in queries(__package__, name).values():
        op.execute(statement.rstrip().removesuffix(";"))

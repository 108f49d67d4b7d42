"""What Alembic runs: the migrations that are missing, in one transaction, or their SQL."""

from __future__ import annotations

from alembic import context

from fiscus.stores.postgres.migrations import CREATE_SCHEMA, SCHEMA

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", dialect_opts={"paramstyle": "named"}, version_table_schema=SCHEMA)
    context.execute(CREATE_SCHEMA)
    with context.begin_transaction():
        context.run_migrations()
else:
    context.configure(connection=context.config.attributes["connection"], version_table_schema=SCHEMA)
    with context.begin_transaction():
        context.run_migrations()

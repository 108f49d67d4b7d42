"""``fiscus migrate``, and a service on a database before and after it."""

from __future__ import annotations

import pytest

from tests.cli.processes import answer, fiscus, service
from tests.servers.postgres import server

pytestmark = pytest.mark.slow


@pytest.fixture
def url() -> str:
    return server().create_database()


def test_a_service_is_refused_until_the_database_is_migrated(tmp_path, url):
    refused = fiscus(tmp_path, "serve", "--port", "0", code=1, DATABASE_URL=url)
    assert "fiscus migrate" in refused.stderr
    first = answer(tmp_path, "migrate", DATABASE_URL=url)
    assert first["before"] is None
    again = answer(tmp_path, "migrate", DATABASE_URL=url)
    assert again["before"] == again["after"] == first["after"]
    with service(tmp_path, DATABASE_URL=url, FISCUS_KEY_PEPPER="a pepper that is long enough") as one:
        assert one.url


def test_only_databases_are_migrated(tmp_path):
    refused = fiscus(tmp_path, "--store", "sqlite:///fiscus.db", "migrate", code=1)
    assert "postgresql://" in refused.stderr
    assert not (tmp_path / "fiscus.db").exists()


def test_the_sql_can_be_read_without_a_database(tmp_path):
    printed = fiscus(tmp_path, "migrate", "--sql").stdout
    assert "CREATE TABLE fiscus.journal" in printed
    assert printed.index("CREATE SCHEMA") < printed.index("CREATE TABLE")


def test_a_database_that_is_away_is_said_so(tmp_path):
    away = fiscus(tmp_path, "--store", "postgresql://nobody@127.0.0.1:1/none", "migrate", code=1)
    assert "postgresql" in away.stderr

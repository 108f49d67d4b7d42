"""A rolling upgrade: newer nodes write what older ones read until all are new; what cannot be read stops a node."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fiscus.contract.errors import UnknownFormat
from fiscus.core.commands import PutAccount, PutBudget, Request, Reserve
from fiscus.core.events import FORMAT
from fiscus.core.outcomes import AccountAnswer, HoldAnswer
from fiscus.treasury.clock import HostClock
from fiscus.treasury.store import Store
from tests.treasury.desk import Desk


def newer(url: str, what: str) -> str:
    """What the newer version says."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.stores.postgres.newer", url, what],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])},
    )
    return done.stdout.strip().splitlines()[-1]


def desk_of(store: Store) -> Desk:
    desk = Desk(store, HostClock())
    founded = desk.ask(
        Request(command=PutAccount(account="global")),
        Request(command=PutBudget(account="global", unit="tokens", limit=100)),
    )
    assert isinstance(founded[0], AccountAnswer)
    return desk


def test_a_newer_node_writes_nothing_that_an_older_one_cannot_read_until_the_format_is_raised(url, open_node):
    older = desk_of(open_node())
    assert newer(url, "write").startswith(f"not written: Synthetic is not written before format {FORMAT + 1}")
    assert isinstance(older.do(Reserve(id="a", account="global", amounts={"tokens": 10})), HoldAnswer)
    assert older.engine.readiness().ready
    assert newer(url, "raise") == f"{FORMAT} {FORMAT + 1}"
    assert newer(url, "write").startswith("written at")


def test_an_event_of_an_unknown_format_stops_an_older_node_and_nothing_is_admitted_there(url, open_node):
    older = desk_of(open_node())
    newer(url, "raise")
    newer(url, "write")
    answer = older.ask(Request(command=Reserve(id="a", account="global", amounts={"tokens": 10})))[0]
    assert isinstance(answer, UnknownFormat)
    older.after_batch()
    readiness = older.engine.readiness()
    assert not readiness.ready
    assert "unknown_format" in readiness.reasons


def test_an_older_node_is_not_started_where_newer_events_may_be_written(url, open_node):
    newer(url, "raise")
    with pytest.raises(UnknownFormat, match=f"format {FORMAT + 1}, this version reads {FORMAT}"):
        open_node()

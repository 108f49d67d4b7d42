"""Drift in a running service: found, said, stopped and repaired, from outside of the process."""

import json
import sqlite3
import time
import urllib.error
import urllib.request

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from fiscus.core.state import Cell
from tests.cli.processes import LEDGER, answer, fiscus, service

pytestmark = pytest.mark.slow

WAIT_S = 20


def ask(url, path, body=None):
    """Status and what came back."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}{path}", data, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.loads(response.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def metric(url, name):
    with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
        text = response.read().decode()
    return next(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    )


def until(is_so):
    end_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def reserve(url, id):
    return ask(url, "/v1/holds", {"id": id, "account": "agent:a", "amounts": {"tokens": 10}})


# covers E12, E14
def test_a_service_finds_drift_says_so_admits_nothing_and_is_repaired(tmp_path):
    fiscus(tmp_path, "accounts", "put", "agent:a")
    fiscus(tmp_path, "budgets", "put", "agent:a", "tokens", "1000")
    settings = {"FISCUS_DRIFT_CHECK_INTERVAL_S": "1", "FISCUS_LOG_FORMAT": "json"}
    with service(tmp_path, **settings) as running:
        url = running.url
        assert reserve(url, "h1")[0] == 201
        until(lambda: metric(url, "fiscus_drift_checks_total") >= 1)
        assert metric(url, "fiscus_drift_cells") == 0
        assert (tmp_path / f"{LEDGER}.spool" / "drift" / "0" / "fold").exists()
        until(lambda: ask(url, "/ready")[1]["followers_seq"] == ask(url, "/ready")[1]["head_seq"])
        with sqlite3.connect(tmp_path / f"{LEDGER}-views", timeout=10) as views:
            key, body = views.execute("SELECT key, body FROM entities WHERE kind = 2").fetchone()
            cell = msgspec.json.decode(body, type=Cell)
            cell.covered += 7
            views.execute("UPDATE entities SET body = ? WHERE kind = 2 AND key = ?", (msgspec.json.encode(cell), key))
        until(lambda: ask(url, "/ready")[0] == 503)
        ready = ask(url, "/ready")[1]
        assert (ready["reasons"], ready["tenants"]) == (["drift"], {"default": "drift"})
        assert ask(url, "/health")[0] == 200
        assert metric(url, "fiscus_drift_cells") == 1
        status, problem = reserve(url, "h2")
        assert (status, problem["code"]) == (503, "drift")
        assert ask(url, "/v1/holds/h1/settle", {"total": {"tokens": 4}})[0] == 200
        assert answer(tmp_path, "repair")["head_seq"] >= 4
        assert ask(url, "/ready")[0] == 200
        assert reserve(url, "h2")[0] == 201
        until(lambda: metric(url, "fiscus_drift_cells") == 0)
        assert running.stop() == 0
    lines = [json.loads(line) for line in (tmp_path / "service.log").read_text().splitlines()]
    drift = next(line for line in lines if line["event"] == "drift")
    assert (drift["tenant"], drift["place"], drift["account"], drift["budget"]) == (
        "default",
        "views",
        "agent:a",
        "tokens-lifetime",
    )
    assert "covered is 7 and should be 0" in drift["detail"]
    assert "faults" not in fiscus(tmp_path, "verify").stdout


def test_nothing_is_checked_where_it_is_turned_off(tmp_path):
    with service(tmp_path, FISCUS_DRIFT_CHECK_INTERVAL_S="0") as running:
        assert metric(running.url, "fiscus_drift_checks_total") == 0
        assert metric(running.url, "fiscus_drift_cells") == 0
        assert running.stop() == 0

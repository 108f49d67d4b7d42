"""What the engine counts, as a scraper sees it; and that the page of the metrics says neither more nor less."""

import re
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fiscus.api.ledger_metrics import LedgerCollector
from fiscus.contract.treasury import REASONS
from fiscus.core.commands import PutAccount, Request
from fiscus.settings import Settings
from fiscus.stores import open_store
from fiscus.treasury.engine import Engine, Submission
from fiscus.treasury.statistics import SECONDS, SIZES, Histogram
from tests.cli.processes import fiscus, service

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGE = DOCS / "reference" / "metrics.md"
GUIDE = DOCS / "guides" / "observe.md"


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def samples(text):
    return {
        (sample.name, sample.labels.get("le")): sample.value
        for family in families(text).values()
        for sample in family.samples
    }


class Port:
    def deliver(self, answers):
        pass


def test_a_batch_is_seen_in_size_time_and_entries():
    engine = Engine(open_store("memory:"))
    registry = CollectorRegistry()
    LedgerCollector(engine).register(registry)
    wishes = [Request(command=PutAccount(account=f"agent:{number}")) for number in range(3)]
    engine.run_batch([Submission(Port(), number, wish) for number, wish in enumerate(wishes)])
    engine.run_batch([])
    found = samples(generate_latest(registry).decode())
    assert found["fiscus_batch_size_count", None] == 1, "an empty batch is none"
    assert found["fiscus_batch_size_sum", None] == 3
    assert (found["fiscus_batch_size_bucket", "2.0"], found["fiscus_batch_size_bucket", "4.0"]) == (0, 1)
    assert found["fiscus_commit_seconds_count", None] == 1
    assert 0 < found["fiscus_commit_seconds_sum", None] < 1
    assert found["fiscus_head_wait_seconds_count", None] == 1
    assert found["fiscus_entries_total", None] == 3
    assert found["fiscus_commit_errors_total", None] == found["fiscus_defects_total", None] == 0
    assert found["fiscus_epoch", None] == 1
    engine.close()


@pytest.mark.parametrize("bounds", [SIZES, SECONDS])
def test_a_value_at_a_bound_falls_below_it_as_prometheus_has_it(bounds):
    histogram = Histogram(bounds)
    for bound in bounds:
        histogram.add(bound)
    histogram.add(bounds[-1] * 2)
    assert histogram.counts == [1] * (len(bounds) + 1)
    assert histogram.count == len(bounds) + 1


@pytest.mark.slow
def test_every_metric_is_documented_with_its_type_labels_and_meaning_and_no_other(tmp_path):
    fiscus(tmp_path, "accounts", "put", "agent:a")
    (tmp_path / "gateway.toml").write_text(
        '[[upstreams]]\nname = "none"\nfamily = "openai"\nbase_url = "http://127.0.0.1:9"\n', encoding="utf-8"
    )
    with service(tmp_path, FISCUS_GATEWAY_PATH="gateway.toml") as running:
        hold = urllib.request.Request(
            f"{running.url}/v1/holds",
            data=b'{"id": "h", "account": "agent:a", "amounts": {"tokens": 1}}',
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(hold, timeout=10):
            pass
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as response:
            text = response.read().decode()
    rows = [
        [cell.strip() for cell in line.strip("| ").split("|")]
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("`"): (row[1], tuple(re.findall(r"`(\w+)`", row[2])), row[3].strip()) for row in rows}
    shown = {}
    for family in families(text).values():
        if family.name.startswith("dean_"):
            continue  # the guide of the token economy has these
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        assert not family.samples or labels == set(documented[name][1]), name
        shown[name] = (family.type, documented[name][1], family.documentation)
    assert shown == documented


def test_the_guide_says_what_to_do_about_every_reason():
    guide = GUIDE.read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", guide, re.MULTILINE)[: len(REASONS)] == list(REASONS)


def test_the_guide_names_no_metric_and_no_setting_that_there_is_not():
    guide = GUIDE.read_text(encoding="utf-8")
    named = set(re.findall(r"`(fiscus_[a-z_]+)`", guide))
    assert named <= set(re.findall(r"^\| `(\w+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert {"otel_endpoint", "otel_names", "access_log", "log_format", "drift_check_interval_s"} <= set(
        Settings.model_fields
    )

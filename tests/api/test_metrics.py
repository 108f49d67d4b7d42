import pytest
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.parser import text_string_to_metric_families

from fiscus.api import ApiOptions
from fiscus.api.metrics import DURATIONS_S, OTHER, Labels
from tests.api.service import Api, ledger


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def label(**labels: str) -> frozenset[tuple[str, str]]:
    return frozenset(labels.items())


async def test_metrics_are_what_prometheus_reads_and_count_what_happened(api: Api):
    # covers D32
    await api.tree(limit=100)
    hold = {"account": "agent:x", "amounts": {"tokens": 60}}
    await api.post("/v1/holds", hold | {"id": "h1"})
    await api.post("/v1/holds", hold | {"id": "h2"})
    await api.post("/v1/holds", hold | {"id": "h3", "amounts": {"tokens": 500}})
    await api.post("/v1/holds/h1/settle", {"total": {"tokens": 10}, "final": False})
    await api.post("/v1/holds/h1/settle", {"total": {"tokens": 25}})
    batch = {"operations": [{"op": "reserve", **hold, "id": "h4"}, {"op": "settle", "id": "none"}]}
    await api.post("/v1/batch", batch)
    await api.get("/nowhere")
    answer = await api.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found = samples(answer.body.decode())
    assert found["fiscus_holds_total", label(result="held")] == 2
    assert found["fiscus_holds_total", label(result="budget_busy")] == 1
    assert found["fiscus_holds_total", label(result="budget_exceeded")] == 1
    assert found["fiscus_settlements_total", label(result="running")] == 1
    assert found["fiscus_settlements_total", label(result="final")] == 1
    assert found["fiscus_settlements_total", label(result="unknown_hold")] == 1
    assert found["fiscus_settled_amount_total", label(unit="tokens")] == 25
    assert found["fiscus_requests_total", label(method="POST", route="/v1/holds", status="201")] == 1
    assert found["fiscus_requests_total", label(method="POST", route="/v1/holds", status="429")] == 1
    assert found["fiscus_requests_total", label(method=OTHER, route=OTHER, status="404")] == 1
    assert found["fiscus_ready", label()] == 1
    assert found["fiscus_queue_depth", label()] == 0
    assert found["fiscus_journal_seq", label()] == await api.head()


async def test_durations_are_a_histogram_by_route(api: Api):
    await api.tree()
    found = samples((await api.get("/metrics")).body.decode())
    route = {"method": "PUT", "route": "/v1/accounts/{account}"}
    buckets = [
        found["fiscus_request_duration_seconds_bucket", label(**route, le=str(bound))]
        for bound in (*DURATIONS_S, "+Inf")
    ]
    assert buckets == sorted(buckets)
    assert buckets[-1] == found["fiscus_request_duration_seconds_count", label(**route)] == 4
    assert found["fiscus_request_duration_seconds_sum", label(**route)] > 0


async def test_a_scraper_that_asks_for_openmetrics_gets_it(api: Api):
    answer = await api.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert answer.body.endswith(b"# EOF\n")


async def test_what_others_register_is_shown_too():
    registry = CollectorRegistry()
    Counter("of_others", "Not ours.", registry=registry).inc(3)
    async with ledger() as treasury:
        answer = await Api(treasury, ApiOptions(registry=registry)).get("/metrics")
    assert samples(answer.body.decode())["of_others_total", label()] == 3


async def test_metrics_may_be_left_open():
    async with ledger() as treasury:
        options = {"key_pepper": b"pepper", "keys_required": True}
        assert (await Api(treasury, ApiOptions(**options)).get("/metrics")).status == 401
        assert (await Api(treasury, ApiOptions(**options, metrics_open=True)).get("/metrics")).status == 200


@pytest.mark.parametrize("values_max", [1, 3])
def test_a_label_has_no_more_values_than_its_bound_and_the_rest_is_other(values_max: int):
    labels = Labels(values_max)
    for value in range(10):
        labels.add(str(value))
        labels.add("0")
    assert len(labels.counts) == values_max + 1
    assert labels.counts["0"] == 11
    assert labels.counts[OTHER] == 10 - values_max

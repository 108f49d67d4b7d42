"""Every line on standard error is one JSON object where that is asked for, whoever wrote it; and none has a secret."""

import json
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.cli.processes import fiscus, service

WRITERS = """
import asyncio, logging, threading, warnings
import structlog
from fiscus.cli.logs import configure_logging
from fiscus.contract.logs import get_logger

configure_logging("info", "json")
structlog.get_logger().info("ours", account_number=3)
structlog.get_logger().debug("too_little")
get_logger("fiscus.spool").warning("spooled", id="h1", requests=2)
logging.getLogger("uvicorn.error").warning("Invalid %s", "request")
logging.getLogger("uvicorn.error").info("too little")
warnings.warn("two\\nlines")
local = "a secret value"
try:
    raise ValueError("first\\nsecond")
except ValueError:
    structlog.get_logger().exception("caught")
    logging.getLogger("asyncio").exception("caught too")
thread = threading.Thread(target=lambda: 1 / 0)
thread.start()
thread.join()
raise KeyError("at the end")
"""

SECRETS = {
    "key": "sk-canary-secret-of-a-key",
    "prompt": "canary-prompt-of-a-person",
    "answer": "canary-answer-of-a-model",
    "bootstrap": "canary-bootstrap-secret",
    "pepper": "canary-pepper-of-the-service",
}


def test_lines_of_everybody_are_json_objects_with_event_level_and_time():
    done = subprocess.run([sys.executable, "-c", WRITERS], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("ours", "info"),
        ("spooled", "warning"),
        ("Invalid request", "warning"),
        ("<string>:13: UserWarning: two\nlines\n", "warning"),
        ("caught", "error"),
        ("caught too", "error"),
        ("uncaught", "critical"),
        ("uncaught", "critical"),
    ]
    assert all(line["time"].endswith("Z") for line in lines)
    assert (lines[0]["account_number"], lines[1]["id"], lines[1]["requests"]) == (3, "h1", 2)
    assert [line["exception"].splitlines()[-2:] for line in lines[4:6]] == [["ValueError: first", "second"]] * 2
    assert "ZeroDivisionError" in lines[6]["exception"]
    assert lines[7]["exception"].endswith("KeyError: 'at the end'")
    assert "a secret value" not in done.stderr


def request(url, path, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = urllib.request.Request(f"{url}{path}", data=data, headers={"Content-Type": "application/json"} | headers)
    try:
        with urllib.request.urlopen(asked, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.slow
def test_a_service_logs_neither_keys_nor_contents_whatever_is_sent(tmp_path):
    settings = {
        "FISCUS_BOOTSTRAP_KEY": SECRETS["bootstrap"],
        "FISCUS_KEY_PEPPER": SECRETS["pepper"],
        "FISCUS_LOG_FORMAT": "json",
        "FISCUS_LOG_LEVEL": "debug",
        "FISCUS_ACCESS_LOG": "true",
    }
    contents = {"prompt": SECRETS["prompt"], "answer": SECRETS["answer"]}
    own = {"Authorization": f"Bearer {SECRETS['bootstrap']}"}
    with service(tmp_path, **settings) as running:
        url = running.url
        assert request(url, "/v1/holds", {"id": "h", "account": "a", "amounts": {"tokens": 1}} | contents, **own) == 422
        assert request(url, "/v1/holds", b"{" + json.dumps(contents).encode(), **own) == 400
        assert request(url, "/v1/holds", {"id": SECRETS["prompt"] * 9, "account": "a"}, **own) == 422
        assert request(url, f"/v1/holds/{SECRETS['prompt']}/settle?{SECRETS['answer']}", {"total": {}}, **own) >= 400
        assert request(url, "/v1/holds", contents, Authorization=f"Bearer {SECRETS['key']}") == 401
        assert request(url, f"/{SECRETS['prompt']}", contents, **own) == 404
        assert running.stop() == 0
    text = (tmp_path / "service.log").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["status"] for line in lines if line["event"] == "request"][:3] == [422, 400, 422]
    assert lines[-1]["event"] == "service_stopped"
    assert all({"event", "level", "time"} <= line.keys() for line in lines)
    assert [name for name, secret in SECRETS.items() if secret in text] == []


@pytest.mark.slow
def test_there_is_no_access_log_unless_it_is_asked_for(tmp_path):
    fiscus(tmp_path, "accounts", "put", "agent:a")
    with service(tmp_path, FISCUS_LOG_FORMAT="json") as running:
        assert request(running.url, "/v1/holds", {"id": "h", "account": "agent:a", "amounts": {"tokens": 1}}) == 201
        running.stop()
    events = [json.loads(line)["event"] for line in (tmp_path / "service.log").read_text().splitlines()]
    assert "request" not in events

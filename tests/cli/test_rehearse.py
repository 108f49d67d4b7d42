"""``fiscus rehearse``: the same of a service, in process, and as the API says it."""

import json
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.cli.processes import answer, fiscus, service

LOWER = """\
[[accounts]]
account = "org"
budgets = [{ unit = "tokens", limit = 600 }]
"""
FAULTY = LOWER + '[[accounts]]\naccount = "agent:x"\nparent = "nowhere"\n'


def post(url: str, path: str, body: dict[str, Any]) -> Any:
    request = Request(f"{url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request, timeout=30) as response:
        return json.loads(response.read())


@pytest.mark.slow
def test_a_file_is_rehearsed_the_same_of_a_service_in_process_and_over_http(tmp_path):
    (tmp_path / "lower.toml").write_text(LOWER)
    (tmp_path / "faulty.toml").write_text(FAULTY)
    with service(tmp_path) as running:
        fiscus(tmp_path, "accounts", "put", "org")
        fiscus(tmp_path, "accounts", "put", "agent:x", "--parent", "org")
        for index, tokens in enumerate((250, 300, 100)):
            post(running.url, "/v1/holds", {"id": f"h{index}", "account": "agent:x", "amounts": {"tokens": tokens}})
            settled = post(running.url, f"/v1/holds/h{index}/settle", {"total": {"tokens": tokens}})
            assert settled["state"] == "settled"
        with urlopen(f"{running.url}/ready", timeout=30) as response:
            head = json.loads(response.read())["head_seq"]
        declared = {"accounts": [{"account": "org", "budgets": [{"unit": "tokens", "limit": 600}]}]}
        told = post(running.url, f"/v1/rehearsals?min_seq={head}", declared)
        assert answer(tmp_path, "rehearse", "lower.toml") == told
        wrong = fiscus(tmp_path, "rehearse", "faulty.toml", code=1).stderr
        assert "faulty.toml:6: accounts[1].parent: unknown parent nowhere" in wrong
    in_process = answer(tmp_path, "rehearse", "lower.toml")
    assert {**in_process, "as_of_seq": 0} == {**told, "as_of_seq": 0}
    assert (told["totals"]["admitted"], told["totals"]["refused"]) == (2, 1)
    wrong = fiscus(tmp_path, "rehearse", "faulty.toml", code=1).stderr
    assert "faulty.toml:6: accounts[1].parent: unknown parent nowhere" in wrong
    shown = fiscus(tmp_path, "rehearse", "lower.toml", "--refusals", "1")
    assert "3 calls: 2 would have been admitted, 1 refused" in shown.stdout
    assert "org / tokens-lifetime" in shown.stdout
    assert "not in the journal" in shown.stderr
    limited = answer(tmp_path, "rehearse", "lower.toml", "--limit", "1", "--since", "2020-01-01")
    assert (limited["totals"]["calls"], limited["next"] is not None) == (1, True)


@pytest.mark.slow
def test_a_faulty_file_is_told_before_any_ledger_is_asked(tmp_path):
    (tmp_path / "faulty.toml").write_text(
        '[[accounts]]\naccount = "org"\nbudgets = [{ unit = "tokens", limit = -5 }]\n'
    )
    wrong = fiscus(tmp_path, "rehearse", "faulty.toml", code=1).stderr
    assert "faulty.toml:3: accounts[0].budgets[0].limit: must be in 0" in wrong

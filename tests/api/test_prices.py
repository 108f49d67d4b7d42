"""Prices over HTTP: who may state them, who reads them, and bad ones (R12)."""

from tests.api.service import FIRST_SECRET
from tests.api.test_keys import issued


async def test_only_administrators_state_prices_and_the_journal_says_who_it_was(keyed):
    body = {"provider": "vllm", "model": "llama", "rates": {"input": 1, "output": 2}}
    for role in ("operator", "viewer"):
        key = (await issued(keyed, role=role))["secret"]
        assert (await keyed.put("/v1/prices/p", body, key=key)).status == 403
        assert (await keyed.get("/v1/prices", key=key)).status == 200
    admin = await issued(keyed, role="admin")
    answer = await keyed.put("/v1/prices/p", body, key=admin["secret"])
    assert (answer.status, answer.json["active"]) == (200, True)
    entry = (await keyed.get("/v1/journal?kinds=price_put", key=FIRST_SECRET)).json["entries"][0]
    assert entry["data"]["actor"] == admin["id"]
    assert (await keyed.delete("/v1/prices/p", key=admin["secret"])).json["active"] is False
    assert (await keyed.delete("/v1/prices/q", key=admin["secret"])).code == "unknown_price"
    for wrong, field in (({"rates": {"input": 1}}, "rates.output"), ({"rates": {"input": "1"}}, "rates.input")):
        answer = await keyed.put("/v1/prices/p", body | wrong, key=admin["secret"])
        assert (answer.status, answer.json["field"]) == (422, field), answer.json

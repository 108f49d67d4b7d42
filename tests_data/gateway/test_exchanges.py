"""Every recorded exchange that the gateway has a route for, through it: what the provider sent comes, and is booked."""

from collections import Counter

from tests_data.dialects.recorded import exchanges
from tests_data.gateway.replay import received, replayed, tells_input, tells_output, usage_of


async def test_what_was_recorded_comes_through_and_is_booked_as_recorded():
    spoken = exchanges()
    answers = await replayed(spoken)
    refused, altered, wrong, told, silent = Counter(), [], [], 0, Counter()
    for exchange, (status, body, booking) in zip(spoken, answers, strict=True):
        if status != exchange.status and b'"fiscus"' in body:
            refused[(exchange.dialect, body[:150])] += 1
            continue
        if (status, body) != (exchange.status, received(exchange)):
            altered.append((exchange.id, status, exchange.status, body[:200], received(exchange)[:200]))
        usage = usage_of(exchange, booking)
        if usage is None:
            continue
        told += 1
        silent["input"] += not tells_input(exchange)
        silent["output"] += not tells_output(exchange)
        if usage[0] != usage[1]:
            wrong.append((exchange.id, *usage))
    print(f"usage_matches = {told - len(wrong)} of {told}")
    assert wrong == []
    assert altered == []
    assert refused == {}
    assert told > 2_300
    assert silent == {"input": 2, "output": 1}

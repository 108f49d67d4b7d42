"""What recorded answers say that they used, whichever way their bytes arrive."""

import random

import pytest

from fiscus.dialects import DIALECTS, Event
from tests_data.dialects.recorded import EXCHANGES, PLACES, chunks, dialect_of_shape, exchanges, expected, lines

TOLD = [one for one in exchanges() if one.status == 200 and expected(one.dialect, one.usage) is not None]
STREAMS = [one for one in exchanges() if one.stream]
BYTEWISE_MAX = 60_000


def metered(exchange, pieces):
    """The meter after all pieces, and the bytes of all events."""
    dialect = DIALECTS[exchange.dialect]
    meter = dialect.meter(exchange.content_type)
    if not exchange.stream:
        meter.read(b"".join(pieces))
        return meter, exchange.body
    events, stream = [], dialect.events(exchange.content_type)
    for piece in pieces:
        events += stream.feed(piece)
    events += stream.flush()
    for event in events:
        meter.feed(event)
    return meter, b"".join(event.raw for event in events)


def test_there_are_as_many_as_the_data_has():
    assert len(TOLD) > 2_000
    assert len(STREAMS) > 350
    assert {one.dialect for one in TOLD} == {name for name, dialect in DIALECTS.items() if dialect.metered}


@pytest.mark.parametrize("dialect", sorted({one.dialect for one in TOLD}))
def test_the_usage_is_the_recorded_one(dialect):
    wrong = []
    for exchange in TOLD:
        if exchange.dialect == dialect:
            usage = metered(exchange, [exchange.body])[0].usage()
            found = (usage.tokens.input, usage.tokens.output) if usage is not None else None
            if found != expected(dialect, exchange.usage):
                wrong.append((exchange.id, found, expected(dialect, exchange.usage)))
    assert wrong == []


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_same_however_the_bytes_are_split_and_they_are_passed_on_as_they_came(seed):
    chance = random.Random(seed)
    for exchange in STREAMS:
        whole, passed_on = metered(exchange, [exchange.body])
        assert passed_on == exchange.body
        if seed == 0:
            pieces = [exchange.body[at : at + 1] for at in range(len(exchange.body))]
            if len(pieces) > BYTEWISE_MAX:
                continue
        else:
            cuts = sorted(chance.sample(range(len(exchange.body)), min(20, len(exchange.body))))
            pieces = list(chunks(exchange.body, cuts))
        again, passed_on = metered(exchange, pieces)
        assert passed_on == exchange.body, exchange.id
        for name in ("response_id", "model", "service_tier", "produced", "finish_reasons", "ended", "error"):
            assert getattr(again, name) == getattr(whole, name), exchange.id
        assert again.usage() == whole.usage(), exchange.id


def test_fixtures_of_other_frameworks_are_read_alike():
    read, wrong = 0, []
    for one in lines(EXCHANGES / "vercel_ai_fixtures.jsonl.gz"):
        name = dialect_of_shape(one["body"])
        told = tuple(usage["v"] for usage in one["usage"] or () if usage["at"] in PLACES)
        if name is None or expected(name, told) is None:
            continue
        meter = DIALECTS[name].meter("text/event-stream")
        if one["kind"] == "json":
            meter.read(one["body"].encode())
        else:
            for line in one["body"].splitlines():
                meter.feed(Event(raw=line.encode(), data=line.encode()))
        usage = meter.usage()
        found = (usage.tokens.input, usage.tokens.output) if usage is not None else None
        read += 1
        if found != expected(name, told):
            wrong.append((one["id"], found, expected(name, told)))
    assert wrong == []
    assert read > 90


def test_an_answer_that_tells_nothing_has_no_usage():
    silent = [one for one in exchanges() if one.status == 200 and expected(one.dialect, one.usage) is None]
    assert len(silent) > 100
    for exchange in silent:
        assert metered(exchange, [exchange.body])[0].usage() is None, exchange.id


def test_what_was_produced_is_seen():
    for exchange in TOLD:
        meter, _ = metered(exchange, [exchange.body])
        usage = meter.usage()
        if usage.tokens.output > 40 and exchange.dialect != "openai.embeddings":
            assert sum(one.characters for one in meter.produced.values()) > 0, exchange.id


def test_streams_that_ended_are_known_from_those_that_were_cut():
    cut = [one.id for one in STREAMS if not metered(one, [one.body])[0].ended]
    assert len(cut) < 10, cut

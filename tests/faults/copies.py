"""Whether the copy in Redis has all that the ledger has."""

from __future__ import annotations

import time

import redis

from fiscus.contract.treasury import Readiness
from tests.faults.nodes import Node
from tests.servers.valkey import Server

SEQ = "fiscus:default:seq"


def is_current(found: Readiness) -> bool:
    """Whether it has what this node knows of."""
    copy = found.live_state
    return copy is not None and copy.state == "current" and copy.as_of_seq >= found.head_seq


def wait_until_copied(server: Server, node: Node, within_s: float = 30) -> float:
    """Wait until a plain client sees everything up to the present head; returns after how many seconds."""
    began = time.monotonic()
    head_seq = node.readiness().head_seq
    said: object = None
    while time.monotonic() - began < within_s:
        try:
            with server.client() as client:
                said = client.get(SEQ)
            if said is not None and int(str(said)) >= head_seq:
                return time.monotonic() - began
        except redis.RedisError as error:
            said = error
        time.sleep(0.01)
    raise AssertionError(f"Redis has {said} and not {head_seq} after {within_s} s\n{node.log[-2_000:]}")

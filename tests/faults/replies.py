"""Replies are lost between client and node: the client asks again with the same id, at the same node or another one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack

from fiscus.client import RemoteTreasury
from fiscus.core.commands import Request, Reserve, Transfer
from fiscus.core.outcomes import Refused
from tests.faults.conclusion import conclude
from tests.faults.finding import Finding
from tests.faults.load import Load, founding
from tests.faults.nodes import Node, ground
from tests.history.calls import Call
from tests.servers.postgres import PostgresServer, server
from tests.servers.proxy import Proxy

ROUNDS = 2_000
QUICK = 60
SHARE = 0.2
AGAIN = 300


def finding() -> Finding:
    return Finding(
        "replies",
        "One reply in five is thrown away between client and node after the node has sent it, with the connection; the "
        "client asks again with the same id, now here, now at the other node. At the end the last operations are asked "
        "once more.",
        "E7: double effects 0",
    )


def run(rounds: int = ROUNDS, *, postgres: PostgresServer | None = None) -> Finding:
    """Until so many replies have been lost."""
    found = finding()
    with ground(founding(), postgres=postgres) as place, ExitStack() as stack:
        nodes = [place.node(), place.node()]
        proxies = [stack.enter_context(Proxy(node.port, seed=number)) for number, node in enumerate(nodes)]
        urls = [f"http://127.0.0.1:{proxy.port}" for proxy in proxies]
        for proxy in proxies:
            proxy.lose_replies = SHARE
        with Load(nodes, "reply", urls=urls) as load:
            deadline = time.monotonic() + 120
            while sum(proxy.replies_lost for proxy in proxies) < rounds and time.monotonic() < deadline:
                load.wait_for_answers(10)
            told = load.stop()
        found.rounds = sum(proxy.replies_lost for proxy in proxies)
        found.expect(found.rounds >= rounds, f"only {found.rounds} replies were lost in the time")
        other_answers = 0
        kept = [call for call in told.calls if not isinstance(call.outcome, Refused)]
        last = [call for call in kept if isinstance(call.command, Reserve | Transfer)][-AGAIN:]
        other_answers += sum(again != call.outcome for call, again in zip(last, _again(nodes[1], last), strict=True))
        found.expect(other_answers == 0, f"{other_answers} repeated operations were answered otherwise")
        conclude(found, place, told)
    found.figures |= {"double_effects": found.doubled, "attempts": told.attempts, "asked_again_wrong": other_answers}
    return found


def _again(node: Node, calls: Sequence[Call]) -> list[object]:
    """The answers to operations that are asked for once more."""

    async def ask() -> list[object]:
        treasury = RemoteTreasury(node.url)
        try:
            return [await treasury.execute(Request(command=call.command, idempotency_key=call.key)) for call in calls]
        finally:
            await treasury.close()

    return asyncio.run(ask())


def quick() -> Finding:
    """A short sample."""
    return run(QUICK, postgres=server())

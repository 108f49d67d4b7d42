"""The gateway as ``fiscus serve`` runs it: ``python -m bench.gateway_serving STORE_URL UPSTREAM``.

Prints its port once it listens, and ends with SIGTERM. ``UPSTREAM``: what stands before ``/chat/completions``.
"""

from __future__ import annotations

import sys

from bench.gateway_wire import SECRET
from fiscus.app import LedgerOptions, ServiceOptions, Started, serve
from fiscus.gateway.options import GatewayOptions, Upstream


def serve_gateway(store_url: str, upstream: str) -> None:
    """Every setting at its default; one key, which may name any account."""

    def started(service: Started) -> None:
        print(service.url.rsplit(":", 1)[1], flush=True)

    gateway = GatewayOptions(upstreams=(Upstream(name="bench", family="openai", base_url=upstream),))
    ledger = LedgerOptions(store_url=store_url)
    serve(ServiceOptions(ledger=ledger, port=0, bootstrap_key=SECRET, gateway=gateway), started)


if __name__ == "__main__":
    serve_gateway(sys.argv[1], sys.argv[2])

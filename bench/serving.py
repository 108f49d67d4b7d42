"""The two servers that are compared, each one worker process: ``python -m bench.serving fiscus URL`` or ``echo``.

Each prints its port once it listens, and ends with SIGTERM.
"""

from __future__ import annotations

import asyncio
import sys

import uvicorn
import uvloop

from bench.echo import app
from fiscus.app import LedgerOptions, ServiceOptions, Started, listen, serve


def serve_fiscus(store_url: str) -> None:
    """The service as ``fiscus serve`` runs it, every setting at its default."""

    def started(service: Started) -> None:
        print(service.url.rsplit(":", 1)[1], flush=True)

    serve(ServiceOptions(ledger=LedgerOptions(store_url=store_url), port=0), started)


def serve_echo() -> None:
    """The echo, with uvicorn set as ``fiscus serve`` sets it."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
    )
    print(listener.getsockname()[1], flush=True)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(uvicorn.Server(config).serve(sockets=[listener]))


if __name__ == "__main__":
    serve_fiscus(sys.argv[2]) if sys.argv[1] == "fiscus" else serve_echo()

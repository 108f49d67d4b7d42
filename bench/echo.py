"""What HTTP costs by itself here: a bare JSON echo on Starlette, msgspec and uvicorn, at the addresses of Fiscus."""

from __future__ import annotations

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def reserve(request: Request) -> Response:
    """Decode the body and send it back, with the status that Fiscus would answer."""
    return Response(msgspec.json.encode(msgspec.json.decode(await request.body())), 201, media_type="application/json")


async def settle(request: Request) -> Response:
    """The same, as a settlement."""
    return Response(msgspec.json.encode(msgspec.json.decode(await request.body())), media_type="application/json")


app = Starlette(
    routes=[
        Route("/v1/holds", reserve, methods=["POST"]),
        Route("/v1/holds/{id}/settle", settle, methods=["POST"]),
    ]
)

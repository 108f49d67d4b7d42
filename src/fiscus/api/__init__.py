"""The HTTP API: ``create_app(treasury, options)`` makes the ASGI application, and ``JoiningProtocol`` serves it."""

from fiscus.api.application import Application, create_app
from fiscus.api.keys import Caller, store_first_key
from fiscus.api.options import ApiOptions
from fiscus.api.protocol import JoiningProtocol

__all__ = ["ApiOptions", "Application", "Caller", "JoiningProtocol", "create_app", "store_first_key"]

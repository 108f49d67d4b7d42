"""The HTTP API: ``create_app(treasury, options)`` makes the ASGI application."""

from fiscus.api.application import Application, create_app
from fiscus.api.keys import Caller, store_first_key
from fiscus.api.options import ApiOptions

__all__ = ["ApiOptions", "Application", "Caller", "create_app", "store_first_key"]

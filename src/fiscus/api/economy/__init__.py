"""The token economy API, as other programs already call it, on the treasury's ledger."""

from fiscus.api.economy.metrics import EconomyMetrics
from fiscus.api.economy.openapi import economy_paths, economy_schemas
from fiscus.api.economy.routes import economy_routes
from fiscus.api.economy.service import TokenEconomy

__all__ = ["EconomyMetrics", "TokenEconomy", "economy_paths", "economy_routes", "economy_schemas"]

"""What calls cost and how many tokens they have: a price book over dated prices, and counting offline."""

from fiscus.pricing.book import Comparison, PriceBook
from fiscus.pricing.overrides import OverrideTier, PriceOverride
from fiscus.pricing.price import Extras, Price, UnknownPolicy, UnknownPrice

__all__ = [
    "Comparison",
    "Extras",
    "OverrideTier",
    "Price",
    "PriceBook",
    "PriceOverride",
    "UnknownPolicy",
    "UnknownPrice",
]

"""What calls cost and how many tokens they have: a price book over dated prices, and counting offline."""

from fiscus.pricing.book import Comparison, PriceBook
from fiscus.pricing.counting import Count, count, count_body, count_tokens_with_tools, estimate_tokens, total_tokens
from fiscus.pricing.limits import output_tokens_known, output_tokens_max
from fiscus.pricing.margins import Margin, Margins
from fiscus.pricing.overrides import OverrideTier, PriceOverride
from fiscus.pricing.price import NO_EXTRAS, Extras, Price, UnknownPolicy, UnknownPrice, WorstCase
from fiscus.pricing.prompt import DialectName, Unseen
from fiscus.pricing.tokenizers import Label

__all__ = [
    "NO_EXTRAS",
    "Comparison",
    "Count",
    "DialectName",
    "Extras",
    "Label",
    "Margin",
    "Margins",
    "OverrideTier",
    "Price",
    "PriceBook",
    "PriceOverride",
    "UnknownPolicy",
    "UnknownPrice",
    "Unseen",
    "WorstCase",
    "count",
    "count_body",
    "count_tokens_with_tools",
    "estimate_tokens",
    "output_tokens_known",
    "output_tokens_max",
    "total_tokens",
]

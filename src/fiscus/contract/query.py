"""What every question to a ledger has in common."""

from __future__ import annotations

from typing import dataclass_transform

import msgspec

PAGE_LENGTH_MAX = 1_000
PAGE_LENGTH_DEFAULT = 100


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Query(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="query"):
    """A question. ``scope`` restricts it to one account and all below; ``min_seq`` waits for one's own write."""

    tenant: str = "default"
    scope: str | None = None
    min_seq: int = 0

"""What could be configured of the token manager while it ran (R12, R22), and where that is set here."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fiscus.core.outcomes import Refused

AT_THE_START = "it is read at the start"
OPTIONS: dict[str, str] = {
    "buffer_size": "nothing waits in a buffer: what is answered is durable",
    "flush_interval": "nothing waits in a buffer: what is answered is durable",
    "retention_days": f"{AT_THE_START}: set FISCUS_RETENTION_DAYS, or retention_days in fiscus.toml, and restart",
    "alert_channels": f"{AT_THE_START}: the channels stand in the file that FISCUS_ALERTS_PATH names",
    "budget_check_mode": "calls are checked before they are made, always; put_budget changes a budget's mode",
    "optimization_enabled": "recommendations are made when they are asked for, and change nothing",
    "pricing": "prices are changed with update_pricing",
}
"""Options of the token manager → why they are not set while it runs, or by which command they are."""

OTHERS = (
    "see `fiscus settings`: settings are read at the start; budgets, templates and prices have commands of their own"
)


class ManagerView(msgspec.Struct, frozen=True, kw_only=True):
    """Options of the token manager, each with where it is set."""

    options: dict[str, str]


def configured(names: Iterable[str]) -> ManagerView | Refused:
    """What becomes of a wish to set options while the ledger runs: none of them is, so the first is refused by name.

    >>> configured(["retention_days"]).field
    'retention_days'
    """
    for name in names:
        detail = f"{name:.100}: is not set while the ledger runs; {OPTIONS.get(name, OTHERS)}"
        return Refused(code="invalid", detail=detail, field=name[:100])
    return ManagerView(options=OPTIONS)

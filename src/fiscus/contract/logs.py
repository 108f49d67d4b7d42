"""Logs of the parts that run in other people's programs too: through ``logging``, silent below a warning."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

import structlog

FIELDS = "fiscus_fields"
"""Attribute of a record that has its event and values, for whoever formats it otherwise."""

_logfmt = structlog.processors.LogfmtRenderer(key_order=["event"])


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """A structured logger under the standard one of this name: ``event=settlement_spooled id=… error=…``."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    return logger


def _as_record(logger: Any, method: str, event: MutableMapping[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """The text of the record, and the values beside it."""
    exception = {"exc_info": event.pop("exc_info")} if "exc_info" in event else {}
    fields = dict(event)
    text = _logfmt(logger, method, event)
    return ("%s", text), {"extra": {FIELDS: fields}, **exception}

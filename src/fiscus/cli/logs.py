"""Where logs go: the edge of the process decides, the code inside only logs."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import MutableMapping
from typing import Any


def configure_logging(level: str, style: str, *processors: Any) -> None:
    """Send what is logged to standard error, from ``level`` on, as lines for people or as one JSON object a line.

    That holds for our own lines (structlog), those of libraries (``logging``, warnings and errors only), Python's
    warnings, and exceptions that nobody caught.

    Args:
        level: of ours; ``debug``, ``info``, ``warning`` or ``error``.
        style: ``text`` or ``json``.
        processors: of structlog; they add to every line.
    """
    import structlog

    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Any] = [
        *processors,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = structlog.processors.JSONRenderer(default=str)
    if style != "json":
        # Tracebacks as Python writes them: the other formatters show the values of variables.
        renderer = structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(), timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # a line is one write, whoever else writes
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, _take_fields, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.getLogger("fiscus").setLevel(number)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _take_fields(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What our own loggers under ``logging`` have put beside their text."""
    from fiscus.contract.logs import FIELDS

    fields = getattr(event["_record"], FIELDS, None)
    if fields is not None:
        event.update(fields)
    return event


def _log_uncaught(kind: type[BaseException], error: BaseException, _traceback: Any) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger("fiscus").critical("uncaught", exc_info=error)


def _log_uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None:
        logging.getLogger("fiscus").critical("uncaught", exc_info=found.exc_value)

"""How answers look: tables and lines for people, one JSON object a line for programs, progress only on a terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

import msgspec

from fiscus.contract.errors import ConfigurationInvalid, FiscusError, Refusal
from fiscus.core.outcomes import Balance
from fiscus.core.units import AMOUNT_MAX, NANOUSD_PER_USD, UNITS, Amounts, Unit

WIDTH_PIPED_COLUMNS = 400
"""Nothing is folded or cut when the reader is not a terminal."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Progress(Protocol):
    """What long work reports to."""

    def __call__(self, done: int, total: int | None = None) -> None:
        """Say how much of the work is done, and of how much if that is known."""
        ...


class Output:
    """Where a command's answer goes: standard output, as text or as JSON lines."""

    def __init__(self, *, json: bool) -> None:
        self.json = json

    def answer(self, value: Any, text: str) -> None:
        """Write one answer: ``value`` as a JSON object, or ``text``."""
        if self.json:
            write_json(value)
        else:
            write_line(text)

    def rows(self, values: Sequence[Any], columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Write many answers of one kind: each of ``values`` as a JSON object, or ``rows`` as a table."""
        if self.json:
            for value in values:
                write_json(value)
        else:
            write_table(columns, rows)


def write_json(value: Any) -> None:
    """Write one object on one line."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def write_line(text: str) -> None:
    """Write text that may hold names from outside: their control characters never reach the terminal."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def write_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table; a column whose heading ends with ``>`` is aligned to the right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in columns:
        table.add_column(column.rstrip(">"), justify="right" if column.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    terminal = sys.stdout.isatty()
    Console(file=sys.stdout, width=None if terminal else WIDTH_PIPED_COLUMNS, highlight=False).print(table)


def write_error(error: FiscusError, *, json: bool) -> None:
    """Write one clear line on standard error; with ``json`` an object with ``code``, ``detail`` and the refusal."""
    if json:
        told: dict[str, Any] = {"code": error.code, "detail": str(error), "retryable": error.retryable}
        if isinstance(error, Refusal):
            told["refused"] = error.refused
        sys.stderr.write(msgspec.json.encode({"error": told}).decode() + "\n")
    else:
        sys.stderr.write(f"fiscus: {printable(str(error))}\n")


def write_note(text: str) -> None:
    """Tell people something beside the answer, on standard error."""
    sys.stderr.write(printable(text) + "\n")


@contextmanager
def progress(what: str) -> Iterator[Progress]:
    """Show a bar on standard error while long work runs, if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done, total=None: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total=None: bars.update(task, completed=done, total=total)


def printable(text: str) -> str:
    """The text without control characters (other than tab and newline)."""
    return _CONTROL.sub("\ufffd", text)


def amount_text(unit: Unit, amount: int) -> str:
    """An amount for people: nano-USD as dollars, all others as integers with separators.

    >>> amount_text("cost", 1_250_000_000), amount_text("tokens", 12_000), amount_text("cost", -1)
    ('$1.25', '12,000', '-$0.000000001')
    """
    if unit != "cost":
        return f"{amount:,}"
    dollars, rest = divmod(abs(amount), NANOUSD_PER_USD)
    digits = f"{rest:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}${dollars:,}.{digits}"


def amounts_text(amounts: Amounts) -> str:
    """Amounts per unit on one line."""
    return ", ".join(f"{unit} {amount_text(unit, amount)}" for unit, amount in amounts.items())


def read_amount(unit: Unit, text: str) -> int:
    """An amount as people write it: an integer (``1_000`` too); for ``cost`` nano-USD, or dollars as ``$1.25``.

    Raises:
        ConfigurationInvalid: it is not one, is finer than a nano-USD, or is beyond 2^53 − 1.

    >>> read_amount("cost", "$1.25"), read_amount("tokens", "-1_000")
    (1250000000, -1000)
    """
    sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
    try:
        if unit == "cost" and digits.startswith("$"):
            amount = Decimal(digits[1:].replace(",", "")) * NANOUSD_PER_USD
            if not amount.is_finite() or amount != amount.to_integral_value():
                raise ConfigurationInvalid(f"{text}: an amount in dollars has at most nine decimals")
        else:
            amount = Decimal(int(digits))
    except (ValueError, InvalidOperation) as error:
        allowed = "an integer of nano-USD, or dollars as $1.25" if unit == "cost" else "an integer"
        raise ConfigurationInvalid(f"{text}: an amount of {unit} is {allowed}") from error
    if not 0 <= amount <= AMOUNT_MAX:
        raise ConfigurationInvalid(f"{text}: an amount lies in 0 … 2^53 - 1")
    return sign * int(amount)


def read_amounts(pairs: Sequence[str]) -> Amounts:
    """Amounts written as ``tokens=1000``.

    Raises:
        ConfigurationInvalid: a pair is not ``UNIT=AMOUNT``.
    """
    amounts: Amounts = {}
    for name, amount in read_pairs(pairs).items():
        unit = next((unit for unit in UNITS if unit == name), None)
        if unit is None:
            raise ConfigurationInvalid(f"{name}: a unit is one of {', '.join(UNITS)}")
        amounts[unit] = read_amount(unit, amount)
    return amounts


def read_pairs(pairs: Sequence[str]) -> dict[str, str]:
    """Words written as ``key=value``.

    Raises:
        ConfigurationInvalid: one has no ``=``, or names a key twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise ConfigurationInvalid(f"{pair}: write it as key=value")
        if key in found:
            raise ConfigurationInvalid(f"{pair}: {key} is given twice")
        found[key] = value
    return found


def time_text(time: datetime | None) -> str:
    """A time for people, in UTC, to the second; nothing for None."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ") if time else ""


def pairs_text(pairs: Mapping[Any, Any]) -> str:
    """``a=1 b=2``."""
    return " ".join(f"{key}={value}" for key, value in pairs.items())


BALANCE_COLUMNS = ("unit", "limit>", "spent>", "held>", "quarantined>", "available>", "window ends")


def balance_row(balance: Balance) -> tuple[str, ...]:
    """The cells of ``BALANCE_COLUMNS`` for one balance."""
    amounts = (balance.limit, balance.spent, balance.held, balance.quarantined, balance.available)
    return (balance.unit, *(amount_text(balance.unit, amount) for amount in amounts), time_text(balance.window_end))

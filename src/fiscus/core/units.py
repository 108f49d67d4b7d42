"""What is counted, and how much of it one number may hold."""

from __future__ import annotations

from typing import Literal, get_args

Unit = Literal["tokens", "input_tokens", "output_tokens", "cost", "calls"]
"""``tokens`` = input + output; ``cost`` is in nano-USD; ``calls`` are model calls."""

Amounts = dict[Unit, int]
"""An amount per unit, each an integer in 0 … ``AMOUNT_MAX``; a unit that is absent is not bounded (or nothing)."""

UNITS: tuple[Unit, ...] = get_args(Unit)
AMOUNT_MAX = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly."""

NANOUSD_PER_USD = 1_000_000_000


def completed(amounts: Amounts) -> Amounts:
    """Amounts with what follows from them: ``calls`` is 1 unless said, ``tokens`` is input + output when both are said.

    >>> completed({"input_tokens": 10, "output_tokens": 5})
    {'input_tokens': 10, 'output_tokens': 5, 'tokens': 15, 'calls': 1}
    """
    whole = dict(amounts)
    if "tokens" not in whole and "input_tokens" in whole and "output_tokens" in whole:
        whole["tokens"] = whole["input_tokens"] + whole["output_tokens"]
    if "calls" not in whole:
        whole["calls"] = 1
    return whole


def dollars(nanousd: int) -> str:
    """Nano-USD for people, rounded down to a hundredth of a cent.

    >>> dollars(1_234_567_899_999)
    '$1,234.5678'
    """
    whole, rest = divmod(nanousd, NANOUSD_PER_USD)
    return f"${whole:,}.{rest // 100_000:04d}"

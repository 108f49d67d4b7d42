"""A report as CSV or Markdown. Money is nano-USD in CSV, dollars in Markdown; names cannot break out of their cell."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from fiscus.contract.analysis import ReportView, Share
from fiscus.core.units import NANOUSD_PER_USD

CSV_COLUMNS = (
    "section",
    "name",
    "calls",
    "tokens",
    "input_tokens",
    "output_tokens",
    "cost_nanousd",
    "unpriced_calls",
    "estimated_calls",
    "average_tokens",
    "average_cost_nanousd",
    "percent",
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def dollars(nanousd: int) -> str:
    """Exact dollars.

    >>> dollars(1_250_000_000), dollars(7)
    ('$1.25', '$0.000000007')
    """
    whole, rest = divmod(nanousd, NANOUSD_PER_USD)
    return f"${whole:,}.{f'{rest:09d}'.rstrip('0').ljust(2, '0')}"


def to_csv(report: ReportView) -> str:
    """One row for the whole, for each part of a breakdown, each day, and each recommendation's saving."""
    written = io.StringIO()
    rows = csv.writer(written, lineterminator="\r\n")
    rows.writerow(CSV_COLUMNS)
    for section, share in _shares(report):
        totals = share.totals
        rows.writerow(
            (
                section,
                _cell(share.name),
                totals.calls,
                totals.tokens,
                totals.input_tokens,
                totals.output_tokens,
                totals.cost_nanousd,
                totals.unpriced_calls,
                totals.estimated_calls,
                share.average_tokens,
                share.average_cost_nanousd,
                share.percent,
            )
        )
    if report.recommendations:
        rows.writerow(())
        rows.writerow(("recommendation", "subject", "saving_nanousd", "detail"))
        for one in report.recommendations:
            rows.writerow((one.kind, _cell(one.subject), one.saving_nanousd, _cell(one.detail)))
    return written.getvalue()


def to_markdown(report: ReportView) -> str:
    """Headings and tables."""
    totals = report.totals
    lines = [
        f"# {report.kind.capitalize()} report",
        "",
        f"From {report.since:%Y-%m-%d %H:%M} until {report.until:%Y-%m-%d %H:%M} UTC, as of entry {report.as_of_seq}.",
        "",
        f"{totals.calls:,} calls, {totals.tokens:,} tokens, {dollars(totals.cost_nanousd)}.",
    ]
    if totals.unpriced_calls:
        lines += ["", f"The cost of {totals.unpriced_calls:,} calls is not known and not in these figures."]
    for breakdown in report.breakdowns:
        lines += ["", f"## By {breakdown.by.removesuffix('_id').replace('_', ' ')}", "", *_table(breakdown.shares)]
        if breakdown.left_out:
            lines += ["", f"{breakdown.left_out:,} more are not shown."]
    if report.days:
        lines += ["", "## By day", "", *_table(report.days)]
    if report.anomalies:
        lines += ["", "## Out of the usual", ""]
        lines += [
            f"- {one.at:%Y-%m-%d %H:%M}: {one.measure} {one.amount:,}, usual {one.usual:,}" for one in report.anomalies
        ]
    if report.recommendations:
        lines += ["", "## Recommendations", ""]
        for advice in report.recommendations:
            saving = f" Saves {dollars(advice.saving_nanousd)}." if advice.saving_nanousd else ""
            lines.append(f"- **{advice.kind}** {_text(advice.subject)}: {_text(advice.detail)}.{saving}")
    return "\n".join(lines) + "\n"


def _shares(report: ReportView) -> Iterator[tuple[str, Share]]:
    yield (
        "total",
        Share(
            name=None,
            totals=report.totals,
            average_tokens=report.average_tokens,
            average_cost_nanousd=report.average_cost_nanousd,
            percent=100.0,
        ),
    )
    for breakdown in report.breakdowns:
        for share in breakdown.shares:
            yield breakdown.by, share
    for share in report.days:
        yield "day", share


def _table(shares: Sequence[Share]) -> list[str]:
    lines = ["| | calls | tokens | cost | average tokens | % |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for share in shares:
        totals = share.totals
        lines.append(
            f"| {_text(share.name)} | {totals.calls:,} | {totals.tokens:,} | {dollars(totals.cost_nanousd)} "
            f"| {share.average_tokens:,} | {share.percent} |"
        )
    return lines


def _cell(name: str | None) -> str:
    """A cell that no spreadsheet takes for a formula."""
    name = name or ""
    return f"'{name}" if name.startswith(_FORMULA) else name


def _text(name: str | None) -> str:
    """A name that is no markup and stays in its cell."""
    if not name:
        return "(not said)"
    shown = "".join(" " if ord(letter) < 32 else letter for letter in name)
    for letter in "\\`*_{}[]<>|#":
        shown = shown.replace(letter, f"\\{letter}")
    return shown

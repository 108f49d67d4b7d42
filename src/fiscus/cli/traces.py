"""Recorded traffic as calls in time order, from the files as they are published.

Two kinds of file are known by their header, gzipped or not: Azure's (``TIMESTAMP, ContextTokens, GeneratedTokens``)
and the coding-agent sessions of Claude Code (``trace, agent, …, t, …, model, in, out, …, api_time, …``). What a file
does not say is filled in by a rule that stands here, so that the same file always gives the same calls.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import heapq
import io
import re
import zlib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

import msgspec

from fiscus.contract.errors import Invalid
from fiscus.core.outcomes import Refused
from fiscus.core.units import AMOUNT_MAX

SESSION_GAP_S = 60
"""The sessions of a Claude Code file start one after the other, in its order, a minute apart: it does not say when."""

REORDER_ROWS_MAX = 4_096
"""How far a row of an Azure file may stand behind its place in time."""

SESSION_ROWS_MAX = 100_000
TIME_S_MAX = 10**9

AZURE_MODEL = "gpt-35-turbo-16k"
"""Azure's files do not name the model; this one, of that year, could have taken every request in them."""

AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
CLAUDE_COLUMNS = ("trace", "agent", "t", "model", "in", "out", "api_time")

GZIP_MAGIC = b"\x1f\x8b"
MAIN_AGENT = "main"

_INTEGER = re.compile(r"[0-9]{1,16}")
_NAME = re.compile(r"[A-Za-z0-9_.@:-]{1,64}")
_TIMESTAMP = re.compile(r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(\.\d{1,9})?(?:Z|\+00:00)?")


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One model call of a trace.

    Attributes:
        row: number of the data row in the file, from 1; with the file it identifies the call.
        at_s: when it started, seconds from the start of the trace.
        team: which service or team it belongs to; empty when the trace does not say.
        session: which session (thread) it belongs to; empty when the trace does not say.
        subagent: which sub-agent of the session made it; empty for the session's main agent.
        model: as the trace names it.
        input_tokens, output_tokens: what the provider counted, 0 … 2^53 − 1.
        duration_s: from request to the end of the answer.
    """

    row: int
    at_s: float
    team: str = ""
    session: str = ""
    subagent: str = ""
    model: str
    input_tokens: int
    output_tokens: int
    duration_s: float


def read_calls(path: Path) -> Iterator[Call]:
    """The calls of a trace in the order of ``at_s``, streamed.

    Raises:
        Invalid: the file is missing, truncated, of another kind, or a value in it is wrong; names line and column.
    """
    with _opened(path) as raw, io.TextIOWrapper(raw, encoding="utf-8", newline="") as text:
        yield from _read_calls(path, text)


def content_digest(path: Path) -> str:
    """Hex of a hash of what the file says, whether it is compressed or not: a file's identity, whatever its name.

    Raises:
        Invalid: the file is missing or truncated.
    """
    digest = hashlib.sha256()
    with _opened(path) as raw:
        try:
            while chunk := raw.read(1 << 20):
                digest.update(chunk)
        except (OSError, EOFError, zlib.error) as error:
            _bad(path, str(error))
    return digest.hexdigest()


def generated_duration_s(input_tokens: int, output_tokens: int) -> float:
    """How long a call takes when the trace does not say: half a second, 20,000 tokens in and 65 tokens out a second.

    The 65 tokens a second are the slope of ``api_time`` over ``out`` in the Claude Code sessions (0.013 … 0.018 s).
    """
    return 0.5 + input_tokens / 20_000 + output_tokens / 65


def _read_calls(path: Path, text: io.TextIOWrapper) -> Iterator[Call]:
    rows = csv.reader(text)
    try:
        header = next(rows, [])
        if set(AZURE_COLUMNS) <= set(header):
            yield from _in_time_order(path, _read_azure(path, header, rows))
        elif set(CLAUDE_COLUMNS) <= set(header):
            yield from _read_claude(path, header, rows)
        else:
            _bad(
                path,
                f"line 1 has the columns {', '.join(header[:8]) or '(none)'}; a trace has either"
                f" {', '.join(AZURE_COLUMNS)} or {', '.join(CLAUDE_COLUMNS)}",
                line=1,
            )
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        _bad(path, f"line {rows.line_num + 1}: {error}", line=rows.line_num + 1)


def _read_azure(path: Path, header: list[str], rows: Iterator[list[str]]) -> Iterator[Call]:
    first: datetime | None = None
    for number, row in enumerate(_records(path, header, rows), start=1):
        at = row.time("TIMESTAMP")
        first = first or at
        input_tokens, output_tokens = row.integer("ContextTokens"), row.integer("GeneratedTokens")
        yield Call(
            row=number,
            at_s=(at - first).total_seconds(),
            model=AZURE_MODEL,
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            duration_s=generated_duration_s(input_tokens, output_tokens),
        )


def _in_time_order(path: Path, calls: Iterable[Call]) -> Iterator[Call]:
    waiting: list[tuple[float, int, Call]] = []
    passed_s = float("-inf")
    for call in calls:
        if call.at_s < passed_s:
            _bad(path, f"data row {call.row} is more than {REORDER_ROWS_MAX} rows behind its place in time")
        heapq.heappush(waiting, (call.at_s, call.row, call))
        if len(waiting) > REORDER_ROWS_MAX:
            passed_s, _, earliest = heapq.heappop(waiting)
            yield earliest
    while waiting:
        yield heapq.heappop(waiting)[2]


def _read_claude(path: Path, header: list[str], rows: Iterator[list[str]]) -> Iterator[Call]:
    """Sessions as they come, merged: one that starts later cannot have a call before its start."""
    waiting: list[tuple[float, int, Call]] = []
    for number, session in enumerate(_sessions(path, _claude_rows(path, header, rows))):
        start_s = float(number * SESSION_GAP_S)
        while waiting and waiting[0][0] < start_s:
            yield heapq.heappop(waiting)[2]
        for call in _on_timeline(session, start_s):
            heapq.heappush(waiting, (call.at_s, call.row, call))
    while waiting:
        yield heapq.heappop(waiting)[2]


def _claude_rows(path: Path, header: list[str], rows: Iterator[list[str]]) -> Iterator[Call]:
    for number, row in enumerate(_records(path, header, rows), start=1):
        input_tokens, output_tokens = row.integer("in"), row.integer("out")
        agent = row.name("agent")
        yield Call(
            row=number,
            at_s=row.seconds("t"),
            session=row.name("trace"),
            subagent="" if agent == MAIN_AGENT else agent,
            model=row.name("model"),
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            duration_s=row.seconds("api_time")
            if row.text("api_time")
            else generated_duration_s(input_tokens, output_tokens),
        )


def _sessions(path: Path, calls: Iterable[Call]) -> Iterator[list[Call]]:
    session: list[Call] = []
    for call in calls:
        if session and call.session != session[0].session:
            yield session
            session = []
        session.append(call)
        if len(session) > SESSION_ROWS_MAX:
            _bad(path, f"session {call.session} has more than {SESSION_ROWS_MAX} rows", column="trace")
    if session:
        yield session


def _on_timeline(session: list[Call], start_s: float) -> Iterator[Call]:
    """A session's calls by one clock; in the file each agent's own starts at 0.

    The file does not say when a sub-agent starts, so they start spread evenly over the session's main calls: the k-th
    of n with the main call at position ⌊k · calls / (n + 1)⌋.
    """
    main_s = [call.at_s for call in session if not call.subagent]
    subagents = list(dict.fromkeys(call.subagent for call in session if call.subagent))
    offset_s = {"": start_s}
    for position, subagent in enumerate(subagents, start=1):
        spawned_by = position * len(main_s) // (len(subagents) + 1)
        offset_s[subagent] = start_s + (main_s[spawned_by] if main_s else 0.0)
    for call in session:
        yield msgspec.structs.replace(call, at_s=offset_s[call.subagent] + call.at_s)


class _Row:
    """One data row: fields by column name, each checked when it is asked for."""

    def __init__(self, path: Path, line: int, fields: dict[str, str]) -> None:
        self._path, self._line, self._fields = path, line, fields

    def text(self, column: str) -> str:
        return self._fields[column]

    def name(self, column: str) -> str:
        if not _NAME.fullmatch(self.text(column)):
            self._wrong(column, "a name of 1 … 64 letters, digits and _.@:-")
        return self.text(column)

    def integer(self, column: str) -> int:
        if not _INTEGER.fullmatch(self.text(column)) or int(self.text(column)) > AMOUNT_MAX:
            self._wrong(column, "an integer in 0 … 2^53 − 1")
        return int(self.text(column))

    def seconds(self, column: str) -> float:
        try:
            value = float(self.text(column))
        except ValueError:
            self._wrong(column, "a number of seconds")
        if not 0 <= value <= TIME_S_MAX:
            self._wrong(column, f"a number of seconds in 0 … {TIME_S_MAX}")
        return value

    def time(self, column: str) -> datetime:
        match = _TIMESTAMP.fullmatch(self.text(column))
        if not match:
            self._wrong(column, "a time like 2023-11-16 18:17:03.9799600")
        day, clock, fraction = match.groups()
        try:
            return datetime.fromisoformat(f"{day}T{clock}{(fraction or '.')[:7].ljust(7, '0')}").replace(tzinfo=UTC)
        except ValueError:
            self._wrong(column, "a time that exists")

    def _wrong(self, column: str, wanted: str) -> NoReturn:
        shown = self.text(column)[:40]
        _bad(
            self._path,
            f"line {self._line}, column {column}: {shown!r} is not {wanted}",
            line=self._line,
            column=column,
        )


def _records(path: Path, header: list[str], rows: Iterator[list[str]]) -> Iterator[_Row]:
    for line, fields in enumerate(rows, start=2):
        if len(fields) != len(header):
            _bad(path, f"line {line} has {len(fields)} columns, the header has {len(header)}", line=line)
        yield _Row(path, line, dict(zip(header, fields, strict=True)))


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    try:
        with path.open("rb") as file:
            compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        return gzip.open(path, "rb") if compressed else path.open("rb")
    except OSError as error:
        _bad(path, f"cannot be read: {error.strerror}")


def _bad(path: Path, why: str, line: int | None = None, column: str | None = None) -> NoReturn:
    place = ", ".join(part for part in (f"line {line}" if line else "", f"column {column}" if column else "") if part)
    raise Invalid(Refused(code="invalid", detail=f"{path.name}: {why}", field=place or None))

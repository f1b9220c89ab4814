"""A table of PostgreSQL, by COPY in one statement: what it sees is one moment of the table.

``Table`` streams it row by row and puts nothing on this machine's disk; ``copy`` writes CSV for masking.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from client.cells import Cells
from client.lines import Lost
from privacy.errors import DataError

SCHEMES = ("postgresql://", "postgres://")
BLOCK = 1 << 21
"""Bytes of rows that are taken apart at once."""

_ESCAPED = re.compile(r"\\(.)", re.S)
_MEANT = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


@dataclass(frozen=True)
class Table:
    """A table, read as texts. ``heading``: the columns that may be asked for, spelled as in the
    database, which tells letter cases apart."""

    location: str
    table: str
    heading: tuple[str, ...]

    def blocks(self, at: Sequence[int], lost: Lost) -> Iterator[list[Cells]]:
        """The cells of columns ``at``, column by column, a block of rows at a time; None for null.
        Raises DataError, which quotes nothing."""
        with _copying(self.location, self.table, [self.heading[i] for i in at], "text") as rows:
            for raw, first in _pieces(rows):
                found = _rows(raw, first, len(at), lost)
                if found:
                    yield list(zip(*found, strict=True))


def _pieces(rows: Any) -> Iterator[tuple[bytes, int]]:
    """Whole rows without the last line feed, and the number of the first."""
    waiting, size, number = list[bytes](), 0, 1
    for data in rows:
        waiting.append(bytes(data))
        size += len(data)
        if size >= BLOCK and waiting[-1].endswith(b"\n"):
            yield b"".join(waiting)[:-1], number
            number += sum(each.count(b"\n") for each in waiting)
            waiting, size = [], 0
    if size:
        yield b"".join(waiting).removesuffix(b"\n"), number


def _rows(raw: bytes, first: int, width: int, lost: Lost) -> list[list[str | None]]:
    """Rows of COPY's text format, in which a line feed of a cell is escaped. A row that is not UTF-8,
    which only databases in SQL_ASCII hold, is lost alone."""
    rows = list[list[str | None]]()
    for number, line in enumerate(raw.split(b"\n"), first):
        try:
            text = line.decode()
        except UnicodeDecodeError:
            lost.add(number)
            continue
        cells: list[str | None] = [*text.split("\t")]
        if "\\" in text:
            cells = [None if cell == r"\N" else _ESCAPED.sub(_meant, cell or "") for cell in cells]
        if len(cells) == width:
            rows.append(cells)
        else:
            lost.add(number)
    return rows


def _meant(found: re.Match[str]) -> str:
    return _MEANT.get(found[1], found[1])


def copy(location: str, table: str, columns: Sequence[str] | None, target: BinaryIO) -> None:
    """Write ``columns``, all for None, of ``table`` (``schema.table`` or ``table``) to ``target``, with a
    heading; null is an empty cell, an empty text a quoted one. Raises DataError, which quotes nothing."""
    with _copying(location, table, columns, "csv, HEADER") as rows:
        for data in rows:
            target.write(data)


@contextmanager
def _copying(
    location: str, table: str, columns: Sequence[str] | None, how: str
) -> Iterator[Iterator[Any]]:
    """The bytes of a COPY, as they arrive. ``how``: its FORMAT. Raises DataError."""
    try:
        import psycopg
        from psycopg import sql
    except ImportError:
        raise DataError("PostgreSQL needs the extra: pip install 'tallystick[postgres]'") from None
    chosen = sql.SQL("*") if columns is None else sql.SQL(", ").join(map(sql.Identifier, columns))
    query = sql.SQL("COPY (SELECT {} FROM {}) TO STDOUT WITH (FORMAT {})").format(
        chosen, sql.SQL(".").join(map(sql.Identifier, table.split("."))), sql.SQL(how)
    )
    try:
        with psycopg.connect(location, connect_timeout=10, client_encoding="utf8") as connection:
            if connection.info.parameter_status("server_encoding") == "SQL_ASCII" and how == "text":
                # The server would give up the whole table for one row that is not UTF-8.
                connection.execute("SET client_encoding TO 'SQL_ASCII'")
            with connection.cursor() as cursor, cursor.copy(query) as rows:
                yield iter(rows)
    except psycopg.errors.UndefinedColumn:
        raise DataError("database: a mapped column does not exist") from None
    except psycopg.errors.UndefinedTable:
        raise DataError("database: the table does not exist") from None
    except psycopg.Error as error:
        reason = f"database: {type(error).__name__}; is it running and reachable, may you read it?"
        raise DataError(reason) from None

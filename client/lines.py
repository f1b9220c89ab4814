"""CSV, read so that the bytes of one row never change how another is read.

1. How a file is read is decided by its heading and by the owner (``partner.toml``), before any row is
   looked at: the delimiter is the declared one, or the only one of , ; tab | under which the heading
   holds every mapped name. UTF-8, with or without a byte-order mark.
2. A physical line is a row. A line with a quote character is parsed alone (RFC 4180, strictly), any
   other is cut at its delimiters. What does not parse, is not UTF-8, is longer than ``LONGEST`` or has
   another number of cells than the heading is lost alone, and counted with its number.
3. ``line_breaks``: quoted cells may go over several lines, because the owner vouches that the file is
   RFC 4180. Only then can an unclosed quote take following rows with it: up to the next quote character
   that ends it, at most ``LONGEST`` bytes.

Not handled: other encodings, comments, escapes by backslash; and a file whose quoted cells hold line
breaks though nobody declared it: then whoever writes such a cell writes lines of the file, which may read
as rows of others. The owner is warned at admission by the lines that end within quotes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from client.cells import Cells
from privacy.errors import DataError

DELIMITERS = (",", ";", "\t", "|")
LONGEST = 1 << 20
"""Characters that a row may have; bytes where ``line_breaks`` is declared."""
BLOCK = 1 << 21
"""Bytes read at once: some 2^15 rows."""
ROWS = 1 << 15
"""Rows of a block where line breaks are allowed."""
SHOWN = 5
"""Line numbers of lost rows that are kept for the owner."""
_MARK = b"\xef\xbb\xbf"

csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # rows are bounded here instead


class Lost:
    """Rows that could not be read: how many, and the numbers of the first lines."""

    def __init__(self) -> None:
        self.count, self.open_quotes = 0, 0
        self.lines: list[int] = []

    def add(self, line: int, *, is_open: bool = False) -> None:
        """One more; ``line``: counted from 1, the heading; ``is_open``: it ends within quotes."""
        self.count += 1
        self.open_quotes += is_open
        if len(self.lines) < SHOWN:
            self.lines.append(line)


def positions(place: str, names: Sequence[str], heading: Sequence[str]) -> list[int]:
    """Where each name is in the heading, whatever its letter case and surrounding blanks. Raises
    DataError for one that is not there, or there twice; ``place``: what to call the table."""
    by_name: dict[str, list[int]] = {}
    for at, name in enumerate(heading):
        by_name.setdefault(_folded(name), []).append(at)
    result = []
    for name in names:
        found = by_name.get(_folded(name), [])
        if not found:
            raise DataError(
                f"{place}: a mapped column does not exist in the source: {name!r} is not in the heading"
            )
        if len(found) > 1:
            raise DataError(
                f"{place}: the heading is ambiguous: column {found[0] + 1}, {heading[found[0]]!r}, and "
                f"column {found[1] + 1}, {heading[found[1]]!r}, are both called {name!r}; rename one"
            )
        result += found
    return result


def _folded(name: str) -> str:
    return name.strip().casefold()


@dataclass(frozen=True)
class Lines:
    """A CSV file of which the heading is known."""

    path: Path
    delimiter: str
    heading: tuple[str, ...]
    line_breaks: bool

    @classmethod
    def opened(
        cls, path: Path, names: Sequence[str], delimiter: str | None, *, line_breaks: bool
    ) -> Lines:
        """``names``: every mapped one. Raises DataError, OSError."""
        with path.open("rb") as file:
            first = _first_line(path.name, file)
        possible = []
        for each in DELIMITERS if delimiter is None else (delimiter,):
            cells = _cells(first, each)
            if cells is not None and {_folded(n) for n in names} <= {_folded(c) for c in cells}:
                possible.append(cls(path, each, tuple(cells), line_breaks))
        if not possible:
            said = "under none of , ; tab |" if delimiter is None else "under its delimiter"
            raise DataError(
                f"{path.name}: a mapped column does not exist in the source: the heading (the first "
                f"line) does not hold all names of partner.toml, [data], {said}"
            )
        if len({each.heading for each in possible}) > 1:
            raise DataError(f"{path.name}: say data.delimiter; the heading fits several")
        if path.suffix.lower() == ".tsv":  # a single column: nothing in the heading tells
            possible.sort(key=lambda each: each.delimiter != "\t")
        positions(path.name, names, possible[0].heading)
        return possible[0]

    def blocks(self, at: Sequence[int], lost: Lost) -> Iterator[list[Cells]]:
        """The cells of columns ``at``, column by column, a block of rows at a time. Raises DataError,
        OSError."""
        with self.path.open("rb") as file:
            _first_line(self.path.name, file)
            if self.line_breaks:
                found: Iterable[list[list[str]]] = self._records(file, lost)
            else:
                found = (self._rows(raw, first, lost) for raw, first in _pieces(file))
            for rows in found:
                if rows:
                    columns = list(zip(*rows, strict=True))
                    yield [columns[i] for i in at]

    def _rows(self, raw: bytes, first: int, lost: Lost) -> list[list[str]]:
        """Rows of whole lines. The short way and the long one read every line alike."""
        width, delimiter = len(self.heading), self.delimiter
        if b'"' not in raw:
            try:
                lines = raw.decode().replace("\r\n", "\n").removesuffix("\r").split("\n")
            except UnicodeDecodeError:
                lines = []
            rows = [line.split(delimiter) for line in lines if line]
            if lines and max(map(len, lines)) <= LONGEST and set(map(len, rows)) <= {width}:
                return rows
        rows = []
        for number, line in enumerate(raw.split(b"\n"), first):
            line = line.removesuffix(b"\r")
            cells = _cells(line, delimiter) if line else None
            if cells is not None and len(cells) == width:
                rows.append(cells)
            elif line:
                lost.add(number, is_open=line.count(b'"') % 2 == 1)
        return rows

    def _records(self, file: BinaryIO, lost: Lost) -> Iterator[list[list[str]]]:
        """Rows of RFC 4180 records."""
        feed, rows = _Feed(file), list[list[str]]()
        reader = csv.reader(feed, delimiter=self.delimiter, strict=True)
        while True:
            feed.start()
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error:
                lost.add(feed.first)
                continue
            if cells and (feed.is_spoilt or len(cells) != len(self.heading)):
                lost.add(feed.first)
            elif cells:
                rows.append(cells)
                if len(rows) >= ROWS:
                    yield rows
                    rows = []
        yield rows


def _cells(line: bytes, delimiter: str) -> list[str] | None:
    """The cells of a line by itself; None if it does not parse."""
    try:
        text = line.decode()
    except UnicodeDecodeError:
        return None
    if len(text) > LONGEST:
        return None
    if '"' not in text:
        return text.split(delimiter)
    try:
        return next(csv.reader([text], delimiter=delimiter, strict=True))
    except csv.Error:
        return None


def _first_line(name: str, file: BinaryIO) -> bytes:
    line = file.readline(4 * LONGEST).removeprefix(_MARK)
    if not line.strip():
        raise DataError(f"{name}: the heading does not exist; the first line must name the columns")
    try:
        is_text = b"\0" not in line and bool(line.decode())
    except UnicodeDecodeError:
        is_text = False
    if not is_text:
        raise DataError(f"{name}: the heading is not UTF-8; save the table as CSV in UTF-8")
    return line.removesuffix(b"\n").removesuffix(b"\r")


def _pieces(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Whole lines without the last line feed, and the number of the first. Of a line that is far too
    long only the start is kept, enough to be lost."""
    rest, number = b"", 2
    while data := file.read(BLOCK):
        cut = data.rfind(b"\n")
        if cut < 0:
            rest = (rest + data)[: 4 * LONGEST + 4]
            continue
        whole = rest + data[:cut]
        rest = data[cut + 1 :]
        yield whole, number
        number += whole.count(b"\n") + 1
    if rest:
        yield rest, number


class _Feed:
    """Physical lines for ``csv``, and what was seen since a record began."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._line, self._size = file, 1, 0
        self.first, self.is_spoilt = 2, False

    def start(self) -> None:
        """A record begins."""
        self.first, self.is_spoilt, self._size = self._line + 1, False, 0

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        raw = self._file.readline(LONGEST)
        if not raw:
            raise StopIteration
        self._line += 1
        if len(raw) == LONGEST and not raw.endswith(b"\n"):
            while (rest := self._file.readline(LONGEST)) and not rest.endswith(b"\n"):
                pass  # the rest of this line is no line of its own
            self._size = LONGEST
        self._size += len(raw)
        if self._size > LONGEST:
            raise csv.Error  # the reader forgets the record and goes on with the next line
        try:
            return raw.decode()
        except UnicodeDecodeError:
            self.is_spoilt = True
            return raw.decode(errors="replace")

"""CSV in blocks of texts. What is wrong with a file is said with row and column, never with a value."""

from __future__ import annotations

import codecs
import csv
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl

from privacy.errors import ConfigError, DataError

_COUNTED = re.compile(r"CSV parse error: Expected ([0-9]+) columns, got ([0-9]+)")
BLOCK = 1 << 24
"""Bytes that are read at once, and that a row may have about."""
ENCODINGS = "utf-8, utf-16, gb18030, big5, latin-1 and Python's other names"


Blocks = Callable[[list[str] | None], Iterator[pl.DataFrame]]
"""Gives the blocks of the columns that it is told, of all for None."""


def opened(
    path: Path, encoding: str, delimiter: str, name: str | None = None
) -> tuple[list[str], Blocks]:
    """Names of the columns, and their blocks as texts. ``name``: for messages. Raises ConfigError,
    DataError."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    name, used = name or path.name, _encoding(path, encoding)
    names = _heading(path, name, used, delimiter)

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        chosen = names if columns is None else columns
        read = arrow_csv.ReadOptions(use_threads=False, block_size=BLOCK, encoding=used)
        # no handler of invalid rows: pyarrow decodes a row for it, and prints a traceback if it cannot
        parse = arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        convert = arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), include_columns=chosen,
            strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False,
        )  # fmt: skip
        source: Any = None
        while True:
            try:
                if source is None:
                    source = arrow_csv.open_csv(path, read, parse, convert)
                batch = source.read_next_batch()
            except StopIteration:
                return
            except (pa.ArrowException, OSError, UnicodeError) as error:
                raise _what_is_wrong(path, name, used, delimiter, names, str(error)) from None
            yield pl.DataFrame(batch)

    return names, blocks


def _encoding(path: Path, encoding: str) -> str:
    """The encoding to use: a byte-order mark has the last word."""
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise ConfigError("--encoding", f"{encoding} is not known; use {ENCODINGS}") from None
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    return "utf-8" if start.startswith(codecs.BOM_UTF8) else encoding


def _heading(path: Path, name: str, encoding: str, delimiter: str) -> list[str]:
    csv.field_size_limit(sys.maxsize)
    try:
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            names = next(csv.reader(file, delimiter=delimiter), None)
        "".join(names or ()).encode()
    except (UnicodeError, csv.Error):
        raise DataError(
            f"{name}: the heading is not {encoding}; say which it is with --encoding"
        ) from None
    if not names:
        raise DataError(f"{name}: is empty; the first line must name the columns")
    return [heading.removeprefix("\ufeff") for heading in names]


def _what_is_wrong(
    path: Path,
    name: str,
    encoding: str,
    delimiter: str,
    names: list[str],
    message: str,
) -> DataError:
    """Which row and column: found by reading the file once more, slowly. Messages of readers quote
    rows and are not passed on."""
    if "straddling" in message or "block_size" in message:
        return DataError(f"{name}: a row is longer than {BLOCK >> 20} MiB")
    number = 0
    try:
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as file:
            lines = csv.reader(file, delimiter=delimiter, strict=True)
            next(lines)
            for number, cells in enumerate(lines, start=1):
                if cells and len(cells) != len(names):
                    return DataError(
                        f"{name}: row {number} has {len(cells)} columns, the heading {len(names)}"
                    )
                for column, cell in zip(names, cells, strict=False):
                    if re.search("[\udc80-\udcff]", cell):
                        return DataError(
                            f"{name}: row {number}, column {column}: is not {encoding};"
                            " say which encoding it is with --encoding, or mend the row"
                        )
    except (csv.Error, UnicodeError):
        return DataError(f"{name}: after row {number}: a quote is not closed, or bytes are missing")
    counted = _COUNTED.match(message)
    if counted:
        return DataError(f"{name}: a row has {counted[2]} columns, the heading {counted[1]}")
    return DataError(f"{name}: is not readable as CSV in {encoding}")

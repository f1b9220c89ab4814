"""Tables to read, a block of rows at a time: CSV, Parquet (encrypted too), DuckDB, PostgreSQL.

Whatever is wrong with a table is said with row and column, never with a value. What is put on disk on the
way has no name.

A file is opened once: its heading, its rows and its digest are of one file, whatever its name leads to in the
meantime. One that is written into in place is found by its times (:meth:`Table.digest`); where somebody else
may have an interest, it is copied first, and nobody can reach the copy (:func:`copied`).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import polars as pl

from client import duck, postgres, sheets
from client.masking import arrow, csv_files, parquet_keys, quoting
from client.masking.csv_files import Blocks
from client.masking.keys import KeyRing
from privacy.errors import ConfigError, DataError
from protos.files import nameless

ROWS = 1 << 17
"""Rows of a block."""


class Table:
    """A table to read. ``name``: what messages call it. ``path``: the file that holds it, as it was named;
    ``read``: where it is read. ``rows``: how many, None where only reading tells."""

    def __init__(
        self,
        path: Path,
        names: list[str],
        rows: int | None,
        blocks: Callable[[list[str] | None], Iterator[pl.DataFrame]],
        name: str = "",
        read: Path | None = None,
    ) -> None:
        self.path, self.names, self.rows, self._blocks = path, names, rows, blocks
        self.name, self.read = name or path.name, read or path
        self._looks = _looks(self.read)
        self._digest = ""

    def digest(self) -> str:
        """SHA-256 of the file, hexadecimal. Raises DataError where it was changed since it was opened."""
        if not self._digest:
            with self.read.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
                looks = _looks(Path(f"/dev/fd/{file.fileno()}"))
            if looks != self._looks or _looks(self.read) != self._looks:
                raise DataError(f"{self.name}: was changed while it was read; run it again")
            self._digest = found
        return self._digest

    def check_has(self, columns: list[str]) -> None:
        """Raises ConfigError for a column that is not there."""
        for name in columns:
            if name not in self.names:
                raise ConfigError(f"columns.{name}", f"{self.name} has no such column")

    def blocks(self, columns: list[str] | None = None) -> Iterator[pl.DataFrame]:
        """Blocks of ``columns``, all of them by default; an empty one if there are no rows. Raises
        DataError."""
        empty = True
        for block in self._blocks(columns):
            empty = False
            yield block
        if empty:
            yield pl.DataFrame(schema=dict.fromkeys(columns or self.names, pl.String))

    def head(self, count: int, columns: list[str] | None = None) -> pl.DataFrame:
        """The first rows."""
        parts, held = [], 0
        for block in self.blocks(columns):
            parts.append(block.head(count - held))
            held += len(parts[-1])
            if held >= count:
                break
        return pl.concat(parts)

    def sample(self, count: int, columns: list[str]) -> pl.DataFrame:
        """About ``count`` rows from the whole table: every n-th one, or the first where the number of
        rows is not known."""
        if self.rows is None or self.rows <= count:
            return self.head(count, columns)
        step, parts, start = -(-self.rows // count), [], 0
        for block in self.blocks(columns):
            parts.append(block.gather_every(step, -start % step))
            start += len(block)
        return pl.concat(parts)


class Copy(Table):
    """A table in a file that has no name, which nobody else can change."""


class _Held:
    """An open file, to be read by the name of its descriptor as long as anybody holds this."""

    def __init__(self, handle: int) -> None:
        self.path = Path(f"/dev/fd/{handle}")
        weakref.finalize(self, os.close, handle)


def _looks(path: Path) -> tuple[int, ...]:
    """What changes with a file. Its owner can put the second to last back, but not the last."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def opened(
    place: str | Path,
    *,
    keys: KeyRing | None = None,
    encoding: str = "utf-8",
    table: str | None = None,
    quoted: bool = False,
) -> Table:
    """A table by its suffix, or of ``postgresql://USER@HOST/DATABASE``. ``table``: in a DuckDB file or a
    database. ``quoted``: a CSV whose texts were written for spreadsheets. Raises DataError, ConfigError."""
    _needs_pyarrow()
    if str(place).startswith(postgres.SCHEMES):
        return _postgres(str(place), table)
    path = Path(place)
    if not path.is_file():
        raise DataError(f"{path.name}: file not found")
    if path.suffix.lower() in (".duckdb", ".db"):
        return _duckdb(path, table)
    held = _Held(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    return _file(Table, path, held, keys, encoding, quoted=quoted)


def copied(
    path: Path, *, keys: KeyRing | None = None, encoding: str = "utf-8", quoted: bool = False
) -> Copy:
    """A CSV or Parquet file as it is now: read from a copy without a name, under ``$TMPDIR``. Raises
    DataError, ConfigError."""
    _needs_pyarrow()
    if not path.is_file():
        raise DataError(f"{path.name}: file not found")
    try:
        with path.open("rb") as file, nameless(Path(tempfile.gettempdir())) as spool:
            shutil.copyfileobj(file, spool, 1 << 20)
            spool.flush()
            held = _Held(os.dup(spool.fileno()))
    except OSError as error:
        raise DataError(
            f"{path.name}: cannot be copied to {tempfile.gettempdir()}: {error.strerror}"
        ) from None
    return _file(Copy, path, held, keys, encoding, quoted=quoted)


_Kind = TypeVar("_Kind", bound=Table)


def _file(
    kind: type[_Kind], path: Path, held: _Held, keys: KeyRing | None, encoding: str, *, quoted: bool
) -> _Kind:
    suffix, rows = path.suffix.lower(), None
    if suffix == ".parquet":
        names, rows, found = _parquet(held.path, path.name, keys)
    elif suffix in (".csv", ".tsv", ".txt"):
        delimiter = "\t" if suffix == ".tsv" else ","
        names, found = csv_files.opened(held.path, encoding, delimiter, path.name)
        _check_names(path.name, names)
        if quoted:
            names, found = _plain(names, found, path.name)
    else:
        raise DataError(f"{path.name}: use .csv, .tsv, .parquet, .duckdb or postgresql://")

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        with held.path.open("rb") as file:  # some systems share the place among all who open it so
            file.seek(0)
            yield from found(columns)

    return kind(path, names, rows, blocks, read=held.path)


def _plain(names: list[str], read: Blocks, name: str) -> tuple[list[str], Blocks]:
    """A CSV's names and texts as they were before they were written for spreadsheets."""
    own = {sheets.plain(heading): heading for heading in names}
    if len(own) < len(names):
        raise DataError(f"{name}: two columns are called the same but for an apostrophe")

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        for block in read(None if columns is None else [own[each] for each in columns]):
            yield quoting.plain(block)

    return list(own), blocks


@contextmanager
def column_errors(table: Table) -> Iterator[None]:
    """polars' messages can quote values: say only that a column is not of its kind. What it panics at is no
    ``Exception``. Raises DataError."""
    try:
        yield
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        reason = f"a column has a type that does not fit its kind ({type(error).__name__})"
        if "out-of-core" in str(error):  # it may not spill: client/__init__.py
            reason = "needs more memory than there is"
        raise DataError(f"{table.name}: {reason}") from None


def _needs_pyarrow() -> None:
    try:
        import pyarrow  # noqa: F401 - only whether it is there
    except ImportError:
        raise ConfigError("pyarrow", "needs the extra: pip install 'tallystick[mask]'") from None


# ---------------------------------------------------------------------- Parquet


def _parquet(path: Path, name: str, keys: KeyRing | None) -> tuple[list[str], int, Blocks]:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        file.seek(0)
        encrypted = file.read(4) == b"PARE"
    if encrypted and keys is None:
        raise DataError(f"{name}: is encrypted; name the key with --keys")
    with _parquet_errors(name):
        properties = parquet_keys.decryption(keys) if encrypted and keys else None
        file_of = pq.ParquetFile(path, decryption_properties=properties, pre_buffer=False)
        names, rows = file_of.schema_arrow.names, file_of.metadata.num_rows
        file_of.close()
    _check_names(name, names)

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        again = parquet_keys.decryption(keys) if encrypted and keys else None
        with _parquet_errors(name):
            source = pq.ParquetFile(path, decryption_properties=again, pre_buffer=False)
        with source:
            start, batches = 0, source.iter_batches(ROWS, columns=columns, use_threads=False)
            while True:
                with _parquet_errors(name):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield arrow.frame(batch, name, start)
                start += len(batch)

    return names, rows, blocks


@contextmanager
def _parquet_errors(name: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name}: {_parquet_reason(str(error))}") from None


def _parquet_reason(message: str) -> str:
    if "unwrap" in message or "ecrypt" in message or "key" in message.lower():
        return "cannot be decrypted: another key, or the file was altered"
    if "UTF8" in message:
        return "holds a text that is not UTF-8; write it anew"
    return "is not a whole Parquet file; was it cut short?"


def _check_names(table: str, names: list[str]) -> None:
    for place, name in enumerate(names):
        if name in names[:place]:
            raise DataError(f"{table}: two columns are called the same (column {place + 1})")
        if not name.strip():
            raise DataError(f"{table}: column {place + 1} has no name in the heading")


# ---------------------------------------------------------------------- DuckDB


def _duckdb(path: Path, table: str | None) -> Table:
    if not table:
        raise DataError(f"{path.name}: say which table with --table")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{path.name}: rename it; DuckDB takes only names in UTF-8") from None
    with duck.connected(path, table) as (db, relation):
        found = db.execute(f"SELECT * FROM {relation} LIMIT 0").description or []
        count = db.execute(f"SELECT COUNT(*) FROM {relation}").fetchone()
    names = [str(column[0]) for column in found]

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        wanted = ", ".join(map(duck.quoted, columns or names))
        with duck.connected(path, table) as (db, relation):
            reader = db.sql(f"SELECT {wanted} FROM {relation}").to_arrow_reader(ROWS)
            start = 0
            for batch in reader:
                yield arrow.frame(batch, path.name, start)
                start += len(batch)

    return Table(path, names, int(count[0]) if count else None, blocks)


# ---------------------------------------------------------------------- PostgreSQL


def _postgres(location: str, table: str | None) -> Table:
    """A copy of the table as texts, in a file without a name: it is gone with this process, however that
    ends. Messages call it by the table's name, never by the location, which may hold a password."""
    if not table:
        raise DataError("database: say which table with --table")
    try:
        spool = nameless(Path(tempfile.gettempdir()))
        path = Path(f"/dev/fd/{spool.fileno()}")
        try:
            postgres.copy(location, table, None, spool)
            spool.flush()
            names, read = csv_files.opened(path, "utf-8", ",", table)
            _check_names(table, names)
        except BaseException:
            spool.close()
            raise
    except OSError as error:
        reason = f"{table}: cannot be copied to {tempfile.gettempdir()}: {error.strerror}"
        raise DataError(reason) from None

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        spool.seek(0)  # some systems share the place among all who open it so
        yield from read(columns)

    made = Table(path, names, None, blocks, table)
    weakref.finalize(made, spool.close)
    return made

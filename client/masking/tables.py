"""Tables to read, a block of rows at a time: CSV, Parquet (encrypted too), DuckDB, PostgreSQL.

Whatever is wrong with a table is said with row and column, never with a value. What is put on disk on the
way has no name.
"""

from __future__ import annotations

import hashlib
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from client import duck, postgres, sheets
from client.masking import csv_files, parquet_keys, quoting
from client.masking.keys import KeyRing
from privacy.errors import ConfigError, DataError
from protos.files import nameless

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 1 << 17
"""Rows of a block."""


class Table:
    """A table to read. ``name``: what messages call it. ``path``: the file that holds it. ``rows``: how
    many, None where only reading tells."""

    def __init__(
        self,
        path: Path,
        names: list[str],
        rows: int | None,
        blocks: Callable[[list[str] | None], Iterator[pl.DataFrame]],
        name: str = "",
    ) -> None:
        self.path, self.names, self.rows, self._blocks = path, names, rows, blocks
        self.name = name or path.name

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
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _parquet(path, keys)
    if suffix in (".csv", ".tsv", ".txt"):
        names, blocks = csv_files.opened(path, encoding, "\t" if suffix == ".tsv" else ",")
        _check_names(path.name, names)
        made = Table(path, names, None, blocks)
        return _plain(made) if quoted else made
    if suffix in (".duckdb", ".db"):
        return _duckdb(path, table)
    raise DataError(f"{path.name}: use .csv, .tsv, .parquet, .duckdb or postgresql://")


def _plain(table: Table) -> Table:
    """A CSV's names and texts as they were before they were written for spreadsheets."""
    own = {sheets.plain(name): name for name in table.names}
    if len(own) < len(table.names):
        raise DataError(f"{table.name}: two columns are called the same but for an apostrophe")

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        for block in table.blocks(None if columns is None else [own[name] for name in columns]):
            yield quoting.plain(block)

    return Table(table.path, list(own), table.rows, blocks, table.name)


@contextmanager
def column_errors(table: Table) -> Iterator[None]:
    """polars' messages can quote values: say only that a column is not of its kind. Raises DataError."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
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


def _parquet(path: Path, keys: KeyRing | None) -> Table:
    import pyarrow.parquet as pq

    with path.open("rb") as file:
        encrypted = file.read(4) == b"PARE"
    if encrypted and keys is None:
        raise DataError(f"{path.name}: is encrypted; name the key with --keys")
    with _parquet_errors(path):
        properties = parquet_keys.decryption(keys) if encrypted and keys else None
        file_of = pq.ParquetFile(path, decryption_properties=properties, pre_buffer=False)
        names, rows = file_of.schema_arrow.names, file_of.metadata.num_rows
        file_of.close()
    _check_names(path.name, names)

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        again = parquet_keys.decryption(keys) if encrypted and keys else None
        with _parquet_errors(path):
            source = pq.ParquetFile(path, decryption_properties=again, pre_buffer=False)
        with source:
            batches = source.iter_batches(ROWS, columns=columns, use_threads=False)
            while True:
                with _parquet_errors(path):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield _frame(batch)

    return Table(path, names, rows, blocks)


@contextmanager
def _parquet_errors(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{path.name}: {_parquet_reason(str(error))}") from None


def _parquet_reason(message: str) -> str:
    if "unwrap" in message or "ecrypt" in message or "key" in message.lower():
        return "cannot be decrypted: another key, or the file was altered"
    return "is not a whole Parquet file; was it cut short?"


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    frame = pl.from_arrow(batch)
    if not isinstance(frame, pl.DataFrame):
        raise DataError("a block of the table is not a table")
    dictionaries = [n for n, t in frame.schema.items() if t == pl.Categorical or t == pl.Enum]
    return frame.with_columns(pl.col(dictionaries).cast(pl.String)) if dictionaries else frame


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
    with duck.connected(path, table) as (db, relation):
        found = db.execute(f"SELECT * FROM {relation} LIMIT 0").description or []
        count = db.execute(f"SELECT COUNT(*) FROM {relation}").fetchone()
    names = [str(column[0]) for column in found]

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        wanted = ", ".join(map(duck.quoted, columns or names))
        with duck.connected(path, table) as (db, relation):
            reader = db.sql(f"SELECT {wanted} FROM {relation}").to_arrow_reader(ROWS)
            for batch in reader:
                yield _frame(batch)

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


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

"""Tables in and out, a block of rows at a time: CSV, Parquet (encrypted too), DuckDB, PostgreSQL.

Whatever is wrong with a table is said with row and column, never with a value. A table that is written
is there whole or not at all.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from client import postgres
from client.masking import csv_files, parquet_keys
from client.masking.keys import KeyRing
from privacy.errors import ConfigError, DataError
from protos.files import new_private

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
) -> Table:
    """A table by its suffix, or of ``postgresql://USER@HOST/DATABASE``. ``table``: in a DuckDB file or a
    database. Raises DataError, ConfigError."""
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
        return Table(path, names, None, blocks)
    if suffix in (".duckdb", ".db"):
        return _duckdb(path, table)
    raise DataError(f"{path.name}: use .csv, .tsv, .parquet, .duckdb or postgresql://")


@contextmanager
def column_errors(table: Table) -> Iterator[None]:
    """polars' messages can quote values: say only that a column is not of its kind. Raises DataError."""
    try:
        yield
    except pl.exceptions.PolarsError as error:
        reason = f"a column has a type that does not fit its kind ({type(error).__name__})"
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
    import duckdb

    if not table:
        raise DataError(f"{path.name}: say which table with --table")
    quoted = '"' + table.replace('"', '""') + '"'
    settings = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    try:
        with duckdb.connect(str(path), read_only=True, config=settings) as db:
            found = db.execute(f"SELECT * FROM {quoted} LIMIT 0").description or []
            count = db.execute(f"SELECT COUNT(*) FROM {quoted}").fetchone()
    except duckdb.Error as error:
        raise DataError(f"{path.name}: {type(error).__name__}; is {table} a table of it?") from None
    names = [str(column[0]) for column in found]

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        wanted = ", ".join('"' + n.replace('"', '""') + '"' for n in columns or names)
        with duckdb.connect(str(path), read_only=True, config=settings) as db:
            db.execute("PRAGMA disable_progress_bar")
            reader = db.sql(f"SELECT {wanted} FROM {quoted}").to_arrow_reader(ROWS)
            for batch in reader:
                yield _frame(batch)

    return Table(path, names, int(count[0]) if count else None, blocks)


# ---------------------------------------------------------------------- PostgreSQL


def _postgres(location: str, table: str | None) -> Table:
    """A copy of the table as texts, in a file without a name: it is gone with this process, however that
    ends. Messages call it by the table's name, never by the location, which may hold a password."""
    if not table:
        raise DataError("database: say which table with --table")
    handle, name = tempfile.mkstemp(prefix="tallystick-")
    path = Path(f"/dev/fd/{handle}")
    try:
        Path(name).unlink()
        with os.fdopen(handle, "wb", closefd=False) as file:
            postgres.copy(location, table, None, file)
        names, read = csv_files.opened(path, "utf-8", ",", table)
        _check_names(table, names)
    except BaseException as error:
        os.close(handle)
        if isinstance(error, OSError):
            reason = f"{table}: cannot be copied to {tempfile.gettempdir()}: {error.strerror}"
            raise DataError(reason) from None
        raise

    def blocks(columns: list[str] | None) -> Iterator[pl.DataFrame]:
        os.lseek(handle, 0, os.SEEK_SET)  # some systems share the place among all who open it so
        yield from read(columns)

    made = Table(path, names, None, blocks, table)
    weakref.finalize(made, os.close, handle)
    return made


# ---------------------------------------------------------------------- writing


class Writer:
    """Writes blocks to an open file, as the suffix of its final name says."""

    def __init__(self, file: BufferedRandom, suffix: str, keys: KeyRing | None) -> None:
        self._file, self._csv, self._keys = file, suffix != ".parquet", keys
        self._parquet: Any = None
        self.rows = 0

    def write(self, block: pl.DataFrame) -> None:
        """Append a block; all have the same columns and types."""
        if self._csv:
            block.write_csv(self._file, include_header=self._file.tell() == 0)
        else:
            import pyarrow.parquet as pq

            table = block.to_arrow(compat_level=pl.CompatLevel.oldest())
            if self._parquet is None:
                properties = parquet_keys.encryption(self._keys) if self._keys else None
                self._parquet = pq.ParquetWriter(
                    self._file, table.schema, compression="zstd", compression_level=1,
                    use_dictionary=repetitive(block), encryption_properties=properties,
                )  # fmt: skip
            self._parquet.write_table(table)
        self.rows += len(block)

    def close(self) -> None:
        """Write what stands at the end of a file; once is enough."""
        if self._parquet is not None:
            self._parquet.close()
        self._file.flush()

    def digest(self) -> str:
        """SHA-256 of the whole file, hexadecimal; nothing can be written afterwards."""
        self.close()
        self._file.seek(0)
        found = hashlib.file_digest(self._file, "sha256").hexdigest()
        self._file.seek(0, os.SEEK_END)
        return found

    def abandon(self) -> None:
        """Let go of the file, which is about to be removed."""
        if self._parquet is not None:
            with suppress(Exception):
                self._parquet.close()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def repetitive(block: pl.DataFrame) -> list[str]:
    """Columns whose values repeat enough for a dictionary."""
    first = block.head(4096)
    return [name for name in first.columns if first[name].n_unique() * 4 < len(first)]


@contextmanager
def created(path: Path, source: Path | None, keys: KeyRing | None) -> Iterator[Writer]:
    """A table to write, readable by this user only, there whole after the body or not at all.

    ``keys``: encrypt. Raises ConfigError, DataError.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ConfigError("--out", f"{path.name}: use .csv or .parquet")
    if keys is not None and suffix != ".parquet":
        raise ConfigError("--encrypt", "is for .parquet")
    if source is not None and path.exists() and path.samefile(source):
        raise ConfigError("--out", "is the table itself; it would be lost")
    with written(path) as file:
        writer = Writer(file, suffix, keys)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


@contextmanager
def written(path: Path) -> Iterator[BufferedRandom]:
    """A private file, whole or not at all. Raises DataError where the disk does not take it."""
    try:
        with new_private(path) as file:
            yield file
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"{path.name}: cannot be written: {reason}; nothing was left there"
        ) from None

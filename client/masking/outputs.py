"""Tables and files that are written: there whole or not at all, and in the place of nothing that the
command reads or a partner needs. Texts of a CSV are written for spreadsheets (:mod:`client.sheets`) unless
``as_is``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from pathlib import Path
from typing import Any

import polars as pl

from client.masking import parquet_keys, quoting
from client.masking.keys import KeyRing
from privacy.errors import ConfigError, DataError
from protos.files import new_private
from protos.places import check_output


class Writer:
    """Writes blocks to an open file, as the suffix of its final name says."""

    def __init__(
        self, file: BufferedRandom, suffix: str, keys: KeyRing | None, *, as_is: bool = False
    ) -> None:
        self._file, self._csv, self._keys = file, suffix != ".parquet", keys
        self._as_is = as_is
        self._parquet: Any = None
        self.rows = 0

    def write(self, block: pl.DataFrame) -> None:
        """Append a block; all have the same columns and types."""
        if self._csv:
            if not self._as_is:
                block = quoting.quoted(block)
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


def spelled(name: str) -> str:
    """A file's name as a text: bytes that are not UTF-8 as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def repetitive(block: pl.DataFrame) -> list[str]:
    """Columns whose values repeat enough for a dictionary."""
    first = block.head(4096)
    return [name for name in first.columns if first[name].n_unique() * 4 < len(first)]


@contextmanager
def created(
    path: Path,
    source: Path | None,
    keys: KeyRing | None,
    *,
    inputs: Iterable[Path] = (),
    as_is: bool = False,
) -> Iterator[Writer]:
    """A table to write, readable by this user only, there whole after the body or not at all.

    ``keys``: encrypt. ``source``, ``inputs``: files whose place it must not take. Raises ConfigError,
    DataError."""
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".parquet"):
        raise ConfigError("--out", f"{path.name}: use .csv or .parquet")
    if keys is not None and suffix != ".parquet":
        raise ConfigError("--encrypt", "is for .parquet")
    with written(path, [*inputs, *([source] if source else [])]) as file:
        writer = Writer(file, suffix, keys, as_is=as_is)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise


@contextmanager
def written(path: Path, inputs: Iterable[Path] = ()) -> Iterator[BufferedRandom]:
    """A private file, whole or not at all. Raises ConfigError where it would take the place of an input or of
    something of a partner's own, DataError where the disk does not take it."""
    check_output(path)
    try:
        with new_private(path, inputs=inputs) as file:
            yield file
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise DataError(
            f"{path.name}: cannot be written: {reason}; nothing was left there"
        ) from None

"""Where a partner's table is, how it is read, and what holds it to that.

How a table is read is decided by heading and owner alone, once: ``opened`` reads the heading, ``ReadAs``
says what followed from it, and a source with a pin is read in that way or not at all.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from client import duck, postgres
from client.lines import Lines
from client.lines import positions as _named
from client.people import Normalisation
from privacy.errors import ConfigError, DataError
from privacy.identifiers import HOME_REGION
from protos.toml import loads_json

PIN = "admitted.json"
"""The file of a partner's state that says how its table was read when it was admitted."""

Format = Literal["csv", "parquet", "duckdb", "postgresql"]


@dataclass(frozen=True)
class ReadAs:
    """How a table is read, as it was when its owner admitted it.

    ``names``: digest of the mapped names in the order of the heading. ``location``: digest of where the
    table is.
    """

    format: Format
    delimiter: str | None
    names: str
    key: Normalisation
    line_breaks: bool
    location: str

    def to_json(self) -> bytes:
        """For the pin."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, path: Path) -> ReadAs | None:
        """The pin at ``path``; None without one. Raises DataError for one that cannot be read."""
        try:
            return cls(**loads_json(path.read_bytes()))
        except FileNotFoundError:
            return None
        except (OSError, ConfigError, TypeError):
            raise DataError(f"state/{PIN}: cannot be read; run `doctor --data` again") from None


@dataclass(frozen=True)
class Source:
    """Where a partner's rows are and what its columns are called there.

    ``location``: a path, or ``postgresql://...``. ``table``: needed for DuckDB files and PostgreSQL.
    ``columns`` and ``identifiers`` map contract names to names in the source. ``region``: of telephone
    numbers without a country code. ``key``: how keys are normalised. ``line_breaks``: quoted cells of a
    CSV may hold some, and its owner vouches for its quotes. ``delimiter``: of a CSV, where its heading
    does not tell. ``pin``: how it must be read, once admitted.
    """

    location: str
    person: str
    columns: Mapping[str, str]
    identifiers: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None
    region: str = HOME_REGION
    key: Normalisation = "trimmed"
    line_breaks: bool = False
    delimiter: str | None = None
    pin: ReadAs | None = None

    @property
    def place(self) -> str:
        """What messages call it: never a location, which may hold a password."""
        return Path(self.location).name if "://" not in self.location else "database"

    def mapped(self) -> list[str]:
        """Every name of the source that is mapped, once."""
        return list(
            dict.fromkeys([self.person, *self.columns.values(), *self.identifiers.values()])
        )


Opened = Lines | duck.Relation | postgres.Table


def signature(source: Source) -> bytes | None:
    """What a file looks like from outside: another one for another path, size, time of change or
    inode, and for another way to read it. None for a database. Raises DataError if it is not there."""
    if "://" in source.location:
        return None
    digest = hashlib.sha256(os.path.realpath(source.location).encode(errors="surrogateescape"))
    how = [source.table, source.person, source.key, source.line_breaks, source.delimiter]
    digest.update(json.dumps(how).encode())
    for path in (source.location, source.location + ".wal"):  # DuckDB's changes yet to be merged
        try:
            found = Path(path).stat()
        except OSError:
            if path == source.location:
                raise DataError(f"{source.place}: file not found") from None
            continue
        digest.update(f"|{found.st_size}|{found.st_mtime_ns}|{found.st_ino}".encode())
    return digest.digest()


@contextmanager
def opened(source: Source) -> Iterator[Opened]:
    """The source, its heading read, and held against the pin. Raises DataError."""
    kind = _format(source)
    if kind == "postgresql":
        table: Opened = postgres.Table(source.location, source.table or "", tuple(source.mapped()))
    elif kind == "csv":
        delimiter = source.pin.delimiter if source.pin else source.delimiter
        try:
            table = Lines.opened(
                Path(source.location), source.mapped(), delimiter, line_breaks=source.line_breaks
            )
        except OSError:
            raise DataError(f"{source.place}: cannot be read; may you read it?") from None
        except DataError:
            if source.pin and source.pin.format == kind:
                raise _moved(source) from None
            raise
    else:
        name = source.table if kind == "duckdb" else None
        with duck.opened(Path(source.location), name) as relation:
            _check(source, relation)
            yield relation
        return
    _check(source, table)
    yield table


def read_as(source: Source, table: Opened) -> ReadAs:
    """How an opened source is read. Raises DataError for a mapped column that it does not have."""
    mapped = heading(source, table)
    return ReadAs(
        _format(source),
        table.delimiter if isinstance(table, Lines) else None,
        hashlib.sha256(json.dumps(mapped).encode()).hexdigest(),
        source.key,
        source.line_breaks,
        hashlib.sha256(json.dumps([source.location, source.table]).encode()).hexdigest(),
    )


def heading(source: Source, table: Opened) -> list[str]:
    """The mapped names as the heading spells them, in its order. Raises DataError."""
    at = places(table, source.place, source.mapped())
    return [table.heading[i] for i in sorted(set(at))]


def _check(source: Source, table: Opened) -> None:
    if source.pin is None:
        return
    now, then = read_as(source, table), source.pin
    if now.location != then.location or now.format != then.format:
        raise DataError(f"{source.place}: is not the table that was admitted; run `doctor --data`")
    if now.names != then.names:
        raise _moved(source)
    declared = then.delimiter if source.delimiter is None else source.delimiter
    if now != then or declared != then.delimiter:
        raise DataError(
            f"{source.place}: key, line_breaks or delimiter of partner.toml, [data], is another than "
            "when the table was admitted; run `doctor --data` again"
        )


def _moved(source: Source) -> DataError:
    return DataError(
        f"{source.place}: the heading changed since the table was admitted; run `doctor --data` again"
    )


def _format(source: Source) -> Format:
    if source.location.startswith(postgres.SCHEMES):
        if not source.table:
            raise DataError("database: partner.toml, data.table is missing")
        return "postgresql"
    path = Path(source.location)
    if not path.is_file():
        raise DataError(f"{source.place}: file not found")
    suffix = path.suffix.lower()
    if suffix in (".duckdb", ".db"):
        if not source.table:
            raise DataError(f"{source.place}: partner.toml, data.table is missing")
        return "duckdb"
    if suffix == ".parquet":
        return "parquet"
    if suffix in (".csv", ".tsv", ".txt"):
        return "csv"
    raise DataError(f"{source.place}: use .csv, .parquet, .duckdb or postgresql://")


def places(table: Opened, place: str, names: Sequence[str]) -> list[int]:
    """Where each name is in the heading. Raises DataError for one that is not there, or there twice."""
    if isinstance(table, postgres.Table):  # there letter cases tell names apart
        return [table.heading.index(name) for name in names]
    return _named(place, names, table.heading)

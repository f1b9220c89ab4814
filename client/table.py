"""A partner's own table, read through DuckDB: CSV, Parquet, DuckDB file; PostgreSQL by COPY.

Only declared columns are read. Every row that cannot be used is counted; nothing is dropped
silently and no value appears in a message. No DuckDB extension is ever downloaded.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from client import postgres
from privacy.errors import DataError
from privacy.identifiers import HOME_REGION
from privacy.programs.columns import Category, Column, Columns, Floats, Label, Number

if TYPE_CHECKING:
    import duckdb


BATCH_ROWS = 1 << 15
BATCH_MEMORY = "96MB"
"""What DuckDB may hold while rows are read in batches."""


@dataclass(frozen=True)
class Source:
    """Where a partner's rows are and what its columns are called there.

    ``location``: a path, or ``postgresql://...``. ``table``: needed for DuckDB files and PostgreSQL.
    ``columns`` and ``identifiers`` map contract names to names in the source. ``region``: of telephone
    numbers without a country code.
    """

    location: str
    person: str
    columns: Mapping[str, str]
    identifiers: Mapping[str, str] = field(default_factory=dict)
    table: str | None = None
    region: str = HOME_REGION


@dataclass
class Report:
    """Counts for the partner's own eyes: they never leave."""

    rows: int = 0
    people: int = 0
    malformed_lines: int = 0
    without_person: int = 0
    unusable: dict[str, int] = field(default_factory=dict)
    clipped: dict[str, int] = field(default_factory=dict)
    over_rows_per_person: int = 0

    def to_json(self) -> str:
        """One JSON object."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class Snapshot:
    """Rows as they were at the start of a job, in order of person.

    ``person``: (n,) digests of keys, equal for rows of one person. ``key``: (n,) the partner's own
    keys. ``rows``: declared columns and ``fold``, each (n,).
    """

    person: NDArray[np.uint64]
    key: NDArray[np.str_]
    rows: dict[str, Floats]

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.person)

    @property
    def people(self) -> int:
        """Distinct people."""
        return int((np.diff(self.starts()) > 0).sum()) if self.count else 0

    def starts(self) -> NDArray[np.intp]:
        """Index of each person's first row, then the number of rows."""
        if not self.count:
            return np.zeros(1, dtype=np.intp)
        change = np.flatnonzero(self.key[1:] != self.key[:-1]) + 1
        return np.concatenate([[0], change, [self.count]]).astype(np.intp)

    def to_bytes(self) -> bytes:
        """For the encrypted copy that a restarted gate goes on from."""
        buffer = io.BytesIO()
        arrays: dict[str, Any] = {"person": self.person, "key": self.key}
        arrays |= {f"row/{name}": values for name, values in self.rows.items()}
        np.savez(buffer, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Inverse of :meth:`to_bytes`."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            return cls(
                arrays["person"],
                arrays["key"],
                {n.removeprefix("row/"): arrays[n] for n in arrays.files if n.startswith("row/")},
            )


def fold_of(keys: Sequence[str]) -> tuple[NDArray[np.uint64], Floats]:
    """Digest of each key and its fold in [0, 1): public, so that every partner holds out alike."""
    digests = np.array(
        [
            int.from_bytes(hashlib.sha256(b"tallystick/v1/fold" + key.encode()).digest()[:8], "big")
            for key in keys
        ],
        dtype=np.uint64,
    )
    return digests, (digests >> np.uint64(11)).astype(np.float64) * 2.0**-53


def read(
    source: Source,
    columns: Columns,
    wanted: Sequence[str],
    *,
    rows_per_person: int = 1,
) -> tuple[Snapshot, Report]:
    """Read ``wanted`` columns of every usable row.

    Raises DataError that names the source or column, never a value.
    """
    report = Report()
    with _selected(source, columns, wanted, (), report) as (db, names, order):
        with _data_errors(source):
            fetched = db.execute(f"SELECT {names} FROM snapshot ORDER BY {order}").fetchnumpy()
        arrays = [fetched[f"c{i}"] for i in range(len(fetched))]
    return _snapshot(arrays, columns, wanted, rows_per_person, report)


Texts = NDArray[np.object_]
"""Python strings, None for NULL."""


@dataclass(frozen=True)
class Batch:
    """Rows in order of person, all (n,). ``new``: whether a row is its person's first."""

    key: Texts
    new: NDArray[np.bool_]
    rows: dict[str, Floats]
    identifiers: dict[str, Texts]


def batches(
    source: Source,
    columns: Columns,
    wanted: Sequence[str],
    *,
    identifiers: Sequence[str],
    rows_per_person: int,
    report: Report,
    folder: Path,
) -> Iterator[Batch]:
    """As :func:`read`, with ``identifiers`` as texts, a bounded number of rows at a time; counts go
    into ``report``.

    What DuckDB cannot hold it puts into ``folder`` in the clear, for as long as this runs, as the
    table itself lies on this machine.
    """
    last, seen = "", 0
    with _selected(source, columns, wanted, identifiers, report, folder) as (db, names, order):
        with _data_errors(source):
            db.execute(
                f"CREATE TEMP TABLE ordered AS SELECT {names} FROM snapshot ORDER BY {order}"
            )
            found = db.execute("SELECT COUNT(*) FROM ordered").fetchone()
        for first in range(0, int(found[0]) if found else 0, BATCH_ROWS):
            with _data_errors(source):
                fetched = db.execute(
                    "SELECT * FROM ordered WHERE rowid >= ? AND rowid < ?",
                    [first, first + BATCH_ROWS],
                ).fetchnumpy()
            arrays = [fetched[f"c{i}"] for i in range(len(fetched))]
            batch, last, seen = _batch(
                arrays, columns, wanted, identifiers, rows_per_person, report, last, seen
            )
            yield batch


def _batch(
    arrays: list[Any],
    columns: Columns,
    wanted: Sequence[str],
    identifiers: Sequence[str],
    rows_per_person: int,
    report: Report,
    last: str,
    seen: int,
) -> tuple[Batch, str, int]:
    """``last``, ``seen``: the person that the batch before ended with, and rows kept of it."""
    count = len(arrays[0])
    report.rows += count
    keys = _texts(arrays[0])
    keep: NDArray[np.bool_] = (keys != None) & (keys != "")  # noqa: E711 - element by element
    report.without_person += count - int(keep.sum())
    rows = {}
    for name, array in zip(wanted, arrays[1:], strict=False):
        rows[name], usable = _usable(name, columns[name], array, report)
        keep &= usable
    held = {n: _texts(a) for n, a in zip(identifiers, arrays[1 + len(wanted) :], strict=True)}
    place = np.flatnonzero(keep)
    kept = keys[place]
    if not len(place):
        empty = {name: values[place] for name, values in rows.items()}
        return Batch(kept, np.zeros(0, np.bool_), empty, dict.fromkeys(held, kept)), last, seen
    new = np.concatenate([[kept[0] != last], kept[1:] != kept[:-1]]).astype(np.bool_)
    at = np.arange(len(place))
    first = np.maximum.accumulate(np.where(new, at, -1))
    run = np.where(first < 0, seen + at, at - first)  # rows of this person before this one
    within = run < rows_per_person
    report.over_rows_per_person += int((~within).sum())
    report.people += int(new.sum())
    last, seen = str(kept[-1]), int(run[-1]) + 1
    if not bool(within.all()) or len(place) < count:
        place = place[within]
        kept, new = kept[within], new[within]
        rows = {name: values[place] for name, values in rows.items()}
        held = {name: values[place] for name, values in held.items()}
    return Batch(kept, new, rows, held), last, seen


def _texts(array: Any) -> Texts:
    """A column of texts; None for NULL."""
    texts: Texts = np.array(np.ma.getdata(array), dtype=object)
    texts[np.ma.getmaskarray(array)] = None  # filled() takes None for "the default"
    return texts


def _usable(
    name: str, column: Column, array: Any, report: Report
) -> tuple[Floats, NDArray[np.bool_]]:
    """A column's values, clipped to its bounds, and which can be used; both counted."""
    values = _values(column, array)
    usable: NDArray[np.bool_] = np.isfinite(values)
    if not bool(usable.all()):
        report.unusable[name] = report.unusable.get(name, 0) + int((~usable).sum())
    if isinstance(column, Number):
        inside = np.clip(values, column.low, column.high)
        outside = int(((inside != values) & usable).sum())
        if outside:
            report.clipped[name] = report.clipped.get(name, 0) + outside
        values = inside
    return values, usable


@contextmanager
def _selected(
    source: Source,
    columns: Columns,
    wanted: Sequence[str],
    identifiers: Sequence[str],
    report: Report,
    folder: Path | None = None,
) -> Iterator[tuple[duckdb.DuckDBPyConnection, str, str]]:
    """The mapped columns as a table ``snapshot``; what to select of it as c0, c1, ... and in which
    order. Raises DataError."""
    for name in wanted:
        if name not in source.columns or name not in columns:
            raise DataError(f"column {name}: not mapped in partner.toml, [data.columns]")
    for name in identifiers:
        if name not in source.identifiers:
            raise DataError(f"identifier {name}: not mapped in partner.toml, [data.identifiers]")
    with _opened(source, folder) as (db, relation, malformed):
        selected = [f"CAST({_quoted(source.person)} AS VARCHAR)"]
        for name in wanted:
            selected.append(_expression(columns[name], _quoted(source.columns[name])))
        for name in identifiers:
            selected.append(f"CAST({_quoted(source.identifiers[name])} AS VARCHAR)")
        order = ", ".join(str(i + 1) for i in range(len(selected)))
        names = ", ".join(f"{text} AS c{i}" for i, text in enumerate(selected))
        raw = dict.fromkeys(
            [source.person, *(source.columns[n] for n in wanted)]
            + [source.identifiers[n] for n in identifiers]
        )
        with _data_errors(source):
            db.execute("PRAGMA disable_progress_bar")  # it would write to standard output
            # Read first, convert afterwards: DuckDB 2 moves TRY_CAST into the CSV reader, which then
            # rejects whole lines for one bad cell.
            kind = "TABLE" if relation.startswith("read_csv") else "VIEW"
            db.execute(
                f"CREATE TEMP {kind} snapshot AS"
                f" SELECT {', '.join(map(_quoted, raw))} FROM {relation}"
            )
            report.malformed_lines = malformed(db)
        yield db, names, order


def _snapshot(
    arrays: list[Any],
    columns: Columns,
    wanted: Sequence[str],
    rows_per_person: int,
    report: Report,
) -> tuple[Snapshot, Report]:
    report.rows = len(arrays[0])
    missing = np.ma.getmaskarray(np.ma.asarray(arrays[0]))
    texts = [t.decode("utf-8", "replace") if isinstance(t, bytes) else str(t) for t in
             np.ma.getdata(np.ma.asarray(arrays[0]))]  # fmt: skip
    keep = np.array([not m and text != "" for m, text in zip(missing, texts, strict=True)], bool)
    report.without_person = int((~keep).sum())
    rows: dict[str, Floats] = {}
    for name, array in zip(wanted, arrays[1:], strict=False):
        values, usable = _usable(name, columns[name], array, report)
        rows[name] = values
        keep &= usable
    keys = np.array(texts, dtype=np.str_) if texts else np.empty(0, dtype="<U1")
    if rows_per_person and keep.any():
        place = np.flatnonzero(keep)
        kept = keys[place]
        first = np.concatenate([[True], kept[1:] != kept[:-1]])
        run = np.arange(len(kept)) - np.maximum.accumulate(np.where(first, np.arange(len(kept)), 0))
        over = run >= rows_per_person
        report.over_rows_per_person = int(over.sum())
        keep[place[over]] = False
    keys = keys[keep]
    digests, fold = fold_of([str(key) for key in keys])
    rows = {name: np.ascontiguousarray(values[keep]) for name, values in rows.items()}
    rows["fold"] = fold
    snapshot = Snapshot(digests, keys, rows)
    report.people = snapshot.people
    return snapshot, report


def _values(column: Column, array: Any) -> Floats:
    """Floats with NaN for what cannot be used: numbers, category codes, labels."""
    masked = np.ma.asarray(array)
    if isinstance(column, Category):
        codes = {value: float(i) for i, value in enumerate(column.values)}
        filled = _texts(masked)
        return np.array([codes.get(v, np.nan) if v is not None else np.nan for v in filled], float)
    values: Floats = np.ma.filled(masked.astype(np.float64), np.nan)
    if isinstance(column, Label):
        values = np.where((values == 0.0) | (values == 1.0), values, np.nan)
    return values


def _expression(column: Column, name: str) -> str:
    if isinstance(column, Number):
        return f"TRY_CAST({name} AS DOUBLE)"
    if isinstance(column, Label):
        return f"CAST(TRY_CAST(CAST({name} AS VARCHAR) AS BOOLEAN) AS DOUBLE)"
    return f"CAST({name} AS VARCHAR)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@contextmanager
def _data_errors(source: Source) -> Iterator[None]:
    """DuckDB's messages can quote cells: name the kind of failure only."""
    import duckdb

    place = Path(source.location).name if "://" not in source.location else "database"
    try:
        yield
    except duckdb.BinderException:
        raise DataError(f"{place}: a mapped column does not exist in the source") from None
    except duckdb.CatalogException:
        raise DataError(f"{place}: the table does not exist in the source") from None
    except duckdb.IOException:
        raise DataError(f"{place}: cannot be read; is it there, complete and readable?") from None
    except duckdb.Error as error:
        raise DataError(f"{place}: {type(error).__name__}; is the file complete?") from None


@contextmanager
def _opened(
    source: Source, folder: Path | None = None
) -> Iterator[tuple[duckdb.DuckDBPyConnection, str, Any]]:
    """A connection, the relation to select from, and a count of malformed lines."""
    import duckdb

    def none(_: duckdb.DuckDBPyConnection) -> int:
        return 0

    def rejects(db: duckdb.DuckDBPyConnection) -> int:
        found = db.execute("SELECT COUNT(DISTINCT line) FROM reject_errors").fetchone()
        return int(found[0]) if found else 0

    settings = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": "1GB",
        "threads": "2",
    }
    if folder is not None:
        settings |= {
            "memory_limit": BATCH_MEMORY,
            "threads": "1",
            "temp_directory": str(folder),
        }
    location = source.location
    csv = "read_csv({}, all_varchar=true, header=true, store_rejects=true)"
    if location.startswith(postgres.SCHEMES):
        with _postgres_copy(source) as path, duckdb.connect(config=settings) as db:
            yield db, csv.format(_literal(str(path))), rejects
        return
    path = Path(location)
    if not path.is_file():
        raise DataError(f"{path.name}: file not found")
    suffix = path.suffix.lower()
    if suffix in (".duckdb", ".db"):
        if not source.table:
            raise DataError(f"{path.name}: partner.toml, data.table is missing")
        with _data_errors(source), duckdb.connect(str(path), read_only=True, config=settings) as db:
            yield db, _quoted(source.table), none
        return
    with duckdb.connect(config=settings) as db:
        if suffix == ".parquet":
            yield db, f"read_parquet({_literal(location)})", none
        elif suffix in (".csv", ".tsv", ".txt"):
            yield db, csv.format(_literal(location)), rejects
        else:
            raise DataError(f"{path.name}: use .csv, .parquet, .duckdb or postgresql://")


@contextmanager
def _postgres_copy(source: Source) -> Iterator[Path]:
    """The mapped columns as a CSV file that only this user can read, gone afterwards."""
    if not source.table:
        raise DataError("database: partner.toml, data.table is missing")
    names = list(
        dict.fromkeys([source.person, *source.columns.values(), *source.identifiers.values()])
    )
    handle, name = tempfile.mkstemp(prefix="tallystick-", suffix=".csv")
    try:
        with os.fdopen(handle, "wb") as target:
            postgres.copy(source.location, source.table, names, target)
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)

"""A partner's own table: CSV, Parquet, a DuckDB file, or PostgreSQL.

1. How it is read is decided once, by heading and owner, and pinned when the table is admitted.
2. Each row is read for itself, each cell for itself; what cannot be used is counted, never dropped in
   silence. Only declared columns are converted.
3. A person is what ``client.people`` computes of the key; its rows are brought together here.
4. Nothing of the table is written to disk in the clear: a table too large for memory goes through the
   encrypted buckets of the match that reads it.

So a row more or less changes what is kept of its own person, and of nobody else. No value of a row is
in a message. Not handled: a view of a database in which one row changes another.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np
from numpy.typing import NDArray

from client import cells, duck, people, piles
from client.cells import Cells
from client.lines import Lost
from client.people import People, fold_of
from client.piles import Part, Texts
from client.source import PIN, Opened, ReadAs, Source, opened, places, signature
from privacy.errors import DataError
from privacy.matching.storage import Spool
from privacy.programs.columns import Columns, Floats, Number

__all__ = [
    "PIN", "Batch", "ReadAs", "Report", "Snapshot", "Source", "batches", "fold_of", "parts", "read",
    "signature",
]  # fmt: skip

BATCH_ROWS = 1 << 15
IN_MEMORY = 1 << 17
"""Rows of a table that is sorted in memory as a whole."""
_PAD = 4096
"""Stored snapshots have the length of a multiple of so many rows."""


@dataclass
class Report:
    """Counts for the partner's own eyes: they never leave. ``malformed_at``: the first few lines
    that were lost, by number. ``open_quotes``: lost lines that seem to end within quotes."""

    rows: int = 0
    people: int = 0
    malformed_lines: int = 0
    malformed_at: list[int] = field(default_factory=list)
    open_quotes: int = 0
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

    ``person``: (n, 2) digests of keys, equal for rows of one person. ``rows``: declared columns and
    ``fold``, each (n,). ``key``: (n,) the partner's own keys, where they were asked for; never stored.
    """

    person: People
    rows: dict[str, Floats]
    key: Texts | None = None

    @property
    def count(self) -> int:
        """Rows."""
        return len(self.person)

    @property
    def people(self) -> int:
        """Distinct people."""
        return len(self.starts()) - 1

    def starts(self) -> NDArray[np.intp]:
        """Index of each person's first row, then the number of rows."""
        return np.append(np.flatnonzero(people.firsts(self.person)), self.count).astype(np.intp)

    def to_bytes(self) -> bytes:
        """For the encrypted copy that a restarted gate goes on from: its length tells the number of
        rows to a multiple of 4096, and it holds no key."""
        short = -self.count % _PAD if self.count else _PAD
        arrays: dict[str, NDArray[np.uint64] | Floats] = {
            "count": np.array([self.count], np.uint64),
            "person": np.pad(self.person, ((0, short), (0, 0))),
        }
        for name, values in self.rows.items():
            arrays[f"row/{name}"] = np.pad(values, (0, short))
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Snapshot:
        """Inverse of :meth:`to_bytes`, but for keys."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            count = int(arrays["count"][0])
            rows = [name for name in arrays.files if name.startswith("row/")]
            return cls(
                arrays["person"][:count],
                {name.removeprefix("row/"): arrays[name][:count] for name in rows},
            )


def read(
    source: Source,
    columns: Columns,
    wanted: Sequence[str],
    *,
    rows_per_person: int = 1,
    keys: bool = False,
) -> tuple[Snapshot, Report]:
    """``wanted`` columns of every usable row; with ``keys`` the partner's own keys too. Of a person
    with more rows than ``rows_per_person`` (0: no bound) the first by value are kept.

    Raises DataError that names the source or column, never a value.
    """
    report = Report()
    whole = piles.joined(list(parts(source, columns, wanted, (), report, keys=keys)), len(wanted))
    order = _ordered(whole, rows_per_person, report).order
    person = whole.person[order]
    rows = {name: values[order] for name, values in zip(wanted, whole.values, strict=True)}
    rows["fold"] = people.fold(person)
    return Snapshot(person, rows, piles.picked(whole.texts[0], order) if keys else None), report


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
    spool: Spool,
) -> Iterator[Batch]:
    """As :func:`read`, with keys and ``identifiers`` as texts, a bounded number of rows at a time;
    counts go into ``report``. Raises DataError before the first batch, Refused(STORAGE).

    The buckets called ``table`` of ``spool`` hold a table that is too large for memory.
    """
    found = parts(source, columns, wanted, identifiers, report, keys=True)
    for pile in piles.sorted_out(found, spool, IN_MEMORY):
        grouping = _ordered(pile, rows_per_person, report)
        for first in range(0, len(grouping.order), BATCH_ROWS):
            order = grouping.order[first : first + BATCH_ROWS]
            key, *held = (piles.picked(column, order) for column in pile.texts)
            yield Batch(
                key,
                grouping.new[first : first + BATCH_ROWS],
                {name: values[order] for name, values in zip(wanted, pile.values, strict=True)},
                dict(zip(identifiers, held, strict=True)),
            )


def _ordered(part: Part, rows_per_person: int, report: Report) -> people.Grouping:
    grouping = people.grouped(part.person, part.values, part.texts, rows_per_person)
    report.over_rows_per_person += grouping.over
    report.people += int(grouping.new.sum())
    return grouping


def parts(
    source: Source,
    columns: Columns,
    wanted: Sequence[str],
    identifiers: Sequence[str],
    report: Report,
    *,
    keys: bool,
) -> Iterator[Part]:
    """The usable rows in the source's order, some at a time: texts are the key, if asked for, then
    ``identifiers``. All counts but those of people go into ``report``. Raises DataError."""
    for name in wanted:
        if name not in source.columns or name not in columns:
            raise DataError(f"column {name}: not mapped in partner.toml, [data.columns]")
    for name in identifiers:
        if name not in source.identifiers:
            raise DataError(f"identifier {name}: not mapped in partner.toml, [data.identifiers]")
    chosen = [source.person, *(source.columns[n] for n in wanted)]
    chosen += [source.identifiers[n] for n in identifiers]
    before, lost = signature(source), Lost()
    with opened(source) as table:
        for block in _blocks(table, source.place, chosen, len(wanted), lost):
            part = _part(source, columns, wanted, block, report, keys=keys)
            if len(part.person):
                yield part
    report.malformed_lines, report.malformed_at = lost.count, lost.lines
    report.open_quotes = lost.open_quotes
    if signature(source) != before:
        raise DataError(f"{source.place}: changed while it was read")


def _part(
    source: Source,
    columns: Columns,
    wanted: Sequence[str],
    block: list[Cells],
    report: Report,
    *,
    keys: bool,
) -> Part:
    own = cells.texts(block[0])
    canonical = people.canonical(own, source.key)
    report.rows += len(own)
    keep: NDArray[np.bool_] = np.array([key != "" for key in canonical], np.bool_)
    report.without_person += len(own) - int(keep.sum())
    values = []
    for name, column in zip(wanted, block[1:], strict=False):
        found, usable = _usable(name, columns, column, report)
        values.append(found)
        keep &= usable
    texts = [own] if keys else []
    texts += [cells.texts(column) for column in block[1 + len(wanted) :]]
    if not keep.all():
        values = [column[keep] for column in values]
        canonical = piles.kept(canonical, keep)
        texts = [piles.kept(column, keep) for column in texts]
    return Part(people.digests(canonical), values, texts)


def _usable(
    name: str, columns: Columns, column: Cells, report: Report
) -> tuple[Floats, NDArray[np.bool_]]:
    """A column's values, clipped to its bounds, and which can be used; both counted."""
    declared = columns[name]
    values = cells.values(declared, column) + 0.0  # of -0.0 and 0.0 none comes first
    usable: NDArray[np.bool_] = np.isfinite(values)
    if not usable.all():
        report.unusable[name] = report.unusable.get(name, 0) + int((~usable).sum())
    if isinstance(declared, Number):
        inside = np.clip(values, declared.low, declared.high)
        outside = int(((inside != values) & usable).sum())
        if outside:
            report.clipped[name] = report.clipped.get(name, 0) + outside
        values = inside
    return values, usable


def _blocks(
    table: Opened, place: str, chosen: Sequence[str], numbers: int, lost: Lost
) -> Iterator[list[Cells]]:
    """Cells of the ``chosen`` names; after the key come ``numbers`` columns, then texts."""
    at = places(table, place, chosen)
    if not isinstance(table, duck.Relation):
        try:
            yield from table.blocks(at, lost)
        except OSError:
            raise DataError(f"{place}: cannot be read; is it still there?") from None
        return
    yield from table.blocks(at, [0 < i <= numbers for i in range(len(at))])

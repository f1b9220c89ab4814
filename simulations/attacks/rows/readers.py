"""Rows 16 and 17, and residual ones: one person's cells that change what is kept of others."""

from __future__ import annotations

import contextlib
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import numpy as np

from client.table import Source, read
from privacy.errors import TallystickError
from privacy.programs.columns import Column, Number
from protos import wire
from simulations.attacks.hostile import count
from simulations.attacks.lab import TARGET, Lab
from simulations.attacks.table import Attack

COLUMNS: dict[str, Column] = {"spend": Number("spend", 0.0, 100.0)}
Kept = Counter[tuple[int, ...]]


def _kept(path: Path, bound: int, **more: Any) -> Kept:
    """The rows of a snapshot as a multiset of (person, values); empty where it cannot be read."""
    found = Source(str(path), "id", {"spend": "spend"}, **more)
    try:
        snapshot, _ = read(found, COLUMNS, ["spend"], rows_per_person=bound)
    except TallystickError:
        return Counter()
    rows = zip(snapshot.person.tolist(), snapshot.rows["spend"].tolist(), strict=True)
    return Counter((*person, value) for person, value in rows)


def _changed(one: Kept, other: Kept) -> set[tuple[int, ...]]:
    return {row[:2] for row in (one - other) + (other - one)}


def _most(rows: Kept) -> int:
    return max(Counter(row[:2] for row in rows.elements()).values(), default=0)


def _collated(lab: Lab, rng: Random) -> bool:
    """A source that takes two people for one, or one for many; success: others' rows change, or more than
    the contract's bound of one person are kept."""
    collation = rng.choice(["", "COLLATE NOCASE", "COLLATE NOACCENT", "COLLATE NOACCENT.NOCASE"])
    name, twin = rng.choice([("Ann", "ann"), ("Zoë", "Zoe"), ("ANN", "Ann"), ("ann", "ann ")])
    bound = rng.choice([1, 2, 5, 100])
    with lab.folder() as folder:
        found = []
        for there in (True, False):
            path = folder / f"{there}.duckdb"
            with duckdb.connect(str(path)) as db:
                db.execute(f"CREATE TABLE c (id VARCHAR {collation}, spend DOUBLE)")
                for i in range(rng.choice([40])):
                    if there:
                        db.execute("INSERT INTO c VALUES (?, ?)", [name, 100.0 - 2 * i / 10])
                    db.execute("INSERT INTO c VALUES (?, ?)", [twin, 99.9 - 2 * i / 10])
                db.execute("INSERT INTO c SELECT 'p' || i, 50 FROM range(60) t(i)")
            found.append(_kept(path, bound, table="c"))
        return _most(found[0]) > bound or len(_changed(*found)) > 1


PIECES = [b'"', b'""', b",", b";", b"\t", b"|", b"\r", b"\0", b"\xff", b"\\", b"'", b"x1", b"7",
          b"c00003", b"\xef\xbb\xbf", b" ", b'5" inch', b'"open', b"\xe2\x80\xa8"]  # fmt: skip


def _quoted(lab: Lab, rng: Random) -> bool:
    """One line of any bytes in a CSV of 300; success: more than one person's rows change."""
    style = rng.randrange(3)
    rows = [
        f'c{i:05d},"a;""b""{i}",{i % 100}' if i % 50 in ([], [49], range(50))[style]
        else f"c{i:05d},ab,{i % 100}"
        for i in range(300)
    ]  # fmt: skip
    row = b"".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
    row = rng.choice([b"", b'"', b'c99999,"5 inch']) + row
    end, at, bound = rng.choice(["\n", "\r\n"]), rng.randint(0, 300), rng.choice([1, 9])
    with lab.folder() as folder:
        path = folder / "t.csv"
        return len(_changed(*_both(path, rows, row, at, end, bound))) > 1


def _both(
    path: Path, rows: list[str], row: bytes, at: int, end: str, bound: int, **more: Any
) -> tuple[Kept, Kept]:
    lines = [line.encode() for line in ["id,note,spend", *rows]]
    path.write_bytes(end.encode().join(lines) + end.encode())
    before = _kept(path, bound, **more)
    lines.insert(at + 1, row)
    path.write_bytes(end.encode().join(lines) + end.encode())
    return before, _kept(path, bound, **more)


def _breaks(lab: Lab, rng: Random) -> bool:
    """``line_breaks`` over a CSV with a quote that is never closed; success: more than one person changes."""
    rows = [f"c{i:05d},ab,{i % 100}" for i in range(300)]
    with lab.folder() as folder:
        row = b'c99999,"5 inch,7'
        both = _both(folder / "t.csv", rows, row, rng.randint(0, 299), "\n", 1, line_breaks=True)
        return len(_changed(*both)) > 1


def _parquet(lab: Lab, rng: Random) -> bool:
    """A text that is no UTF-8 in one cell of a Parquet file; success: ``failed`` says that it is there."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    there = rng.random() < 0.5
    with lab.world() as world:
        from simulations.attacks.lab import people

        rows = people(0)
        names = list(rows[0])
        columns = {n: pa.array([row[n] for row in rows], pa.string()) for n in names}
        if there:
            cells = [row["region"].encode() for row in rows]
            cells[rng.randrange(len(cells))] = b"\xff\xfe"
            offsets = np.cumsum([0, *map(len, cells)]).astype(np.int32)
            columns["region"] = pa.StringArray.from_buffers(
                len(cells), pa.py_buffer(offsets.tobytes()), pa.py_buffer(b"".join(cells))
            )
        pq.write_table(pa.table(columns), world.root / "bank.parquet")
        world.settings(data={"source": "../bank.parquet"})
        with world.room() as (_, hostile):
            asked = count(query={"measures": ["histogram(region)"]}, epsilon=0.1)
            opened = hostile.open(asked)
            reply = hostile.release(TARGET, opened, [0])
            with contextlib.suppress(TallystickError):
                hostile.send(TARGET, opened.id, cancel=wire.Cancel())
        return reply.HasField("refusal") == there


ATTACKS = [
    Attack("16", "a collation of the source", "a customer", "another person's rows change", _collated,
           trials=40),
    Attack("17", "a line of any bytes in a CSV", "a customer", "another person's rows change", _quoted,
           trials=200),
    Attack("R", "an open quote, line_breaks declared", "a customer", "another person's rows change",
           _breaks, trials=20, breaks="the owner vouches for quotes"),
    Attack("R", "no UTF-8 in a Parquet cell", "coordinator", "is such a cell there", _parquet, 0.5, 20,
           breaks="the owner's table is well formed"),
]  # fmt: skip

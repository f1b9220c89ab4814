"""Tables of hostile shapes: an owner's own, but whoever fills a form fills a cell of it.

CSV with headings, quotes, delimiters, lengths and encodings that are bent, Parquet with columns of other
types and with bytes that are bent, DuckDB files that are none. A table is read, or refused with a sentence;
no cell costs another person's row, and no cell's text is in an error.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from random import Random
from typing import Any

import polars as pl

from client import table
from client.masking import tables as masked
from client.source import Source
from privacy.errors import TallystickError
from simulations.attacks.fuzzing import texts
from simulations.attacks.fuzzing.mutate import raw
from simulations.attacks.fuzzing.target import Came
from simulations.attacks.tables import BAD, COLUMNS, EXTREMES, HEAD, Base, person

CANARY = "Zz9canary"
"""In cells: it must not be in an error."""
MANY = (0, 1, 3, 20)
CELLS = (
    *BAD, *EXTREMES, "", '"', '""', '"a', 'a"', '"a""b"', "\0", "\ufeff", "\r", "1,2",
    "1;2", "'=1+1", "\u2028", "x" * 5000,
    "9" * 400, "\U0001f9ee", "true", "NULL", "2020-02-30", f"{CANARY} \x1b[31m",
)  # fmt: skip
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "latin-1", "gb18030")
TYPES: tuple[Any, ...] = (
    pl.Int64, pl.UInt8, pl.Float32, pl.Float64, pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Binary,
    pl.List(pl.Int64), pl.Struct({"a": pl.Int64}), pl.Null, pl.Categorical, pl.Decimal(38, 4), pl.Duration,
    pl.Time,
)  # fmt: skip


class SheetTarget:
    """Tables of all formats, one after another."""

    def __init__(self, base: Base, folder: Path, rng: Random) -> None:
        self.last, self._rng, self._folder = b"", rng, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._columns = base.alliance.contract.declared_columns()

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def left(self) -> str:
        found = sorted(path.name for path in self._folder.iterdir())
        return "" if len(found) <= 4 else f"files that nobody wrote: {found}"

    def one(self) -> Came:
        rng = self._rng
        format_ = rng.choices(["csv", "parquet", "duckdb"], [20, 4, 1])[0]
        path = self._folder / f"table.{format_}"
        self.last = {"csv": self._csv, "parquet": self._parquet, "duckdb": self._duckdb}[format_]()
        path.write_bytes(self.last)
        try:
            if rng.random() < (0.1 if format_ == "csv" else 0.35):
                whole = masked.opened(path, table="t")
                taken = sum(len(block) for block in whole.blocks())
            else:
                taken = self._read(path)
        except TallystickError as error:
            if CANARY in str(error):
                return Came(format_, wrong="a cell's text is in an error")
            return Came(f"{format_} refused")
        finally:
            path.unlink()
        return Came(format_, reached=taken > 0)

    def _read(self, path: Path) -> int:
        """As a gate does it for a sum."""
        rng = self._rng
        source = Source(
            str(path), "id", {name: name for name in COLUMNS}, {"email": "mail", "phone": "mobile"},
            "t" if path.suffix == ".duckdb" else None, key=rng.choice(["exact", "trimmed", "caseless"]),
            line_breaks=rng.random() < 0.3, delimiter=rng.choice([None, None, None, ",", ";", "\t", "|"]),
        )  # fmt: skip
        wanted = rng.sample(list(COLUMNS), rng.randint(1, 4))
        found, report = table.read(
            source, self._columns, wanted, rows_per_person=rng.choice([0, 1, 2]), keys=True
        )
        if found.people != report.people or found.people > found.count:
            raise ArithmeticError("people are miscounted")
        return found.count

    # ------------------------------------------------------------------ how tables are made

    def _rows(self) -> list[dict[str, str]]:
        rng = self._rng
        rows = [person(n, rng) for n in range(rng.choice(MANY))]
        for row in rows:
            if rng.random() < 0.5:
                row[rng.choice(HEAD)] = rng.choice(CELLS)
            if rng.random() < 0.1:
                row["id"] = rng.choice([rows[0]["id"], " C000000", "c000000", *CELLS])
        return rows

    def _csv(self) -> bytes:
        rng, by = self._rng, self._rng.choice([",", ",", ",", ";", "\t", "|"])
        head = list(HEAD)
        if rng.random() < 0.2:
            head[rng.randrange(len(head))] = rng.choice(
                ["", "id", "ID", " age", "\ufeffid", *CELLS]
            )
        lines = [by.join(head)]
        lines += [by.join(self._cell(row[name]) for name in HEAD) for row in self._rows()]
        text = rng.choice(["\n", "\n", "\r\n", "\r"]).join(lines) + rng.choice(["\n", "", "\n\n"])
        if rng.random() < 0.3:
            text = texts.text(rng, text)
        data = text.encode(rng.choice(ENCODINGS) if rng.random() < 0.1 else "utf-8", "replace")
        return raw(rng, data) if rng.random() < 0.1 else data

    def _cell(self, text: str) -> str:
        return text if self._rng.random() < 0.9 else '"' + text.replace('"', '""') + '"'

    def _parquet(self) -> bytes:
        """Columns of other types than are meant, or a file that is bent."""
        rng, rows = self._rng, self._rows()
        frame = pl.DataFrame(rows or None, schema=dict.fromkeys(HEAD, pl.String))
        for name in HEAD:
            if rng.random() < 0.4:
                kind = rng.choice(TYPES)
                try:
                    frame = frame.with_columns(frame[name].cast(kind, strict=False))
                except pl.exceptions.PolarsError:
                    frame = frame.with_columns(pl.Series(name, [None] * len(frame), dtype=kind))
        if rng.random() < 0.1:
            frame = frame.drop(rng.choice(HEAD))
        buffer = io.BytesIO()
        try:
            frame.write_parquet(buffer)
        except (pl.exceptions.PolarsError, TypeError):
            return b"PAR1"
        return raw(rng, buffer.getvalue()) if rng.random() < 0.3 else buffer.getvalue()

    def _duckdb(self) -> bytes:
        return raw(
            self._rng, self._rng.choice([b"DUCK", b"PAR1", b"SQLite format 3\0", bytes(4096)])
        )

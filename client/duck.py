"""DuckDB files and Parquet, streamed: nothing is sorted, copied or written, so that nothing spills.

DuckDB gets no folder for temporary files, a bound on its memory, no extension from elsewhere, and of the
file system only the file that it reads: a view over another file would be read in a way nobody pinned.
Numbers come as floats, everything else as the text of its cell.

Not handled: a Parquet file with a text that is not UTF-8, which its format forbids: DuckDB gives up the
whole file. The owner is told when the table is admitted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from client.cells import Cells
from privacy.errors import DataError

if TYPE_CHECKING:
    import duckdb

ROWS = 1 << 15
"""Rows of a block."""
MEMORY = "512MB"
"""What DuckDB may hold."""

_NUMBERS = re.compile(r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)")


@dataclass(frozen=True)
class Relation:
    """A table of an open database. ``types``: of the columns of ``heading``."""

    place: str
    db: duckdb.DuckDBPyConnection
    relation: str
    names: tuple[str, ...]
    heading: tuple[str, ...]
    types: tuple[str, ...]

    def blocks(self, at: Sequence[int], numbers: Sequence[bool]) -> Iterator[list[Cells]]:
        """The cells of columns ``at``, column by column, a block of rows at a time; None for null.
        ``numbers``: which of them are wanted as numbers. Raises DataError."""
        cast = [
            f"TRY_CAST({quoted(self.names[i])} AS DOUBLE)"
            if as_number and _NUMBERS.fullmatch(self.types[i])
            else f"CAST({quoted(self.names[i])} AS VARCHAR)"
            for i, as_number in zip(at, numbers, strict=True)
        ]
        with errors(self.place):
            found = self.db.execute(f"SELECT {', '.join(cast)} FROM {self.relation}")
        while True:
            with errors(self.place):
                rows = found.fetchmany(ROWS)
            if not rows:
                return
            yield list(zip(*rows, strict=True))


@contextmanager
def connected(path: Path, table: str | None) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A connection to a database in memory that reaches one file and spills nothing, and the relation to
    select from. Raises DataError."""
    import duckdb

    if table is None and re.search(r"[*?\[]", str(path)):
        # DuckDB would take it for a pattern and read whatever fits.
        raise DataError(f"{path.name}: rename it; the path of a Parquet file holds no * ? or [")
    settings = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "memory_limit": MEMORY,
        "threads": "1",
        "temp_directory": "",
    }
    name = _literal(str(path))
    # A file that is attached to a database in memory can be read by several threads at once; opened by
    # itself it would be one instance for the whole process, with the settings of whoever came first.
    with errors(path.name), duckdb.connect(":memory:", config=settings) as db:
        db.execute("PRAGMA disable_progress_bar")  # it would write to standard output
        if table is None:
            db.execute(f"SET allowed_paths = [{name}]")
            relation = f"read_parquet({name}, hive_partitioning = false)"
        else:
            db.execute(f"ATTACH {name} AS held (TYPE duckdb, READ_ONLY)")
            relation = f"held.{quoted(table)}"
        db.execute("SET enable_external_access = false")
        db.execute("SET lock_configuration = true")
        yield db, relation


@contextmanager
def opened(path: Path, table: str | None) -> Iterator[Relation]:
    """A Parquet file for None, else a table of a DuckDB file. Raises DataError."""
    with connected(path, table) as (db, relation):
        described = db.execute(f"DESCRIBE SELECT * FROM {relation}").fetchall()
        names = tuple(str(row[0]) for row in described)
        heading = names
        if table is None:  # DuckDB renames a column that is called like another
            schema = f"SELECT name, num_children FROM parquet_schema({_literal(str(path))})"
            heading = _top(db.execute(schema).fetchall())
        if len(heading) != len(names):
            raise DataError(f"{path.name}: its columns cannot be told apart")
        types = tuple(str(row[1]) for row in described)
        yield Relation(path.name, db, relation, names, heading, types)


def _top(schema: list[tuple[str, int | None]]) -> tuple[str, ...]:
    """Names of the columns themselves: the schema lists each column's parts after it."""
    names, at = [], 1
    while at < len(schema):
        names.append(schema[at][0])
        parts, at = schema[at][1] or 0, at + 1
        while parts:
            parts, at = parts - 1 + (schema[at][1] or 0), at + 1
    return tuple(names)


@contextmanager
def errors(place: str) -> Iterator[None]:
    """DuckDB's messages can quote cells: name the kind of failure only. Raises DataError."""
    import duckdb

    try:
        yield
    except duckdb.BinderException:
        raise DataError(f"{place}: a mapped column does not exist in the source") from None
    except duckdb.CatalogException:
        raise DataError(f"{place}: the table does not exist in the source") from None
    except duckdb.PermissionException:
        raise DataError(f"{place}: the table reads other files; name those instead") from None
    except duckdb.IOException:
        raise DataError(f"{place}: cannot be read; is it there, complete and readable?") from None
    except duckdb.OutOfMemoryException:
        raise DataError(f"{place}: needs more than {MEMORY} to read; is it a view?") from None
    except duckdb.Error as error:
        raise DataError(f"{place}: {type(error).__name__}; is the file complete?") from None


def quoted(name: str) -> str:
    """An identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"

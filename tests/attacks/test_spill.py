"""A process that is killed while it reads a table leaves nothing of it in the clear.

A child reads a table with marked keys and e-mail addresses, in a folder and with a folder for temporary
files that hold nothing else, and is ended by SIGKILL at several moments. Then no file of these folders may
hold a mark. That the same search finds a clear file is shown with buckets that do not encrypt.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from client import duck
from client.table import Source, read
from privacy.errors import DataError
from privacy.programs.columns import Number
from simulations.attacks.killed import ROWS, SELECT, clear, killed


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tables")
    with duckdb.connect(str(place / "t.duckdb")) as db:
        db.execute(f"CREATE TABLE people AS {SELECT.format(ROWS)}")
        db.execute(f"COPY people TO '{place / 't.csv'}' (HEADER)")
        db.execute(f"COPY people TO '{place / 't.parquet'}' (FORMAT parquet)")
    return place


MOMENTS = [
    ("read", "part", 1), ("read", "part", 4), ("read", "done", 1),
    ("batches", "part", 1), ("batches", "part", 6), ("batches", "batch", 1), ("batches", "batch", 100),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("how", "moment", "count"), MOMENTS)
@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.duckdb"])
def test_nothing_of_a_file_lies_in_the_clear(
    tmp_path: Path, tables: Path, name: str, how: str, moment: str, count: int
) -> None:
    table = "people" if name.endswith(".duckdb") else ""
    killed(tmp_path, str(tables / name), table, how, moment, count)
    assert not clear(tmp_path)
    if moment == "batch":
        assert any(path.stat().st_size > 1000 for path in (tmp_path / "state").rglob("*"))


@pytest.mark.slow
def test_nothing_of_a_database_lies_in_the_clear(
    tmp_path: Path, tables: Path, postgres: str
) -> None:
    import psycopg

    with psycopg.connect(postgres) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE marked (id text, spend int, note text, mail text)")
        with cursor.copy("COPY marked FROM STDIN WITH (FORMAT csv, HEADER)") as copy:
            copy.write((tables / "t.csv").read_bytes())
    for number, (how, moment, count) in enumerate(MOMENTS):
        killed(tmp_path / str(number), postgres, "marked", how, moment, count)
    assert not clear(tmp_path)


def test_buckets_in_the_clear_would_be_found(tmp_path: Path, tables: Path) -> None:
    killed(tmp_path, str(tables / "t.parquet"), "", "planted", "batch", 1)
    found = clear(tmp_path)
    assert found
    assert all("matches" in path.parts for path in found)


def test_the_sealed_buckets_of_a_killed_reader(tmp_path: Path, tables: Path) -> None:
    killed(tmp_path, str(tables / "t.parquet"), "", "batches", "batch", 1)
    assert not clear(tmp_path)


def test_a_query_that_does_not_fit_fails_and_spills_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A view that sorts: version 0.3.0 left what DuckDB could not hold in ``.tmp`` of the current folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    path = tmp_path / "t.duckdb"
    with duckdb.connect(str(path)) as db:
        db.execute(f"CREATE TABLE people AS {SELECT.format(ROWS)}")
        db.execute("CREATE VIEW sorted AS SELECT * FROM people ORDER BY mail")
    before = {p for p in tmp_path.rglob("*") if p.is_file()}
    monkeypatch.setattr(duck, "MEMORY", "20MB")
    columns = {"spend": Number("spend", 0.0, 100.0)}
    with pytest.raises(DataError, match="needs more than"):
        read(Source(str(path), "id", {"spend": "spend"}, {}, "sorted"), columns, ["spend"])
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == before
    monkeypatch.setattr(duck, "MEMORY", "512MB")
    snapshot, _ = read(
        Source(str(path), "id", {"spend": "spend"}, {}, "people"), columns, ["spend"]
    )
    assert snapshot.count == ROWS

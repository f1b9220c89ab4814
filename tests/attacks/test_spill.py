"""A process that is killed while it reads a table leaves nothing of it in the clear.

A child reads a table with marked keys and e-mail addresses, in a folder and with a folder for temporary
files that hold nothing else, and is ended by SIGKILL at several moments. Then no file of these folders may
hold a mark. That the same search finds a clear file is shown with buckets that do not encrypt.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest

from client import duck
from client.table import Source, read
from privacy.errors import DataError
from privacy.programs.columns import Number
from tests.conftest import ROOT

ROWS = 300_000
MARKS = (b"CUSTOMER-", b"secret.person")
SELECT = (
    "SELECT 'CUSTOMER-' || hash(i)::VARCHAR AS id, i % 100 AS spend, 'n, ' || i AS note,"
    " 'secret.person' || i || '@example.com' AS mail FROM range({}) t(i)"
)

CHILD = """
import os, sys
from pathlib import Path
from client import spill, table
from client.table import Report, Source, batches, read
from privacy.programs.columns import Number
location, name, how, folder = sys.argv[1:]
source = Source(location, "id", {"spend": "spend"}, {"email": "mail"}, name or None)
columns, real = {"spend": Number("spend", 0.0, 100.0)}, table.parts
def parts(*given, **more):
    for part in real(*given, **more):
        print("part", flush=True)
        yield part
table.parts = parts
if how == "read":
    snapshot, _ = read(source, columns, ["spend"], keys=True)
    print("done", flush=True)
else:
    if how == "planted":
        spill.DiskSpool.seal = lambda self, name, data: spill._HEAD.pack(len(data)) + data
        spill.DiskSpool.open = lambda self, name, frame: frame
    spool = spill.DiskSpool(Path(folder) / "matches", os.urandom(32), os.urandom)
    for batch in batches(source, columns, ["spend"], identifiers=["email"], rows_per_person=1,
                         report=Report(), spool=spool):
        print("batch", flush=True)
    print("done", flush=True)
"""


def killed(place: Path, location: str, table: str, how: str, moment: str, count: int) -> None:
    """Start the child and kill it when it has said ``moment`` so often."""
    folders = [place / name for name in ("cwd", "temporary", "state")]
    for folder in folders:
        folder.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(folders[1]), "PYTHONPATH": str(ROOT)}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, location, table, how, str(folders[2])],
        cwd=folders[0], env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = 0
    for line in child.stdout or ():
        said += line.strip() == moment
        if said == count:
            time.sleep(0.02)  # into the middle of what follows
            break
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    (child.stdout or sys.stdin).close()
    assert said == count


def clear(place: Path) -> list[Path]:
    """Files that hold a mark."""
    return [
        path
        for path in place.rglob("*")
        if path.is_file() and any(mark in path.read_bytes() for mark in MARKS)
    ]


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

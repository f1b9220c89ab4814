from __future__ import annotations

import tempfile
from pathlib import Path

import duckdb
import numpy as np
import pytest

from client import table as tables
from client.table import Report, Snapshot, Source, fold_of, read
from privacy.errors import DataError
from privacy.matching.storage import MemorySpool
from privacy.programs.columns import Category
from simulations import datasets
from tests.conftest import COLUMNS, HEAD, data_settings, write_csv
from tests.postgres import load

DECLARED = datasets.declared({k: v for k, v in COLUMNS.items() if k != "region"}) | {
    "region": Category("region", ("north", "south", "east"))
}
WANTED = ["age", "region", "returned", "spend"]


def _source(path: Path, table: str | None = None) -> Source:
    settings = data_settings(path)
    return Source(settings["source"], "id", settings["columns"], settings["identifiers"], table)


def _same(one: Snapshot, other: Snapshot) -> bool:
    return bool((one.person == other.person).all()) and all(
        bool((one.rows[name] == other.rows[name]).all()) for name in one.rows
    )


def test_every_format_reads_alike(tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    write_csv(csv, range(120))
    plain, report = read(_source(csv), DECLARED, WANTED)
    assert (report.rows, report.people, plain.people) == (120, 120, 120)
    query = f"SELECT * FROM read_csv('{csv}')"
    duckdb.execute(f"COPY ({query}) TO '{tmp_path / 't.parquet'}' (FORMAT parquet)")
    with duckdb.connect(str(tmp_path / "t.duckdb")) as db:
        db.execute(f"CREATE TABLE people AS {query}")
    assert _same(plain, read(_source(tmp_path / "t.parquet"), DECLARED, WANTED)[0])
    assert _same(plain, read(_source(tmp_path / "t.duckdb", "people"), DECLARED, WANTED)[0])
    again = Snapshot.from_bytes(plain.to_bytes())
    assert _same(plain, again)
    assert again.starts().tolist() == plain.starts().tolist()


def test_a_stored_snapshot_tells_neither_keys_nor_the_number_of_rows(tmp_path: Path) -> None:
    csv, sizes = tmp_path / "t.csv", set()
    for count in (0, 1, 2, 300, 4096):
        write_csv(csv, range(count))
        snapshot, _ = read(_source(csv), DECLARED, WANTED, keys=True)
        stored = snapshot.to_bytes()
        assert b"C00000" not in stored
        assert Snapshot.from_bytes(stored).count == snapshot.count == count
        sizes.add(len(stored))
    assert len(sizes) == 1
    write_csv(csv, range(4097))
    assert len(read(_source(csv), DECLARED, WANTED)[0].to_bytes()) not in sizes


def test_bad_rows_are_counted_never_dropped_in_silence(tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text(
        HEAD + "\n"
        "a,30,10,north,1,,\n"
        "b,oops,10,north,1,,\n"
        "c,200,10,north,0,,\n"
        "d,30,,south,1,,\n"
        "e,30,10,west,1,,\n"
        "f,30,10,east,7,,\n"
        ",30,10,east,1,,\n"
        "a,31,10,east,1,,\n"
        "g,30,10,east,1,,,too,many\n"
    )
    snapshot, report = read(_source(csv), DECLARED, WANTED, keys=True)
    assert snapshot.key is not None
    by_key = dict(zip(snapshot.key.tolist(), snapshot.rows["age"].tolist(), strict=True))
    assert by_key == {"a": 30.0, "c": 90.0}
    assert report.unusable == {"age": 1, "spend": 1, "region": 1, "returned": 1}
    assert report.clipped == {"age": 1}
    assert report.without_person == 1
    assert report.over_rows_per_person == 1
    assert (report.malformed_lines, report.malformed_at) == (1, [10])


def test_rows_per_person_is_a_bound(tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text(HEAD + "\n" + "a,30,10,north,1,,\n" * 5 + "b,30,10,north,1,,\n")
    snapshot, report = read(_source(csv), DECLARED, WANTED, rows_per_person=3)
    assert (snapshot.count, snapshot.people, report.over_rows_per_person) == (4, 2, 2)
    assert sorted(np.diff(snapshot.starts()).tolist()) == [1, 3]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("absent.csv", None, "file not found"),
        ("t.xlsx", b"x", "use .csv"),
        ("t.parquet", b"PAR1 cut short", "complete"),
        ("t.duckdb", b"not a database", "complete"),
        ("t.csv", b"", "does not exist|complete"),
    ],
)
def test_unreadable_sources(tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read(_source(path, "people"), DECLARED, WANTED)


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text("id,age\na,30\n")
    with pytest.raises(DataError, match="does not exist"):
        read(_source(csv), DECLARED, ["age", "spend"])
    with pytest.raises(DataError, match="column height"):
        read(_source(csv), DECLARED, ["height"])


def test_an_empty_table_has_no_people(tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text(HEAD + "\n")
    snapshot, report = read(_source(csv), DECLARED, WANTED)
    assert (snapshot.count, report.people) == (0, 0)


def test_messages_hold_no_values(tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    csv.write_text('id,age\n"unclosed secret-value,30\n')
    with pytest.raises(DataError) as caught:
        read(_source(csv), DECLARED, ["age", "spend"])
    assert "secret" not in str(caught.value)


def test_folds_are_uniform_and_public() -> None:
    digests, fold = fold_of([f"k{i}" for i in range(20_000)])
    assert len(set(digests.tolist())) == 20_000
    counts = np.histogram(fold, 20, (0, 1))[0]
    assert (np.abs(counts - 1000) < 6 * np.sqrt(1000)).all()


def test_postgresql(postgres: str, tmp_path: Path) -> None:
    csv = tmp_path / "t.csv"
    write_csv(csv, range(80))
    load(postgres, "crm", csv, "id text, age int, spend float8, region text, returned bool, mail text,"
                               " mobile text")  # fmt: skip
    settings = data_settings(csv)
    source = Source(postgres, "id", settings["columns"], settings["identifiers"], "crm")
    before = set(Path(tempfile.gettempdir()).iterdir())
    found, _ = read(source, DECLARED, WANTED)
    assert _same(read(_source(csv), DECLARED, WANTED)[0], found)
    assert not [p for p in set(Path(tempfile.gettempdir()).iterdir()) - before if p.is_file()]
    for table, reason in (("nothing", "table does not exist"), (None, "data.table is missing")):
        lost = Source(postgres, "id", settings["columns"], {}, table)
        with pytest.raises(DataError, match=reason):
            read(lost, DECLARED, WANTED)
    gone = Source("postgresql://tally@127.0.0.1:1/x", "id", settings["columns"], {}, "crm")
    with pytest.raises(DataError, match="running and reachable"):
        read(gone, DECLARED, WANTED)


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
@pytest.mark.parametrize("in_memory", [0, 1 << 17])
@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_batches_are_the_table_in_pieces(
    tmp_path: Path, size: int, in_memory: int, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several rows of a person across a batch's edge, people without a key, cells that do not fit."""
    lines = [HEAD]
    for n in range(40):
        for repeat in range(1 + n % 4):
            age = "old" if n % 11 == 5 else str(20 + n + repeat)
            person = "" if n == 7 else f"C{n:03d}"
            lines.append(f"{person},{age},{n * 40},north,1,user{n}@example.com,1391234{n:04d}")
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines) + "\n")
    if suffix == "parquet":
        query = f"SELECT * FROM read_csv('{path}', all_varchar=true)"
        duckdb.execute(f"COPY ({query}) TO '{tmp_path / 't.parquet'}' (FORMAT parquet)")
        path = tmp_path / "t.parquet"
    wanted = ["age", "spend"]
    whole, expected = read(_source(path), DECLARED, wanted, rows_per_person=2, keys=True)
    monkeypatch.setattr(tables, "BATCH_ROWS", size)
    monkeypatch.setattr(tables, "IN_MEMORY", in_memory)
    report, spool = Report(), MemorySpool()
    found = list(
        tables.batches(
            _source(path), DECLARED, wanted, identifiers=["email"], rows_per_person=2,
            report=report, spool=spool,
        )
    )  # fmt: skip
    assert whole.key is not None
    assert [key for batch in found for key in batch.key] == whole.key.tolist()
    for name in wanted:
        assert np.concatenate([b.rows[name] for b in found]).tolist() == whole.rows[name].tolist()
    emails = [text for batch in found for text in batch.identifiers["email"]]
    assert emails == [f"user{int(key[1:])}@example.com" for key in whole.key]
    starts = np.flatnonzero(np.concatenate([b.new for b in found]))
    assert starts.tolist() == whole.starts()[:-1].tolist()
    assert max(len(b.key) for b in found) <= size
    assert report == expected


def test_every_usual_spelling_of_yes_no_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    yes = ["1", "1.0", "TRUE", "t", "Yes", "y", " 1", "1.00"]
    no = ["0", "0.0", "false", "F", "no", "N", "0 ", "0.00"]
    bad = ["2", "", "maybe", "nan", "1_0"]
    lines = [f"k{n},{label},{n}" for n, label in enumerate(yes + no + bad)]
    path.write_text("id,returned,spend\n" + "\n".join(lines) + "\n")
    source = Source(str(path), "id", {"returned": "returned", "spend": "spend"})
    snapshot, report = read(source, DECLARED, ["returned", "spend"])
    found = dict(
        zip(snapshot.rows["spend"].tolist(), snapshot.rows["returned"].tolist(), strict=True)
    )
    assert found == {float(n): float(n < len(yes)) for n in range(len(yes + no))}
    assert report.unusable == {"returned": len(bad)}
    numbers = ["12", " 1e2 ", "+3.5", "1_000", "inf", "nan", "0x10", "12,5", "twelve", ""]
    path.write_text("id;spend\n" + "".join(f"k{n};{x}\n" for n, x in enumerate(numbers)))
    source = Source(str(path), "id", {"spend": "spend"})
    snapshot, report = read(source, DECLARED, ["spend"])
    assert sorted(snapshot.rows["spend"].tolist()) == [3.5, 12.0, 100.0]
    assert report.unusable == {"spend": 7}


@pytest.mark.parametrize("kind", ["DECIMAL(5,2)", "BOOLEAN", "INTEGER", "DOUBLE", "VARCHAR"])
def test_labels_and_numbers_of_any_type(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.parquet"
    query = f"SELECT i AS id, CAST(CAST(i % 2 AS INTEGER) AS {kind}) AS x FROM range(100) t(i)"
    duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    source = Source(str(path), "id", {"returned": "x", "spend": "x"})
    snapshot, report = read(source, DECLARED, ["returned", "spend"])
    assert (report.people, report.unusable) == (100, {})
    assert snapshot.rows["returned"].sum() == snapshot.rows["spend"].sum() == 50


def test_rows_of_a_person_are_cut_by_value_whatever_their_order(tmp_path: Path) -> None:
    path, rows = tmp_path / "t.csv", [f"a,{n},{n % 3}" for n in range(18, 50)] + ["b,20,1"]
    found = []
    for order in (rows, rows[::-1], rows[7:] + rows[:7]):
        path.write_text("\n".join(["id,age,spend", *order]) + "\n")
        source = Source(str(path), "id", {"age": "age", "spend": "spend"})
        found.append(read(source, DECLARED, ["age", "spend"], rows_per_person=4)[0].to_bytes())
    assert found[0] == found[1] == found[2]


def test_a_table_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    csv = tmp_path / "t.csv"
    write_csv(csv, range(80))
    source, first = _source(csv), tables.signature(_source(csv))
    assert first == tables.signature(source)
    assert first is not None
    assert tables.signature(Source("postgresql://x@y/z", "id", {})) is None
    real = tables.people.digests

    def digests(keys: list[str]) -> object:
        with csv.open("a") as file:
            file.write("\n")
        return real(keys)

    monkeypatch.setattr(tables.people, "digests", digests)
    with pytest.raises(DataError, match="changed while it was read"):
        read(source, DECLARED, WANTED)
    assert tables.signature(source) != first

"""One row more or less changes what is kept of its own person, and of nobody else.

The unit of privacy is a person. A source that orders or compares keys in its own way (a collation, a type),
and a reader that lets one cell decide how others are read (a sniffed dialect, a quote that is not closed),
both make one person weigh more. Each check here is also run against such a fault, planted.
"""

from __future__ import annotations

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from client import admission, duck, lines, people, source, table
from client.cli import app
from client.table import Report, Source, batches, read
from privacy.errors import DataError
from privacy.matching.storage import MemorySpool
from privacy.programs.columns import Category, Column, Label, Number
from simulations.alliances import Alliance
from tests.conftest import write_csv

COLUMNS: dict[str, Column] = {"spend": Number("spend", 0.0, 100.0)}
MAPPED = {"spend": "spend"}
PROFILE = settings(
    max_examples=150, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip

Kept = Counter[tuple[int, ...]]


def kept(path: Path, rows_per_person: int = 1, **more: Any) -> Kept:
    """The rows of a snapshot as a multiset of (person, values)."""
    found = Source(str(path), "id", MAPPED, **more)
    snapshot, report = read(found, COLUMNS, ["spend"], rows_per_person=rows_per_person)
    assert snapshot.people == report.people
    rows = zip(snapshot.person.tolist(), snapshot.rows["spend"].tolist(), strict=True)
    return Counter((*person, value) for person, value in rows)


def changed(one: Kept, other: Kept) -> set[tuple[int, ...]]:
    """The people of whom other rows are kept."""
    return {row[:2] for row in (one - other) + (other - one)}


def most(rows: Kept) -> int:
    """Rows kept of the person with most."""
    return max(Counter(row[:2] for row in rows.elements()).values())


def of(key: str) -> tuple[int, ...]:
    return tuple(people.digests([key])[0].tolist())


# ---------------------------------------------------------------------- 16: who is a person


def collated(path: Path, collation: str, *, with_ann: bool) -> Path:
    path.unlink(missing_ok=True)
    with duckdb.connect(str(path)) as db:
        db.execute(f"CREATE TABLE c (id VARCHAR {collation}, spend DOUBLE)")
        for i in range(40):
            if with_ann:
                db.execute("INSERT INTO c VALUES ('Ann', ?)", [100.0 - 2 * i / 10])
            db.execute("INSERT INTO c VALUES ('ann', ?)", [99.9 - 2 * i / 10])
        db.execute("INSERT INTO c SELECT 'p' || i, 50 FROM range(60) t(i)")
    return path


def check_collation(tmp_path: Path, collation: str) -> None:
    """With "Ann" there or not, the rows of "ann" are the same."""
    file = tmp_path / "t.duckdb"
    for bound in (1, 5, 100):
        whole = kept(collated(file, collation, with_ann=True), bound, table="c")
        without = kept(collated(file, collation, with_ann=False), bound, table="c")
        assert most(whole) <= bound
        assert changed(whole, without) == {of("Ann")}


@pytest.mark.parametrize("collation", ["", "COLLATE NOCASE", "COLLATE NOACCENT.NOCASE"])
def test_a_collation_of_the_source_is_nothing_to_the_gate(tmp_path: Path, collation: str) -> None:
    check_collation(tmp_path, collation)


@pytest.mark.parametrize("bound", [1, 5])
def test_where_letter_cases_are_declared_one_they_are_one_person(
    tmp_path: Path, bound: int
) -> None:
    file = collated(tmp_path / "t.duckdb", "", with_ann=True)
    rows = kept(file, bound, table="c", key="caseless")
    assert most(rows) == bound
    assert len({row[:2] for row in rows}) == 61


def runs(person: people.People, *_: object) -> people.Grouping:
    """The fault: people are runs of equal keys in the order that the source gives."""
    new = people.firsts(person)
    at = np.arange(len(person))
    within = at - np.maximum.accumulate(np.where(new, at, 0)) < 1
    return people.Grouping(at[within], new[within], 0)


def test_runs_in_the_sources_order_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "grouped", runs)
    with pytest.raises(AssertionError):
        check_collation(tmp_path, "COLLATE NOCASE")


@pytest.mark.parametrize("kind", ["VARCHAR COLLATE NOCASE", "INTEGER", "HUGEINT", "DOUBLE", "DATE", "UUID",
                                  "BLOB", "CHAR(12)", "DECIMAL(9, 2)"])  # fmt: skip
@pytest.mark.parametrize("suffix", ["duckdb", "parquet"])
def test_keys_of_every_type_are_people(tmp_path: Path, kind: str, suffix: str) -> None:
    value = {
        "BLOB": "encode('k' || i) || '\\x00'::BLOB || encode(repeat('z', i % 3))",
        "UUID": "printf('%032x', i)::UUID", "DATE": "DATE '2020-01-01' + i::INTEGER",
    }.get(kind, "i + 1")  # fmt: skip
    path = tmp_path / f"t.{suffix}"
    with duckdb.connect(str(tmp_path / "t.duckdb")) as db:
        db.execute(f"CREATE TABLE c (id {kind}, spend DOUBLE)")
        db.execute(f"INSERT INTO c SELECT {value}, i FROM range(90) t(i), range(3)")
        if suffix == "parquet":
            db.execute(f"COPY c TO '{path}' (FORMAT parquet)")
    rows = kept(path, 1, table="c" if suffix == "duckdb" else None)
    assert (len(rows), most(rows)) == (90, 1)
    assert sorted(row[2] for row in rows) == list(range(90))


@pytest.mark.parametrize(
    ("keys", "how", "count"),
    [
        (["a", "a\0"], "trimmed", 2),
        (["a", "a\0", "a\0\0"], "exact", 3),
        (["a ", "a", "\u3000a"], "trimmed", 1),
        (["a ", "a"], "exact", 2),
        (["A", "a"], "trimmed", 2),
        (["A", "a", " a"], "caseless", 1),
        (["1", "1.0", "01"], "caseless", 3),
        (["\u00e9", "e\u0301"], "trimmed", 1),
        (["\u00e9", "e\u0301"], "exact", 2),
        (["\uff21\uff22", "ab", "AB"], "caseless", 1),
        (["stra\u00dfe", "STRASSE"], "caseless", 1),
        (["\u0130", "i\u0307"], "caseless", 1),
        (["", " ", "\t"], "trimmed", 0),
    ],
)
def test_which_keys_are_one_is_declared(
    tmp_path: Path, keys: list[str], how: people.Normalisation, count: int
) -> None:
    path = tmp_path / "t.parquet"
    with duckdb.connect() as db:
        db.execute("CREATE TABLE k (id VARCHAR, spend DOUBLE)")
        for key in keys * 3:
            db.execute("INSERT INTO k VALUES (?, 60)", [key])
        db.execute(f"COPY k TO '{path}' (FORMAT parquet)")
    found = Source(str(path), "id", MAPPED, key=how)
    snapshot, report = read(found, COLUMNS, ["spend"])
    assert (snapshot.count, report.people) == (count, count)
    report = Report()
    several = batches(found, COLUMNS, ["spend"], identifiers=(), rows_per_person=9,
                      report=report, spool=MemorySpool())  # fmt: skip
    assert sum(int(batch.new.sum()) for batch in several) == report.people == count


@PROFILE
@given(st.text(max_size=12))
def test_a_canonical_key_is_its_own_canonical_key(text: str) -> None:
    for how in ("exact", "trimmed", "caseless"):
        once = people.canonical([text], how)
        assert people.canonical([once[0]], how) == once
    same = [text, text.upper().lower(), unicodedata.normalize("NFD", text)]
    if text.isascii():
        assert len(set(people.canonical(same, "caseless"))) == 1


def test_a_nondeterministic_collation_of_postgresql(postgres: str) -> None:
    import psycopg

    with psycopg.connect(postgres) as connection:
        connection.execute("DROP TABLE IF EXISTS collated")
        connection.execute(
            "CREATE COLLATION IF NOT EXISTS ci (provider = icu, locale = 'und-u-ks-level2',"
            " deterministic = false)"
        )
        connection.execute("CREATE TABLE collated (id text COLLATE ci, note text, spend float8)")
        with connection.cursor() as cursor:
            for i in range(40):
                for key in ("Ann", "ann", "a\\N\tb\nc", " ann"):
                    cursor.execute("INSERT INTO collated VALUES (%s, %s, %s)", [key, "\\.", i])
            cursor.execute("INSERT INTO collated VALUES (NULL, '', 1), ('', '', 1)")
    found = Source(postgres, "id", MAPPED, table="collated")
    snapshot, report = read(found, COLUMNS, ["spend"], rows_per_person=2, keys=True)
    assert snapshot.key is not None
    assert Counter(key.strip() for key in snapshot.key) == {"Ann": 2, "ann": 2, "a\\N\tb\nc": 2}
    assert (report.rows, report.people, report.without_person) == (162, 3, 2)


# ---------------------------------------------------------------------- 17: how a row is read

ORDINARY = [f"c{i:05d},b{i},{50 + i % 50}" for i in range(2000)]
CELLS = [
    b'x1,"5" inch,77', b'x1,"5 inch,77', b'x1,5" inch,77', b'"', b'""', b'"x1,a,77', b'x1,"a\\",77',
    b"x1;a;77", b"x1\ta\t77", b"x1|a|77", b"x1,a,b,c,77", b"x1", b",", b",,,,,,,,,", b"x1,a\rb,77",
    b"\rx1,a,77\r", b"x1,a\0b,77", b"\0", b"x1,\xff\xfe,77", b"\xef\xbb\xbfx1,a,77", b"x1,'a,77", b"# x1",
    b"id,note,spend", b"id;note;spend", b"x1,\xe2\x80\xa8,77", b"x1,a\x0bb\x0c\x1c\x85,77", b"\x1a",
    b'x1,"a""b",77', b'x1,"a",77"', b"x1,NULL,77", b"--", b"x1," + b"y" * 200_000 + b",77",
    b'x1,"' + b"y" * 2_000_000, b"z" * 9_000_000,
]  # fmt: skip


def with_row(rows: Sequence[str], row: bytes, at: int, end: str) -> bytes:
    encoded = [line.encode() for line in ["id,note,spend", *rows]]
    encoded.insert(at + 1, row)
    return end.encode().join(encoded) + end.encode()


def check_one_line(path: Path, rows: Sequence[str], row: bytes, at: int, end: str = "\n") -> None:
    """A line of any bytes is at most one row, and the others are what they were."""
    path.write_bytes(end.join(["id,note,spend", *rows]).encode() + end.encode())
    before = kept(path)
    path.write_bytes(with_row(rows, row, at, end))
    after = kept(path)
    assert not before - after
    assert sum((after - before).values()) <= 1


@pytest.mark.parametrize("quoted", ["none", "some", "all"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_no_line_changes_how_another_is_read(tmp_path: Path, quoted: str, end: str) -> None:
    step = {"none": 10**9, "some": 50, "all": 1}[quoted]
    rows = [
        f'c{i:05d},"a, ""b""{i}",{50 + i % 50}' if i % step == step - 1 else row
        for i, row in enumerate(ORDINARY[:300])
    ]
    for row in CELLS:
        for at in (0, 1, 150, 300):
            check_one_line(tmp_path / "t.csv", rows, row, at, end)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 900, 20_481, 32_768, 40_000, 59_999, 60_000])
def test_sixty_thousand_people_stay(tmp_path: Path, at: int) -> None:
    """The audit's table: one cell in a column that is not mapped left one person of 60,000."""
    rows = [
        f'c{i:05d},"a, b{i}",{50 + i % 50}' if i % 100 == 0 else f"c{i:05d},b{i},{50 + i % 50}"
        for i in range(60_000)
    ]
    for row in CELLS[:6]:
        check_one_line(tmp_path / "t.csv", rows, row, at)


def whole_file(self: lines.Lines, at: Sequence[int], lost: lines.Lost) -> Iterator[list[Any]]:
    """The fault: one reader over all lines, so that a quote opens until the next one."""
    text = io.StringIO(self.path.read_bytes().decode(errors="replace"), newline="")
    rows = [
        row for row in csv.reader(text, delimiter=self.delimiter) if len(row) == len(self.heading)
    ]
    if rows[1:]:
        columns = list(zip(*rows[1:], strict=True))
        yield [columns[i] for i in at]


def sniffed(self: lines.Lines, at: Sequence[int], lost: lines.Lost) -> Iterator[list[Any]]:
    """The fault: the rows decide how they are read, as in version 0.3.0."""
    with duckdb.connect() as db:
        rows = db.execute(
            f"SELECT * FROM read_csv('{self.path}', all_varchar=true, header=true, store_rejects=true)"
        ).fetchall()
    if rows:
        columns = list(zip(*rows, strict=True))
        yield [columns[i] for i in at]


@pytest.mark.parametrize("reader", [whole_file, sniffed])
def test_a_reader_over_lines_would_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reader: Any
) -> None:
    monkeypatch.setattr(lines.Lines, "blocks", reader)
    rows = [f'c{i:05d},"a, b{i}",{50 + i % 50}' for i in range(2000)]
    found = 0
    for row in CELLS[:6]:
        try:
            check_one_line(tmp_path / "t.csv", rows, row, 900)
        except (AssertionError, DataError):
            found += 1
    assert found


PIECES = st.lists(
    st.one_of(
        st.sampled_from([b'"', b'""', b",", b";", b"\t", b"|", b"\r", b"\0", b"\xff", b"\\", b"'", b"x1",
                         b"7", b"c00003", b"\xef\xbb\xbf", b" "]),
        st.binary(min_size=1, max_size=3).map(lambda raw: raw.replace(b"\n", b"")),
    ),
    max_size=12,
).map(b"".join)  # fmt: skip


@PROFILE
@given(row=PIECES, at=st.integers(0, 60), quoted=st.booleans(), end=st.sampled_from(["\n", "\r\n"]))
def test_any_bytes_are_one_row_at_most(
    tmp_path: Path, row: bytes, at: int, quoted: bool, end: str
) -> None:
    rows = [f'c{i:05d},"a;b",{i}' if quoted else f"c{i:05d},ab,{i}" for i in range(60)]
    path = tmp_path / "t.csv"
    path.write_bytes(with_row(rows, row, at, end))
    bound = kept(path, 9)
    path.write_bytes(end.join(["id,note,spend", *rows]).encode() + end.encode())
    assert len(changed(bound, kept(path, 9))) <= 1


TABLES = st.lists(
    st.tuples(st.integers(0, 5), st.text(max_size=6), st.integers(-5, 105)), max_size=25
)


@PROFILE
@given(rows=TABLES, own=TABLES, seed=st.integers(0, 2**32 - 1), bound=st.integers(1, 3),
       breaks=st.booleans(), delimiter=st.sampled_from(lines.DELIMITERS),
       quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))  # fmt: skip
def test_a_person_more_changes_no_other_person(
    tmp_path: Path, rows: list[Any], own: list[Any], seed: int, bound: int, breaks: bool,
    delimiter: str, quoting: Any,
) -> None:  # fmt: skip
    """Well-formed tables: other people's rows are the same before, after, and in any order."""
    path = tmp_path / "t.csv"

    def write(content: list[list[Any]]) -> None:
        order = np.random.default_rng(seed).permutation(len(content))
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator="\n")
            writer.writerow(["id", "note", "spend"])
            for i in order.tolist():
                key, note, spend = content[i]
                note = note if breaks else note.replace("\n", " ")
                writer.writerow([key, note.replace("\r", " "), spend])

    others = [[f"p{n}", text, spend] for n, text, spend in rows]
    write(others)
    before = kept(path, bound, line_breaks=breaks)
    if not breaks or quoting == csv.QUOTE_ALL:
        assert before.total() == sum(min(bound, n) for n in Counter(r[0] for r in others).values())
    write(others + [["x", text, spend] for _, text, spend in own])
    assert changed(before, kept(path, bound, line_breaks=breaks)) <= {of("x")}


def test_declared_line_breaks(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,note,spend\r\na,"one\r\ntwo, ""three""",10\r\nb,"\xff\n",20\r\n\r\nc,x,30,40\r\n'
        b'd,"5" inch,40\r\ne,"' + b"y" * (lines.LONGEST + 5) + b'",50\r\nf,z,60\r\ng,"open,70\r\n'
    )
    found = Source(str(path), "id", MAPPED, line_breaks=True)
    snapshot, report = read(found, COLUMNS, ["spend"], keys=True)
    assert snapshot.key is not None
    assert sorted(snapshot.key) == ["a", "f"]
    assert (report.malformed_lines, report.malformed_at) == (5, [4, 7, 8, 9, 11])
    _, report = read(replace(found, line_breaks=False), COLUMNS, ["spend"])
    assert report.malformed_lines == 7


def test_a_line_that_is_too_long_is_one_row_whatever_it_holds(tmp_path: Path) -> None:
    """Its middle must not become a row of another person's."""
    path, forged = tmp_path / "t.csv", b",1\rc00001,a,99,"
    for breaks in (False, True):
        for filler in (lines.LONGEST - 3, 4 * lines.LONGEST, 5 * lines.LONGEST + 4):
            row = b"x1," + b"y" * filler + forged * 40_000
            path.write_bytes(with_row(ORDINARY[:50], row, 20, "\n"))
            assert kept(path, 9, line_breaks=breaks) == _plain(path.with_name("p.csv"))


def _plain(path: Path) -> Kept:
    path.write_text("\n".join(["id,note,spend", *ORDINARY[:50]]))
    return kept(path, 9)


# ---------------------------------------------------------------------- the heading


@pytest.mark.parametrize("delimiter", lines.DELIMITERS)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_the_heading_alone_tells_the_delimiter(
    tmp_path: Path, delimiter: str, mark: str, end: str
) -> None:
    path = tmp_path / "t.csv"
    heading = delimiter.join(["", '" Spend "', "other", "id"])
    rows = [delimiter.join(["1", str(i), '"a,;|b"', f"k{i}"]) for i in range(50)]
    path.write_text(mark + end.join([heading, *rows]), newline="")
    assert len(kept(path)) == 50


@pytest.mark.parametrize(
    ("heading", "reason"),
    [
        ("id,spend,Spend", r"'spend'.*'Spend'"),
        ("id,spend,spend ", r"'spend'.*'spend '"),
        ("id,spend,id", r"'id'.*'id'"),
        ("id,Age", "does not exist"),
        ("", "does not exist"),
        ('id,"spend', "does not exist"),
        ("id,spend\0", "UTF-8"),
        ("i\udcffd,spend", "UTF-8"),
        ("id,spend;", "does not exist"),
    ],
)
def test_headings_that_cannot_be_read(tmp_path: Path, heading: str, reason: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(f"{heading}\nsecret,50\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=reason) as caught:
        kept(path)
    assert "secret" not in str(caught.value)


def test_headings_of_other_formats_are_held_to_the_same(tmp_path: Path) -> None:
    query = 'SELECT i AS id, 1 AS "Spend", 2 AS other, {a: i, b: [i]} AS nested FROM range(9) t(i)'
    pq = pytest.importorskip("pyarrow.parquet")
    pa = pytest.importorskip("pyarrow")
    names = ["id", "Spend", "spend", "nested"]
    columns = [
        pa.array(range(9)),
        pa.array(range(9)),
        pa.array(range(9)),
        pa.array([{"id": 1}] * 9),
    ]
    pq.write_table(pa.Table.from_arrays(columns, names=names), tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"'Spend'.*'spend'"):
        kept(tmp_path / "t.parquet")
    with duckdb.connect(str(tmp_path / "t.duckdb")) as db:
        db.execute(f"CREATE TABLE c AS {query}")
        db.execute(f"COPY c TO '{tmp_path / 'n.parquet'}' (FORMAT parquet)")
    assert len(kept(tmp_path / "n.parquet")) == 9
    assert len(kept(tmp_path / "t.duckdb", table="c")) == 9


def test_a_parquet_files_name_is_no_pattern_and_its_folder_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "spend=3"
    folder.mkdir()
    for name in ("a.parquet", "ab.parquet", "a[b].parquet", "a*.parquet"):
        duckdb.execute(
            f"COPY (SELECT '{name}' AS id, 5 AS spend) TO '{folder / name}' (FORMAT parquet)"
        )
    assert set(kept(folder / "a.parquet")) == {(*of("a.parquet"), 5.0)}
    for name in ("a[b].parquet", "a*.parquet"):
        with pytest.raises(DataError, match="rename it"):
            kept(folder / name)


def test_a_view_cannot_read_what_nobody_pinned(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("id,spend\na,1\n")
    with duckdb.connect(str(tmp_path / "t.duckdb")) as db:
        db.execute(f"CREATE VIEW v AS SELECT * FROM read_csv('{tmp_path / 't.csv'}')")
    with pytest.raises(DataError, match="other files"):
        kept(tmp_path / "t.duckdb", table="v")


@pytest.mark.parametrize("suffix", ["duckdb", "parquet"])
def test_a_file_can_be_read_twice_at_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t.{suffix}"
    query = "SELECT i AS id, 5 AS spend FROM range(70000) t(i)"
    if suffix == "duckdb":
        with duckdb.connect(str(path)) as db:
            db.execute(f"CREATE TABLE c AS {query}")
    else:
        duckdb.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    table = "c" if suffix == "duckdb" else None
    with duck.opened(path, table) as one, duck.opened(path, table) as other:
        pairs = zip(one.blocks([0], [False]), other.blocks([0], [False]), strict=True)
        assert all(a == b for a, b in pairs)
        assert len(kept(path, table=table)) == 70_000


def test_a_parquet_file_that_breaks_its_format_is_refused_without_a_word_of_it(
    tmp_path: Path,
) -> None:
    """DuckDB gives up the whole file; the message it gives quotes the text."""
    pq, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    raw = pa.array([b"secret\xff\xfe", b"a"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    pq.write_table(pa.table({"id": column, "spend": pa.array([1, 2])}), tmp_path / "t.parquet")
    with pytest.raises(DataError) as caught:
        kept(tmp_path / "t.parquet")
    assert "secret" not in str(caught.value)


# ---------------------------------------------------------------------- admission


@pytest.fixture
def alliance(make_alliance: Any) -> Alliance:
    made: Alliance = make_alliance()
    return made


def test_what_was_admitted_is_how_it_is_read(alliance: Alliance) -> None:
    home = alliance.partners["bank"]
    contract, wanted = home.contract(), ["age", "spend"]
    columns, path = contract.declared_columns(), Path(home.source().location)
    assert admission.pinned(home) is None
    found = admission.admit(home, contract)
    assert (found.report.rows, found.usable, found.report.people) == (300, 300, 300)
    assert found.identifiers == {"email": 300, "phone": 300}
    assert found.heading == ("id", "age", "spend", "region", "returned", "mail", "mobile")
    assert found.is_good
    assert not found.warnings()
    assert home.source().pin == admission.pinned(home) == found.read_as
    read(home.source(), columns, wanted)
    good = path.read_text()
    for heading in ("id,age,spend,region,returned,mobile,mail", "id;age;spend;region;returned;mail;mobile",
                    "id,age,spend,region,returned,mail", "C00000,1,1,north,1,a@b.example,2"):  # fmt: skip
        path.write_text("\n".join([heading, *good.splitlines()[1:]]))
        with pytest.raises(DataError, match="the heading changed"):
            read(home.source(), columns, wanted)
    head, *rest = good.splitlines()
    more = [",".join([first, '"n"', last]) for first, last in (row.split(",", 1) for row in rest)]
    path.write_text("\n".join([head.replace("id,", "id,note,"), *more]))
    assert read(home.source(), columns, wanted)[1].rows == 300
    text = home.config_file.read_text()
    home.config_file.write_text(text.replace("[data]", '[data]\nkey = "caseless"'))
    with pytest.raises(DataError, match="than when the table was admitted"):
        read(home.source(), columns, wanted)
    path.write_text(good)
    admission.admit(home, contract)
    read(home.source(), columns, wanted)
    (home.state / source.PIN).write_text("{}")
    with pytest.raises(DataError, match="doctor --data"):
        home.source()
    admission.admit(home, contract)
    assert (home.state / source.PIN).stat().st_mode & 0o777 == 0o600


def test_the_owner_is_told_what_depends_on_rows_and_no_value(alliance: Alliance) -> None:
    home = alliance.partners["bank"]
    path = Path(home.source().location)
    write_csv(path, range(40))
    rows = path.read_text().replace(",1,user", ",0,user").splitlines()
    rows += [
        "secret-1,old,1,north,0,x,y",
        'secret-2,"',
        ",30,1,north,0,,",
        "secret-3,200,1,north,0,,",
    ]
    rows += [rows[1]]
    path.write_text("\n".join(rows))
    found = admission.admit(home, home.contract())
    said = "\n".join(found.sentences())
    assert not found.is_good
    assert found.one_class == ("returned",)
    for part in ("44 rows, of which 42 are usable, of 41 people", "first are line 43", "1 rows have no key",
                 "Column age: 1 values are unusable", "Column age: 1 values are clipped", "commas",
                 "smallest cohort, 50", "same of everybody", "usable in 41 of 42"):  # fmt: skip
        assert part in said, said
    assert "secret" not in said
    assert "user1" not in said


def test_the_command_tells_and_pins(alliance: Alliance) -> None:
    home = alliance.partners["bank"]
    run = CliRunner()
    done = run.invoke(app, ["doctor", "--data", "--home", str(home.root)])
    assert done.exit_code == 0, done.output
    assert "300 rows, of which 300 are usable, of 300 people." in done.output
    assert admission.pinned(home) is not None
    path = Path(home.source().location)
    rows = path.read_text().splitlines()
    path.write_text("\n".join([*rows, "id,note", *(f"{row},more" for row in rows)]))
    done = run.invoke(app, ["doctor", "--data", "--home", str(home.root)])
    assert "302 of 602 rows are lost" in done.output
    path.write_text("\n".join(rows).replace(",", ";"))
    done = run.invoke(app, ["doctor", "--home", str(home.root)])
    assert "FAIL  data: is read otherwise than when it was admitted" in done.output
    path.write_text("\n".join([rows[0], 'secret,1,1,north,0,"a', 'b",1']))
    done = run.invoke(app, ["doctor", "--data", "--home", str(home.root)])
    assert done.exit_code == 1
    assert "1 lines seem to end within quotes" not in done.output
    assert "2 lines seem to end within quotes" in done.output
    assert "secret" not in done.output


def test_delta_is_held_against_the_number_of_people(make_alliance: Any) -> None:
    home = make_alliance(delta=1e-3).partners["bank"]
    assert "delta" in "".join(admission.look(home, home.contract()).warnings())


def test_categories_are_told_apart_by_their_text_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "id,r,x\n" + "".join(f"k{n},{v},1\n" for n, v in enumerate(["a", " a ", "A", "b", ""]))
    )
    columns: dict[str, Column] = {"r": Category("r", ("a", "b")), "x": Label("x")}
    snapshot, report = read(Source(str(path), "id", {"r": "r", "x": "x"}), columns, ["r", "x"])
    assert sorted(snapshot.rows["r"].tolist()) == [0.0, 0.0, 1.0]
    assert report.unusable == {"r": 2}
    assert table.signature(Source(str(path), "id", {})) is not None

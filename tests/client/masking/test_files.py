"""Reading and writing tables: every way in which one can be wrong."""

from __future__ import annotations

import gc
import hashlib
import os
from itertools import accumulate
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.masking import arrow, outputs, parquet_keys, tables
from client.masking.keys import KeySource
from privacy.errors import ConfigError, DataError, TallystickError
from privacy.randomness import stream

FRAME = pl.DataFrame({"a": ["x", "张\n三", None, 'q"'], "b": [1, 2, 3, None]})


def _whole(path: Path, **more: object) -> pl.DataFrame:
    return pl.concat(list(tables.opened(path, **more).blocks()))  # type: ignore[arg-type]


def test_every_format_reads_alike(tmp_path: Path) -> None:
    ring = KeySource("file", str(tmp_path / "k")).create(stream(bytes(32)))
    for name, keys in (("t.csv", None), ("t.parquet", None), ("e.parquet", ring)):
        with outputs.created(tmp_path / name, None, keys) as writer:
            writer.write(FRAME)
            writer.write(FRAME)
        found = _whole(tmp_path / name, keys=keys)
        assert found["a"].to_list() == FRAME["a"].to_list() * 2
        assert found["b"].cast(pl.Int64).to_list() == FRAME["b"].to_list() * 2
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600
    with duckdb.connect(str(tmp_path / "t.duckdb")) as db:
        db.execute(f"CREATE TABLE people AS SELECT * FROM read_parquet('{tmp_path / 't.parquet'}')")
    found = _whole(tmp_path / "t.duckdb", table="people")
    assert found["a"].to_list() == FRAME["a"].to_list() * 2
    with pytest.raises(DataError, match="table does not exist"):
        tables.opened(tmp_path / "t.duckdb", table="nobody")
    with pytest.raises(DataError, match="--table"):
        tables.opened(tmp_path / "t.duckdb")


def test_an_encrypted_file_says_nothing(tmp_path: Path) -> None:
    source = KeySource("file", str(tmp_path / "k"))
    ring = source.create(stream(bytes(32)))
    path = tmp_path / "e.parquet"
    with outputs.created(path, None, ring) as writer:
        writer.write(pl.DataFrame({"telephone": ["13812341234"] * 100}))
    data = path.read_bytes()
    assert data[:4] == b"PARE"
    assert b"telephone" not in data
    assert b"13812341234" not in data
    with pytest.raises(DataError, match="name the key"):
        tables.opened(path)
    rotated = source.rotate(stream(bytes([1] * 32)))
    assert len(_whole(path, keys=rotated)) == 100
    other = KeySource("file", str(tmp_path / "other")).create(stream(bytes([2] * 32)))
    with pytest.raises(ConfigError, match=f"key {ring.current.id} is not there"):
        tables.opened(path, keys=other)
    altered = bytearray(data)
    altered[len(data) // 2] ^= 1
    path.write_bytes(altered)
    with pytest.raises(DataError, match=r"altered|cut short"):
        _whole(path, keys=ring)
    with (
        pytest.raises(ConfigError, match=r"is for \.parquet"),
        outputs.created(tmp_path / "e.csv", None, ring),
    ):
        pass


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n3\n4,5\n", "row 2 has 1 columns, the heading 2"),
        ("a,b\n1,2\n3,SECRET,5\n", "row 2 has 3 columns, the heading 2"),
        ("a,a\n1,2\n", "two columns are called the same"),
        ("a,\n1,2\n", "column 2 has no name"),
        ("", "is empty"),
        ('a,b\n1,2\n"SECRET,2\n3,4\n', "after row 1: a quote is not closed"),
        (b"a,b\n1,2\n" + "李,SECRET\n".encode("gb18030"), "row 2, column a: is not utf-8"),
        ("姓名,b\n李,SECRET\n".encode("gb18030"), "the heading is not utf-8"),
    ],
)
def test_what_is_wrong_with_a_csv_file(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError) as error:
        _whole(path)
    assert said in str(error.value)
    assert "SECRET" not in str(error.value)


@pytest.mark.parametrize("encoding", ["gb18030", "big5", "utf-16", "latin-1", "utf-8-sig"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    path, text = (
        tmp_path / "t.csv",
        "é" if encoding == "latin-1" else "張三" if encoding == "big5" else "张三",
    )
    path.write_bytes(f"name,b\n{text},2\n".encode(encoding))
    assert _whole(path, encoding=encoding)["name"].to_list() == [text]
    with pytest.raises(ConfigError, match="is not known"):
        tables.opened(path, encoding="ebcdic-9")


def test_strange_cells_are_kept(tmp_path: Path) -> None:
    cells = ["a\x00b", "x\ny", "\u202eabc", "👍", "１２", "", "x" * 10_000_000]
    path = tmp_path / "t.csv"
    path.write_text("a,b\n" + "".join(f'"{cell}",1\n' for cell in cells))
    assert _whole(path)["a"].to_list() == cells


def test_no_rows_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b\n")
    assert _whole(path).shape == (0, 2)
    path.write_text("a\n1\n\n2\n")
    assert _whole(path)["a"].to_list() == ["1", "2"]


@pytest.mark.parametrize("damage", ["cut", "middle", "text", "nothing"])
def test_a_parquet_file_that_is_not_whole(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": ["SECRET" * 50] * 2000}).write_parquet(path, compression="uncompressed")
    data = bytearray(path.read_bytes())
    if damage == "middle":
        data[4:60] = bytes([255] * 56)
    path.write_bytes({"cut": data[:-30], "middle": data, "text": b"a,b\n", "nothing": b""}[damage])
    with pytest.raises(DataError, match="not a whole Parquet file") as error:
        _whole(path)
    assert "SECRET" not in str(error.value)


def test_targets_that_cannot_be_written(tmp_path: Path) -> None:
    source = tmp_path / "t.csv"
    source.write_text("a\n1\n")
    with pytest.raises(ConfigError, match="would be lost"), outputs.created(source, source, None):
        pass
    with (
        pytest.raises(ConfigError, match=r"use \.csv or \.parquet"),
        outputs.created(tmp_path / "t.xls", source, None),
    ):
        pass
    with (
        pytest.raises(DataError, match="cannot be written"),
        outputs.created(tmp_path / "no" / "t.csv", source, None),
    ):
        pass
    assert source.read_text() == "a\n1\n"


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    """As an ordinary user: to root nothing is read-only."""
    folder, target = tmp_path / "fixed", tmp_path / "fixed" / "t.csv"
    folder.mkdir(mode=0o555)
    user = os.geteuid()
    try:
        os.seteuid(65534 if user == 0 else user)
        with pytest.raises(DataError, match="cannot be written: Permission denied"):
            outputs.created(target, None, None).__enter__()
    finally:
        os.seteuid(user)
    assert not list(folder.iterdir())


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    target.write_bytes(b"before")

    def broken() -> None:
        with outputs.created(target, None, None) as writer:
            writer.write(FRAME)
            raise DataError("the source broke")

    with pytest.raises(DataError, match="broke"):
        broken()
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def test_samples_come_from_the_whole_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": range(1000), "b": range(1000)}).write_parquet(path, row_group_size=100)
    table = tables.opened(path)
    assert (table.rows, table.names) == (1000, ["a", "b"])
    assert table.sample(10, ["a"])["a"].to_list() == list(range(0, 1000, 100))
    assert table.head(3)["b"].to_list() == [0, 1, 2]
    assert pq.ParquetFile(path).num_row_groups == 10


@pytest.mark.parametrize("name", ["absent.csv", "t.xlsx"])
def test_files_that_are_no_tables(tmp_path: Path, name: str) -> None:
    (tmp_path / "t.xlsx").write_text("x")
    with pytest.raises(TallystickError, match=r"file not found|use \.csv"):
        tables.opened(tmp_path / name)


def test_a_row_of_another_width_in_another_encoding_is_an_error_and_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow decoded such a row for a handler of ours, and printed its bytes if it could not."""
    (tmp_path / "t.csv").write_bytes(b"id,a\n1,2,3\xff\n")
    printed: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", printed.append)
    with pytest.raises(DataError):
        _whole(tmp_path / "t.csv")
    assert not printed


# ---------------------------------------------------------------------- Parquet that another program wrote


def texts(values: list[bytes]) -> pa.Array:
    """Bytes that say that they are texts, as a writer makes them that does not look."""
    places = list(accumulate(map(len, values), initial=0))
    offsets = b"".join(place.to_bytes(4, "little") for place in places)
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers)


def _written(path: Path, values: list[bytes], how: str) -> None:
    column = texts(values)
    if how == "dictionary":
        column = pa.DictionaryArray.from_arrays(pa.array(range(len(values))), column)
    if how == "large":
        column = column.cast(pa.large_binary()).view(pa.large_string())
    if how == "list":
        column = pa.ListArray.from_arrays(pa.array(range(len(values) + 1), pa.int32()), column)
    if how == "structure":
        column = pa.StructArray.from_arrays([column], ["inner"])
    pq.write_table(pa.table({"id": ["1"] * len(values), "note": column}), path)


@pytest.mark.parametrize("how", ["plain", "dictionary", "large", "list", "structure"])
@pytest.mark.parametrize("bad", [b"caf\xe9", b"\xff", b"call \xf113812341234", b"\xed\xb0\x80"])
def test_a_text_that_is_not_utf_8_is_an_error_and_no_crash(
    tmp_path: Path, bad: bytes, how: str
) -> None:
    """polars believed it: one byte ended the process by SIGSEGV, another was written on as it was."""
    _written(tmp_path / "t.parquet", [b"fine"] * 5 + [bad] + [b"fine"] * 3, how)
    said = "row 6, column note: is not UTF-8"
    if how in ("list", "structure"):
        said = "t.parquet: column note: is not UTF-8"
    if how == "dictionary":
        said = "a text that is not UTF-8"  # pyarrow looks at those itself, and says no row
    with pytest.raises(DataError, match=said):
        _whole(tmp_path / "t.parquet")
    assert len(pl.concat(list(tables.opened(tmp_path / "t.parquet").blocks(["id"])))) == 9


def test_rows_are_counted_over_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "ROWS", 4)
    _written(tmp_path / "t.parquet", [b"fine"] * 6 + [b"\xff"], "plain")
    with pytest.raises(DataError, match="row 7, column note"):
        _whole(tmp_path / "t.parquet")


def test_an_encrypted_file_is_looked_at_as_well(tmp_path: Path) -> None:
    ring = KeySource("file", str(tmp_path / "k")).create(stream(bytes(32)))
    table = pa.table({"note": texts([b"fine", b"\xff"])})
    properties = parquet_keys.encryption(ring)
    with pq.ParquetWriter(
        tmp_path / "e.parquet", table.schema, encryption_properties=properties
    ) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match="row 2, column note"):
        _whole(tmp_path / "e.parquet", keys=ring)


@pytest.mark.parametrize(
    "values",
    [
        pa.array([0, 2**31 - 1], pa.date32()), pa.array([0, -(2**31)], pa.date32()),
        pa.array([0, 2**62], pa.timestamp("ms")), pa.array([0, -(2**63) + 1], pa.timestamp("us")),
        pa.array([0, 2**62], pa.timestamp("ms", "UTC")),
    ],
)  # fmt: skip
def test_dates_that_nothing_can_write_down_are_an_error(tmp_path: Path, values: pa.Array) -> None:
    pq.write_table(pa.table({"when": values}), tmp_path / "t.parquet")
    with pytest.raises(DataError, match="row 2, column when: is no date"):
        _whole(tmp_path / "t.parquet")


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_dates_that_are_some_pass(tmp_path: Path, unit: str) -> None:
    day = 86_400 * 10 ** {"ms": 3, "us": 6, "ns": 9}[unit]
    values = pa.array([-day, None, day, 0], pa.timestamp(unit))
    days = pa.array([-719_162, None, 2_932_896, 0], pa.date32())
    pq.write_table(pa.table({"when": values, "day": days}), tmp_path / "t.parquet")
    found = _whole(tmp_path / "t.parquet")
    assert found["when"].cast(pl.String).str.slice(0, 10).to_list()[-1] == "1970-01-01"
    assert found["day"].cast(pl.String).to_list() == [
        "0001-01-01",
        None,
        "9999-12-31",
        "1970-01-01",
    ]


def test_what_polars_panics_at_is_an_error_of_the_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a\n1\n")
    table = tables.opened(tmp_path / "t.csv")
    with pytest.raises(DataError, match="PanicException"), tables.column_errors(table):
        raise pl.exceptions.PanicException("a value")
    batch = pa.record_batch({"wide": pa.array([1], pa.decimal256(70))})
    with pytest.raises(DataError, match="a type that cannot be read"):
        arrow.frame(batch, "t")


# ---------------------------------------------------------------------- one file, from heading to digest


def test_a_table_is_of_one_file_whatever_its_name_leads_to(tmp_path: Path) -> None:
    for suffix in (".csv", ".parquet"):
        path, other = tmp_path / f"t{suffix}", tmp_path / f"o{suffix}"
        for name, values in ((path, ["mine"]), (other, ["theirs", "theirs"])):
            with outputs.created(name, None, None) as writer:
                writer.write(pl.DataFrame({"a": values}))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        table, kept = tables.opened(path), tables.copied(path)
        blocks = table.blocks()
        other.replace(path)
        assert next(blocks)["a"].to_list() == ["mine"]
        assert next(iter(table.blocks()))["a"].to_list() == ["mine"]
        assert kept.digest() == digest
        path.write_bytes(b"a\nx\n")
        assert next(iter(kept.blocks()))["a"].to_list() == ["mine"]


def test_a_table_that_is_written_into_while_it_is_read_has_no_lineage(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    table = tables.opened(path)
    before = path.stat()
    path.write_text("a\n2\n")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataError, match="was changed while it was read"):
        table.digest()


def test_no_descriptor_is_left(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a\n1\n")
    gc.collect()
    before = set(os.listdir("/dev/fd"))  # noqa: PTH208 - names of descriptors
    for _ in range(3):
        list(tables.opened(path).blocks())
        list(tables.copied(path).blocks())
    gc.collect()
    assert set(os.listdir("/dev/fd")) == before  # noqa: PTH208

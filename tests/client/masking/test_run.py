"""A table masked from one file into another, its lineage, its risk; what a full disk leaves."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from client.masking import checks, run, tables
from client.masking import policy as policies
from client.masking.keys import KeySource
from client.masking.retoken import retoken
from privacy.errors import ConfigError, DataError, ReleaseRefused
from privacy.masking import duplicates
from privacy.masking.scan import scan
from privacy.randomness import stream
from simulations import customers
from tests.client.masking.conftest import POLICY, ROWS
from tests.conftest import ROOT
from tests.postgres import load

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def mask(
    place: Path, purpose: Any, out: str, source: str = "customers.parquet", **more: Any
) -> tuple[pl.DataFrame, run.Outcome]:
    return mask_table(place, purpose, out, tables.opened(place / source), **more)


def mask_table(
    place: Path, purpose: Any, out: str, table: tables.Table, **more: Any
) -> tuple[pl.DataFrame, run.Outcome]:
    rules = policies.load(place / "policy.toml")
    keys = KeySource("file", str(place / "masking.key")).read()
    settings = {
        "keys": keys, "encrypt": False, "randomness": stream(bytes(32)), "progress": lambda rows: None,
        "actor": "tester", "now": NOW, **more,
    }  # fmt: skip
    done = run.mask(table, rules, purpose, place / out, **settings)
    read = tables.opened(place / out, keys=keys)
    return pl.concat(list(read.blocks())), done


def test_masked_for_display(place: Path) -> None:
    made, done = mask(place, "display", "out.csv")
    assert made.columns == ["name", "phone", "email", "birth_date", "city", "amount", "note"]
    assert len(made) == done.rows == ROWS
    assert done.dropped == ("id", "id_card", "bank_card", "address", "updated")
    assert [s.column for s in scan(made) if s.unmasked] == []
    raw = pl.read_parquet(place / "customers.parquet")
    assert (made["phone"].is_null() == raw["phone"].is_null()).all()
    assert done.counts["phone"].values == ROWS - raw["phone"].null_count()
    assert done.counts["phone"].invalid == int((made["phone"] == "***").sum())
    assert done.counts["note"].found > ROWS / 2


def test_csv_and_parquet_give_the_same(place: Path) -> None:
    one, _ = mask(place, "partner_join", "a.parquet")
    other, _ = mask(place, "partner_join", "b.csv", "customers.csv")
    assert one.equals(other)
    assert one["id"].str.contains(r"^[0-9a-f]{8}\.[0-9a-f]{64}$").all()


def test_a_database_gives_the_same_as_its_csv(place: Path, postgres: str) -> None:
    columns = ", ".join(f"{name} text" for name in customers.COLUMNS)
    load(postgres, "people", place / "customers.csv", columns)
    before = set(Path(tempfile.gettempdir()).glob("tallystick-*"))
    table = tables.opened(postgres, table="people")
    made, done = mask_table(place, "display", "database.csv", table)
    assert set(Path(tempfile.gettempdir()).glob("tallystick-*")) == before
    other, _ = mask(place, "display", "file.csv", "customers.csv")
    assert made.equals(other)
    assert (done.rows, table.name) == (ROWS, "people")
    lineage = json.loads((place / "database.csv.lineage.json").read_text())
    assert lineage["source"]["file"] == "people"
    assert lineage["source"]["sha256"] == table.digest()
    _, after, _ = run.risks(
        table, policies.load(place / "policy.toml"), "release", keys=None,
        randomness=stream(bytes(32)), progress=lambda rows: None,
    )  # fmt: skip
    assert after.rows == ROWS  # a table is read more than once
    for name, said in (("nothing", "does not exist"), (None, "say which table")):
        with pytest.raises(DataError, match=said):
            tables.opened(postgres, table=name)


def test_lineage_says_where_it_came_from_and_nothing_else(place: Path) -> None:
    mask(place, "partner_join", "out.parquet")
    path = place / "out.parquet.lineage.json"
    lineage = json.loads(path.read_text())
    for side, name in (("source", "customers.parquet"), ("result", "out.parquet")):
        digest = hashlib.sha256((place / name).read_bytes()).hexdigest()
        assert lineage[side] == {"file": name, "sha256": digest, "rows": ROWS}
    key = KeySource("file", str(place / "masking.key")).read()
    assert lineage["keys"] == [key.current.id]
    mask(place, "display", "shown.parquet")
    assert json.loads((place / "shown.parquet.lineage.json").read_text())["keys"] == []
    assert lineage["policy"]["sha256"] == policies.load(place / "policy.toml").digest()
    assert (lineage["actor"], lineage["time"]) == ("tester", "2026-01-01T00:00:00+00:00")
    assert lineage["columns"]["phone"]["transform"] == {"do": "token"}
    assert path.stat().st_mode & 0o777 == 0o600
    text = path.read_text() + (place / "out.parquet").read_bytes().decode("latin-1")
    for secret in (place / "masking.key").read_text().split():
        assert secret not in text


def test_a_column_that_is_kept_under_a_false_name(place: Path) -> None:
    table = pl.read_parquet(place / "customers.parquet")
    leak = table["email"].fill_null("-")
    for values, kind in ((table["phone"], "phone"), (table["city"].scatter([5], leak[5]), "email")):
        table.with_columns(values.alias("city")).write_parquet(place / "leaky.parquet")
        with pytest.raises(ConfigError, match=f"columns.city: .* looks like {kind}"):
            mask(place, "display", "out.parquet", "leaky.parquet")
        assert not (place / "out.parquet").exists()
    whole = pl.concat([table] * 70)  # several blocks: what is personal begins in the last one
    city = whole["city"].scatter([len(whole) - 1], leak[5])
    whole.with_columns(city.alias("city")).write_parquet(place / "late.parquet")
    assert len(whole) > tables.ROWS
    with pytest.raises(ConfigError, match=r"columns\.city: .* looks like email"):
        mask(place, "display", "out.parquet", "late.parquet")
    assert not (place / "out.parquet").exists()
    lists = table.with_columns(pl.concat_list("phone").alias("city"))
    lists.write_parquet(place / "lists.parquet")
    with pytest.raises(ConfigError, match="which nothing looks into"):
        mask(place, "display", "out.parquet", "lists.parquet")
    reviewed = POLICY.replace("[columns.city]", "[columns.city]\nreviewed = true")
    (place / "policy.toml").write_text(reviewed)
    assert mask(place, "display", "out.parquet", "leaky.parquet")[1].rows == ROWS


def test_a_note_does_not_name_whom_its_row_is_about(place: Path) -> None:
    """Even what no pattern finds: an id, a name that nothing announces."""
    table = pl.read_parquet(place / "customers.parquet")
    said = "今天" + table["name"].fill_null("-") + "来了，编号" + table["id"]
    table.with_columns(said.alias("note")).write_parquet(place / "named.parquet")
    made, done = mask(place, "display", "out.parquet", "named.parquet")
    assert made.columns == ["name", "phone", "email", "birth_date", "city", "amount", "note"]
    long = table["name"].str.strip_chars().str.len_bytes() >= 4
    plain = made["note"].filter(long).str.replace_all(r"[ ,，]", "")
    assert set(plain) == {"今天[name]来了编号[id]"}
    assert done.counts["note"].found >= ROWS
    text = POLICY.replace('display = "redact"', 'display = { do = "redact", own = false }')
    assert text != POLICY
    (place / "policy.toml").write_text(text)
    made, _ = mask(place, "display", "kept.parquet", "named.parquet")
    assert made["note"].str.contains("C0").all()


def test_encrypted(place: Path) -> None:
    made, _ = mask(place, "display", "out.parquet", encrypt=True)
    assert len(made) == ROWS
    assert (place / "out.parquet").read_bytes()[:4] == b"PARE"
    with pytest.raises(ConfigError, match="needs a key"):
        mask(place, "display", "x.parquet", encrypt=True, keys=None)


def test_tokens_need_a_key(place: Path) -> None:
    with pytest.raises(ConfigError, match="name a key"):
        mask(place, "partner_join", "out.parquet", keys=None)
    assert not (place / "out.parquet").exists()


def test_a_release_over_the_threshold(place: Path) -> None:
    made, done = mask(place, "release", "out.parquet")
    assert made.columns == ["birth_date", "city", "amount"]
    assert done.after is not None
    assert done.after.k >= 5
    smallest = made.group_by("birth_date", "city").len()["len"].min()
    assert done.after.k == smallest


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (('"10-year" }', '"month" }'), "generalise or suppress birth_date"),
        (("k = 5", "k = 500"), "500 are needed"),
        (('role = "safe"', 'role = "safe"\nrelease = "keep"'), "column updated is called safe"),
        (("l = 2", "l = 900"), "amount has fewer than 900 values"),
    ],
)  # fmt: skip
def test_a_release_under_the_threshold(place: Path, change: tuple[str, str], said: str) -> None:
    (place / "policy.toml").write_text(POLICY.replace(*change))
    before = sorted(place.iterdir())
    with pytest.raises(ReleaseRefused, match=said):
        mask(place, "release", "out.parquet")
    assert sorted(place.iterdir()) == before


def test_risk_before_and_after(place: Path) -> None:
    rules = policies.load(place / "policy.toml")
    table = tables.opened(place / "customers.parquet")
    before, after, objections = run.risks(
        table, rules, "release", keys=None, randomness=stream(bytes(32)), progress=lambda rows: None
    )
    assert before.k == 1
    assert before.unique > 0.9
    assert after.k >= 5
    assert objections == []


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_full_disk_leaves_nothing(place: Path, suffix: str) -> None:
    """The system's limit on the size of a file stands for the disk."""
    (place / f"out.{suffix}").write_text("before")
    code = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "from client.cli import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "mask", "customers.parquet", "--policy", "policy.toml",
         "--purpose", "display", "--out", f"out.{suffix}"],
        cwd=place, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stderr
    assert "nothing was left there" in done.stderr
    assert (place / f"out.{suffix}").read_text() == "before"
    assert not list(place.glob("*.new"))
    assert not list(place.glob("*.lineage.json"))


def test_a_source_that_breaks_in_the_middle_leaves_nothing(place: Path) -> None:
    whole = (place / "customers.csv").read_text().splitlines()
    whole[1500] = "one,cell,too,few"
    (place / "broken.csv").write_text("\n".join(whole))
    with pytest.raises(DataError, match="row 1500 has 4 columns"):
        mask(place, "display", "out.csv", "broken.csv")
    assert not (place / "out.csv").exists()


def test_tokens_of_one_purpose_cannot_be_linked_with_anothers(place: Path) -> None:
    (place / "policy.toml").write_text(
        POLICY.replace('partner_join = "token"', 'partner_join = "token"\nrelease = "token"')
    )
    joined, _ = mask(place, "partner_join", "joined.parquet")
    released, _ = mask(place, "release", "released.parquet")
    tokens = set(joined["phone"].drop_nulls())
    assert len(tokens) > ROWS / 2
    assert not tokens & set(released["phone"].drop_nulls())


def test_rotation_brings_tokens_to_the_new_key(place: Path) -> None:
    made, _ = mask(place, "partner_join", "old.parquet")
    source = KeySource("file", str(place / "masking.key"))
    first = source.read().current.id
    second = source.rotate(stream(bytes([9] * 32))).current.id
    rules = policies.load(place / "policy.toml")
    table = tables.opened(place / "old.parquet")
    done = retoken(table, rules, "partner_join", place / "new.parquet", keys=source.read())
    assert done == (ROWS, ["phone"])
    again, _ = mask(place, "partner_join", "again.parquet")
    moved = pl.read_parquet(place / "new.parquet")
    assert moved["phone"].to_list() == again["phone"].to_list()
    assert made["phone"].drop_nulls().str.starts_with(first).all()
    assert moved["phone"].drop_nulls().str.starts_with(second).all()
    assert moved["email"].to_list() == made["email"].to_list()


def test_one_row_for_each_person_block_by_block(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same as in one piece; a person's rows lie in several blocks."""
    whole = customers.repeated(pl.read_parquet(place / "customers.parquet"), 0.3, 4)
    whole.write_parquet(place / "repeated.parquet")
    rules = policies.load(place / "policy.toml")
    monkeypatch.setattr(tables, "ROWS", 300)
    table, told = tables.opened(place / "repeated.parquet"), []
    done = checks.dedupe(table, rules, place / "people.parquet", told.append)
    found = duplicates.groups(whole, rules.duplicate_rule())
    wanted = duplicates.merged(whole, found, None)
    assert pl.read_parquet(place / "people.parquet").equals(wanted)
    assert (done.rows, sum(told), len(told) > 5) == (len(wanted), len(wanted), True)
    assert done.before == duplicates.rate(found) > 0.25
    assert (done.after < 0.02, done.uncompared) == (True, 0)

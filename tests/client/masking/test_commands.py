"""The masking commands as a person types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from client.cli import app
from protos import console
from tests.client.masking.conftest import POLICY, ROWS

MASK = ("mask", "customers.csv", "--policy", "policy.toml", "--purpose", "display")
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """``run("mask", ...)`` in the folder of the policy: exit code, output, errors."""
    monkeypatch.chdir(place)

    def command(*arguments: str) -> tuple[int, str, str]:
        code = console.run(app, list(arguments))
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return command


def test_mask_and_scan(run: Run, place: Path) -> None:
    code, out, _ = run("mask", "customers.csv", "--policy", "policy.toml", "--purpose", "display",
                       "--out", "shown.csv")  # fmt: skip
    assert code == 0
    assert f"{ROWS} rows into shown.csv" in out
    assert "dropped: id, id_card, bank_card, address, updated" in out
    code, out, err = run("scan", "shown.csv", "--masked")
    assert (code, err) == (0, "")
    code, out, err = run("scan", "customers.csv", "--masked")
    assert code == 1
    assert "unmasked personal data in: name, phone, email" in err
    code, out, _ = run("scan", "customers.parquet", "--json")
    seen = {c["column"]: c for c in json.loads(out)["columns"]}
    assert seen["id_card"]["kind"] == "id_card"
    assert seen["id_card"]["checked"] > 0.9
    raw = pl.read_csv(place / "customers.csv", infer_schema=False)
    for name in ("phone", "email", "id_card", "bank_card"):
        for value in raw[name].drop_nulls().head(50):
            assert value.strip() not in out


def test_preview_shows_before_and_after_and_writes_nothing(run: Run, place: Path) -> None:
    before = sorted(place.iterdir())
    code, out, _ = run("mask", "customers.csv", "--policy", "policy.toml", "--purpose", "display",
                       "--preview", "2")  # fmt: skip
    assert code == 0
    assert out.count("row ") == 2
    assert "(dropped)" in out
    assert "before" in out
    assert sorted(place.iterdir()) == before
    code, _, err = run("mask", "customers.csv", "--policy", "policy.toml", "--purpose", "partner_join",
                       "--preview", "2", "--keys", "env:NO_KEY_HERE")  # fmt: skip
    assert (code, "no key is there" in err) == (2, True)


def test_risk_quality_dedupe(run: Run, place: Path) -> None:
    code, out, _ = run("risk", "customers.csv", "--policy", "policy.toml")
    assert code == 0, out
    assert "values that remain" in out
    code, out, err = run("risk", "customers.csv", "--policy", "policy.toml", "--purpose", "display")
    assert code == 1
    assert "smallest group has 1 row(s), 5 are needed" in err
    assert "generalise or suppress birth_date" in err
    assert "called safe" not in err
    code, out, _ = run("quality", "customers.csv", "--policy", "policy.toml", "--json")
    assert code == 1
    found = {(f["check"], f["column"]): f for f in json.loads(out)["findings"]}
    assert found["delay", "updated"]["alert"]
    assert not found["missing", "phone"]["alert"]
    assert found["outliers", "amount"]["value"] > 0
    doubled = pl.read_csv(place / "customers.csv", infer_schema=False)
    pl.concat([doubled, doubled.head(ROWS // 5)]).write_csv(place / "doubled.csv")
    code, out, _ = run("dedupe", "doubled.csv", "--policy", "policy.toml", "--out", "single.csv")
    assert code == 0
    share = float(out.split("repeated rows: ")[1].split("%")[0])
    assert share == pytest.approx(100 / 6, abs=1)
    assert float(out.split("before, ")[1].split("%")[0]) < 3


def test_keys(run: Run, place: Path) -> None:
    code, out, _ = run("keys", "new", "file:new.key")
    assert code == 0
    assert "back it up" in out
    code, out, _ = run("keys", "rotate", "file:new.key")
    assert code == 0
    code, out, _ = run("keys", "list", "file:new.key")
    assert out.count("\n") == 2
    assert out.splitlines()[0].endswith("current")
    text = (place / "new.key").read_text().split()
    assert not any(secret in out for secret in text)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([*MASK], 2, "say where to write"),
        (["mask", "absent.csv", "--policy", "policy.toml", "--purpose", "display", "--out", "o.csv"], 2,
         "file not found"),
        (["mask", "customers.csv", "--policy", "absent.toml", "--purpose", "display", "--out", "o.csv"], 2,
         "file not found"),
        (["mask", "customers.csv", "--policy", "policy.toml", "--purpose", "sale", "--out", "o.csv"], 2,
         "Invalid value"),
        ([*MASK, "--out", "customers.csv"],
         2, "would be lost"),
        ([*MASK, "--out", "no/o.csv"], 2,
         "cannot be written"),
        (["mask", "customers.csv", "--policy", "policy.toml", "--purpose", "partner_join", "--out", "o.csv",
          "--keys", "file:absent"], 2, "no key is there"),
        (["scan", "customers.csv", "--encoding", "utf-99"], 2, "is not known"),
        (["keys", "new", "file:masking.key"], 2, "there already"),
        (["keys", "new", "masking.key"], 2, "file:PATH"),
        (["upload", "list", "--platform", "google", "--policy", "policy.toml", "--out", "o.csv",
          "--home", "x"], 2, "partner.toml: file not found"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_clear_line(
    run: Run, arguments: list[str], code: int, said: str
) -> None:
    found, _, err = run(*arguments)
    assert found == code
    assert said in err


def test_columns_of_types_that_no_kind_has(run: Run, place: Path) -> None:
    table = pl.read_parquet(place / "customers.parquet")
    nested = pl.Series("phone", [["13812341234"]] * len(table))
    table.with_columns(nested).write_parquet(place / "nested.parquet")
    for command in (
        [
            "mask",
            "nested.parquet",
            "--policy",
            "policy.toml",
            "--purpose",
            "display",
            "--out",
            "o.csv",
        ],
        ["quality", "nested.parquet", "--policy", "policy.toml"],
        ["dedupe", "nested.parquet", "--policy", "policy.toml", "--out", "o.csv"],
    ):
        code, _, err = run(*command)
        assert code == 2, command
        assert "type" in err
        assert "13812341234" not in err
    assert run("scan", "nested.parquet")[0] == 0


def test_a_policy_for_another_table(run: Run, place: Path) -> None:
    (place / "policy.toml").write_text(POLICY.replace("[columns.phone]", "[columns.mobile]").replace(
        'keys = ["phone", "email"]', 'keys = ["email"]'))  # fmt: skip
    code, _, err = run("mask", "customers.csv", "--policy", "policy.toml", "--purpose", "display",
                       "--out", "o.csv")  # fmt: skip
    assert code == 2
    assert "columns.mobile: customers.csv has no such column; it has id, name, phone" in err


def test_reveal_from_the_command_line(run: Run, place: Path) -> None:
    assert run("init", "bank", "--home", "bank")[0] == 0
    code, out, _ = run("reveal", "new-approver", "dpo", "--out", "dpo.key")
    assert code == 0
    config = place / "bank" / "partner.toml"
    text = config.read_text().split("# [masking.approvers]")[0]
    config.write_text(text + "[masking.approvers]\n" + out.splitlines()[-1] + "\n")
    for arguments in (
        ["mask", "customers.parquet", "--policy", "policy.toml", "--purpose", "partner_join",
         "--out", "j.parquet"],
        ["reveal", "ask", "j.parquet", "--policy", "policy.toml", "--column", "phone",
         "--reason", "ticket 4711", "--out", "request.toml", "--home", "bank"],
        ["reveal", "approve", "request.toml", "--name", "dpo", "--key", "dpo.key", "--yes"],
        ["reveal", "open", "j.parquet", "--request", "request.toml", "--policy", "policy.toml",
         "--out", "raw.csv", "--home", "bank"],
        ["journal", "verify", "--home", "bank"],
    ):  # fmt: skip
        code, out, err = run(*arguments)
        assert code == 0, err
    assert "2 entries, all intact" in out
    assert run("keys", "rotate", "file:masking.key")[0] == 0
    code, out, err = run("keys", "retoken", "j.parquet", "--policy", "policy.toml", "--purpose",
                         "partner_join", "--out", "k.parquet")  # fmt: skip
    assert code == 0, err
    assert "phone under key" in out


@pytest.mark.parametrize(
    "table",
    ["postgresql://me:SECRET@127.0.0.1:1/db", "postgresql://me@127.0.0.1:1/db?password=SECRET"],
)
def test_no_password_on_the_command_line(run: Run, table: str) -> None:
    code, out, err = run("scan", table, "--table", "people")
    assert (code, "pgpass" in err, "SECRET" in out + err) == (2, True, False)


def test_a_database_that_is_not_there(run: Run) -> None:
    code, out, err = run("scan", "postgresql://me@127.0.0.1:1/db", "--table", "people")
    assert (code, "running and reachable" in err, "127.0.0.1" in out + err) == (2, True, False)


def test_what_dedupe_writes_masks_to_what_the_table_masks_to(run: Run, place: Path) -> None:
    """Its apostrophes were part of the identifiers for whatever was masked next."""
    policy = (
        'version = 1\nname = "c"\nkey = "file:masking.key"\n'
        '[columns.id]\nkind = "category"\nrole = "direct"\npartner_join = "hmac"\n'
        '[columns.email]\nkind = "email"\nrole = "direct"\npartner_join = "hmac"\n'
        '[columns.phone]\nkind = "phone"\nrole = "direct"\npartner_join = "token"\n'
        '[duplicates]\nkeys = ["email"]\n'
    )
    (place / "p.toml").write_text(policy)
    (place / "c.csv").write_text(
        "id,email,phone\n-A1,+anna@example.com,+86 138-1234-1234\n@b,-bob@example.com,(+1) 312 753 0189\n"
        "c,carl@example.com,+1-312-753-0189\n"
    )
    join = ("--policy", "p.toml", "--purpose", "partner_join", "--out")
    assert run("mask", "c.csv", *join, "direct.csv")[0] == 0
    assert run("dedupe", "c.csv", "--policy", "p.toml", "--out", "people.csv")[0] == 0
    assert run("mask", "people.csv", *join, "after.csv")[0] == 0
    assert (place / "after.csv").read_bytes() == (place / "direct.csv").read_bytes()
    assert "'" not in (place / "people.csv").read_text()
    assert run("dedupe", "c.csv", "--policy", "p.toml", "--out", "s.csv", "--for-people")[0] == 0
    assert "'-A1,'+anna@example.com,'+86 138-1234-1234" in (place / "s.csv").read_text()


def test_names_of_files_that_are_not_utf_8(run: Run, place: Path) -> None:
    source, out = "c\udcff.csv", "a\udcff.csv"
    (place / source).write_bytes((place / "customers.csv").read_bytes())
    code, said, error = run("mask", source, *MASK[2:], "--out", out)
    assert (code, error) == (0, "")
    assert "a\\xff" in said or "a\\udcff" in said
    lineage = json.loads((place / (out + ".lineage.json")).read_text())
    assert lineage["result"]["file"] == "a\\xff.csv"
    assert lineage["source"]["file"] == "c\\xff.csv"
    (place / "d\udcff.duckdb").touch()
    code, _, error = run("scan", "d\udcff.duckdb", "--table", "t")
    assert code == 2
    assert "rename it" in error


def test_one_byte_that_is_no_text_ends_each_command_in_one_line(run: Run, place: Path) -> None:
    text = pa.array(["fine", "caf\xe9".encode("latin-1")], pa.binary()).view(pa.string())
    held = dict.fromkeys(pl.read_parquet(place / "customers.parquet").columns, text)
    pq.write_table(pa.table(held), place / "bad.parquet")
    policy = ("--policy", "policy.toml")
    for arguments in (
        ("scan", "bad.parquet"),
        ("mask", "bad.parquet", *policy, "--purpose", "display", "--out", "o.csv"),
        ("mask", "bad.parquet", *policy, "--purpose", "display", "--preview", "2"),
        ("risk", "bad.parquet", *policy),
        ("quality", "bad.parquet", *policy),
        ("dedupe", "bad.parquet", *policy, "--out", "o.csv"),
        ("keys", "retoken", "bad.parquet", *policy, "--purpose", "partner_join", "--out", "o.csv"),
    ):
        code, _, error = run(*arguments)
        assert code == 2, arguments
        assert "row 2, column " in error
        assert error.count("\n") == 1
    assert not (place / "o.csv").exists()

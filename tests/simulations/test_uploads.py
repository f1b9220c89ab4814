"""From a match in one process to a platform's upload file."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from client.masking import policy as policies
from client.masking.uploads import upload
from privacy.errors import ConfigError, Refused
from protos.toml import read_toml
from simulations.alliances import Alliance, create
from simulations.audiences import EVERYONE, freeze_all
from simulations.room import Room
from tests.conftest import data_settings, job, terms, write_csv
from tests.postgres import load

NOW = datetime(2026, 1, 1, tzinfo=UTC)
POLICY = """\
version = 1
name = "upload"

[columns.mail]
kind = "email"
role = "direct"
platform_upload = "email"

[columns.mobile]
kind = "phone"
role = "direct"
platform_upload = "phone"
"""


CRM = "id text, age int, spend float8, region text, returned bool, mail text, mobile text"


@pytest.fixture
def alliance_of(tmp_path: Path) -> Callable[..., Alliance]:
    def make(platforms: list[str], upload_to: list[str], database: str | None = None) -> Alliance:
        wanted, data = terms(2), {}
        wanted["matching"] |= {"recipients": ["bank"], "platforms": platforms}
        for name, numbers in (("bank", range(200)), ("shop", range(100, 300))):
            path = tmp_path / f"{name}.csv"
            write_csv(path, numbers)
            data[name] = data_settings(path)
        if database:
            load(database, "crm", tmp_path / "bank.csv", CRM)
            data["bank"] |= {"source": database, "table": "crm"}
        made = create(tmp_path, ["bank", "shop"], wanted, data)
        config = made.partners["bank"].config_file
        text = config.read_text().replace(
            "[rules]", f"[rules]\nupload_to = {json.dumps(upload_to)}"
        )
        config.write_text(text)
        assert read_toml(config)["rules"]["upload_to"] == upload_to
        return made

    return make


def _matched(room: Room) -> str:
    for home in room.alliance.partners.values():
        freeze_all(home)
    wanted: dict[str, Any] = {
        "identifier": "email", "parties": ["bank", "shop"], "result": "list",
        "audiences": {"bank": EVERYONE, "shop": EVERYONE},
    }  # fmt: skip
    room.run(job(name="joint", kind="match", epsilon=0.0, match=wanted))
    (path,) = room.alliance.partners["bank"].audiences.glob("joint-*.csv")
    return path.stem


def _upload(room: Room, name: str, platform: str, out: Path) -> Any:
    policy = out.parent / "policy.toml"
    policy.write_text(POLICY)
    return upload(
        name, platform, policies.load(policy), out, home=room.alliance.partners["bank"],
        store=room.gates["bank"].store, now=NOW,
    )  # fmt: skip


def test_upload_files(alliance_of: Callable[..., Alliance], tmp_path: Path) -> None:
    platforms = ["google", "meta", "uid2", "tiktok", "linkedin"]
    mail = hashlib.sha256(b"user100@example.com")
    with Room(alliance_of(platforms, platforms)) as room:
        name = _matched(room)
        for platform, heads, phone in (
            ("google", ["Email", "Phone"], "+8613912340100"), ("meta", ["email", "phone"], "8613912340100"),
            ("tiktok", ["EMAIL_SHA256", "PHONE_SHA256"], "8613912340100"), ("linkedin", ["email"], None),
        ):  # fmt: skip
            out = tmp_path / f"{platform}.csv"
            counts = _upload(room, name, platform, out)
            assert (counts.people, counts.rows, counts.without) == (100, 100, 0)
            made = pl.read_csv(out)
            assert made.columns == heads
            assert made.row(0)[0] == mail.hexdigest()
            if phone:
                assert made.row(0)[1] == hashlib.sha256(phone.encode()).hexdigest()
        _upload(room, name, "uid2", tmp_path / "uid2.jsonl")
        bodies = [json.loads(line) for line in (tmp_path / "uid2.jsonl").read_text().splitlines()]
        assert [list(body) for body in bodies] == [["email_hash"], ["phone_hash"]]
        assert bodies[0]["email_hash"][0] == base64.b64encode(mail.digest()).decode()
        assert len(bodies[1]["phone_hash"]) == 100
        store = room.gates["bank"].store
        kinds = store.rows("SELECT kind, recipient, purpose FROM disclosures WHERE kind = 'upload'")
        assert sorted(kinds) == sorted(("upload", p, "insight") for p in platforms)
        last = store.rows("SELECT kind, recipient, content FROM journal ORDER BY sequence DESC")[0]
        digest = hashlib.sha256((tmp_path / "uid2.jsonl").read_bytes()).digest()
        assert last == ("upload for insight", "uid2", digest)


def test_an_upload_from_a_database(
    alliance_of: Callable[..., Alliance], tmp_path: Path, postgres: str
) -> None:
    with Room(alliance_of(["google"], ["google"], postgres)) as room:
        counts = _upload(room, _matched(room), "google", tmp_path / "google.csv")
        assert (counts.people, counts.rows, counts.without) == (100, 100, 0)
        made = pl.read_csv(tmp_path / "google.csv")
        assert made["Email"][0] == hashlib.sha256(b"user100@example.com").hexdigest()


@pytest.mark.parametrize(
    ("platforms", "upload_to", "said"),
    [
        ([], ["google"], "matching.platforms"),
        (["google"], [], "rules.upload_to"),
        (["meta"], ["google"], "contract"),
    ],
)  # fmt: skip
def test_both_must_permit_it(
    alliance_of: Callable[..., Alliance], tmp_path: Path, platforms: list[str], upload_to: list[str],
    said: str,
) -> None:  # fmt: skip
    with Room(alliance_of(platforms, upload_to)) as room:
        name = _matched(room)
        with pytest.raises(Refused, match=said):
            _upload(room, name, "google", tmp_path / "out.csv")
        assert not (tmp_path / "out.csv").exists()


def test_only_lists_of_matches(alliance_of: Callable[..., Alliance], tmp_path: Path) -> None:
    with Room(alliance_of(["google"], ["google"])) as room:
        name = _matched(room)
        audiences = room.alliance.partners["bank"].audiences
        (audiences / "mine-12345678.csv").write_text("person\nC00001\n")
        for other in ("mine-12345678", f"other-{name.rpartition('-')[2]}"):
            with pytest.raises(Refused, match="not a match list"):
                _upload(room, other, "google", tmp_path / "out.csv")
        (audiences / f"{name}.csv").unlink()
        with pytest.raises(ConfigError, match="no match list"):
            _upload(room, name, "google", tmp_path / "out.csv")


def test_a_contract_names_platforms_that_exist(alliance_of: Callable[..., Alliance]) -> None:
    with pytest.raises(ConfigError, match="friendster is not one of"):
        alliance_of(["friendster"], [])

"""Tokens turned back: the key, an approval and a journal entry, all three or nothing."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w

from client import setup
from client.journal import verify
from client.masking import policy as policies
from client.masking import reveal, tables
from client.masking.keys import KeySource
from client.masking.retoken import retoken
from client.store import Store
from privacy.errors import ConfigError, ParameterError
from privacy.randomness import stream
from protos.toml import read_toml
from tests.client.masking.test_run import mask

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Office:
    """A partner with an approver, a masked table and a request."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.home = setup.init(place / "partner", "bank", os.urandom)
        line = reveal.new_approver("dpo", place / "dpo.key", os.urandom)
        name, _, key = line.partition(" = ")
        config = {"name": "bank", "masking": {"approvers": {name: key.strip('"')}}}
        self.home.config_file.write_text(tomli_w.dumps(config))
        self.store = Store(self.home.database, self.home.storage_key(), os.urandom)
        mask(place, "partner_join", "joined.parquet")
        self.request = place / "request.toml"

    def ask(self, column: str = "phone", **more: Any) -> None:
        settings = {
            "hours": 24, "now": NOW, "randomness": os.urandom, "home": self.home, "store": self.store,
        } | more  # fmt: skip
        reveal.ask(
            self.table(), self.policy(), column, "partner_join", "a customer asked for it", "ana",
            self.request, **settings,
        )  # fmt: skip

    def approve(self) -> None:
        reveal.approve(self.request, "dpo", self.place / "dpo.key", NOW)

    def open(self, out: str = "raw.parquet", now: datetime = NOW) -> pl.DataFrame:
        keys = KeySource("file", str(self.place / "masking.key")).read()
        reveal.reveal(
            self.table(), self.policy(), self.request, self.place / out, home=self.home,
            store=self.store, keys=keys, now=now,
        )  # fmt: skip
        return pl.read_parquet(self.place / out)

    def table(self) -> tables.Copy:
        return tables.copied(self.place / "joined.parquet")

    def policy(self) -> policies.Policy:
        return policies.load(self.place / "policy.toml")

    def journal(self) -> list[tuple[Any, ...]]:
        return self.store.rows("SELECT kind, recipient FROM journal ORDER BY sequence")


@pytest.fixture
def office(place: Path) -> Office:
    return Office(place)


def test_all_three(office: Office) -> None:
    office.ask()
    office.approve()
    made = office.open()
    raw = pl.read_parquet(office.place / "customers.parquet")
    plain = raw["phone"].str.contains("^1[3-9][0-9]{9}$").fill_null(value=False)
    assert plain.sum() > 500
    assert made["phone"].filter(plain).to_list() == ("+86" + raw["phone"].filter(plain)).to_list()
    assert office.journal() == [("asked to reveal", "ana"), ("reveal phone", "ana")]
    public = office.home.identity().public_key().public_bytes_raw()
    assert verify(office.store, public).entries == 2


def test_digits_enciphered_come_back(office: Office) -> None:
    office.ask("id_card")
    office.approve()
    made = office.open()
    raw = pl.read_parquet(office.place / "customers.parquet")["id_card"]
    plain = raw.str.contains("^[0-9]{17}[0-9X]$").fill_null(value=False)
    assert made["id_card"].filter(plain).to_list() == raw.filter(plain).to_list()


def test_once(office: Office) -> None:
    office.ask()
    office.approve()
    office.open()
    with pytest.raises(ConfigError, match="used already"):
        office.open("again.parquet")
    assert not (office.place / "again.parquet").exists()
    assert len(office.journal()) == 2


def test_not_without_an_approval(office: Office) -> None:
    office.ask()
    with pytest.raises(ConfigError, match="nobody has approved"):
        office.open()
    assert not (office.place / "raw.parquet").exists()
    assert office.journal() == [("asked to reveal", "ana")]


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("column", "email", "does not fit"),
        ("purpose", "display", "does not fit"),
        ("reason", "another reason", "does not fit"),
        ("by", "mallory", "does not fit"),
        ("expires", NOW + timedelta(days=90), "does not fit"),
        ("approver", "mallory", "not in partner.toml"),
        ("table", "00" * 32, "for another table"),
    ],
)
def test_a_request_changed_after_it_was_signed(
    office: Office, field: str, value: Any, said: str
) -> None:
    office.ask()
    office.approve()
    plain = read_toml(office.request)
    plain[field] = value
    office.request.write_text(tomli_w.dumps(plain))
    with pytest.raises(ConfigError, match=said):
        office.open()
    assert office.journal() == [("asked to reveal", "ana")]


def test_another_approver_and_another_time(office: Office) -> None:
    office.ask()
    reveal.new_approver("dpo", office.place / "other.key", os.urandom)
    reveal.approve(office.request, "dpo", office.place / "other.key", NOW)
    with pytest.raises(ConfigError, match="the key differs"):
        office.open()
    office.ask()
    office.approve()
    with pytest.raises(ConfigError, match="has expired"):
        office.open(now=NOW + timedelta(hours=25))
    with pytest.raises(ConfigError, match="expired"):
        reveal.approve(office.request, "dpo", office.place / "dpo.key", NOW + timedelta(days=2))


def test_not_with_another_key(office: Office) -> None:
    office.ask()
    office.approve()
    (office.place / "masking.key").unlink()
    KeySource("file", str(office.place / "masking.key")).create(stream(bytes([3] * 32)))
    with pytest.raises(ParameterError, match="row 1: no key for this token"):
        office.open()
    assert not (office.place / "raw.parquet").exists()
    assert office.journal() == [("asked to reveal", "ana")]


def test_what_was_never_a_token_cannot_be_asked_for(office: Office) -> None:
    for column in ("email", "name", "nothing"):
        with pytest.raises(ConfigError, match="no token of it"):
            office.ask(column)


def test_a_table_that_lacks_the_column(office: Office) -> None:
    (office.place / "other.csv").write_text("a\n1\n")
    other = tables.copied(office.place / "other.csv")
    with pytest.raises(ConfigError, match=r"columns.phone: other.csv has no such column"):
        reveal.ask(
            other, office.policy(), "phone", "partner_join", "a customer asked", "ana",
            office.request, hours=1, now=NOW, randomness=os.urandom, home=office.home,
            store=office.store,
        )  # fmt: skip
    keys = KeySource("file", str(office.place / "masking.key")).read()
    with pytest.raises(ConfigError, match="no such column"):
        retoken(other, office.policy(), "partner_join", office.place / "o.csv", keys=keys)


def test_keys_of_approvers(office: Office) -> None:
    key = office.place / "dpo.key"
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(ConfigError, match="never overwritten"):
        reveal.new_approver("dpo", key, os.urandom)
    key.chmod(0o644)
    office.ask()
    with pytest.raises(ConfigError, match="chmod 600"):
        office.approve()
    with pytest.raises(ConfigError, match="not found"):
        reveal.read_key(office.place / "nothing.key")
    (office.place / "short.key").write_bytes(b"short")
    (office.place / "short.key").chmod(0o600)
    with pytest.raises(ConfigError, match="not an approver's key"):
        reveal.read_key(office.place / "short.key")

"""Approvals that tokens are turned back: who has one may use it once, here, soon, for what was shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w

from client import marks
from client.home import Home
from client.journal import Journal
from client.masking import reveal
from client.store import Store
from privacy.errors import ConfigError
from protos import identity
from protos.toml import read_toml
from tests.client.masking.conftest import prepared
from tests.client.masking.test_reveal import NOW, Office
from tests.conftest import ROOT


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(prepared(tmp_path))


def signed_by_force(office: Office, **changes: object) -> None:
    """The approver signs whatever the file says: he was deceived, or works with who asks."""
    plain = read_toml(office.request) | changes
    for name in ("approver", "signature"):
        plain.pop(name, None)
    request = reveal.Request.model_validate(plain | {"approver": "dpo"})
    key = reveal.read_key(office.place / "dpo.key")
    signature = identity.encode(identity.sign(key, reveal.APPROVAL, request.statement()))
    office.request.write_text(
        tomli_w.dumps(
            request.model_copy(update={"signature": signature}).model_dump(exclude_none=True)
        )
    )


def copied(office: Office, name: str, *, state: bool) -> Office:
    """A copy of the folder, as of a backup or a thief's."""
    folder = office.place / name
    shutil.copytree(office.home.root, folder)
    if not state:
        shutil.rmtree(folder / "state")
    other = object.__new__(Office)
    other.__dict__.update(office.__dict__)
    other.home = Home(folder)
    other.home.prepare()
    other.store = Store(other.home.database, other.home.storage_key(), os.urandom)
    return other


def test_a_copy_without_its_state_uses_no_approval_again(office: Office) -> None:
    office.ask()
    office.approve()
    office.open()
    with pytest.raises(ConfigError, match="does not hold the request"):
        copied(office, "copy", state=False).open("again.parquet")
    assert not (office.place / "again.parquet").exists()


def test_nor_one_that_was_never_used(office: Office) -> None:
    office.ask()
    office.approve()
    with pytest.raises(ConfigError, match="does not hold the request"):
        copied(office, "copy", state=False).open()
    other = copied(office, "other", state=False)
    other.ask()  # as many entries, of another request
    office.request.write_bytes(office.request.read_bytes())
    signed_by_force(office, entry=2)
    with pytest.raises(ConfigError, match="does not hold the request"):
        office.open()


def test_a_copy_with_its_state_opens_what_was_not_used_and_its_journal_says_so(
    office: Office,
) -> None:
    """What is left (docs/keys.md): from then on the copy's heads are others than those that peers get."""
    office.ask()
    office.approve()
    other = copied(office, "copy", state=True)
    other.open("there.parquet", now=NOW + timedelta(hours=1))
    assert other.journal()[-1] == ("reveal phone", "ana")
    office.open()
    mine, theirs = (
        Journal(each.store, each.home.identity(), NOW.timestamp).head() for each in (office, other)
    )
    assert mine[0] == theirs[0]
    assert mine[1] != theirs[1]


def test_a_database_that_was_put_back_opens_nothing(office: Office) -> None:
    office.ask()
    office.approve()
    office.store.close()
    before = office.place / "before"
    shutil.copytree(office.home.state, before)
    office.store = Store(office.home.database, office.home.storage_key(), os.urandom)
    office.open()
    office.store.close()
    for name in ("gate.db", "gate.db-wal", "gate.db-shm"):  # the mark stays
        (office.home.state / name).unlink(missing_ok=True)
        if (before / name).exists():
            shutil.copy(before / name, office.home.state / name)
    office.store = Store(office.home.database, office.home.storage_key(), os.urandom)
    with pytest.raises(ConfigError, match="older than its mark"):
        office.open("again.parquet")
    with pytest.raises(ConfigError, match="older than its mark"):
        office.ask()


def test_used_is_what_the_journal_says_not_another_table(office: Office) -> None:
    """0.4.0 kept uses among the nonces, which whoever edits the database takes away."""
    office.ask()
    office.approve()
    office.open()
    office.store.execute("DELETE FROM nonces")
    with pytest.raises(ConfigError, match="used already"):
        office.open("again.parquet")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"column": "id_card"}, "does not hold"), ({"purpose": "display"}, "does not hold"),
        ({"reason": "something else"}, "does not hold"), ({"by": "mallory"}, "does not hold"),
        ({"expires": NOW + timedelta(days=29)}, "does not hold"),
        ({"expires": datetime(2999, 1, 1, tzinfo=UTC)}, "does not hold"),
        ({"asked": NOW + timedelta(days=1)}, "does not hold"), ({"key": "0" * 8}, "does not hold"),
        ({"id": "a" * 32}, "does not hold"), ({"entry": 99}, "does not hold"),
        ({"entry": 0}, "does not hold"), ({"digest": "0" * 64}, "does not hold"),
        ({"partner": "shop"}, "shop's journal"), ({"policy": "0" * 64}, "another table, or policy"),
    ],
)  # fmt: skip
def test_even_a_deceived_approver_signs_only_what_was_entered(
    office: Office, changes: dict[str, object], said: str
) -> None:
    office.ask()
    signed_by_force(office, **changes)
    with pytest.raises(ConfigError, match=said):
        office.open()
    assert [kind for kind, _ in office.journal()] == ["asked to reveal"]


def test_an_approval_ends_thirty_days_after_it_was_asked_for_whatever_its_file_says(
    office: Office,
) -> None:
    office.ask(hours=24 * 3660)
    assert read_toml(office.request)["expires"] == NOW + timedelta(days=30)
    office.approve()
    with pytest.raises(ConfigError, match="expired"):
        office.open(now=NOW + timedelta(days=30))
    # entered by changed code, with a time of its own choice
    far = datetime(2999, 1, 1, tzinfo=UTC)
    request = reveal.load(office.request).model_copy(update={"expires": far, "id": "b" * 32})
    journal = Journal(office.store, office.home.identity(), NOW.timestamp)
    with office.store.transaction():
        journal.record(reveal.ASKED, request.id, request.content(), request.by)
        sequence, digest = journal.head()
    marks.put(office.home, office.store, journal)
    office.request.write_text(
        tomli_w.dumps(
            request.model_copy(update={"entry": sequence, "digest": digest.hex()}).model_dump(
                exclude_none=True
            )
        )
    )
    signed_by_force(office)
    with pytest.raises(ConfigError, match="expired"):
        office.open(now=NOW + timedelta(days=31))
    with pytest.raises(ConfigError, match="over 30 days"):
        office.approve()


def test_an_approval_of_the_version_before_is_to_be_asked_for_again(office: Office) -> None:
    office.ask()
    plain = read_toml(office.request)
    for name in ("asked", "partner", "entry", "digest"):
        del plain[name]
    office.request.write_text(tomli_w.dumps(plain | {"version": 1}))
    with pytest.raises(ConfigError, match="ask again"):
        office.approve()
    with pytest.raises(ConfigError, match="ask again"):
        office.open()
    office.ask()  # in its place


def test_a_request_takes_the_place_of_nothing_but_a_request(office: Office) -> None:
    for name in ("customers.csv", "policy.toml", "dpo.key", "partner/partner.toml"):
        office.request = office.place / name
        before = office.request.read_bytes()
        with pytest.raises(ConfigError, match=r"is no request|partner's own"):
            office.ask()
        assert office.request.read_bytes() == before
    assert office.journal() == []
    with pytest.raises(ConfigError, match="partner's own"):
        reveal.new_approver("x", office.home.state / "x.key", os.urandom)
    with pytest.raises(ConfigError, match="never overwritten"):
        reveal.new_approver("x", office.place / "customers.csv", os.urandom)


def test_all_that_is_signed_is_shown(office: Office) -> None:
    office.ask()
    done = subprocess.run(
        [sys.executable, "-m", "client.cli", "reveal", "approve", str(office.request), "--name", "dpo",
         "--key", str(office.place / "dpo.key"), "--yes"],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    plain = read_toml(office.request)
    for name in ("column", "purpose", "reason", "by", "table", "policy", "partner", "entry"):
        assert str(plain[name]) in done.stdout, name
    assert f"{plain['expires']:%Y-%m-%d}" in done.stdout
    assert "current one" in done.stdout

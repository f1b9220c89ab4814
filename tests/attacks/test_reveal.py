"""Approvals that tokens are turned back: who has one may use it once, here, soon, for what was shown."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import tomli_w

from client import marks
from client.home import Home
from client.journal import Journal
from client.masking import reveal
from client.store import Store
from privacy.errors import ConfigError, DataError
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
    for name in (
        "column",
        "purpose",
        "reason",
        "by",
        "table",
        "policy",
        "partner",
        "entry",
        "kind",
        "domain",
        "transform",
        "rows",
        "table_name",
        "policy_name",
    ):
        assert str(plain[name]) in done.stdout, name
    assert f"{plain['expires']:%Y-%m-%d}" in done.stdout
    assert "current one" in done.stdout


# ---------------------------------------------------------------------- what was shown is what is opened


def test_an_approval_for_one_table_opens_no_other_whatever_its_name_leads_to(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digest and rows were two readings of one path: who may rename files put another table between."""
    office.ask()
    office.approve()
    path, other = office.place / "joined.parquet", office.place / "other.parquet"
    few = pl.read_parquet(path)
    pl.concat([few, few]).write_parquet(other)
    real = reveal._check

    def swapped(*given: Any) -> None:
        real(*given)  # the digest fits
        other.replace(path)

    monkeypatch.setattr(reveal, "_check", swapped)
    assert len(office.open()) == len(few)


def test_nor_one_that_is_written_into_in_place(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.ask()
    office.approve()
    path = office.place / "joined.parquet"
    few = pl.read_parquet(path)
    real = reveal._check

    def swapped(*given: Any) -> None:
        real(*given)
        pl.concat([few, few]).write_parquet(office.place / "other.parquet")
        path.write_bytes((office.place / "other.parquet").read_bytes())

    monkeypatch.setattr(reveal, "_check", swapped)
    assert len(office.open()) == len(few)


def test_what_was_not_shown_is_not_signed(office: Office) -> None:
    """It was signed, written, and only then compared with what had been shown."""
    office.ask()
    shown = reveal.load(office.request)
    office.ask("id_card")  # in its place while the approver reads
    before = office.request.read_bytes()
    with pytest.raises(ConfigError, match="nothing was signed"):
        reveal.approve(office.request, "dpo", office.place / "dpo.key", NOW, agreed=shown)
    assert office.request.read_bytes() == before
    assert b"signature" not in before


@pytest.mark.parametrize(
    "changes",
    [{"kind": "category"}, {"domain": "partner_join/city"}, {"transform": "ff1"}, {"rows": 1},
     {"table_name": "cities.csv"}, {"policy_name": "cities"}],
)  # fmt: skip
def test_nobody_is_told_that_telephone_numbers_are_a_city(
    office: Office, changes: dict[str, object]
) -> None:
    """The name of a column is the asker's; what is behind it is what the policy and the table say, even where
    changed code entered the request."""
    office.ask()
    request = reveal.load(office.request)
    assert (request.kind, request.domain, request.transform) == (
        "phone",
        "partner_join/phone",
        "token",
    )
    assert request.table_name == "joined.parquet"
    assert request.policy_name == "customers"
    signed_by_force(office, **changes)
    with pytest.raises(ConfigError, match="does not hold"):
        office.open()
    entered = request.model_copy(update={**changes, "id": "c" * 32})
    journal = Journal(office.store, office.home.identity(), NOW.timestamp)
    with office.store.transaction():
        journal.record(reveal.ASKED, entered.id, entered.content(), entered.by)
        sequence, digest = journal.head()
    signed_by_force(office, **changes, id="c" * 32, entry=sequence, digest=digest.hex())
    if {"table_name", "policy_name"} & set(changes):  # names beside the digests that bind
        office.open()
    else:
        with pytest.raises(ConfigError, match=r"that were approved|as were approved"):
            office.open()
        assert not (office.place / "raw.parquet").exists()


def test_a_mark_that_cannot_be_written_uses_no_approval_up_without_a_file(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.ask()
    office.approve()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(marks, "put", full)
    with pytest.raises(DataError, match=r"is written and entered, but state/mark is not"):
        office.open()
    assert (office.place / "raw.parquet").exists()
    assert office.journal()[-1] == ("reveal phone", "ana")


def test_a_gate_and_its_owner_write_the_mark_at_the_same_time(office: Office) -> None:
    """Both are honest: neither is told of an attack, and the mark is as far as the journal."""
    code = (
        "import os, sys, time\nfrom pathlib import Path\nfrom client import marks\n"
        "from client.home import Home\nfrom client.journal import Journal\n"
        "from client.store import Store\n"
        "home = Home(Path(sys.argv[1]))\n"
        "store = Store(home.database, home.storage_key(), os.urandom)\n"
        "journal = Journal(store, home.identity(), time.time)\n"
        "for n in range(40):\n"
        "    with store.transaction():\n        journal.record('test', '', b'x', 'bank')\n"
        "    marks.put(home, store, journal)\n"
    )
    office.ask()
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(office.home.root)], stderr=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [child.communicate(timeout=60)[1] for child in children] == ["", ""]
    journal = Journal(office.store, office.home.identity(), NOW.timestamp)
    sequence, _ = office.store.unseal("mark", office.home.mark.read_bytes()).split()
    assert int(sequence) == journal.head()[0] == 81


# ---------------------------------------------------------------------- what a request may say


@pytest.mark.parametrize("reason", ["short", "ticket \udcff 4711", "x" * 501])
def test_a_reason_that_will_not_do_is_told_without_being_repeated(
    office: Office, reason: str
) -> None:
    with pytest.raises(ConfigError, match="reason") as told:
        reveal.ask(
            office.table(), office.policy(), "phone", "partner_join", reason, "ana", office.request,
            hours=1, now=NOW, randomness=os.urandom, home=office.home, store=office.store,
        )  # fmt: skip
    assert reason not in str(told.value)
    assert office.journal() == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("expires", "2026-12-01T00:00:00"), ("asked", "2026-11-25T00:00:00"),
        ("expires", "9999-12-31T23:59:59-23:00"), ("asked", "0001-01-01T00:00:00+23:00"),
        ("asked", "9999-12-31T23:00:00Z"),
    ],
)  # fmt: skip
def test_times_without_a_zone_or_out_of_range_are_an_error(
    office: Office, field: str, value: str
) -> None:
    office.ask()
    office.request.write_text(
        re.sub(rf"(?m)^{field} = .*$", f"{field} = {value}", office.request.read_text())
    )
    if value == "9999-12-31T23:00:00Z":  # a time as any other: signed in vain
        office.approve()
    with pytest.raises(ConfigError, match=r"time zone|out of range|does not hold"):
        office.open()


def test_who_asks_is_not_what_the_environment_says() -> None:
    code = "from client.masking.options import who; print(who())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "LOGNAME": "mallory", "USER": "mallory"}
    none = "import pwd\ndef none(_): raise KeyError\npwd.getpwuid = none\n"
    said = [
        subprocess.run(
            [sys.executable, "-c", more + code], env=environment, capture_output=True, text=True,
            check=True,
        ).stdout.strip()
        for more in ("", none)
    ]  # fmt: skip
    assert said == [pwd.getpwuid(os.getuid()).pw_name, f"uid {os.getuid()}"]

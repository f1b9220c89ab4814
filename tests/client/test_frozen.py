"""Audiences that their owner froze: what is shown, what is kept, who is left out, which epoch serves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from client import freezing, frozen, lost
from client.cli import app
from client.context import Context
from client.freezing import DAY, Found, freeze
from client.frozen import Epoch
from client.home import Home
from privacy.errors import ConfigError, DataError, Refused
from protos.alliance import Contract
from protos.refusal import Code
from protos.toml import read_toml
from simulations.alliances import Alliance
from simulations.audiences import EVERYONE, define
from tests.conftest import job, write_csv

YEAR = 365 * DAY


class Clock:
    def __init__(self) -> None:
        self.now = 1_790_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def home(make_alliance: Callable[..., Alliance]) -> Home:
    """The bank: customers 0 to 299, of an alliance whose sets hold 1000."""
    return make_alliance().partners["bank"]


@contextmanager
def books(home: Home, clock: Callable[[], float]) -> Iterator[Context]:
    with freezing.owner(home, os.urandom, clock) as at:
        # nobody has confirmed a time in these tests: the period is by the test's clock
        at.ledger._confirmed = clock  # type: ignore[method-assign]
        yield at


def yes(_: Found) -> bool:
    return True


def wanted(**match: Any) -> Any:
    table = {"identifier": "email", "parties": ["bank", "shop"], "result": "list",
             "audiences": {"bank": EVERYONE, "shop": EVERYONE}}  # fmt: skip
    return job(name="list", kind="match", match=table | match)


def disclose(at: Context, number: int, name: str = EVERYONE) -> None:
    """As a match does it."""
    spec = wanted(audiences={"bank": name, "shop": name}).match
    with at.store.transaction():
        epoch = frozen.use(at, spec)
        assert epoch is not None
        at.store.execute(
            "INSERT INTO disclosures (time, job, kind, recipient, purpose, audience, epoch)"
            " VALUES (?, ?, 'match list', 'shop', 'insight', ?, ?)",
            at.ledger.now(), f"{number:032x}", epoch.audience, epoch.number,
        )  # fmt: skip


def test_an_epoch_is_there_whole_sealed_and_committed_to(home: Home) -> None:
    define(home, rule="age >= 50", uses=3)
    with books(home, Clock()) as at:
        found = freeze(at, EVERYONE, yes)
        assert found is not None
        expected = sum(18 + n * 7 % 72 >= 50 for n in range(300))
        assert (found.people, found.left_out, found.last) == (expected, 0, None)
        assert found.identifiers == {"email": expected, "phone": expected}
        epoch = frozen.newest(at.store, EVERYONE)
        assert epoch is not None
        assert (epoch.number, epoch.uses, epoch.used, epoch.rule) == (1, 3, 0, "age >= 50")
        (entry,) = at.store.rows("SELECT content FROM journal WHERE kind = ?", freezing.FROZEN)
        with frozen.opened(at, epoch) as audience:
            salt = audience._spool.log("salt").read(0)
            assert audience.commitment(salt) == epoch.commitment == bytes(entry[0])
            assert len(audience.tags()) == expected
    folder = frozen.folder_of(home, EVERYONE, 1)
    data = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    for clear in (b"C00", b"example.com", b"people", b"tags"):
        assert clear not in data
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))


def test_what_is_not_confirmed_leaves_nothing(home: Home) -> None:
    define(home)
    with books(home, Clock()) as at:
        assert freeze(at, EVERYONE, lambda _: False) is None
        assert frozen.epochs(at.store) == []
        with pytest.raises(KeyboardInterrupt):
            freeze(at, EVERYONE, _interrupt)
    assert [p.name for p in (home.state / "frozen" / EVERYONE).iterdir()] == ["lock"]


def _interrupt(_: Found) -> bool:
    raise KeyboardInterrupt


def test_what_cannot_be_frozen_is_told_its_owner(home: Home, tmp_path: Path) -> None:
    define(home, "few", rule="age >= 89")
    define(home, "often", uses=13)
    define(home, "column", rule="income >= 3")
    define(home, "model", rule="model:buyers >= 0.5")
    define(home, "gone", rule="model:buyers@0123abcd >= 0.5")
    define(home, "kind", identifiers=["id_card"])
    define(home)
    with books(home, Clock()) as at:
        for name, reason in (
            ("few", "fewer than the contract's smallest cohort, 50"),
            ("often", "above limits.exact_disclosures"),
            ("column", "income is not a column"),
            ("model", "name the job that made it too"),
            ("gone", "no such model"),
            ("kind", "does not allow id_card"),
            ("nobody", "defines no such audience"),
        ):
            with pytest.raises(ConfigError, match=reason):
                freeze(at, name, yes)
        write_csv(tmp_path / "bank.csv", range(1001))
        with pytest.raises(ConfigError, match="more than the contract's largest set, 1000"):
            freeze(at, EVERYONE, yes)
        (tmp_path / "bank.csv").unlink()
        with pytest.raises(DataError):
            freeze(at, EVERYONE, yes)
        assert frozen.epochs(at.store) == []


@pytest.mark.parametrize("name", ["../bank", "..", "a/b", "", "A", "x" * 33, "a\n", "a\x00b"])
def test_a_name_leads_nowhere(home: Home, name: str) -> None:
    with pytest.raises(ConfigError):
        frozen.folder_of(home, name, 1)
    define(home, name)
    with pytest.raises(ConfigError):
        home.config()
    with pytest.raises(ConfigError):
        wanted(audiences={"bank": name, "shop": EVERYONE})


def test_differences_to_every_other_epoch_are_shown(home: Home, tmp_path: Path) -> None:
    clock = Clock()
    define(home, "adults", rule="age >= 19", uses=1)
    define(home, uses=1)
    with books(home, clock) as at:
        freeze(at, "adults", yes)
        first = freeze(at, EVERYONE, yes)
        minors = sum(18 + n * 7 % 72 < 19 for n in range(300))
        assert first is not None
        assert [(d.audience, d.came, d.gone) for d in first.close] == [("adults", minors, 0)]
        assert any("WARNING" in text and "adults" in text for text in first.sentences())
        write_csv(tmp_path / "bank.csv", range(10, 330))
        second = freeze(at, EVERYONE, yes)
        assert second is not None
        assert second.last is not None
        assert (second.last.came, second.last.gone, second.changed) == (30, 10, 40)
        assert ("everyone", 1) in [(d.audience, d.epoch) for d in second.close]
        write_csv(tmp_path / "bank.csv", range(110, 430))
        third = freeze(at, EVERYONE, yes)
        assert third is not None
        assert third.close == ()


def test_nobody_is_in_more_exact_results_than_allowed(home: Home, tmp_path: Path) -> None:
    """limits.exact_disclosures is 12: what was used counts, and what another audience may yet be used for."""
    clock = Clock()
    define(home, "older", rule="age >= 50", uses=4)
    define(home, uses=5)
    older = sum(18 + n * 7 % 72 >= 50 for n in range(300))
    with books(home, clock) as at:
        freeze(at, "older", yes)
        found = freeze(at, EVERYONE, yes)  # 4 to come and 5: 9
        assert found is not None
        assert found.left_out == 0
        for number in range(5):
            disclose(at, number)
        found = freeze(at, EVERYONE, yes)  # older: 4 to come, 5 used, 5 more
        assert found is not None
        assert (found.left_out, found.people) == (older, 300 - older)
        clock.now += YEAR + DAY  # a year later nothing of it counts
        found = freeze(at, EVERYONE, yes)
        assert found is not None
        assert (found.left_out, found.people) == (0, 300)
    _left_out_stay_out(home, older)


def _left_out_stay_out(home: Home, older: int) -> None:
    with books(home, Clock()) as at:
        counted = [each.people for each in frozen.epochs(at.store) if each.audience == EVERYONE]
    assert counted == [300, 300 - older, 300]


def test_an_epoch_serves_until_its_day_or_its_last_use(home: Home) -> None:
    clock = Clock()
    define(home, uses=2, valid_days=10)
    with books(home, clock) as at:
        with pytest.raises(Refused, match="never frozen"):
            frozen.check(at, wanted())
        freeze(at, EVERYONE, yes)
        frozen.check(at, wanted())
        disclose(at, 1)
        disclose(at, 2)
        with pytest.raises(Refused, match="no uses left") as refused:
            frozen.check(at, wanted())
        assert refused.value.code == Code.UNAVAILABLE
        freeze(at, EVERYONE, yes)
        frozen.check(at, wanted())
        clock.now += 10 * DAY
        with pytest.raises(Refused, match="is over"):
            frozen.check(at, wanted())
        with pytest.raises(Refused, match="no such audience"):
            frozen.check(at, wanted(audiences={"bank": "other", "shop": "other"}))


def test_an_audience_that_was_taken_out_of_the_settings_serves_no_more(home: Home) -> None:
    define(home)
    with books(home, Clock()) as at:
        freeze(at, EVERYONE, yes)
    home.config_file.write_text(home.config_file.read_text().replace(f"[audiences.{EVERYONE}]",
                                                                     "[audiences.renamed]"))  # fmt: skip
    with books(home, Clock()) as at, pytest.raises(Refused, match="no such audience"):
        frozen.check(at, wanted())


def test_kinds_that_were_not_frozen_are_refused(home: Home) -> None:
    define(home, identifiers=["email"])
    with books(home, Clock()) as at:
        freeze(at, EVERYONE, yes)
        frozen.check(at, wanted())
        with pytest.raises(Refused, match="without such identifiers"):
            frozen.check(at, wanted(identifier="phone"))


def test_older_epochs_lose_identifiers_and_later_everything(home: Home) -> None:
    clock = Clock()
    define(home, uses=1, valid_days=92)
    with books(home, clock) as at:
        for _ in range(3):
            freeze(at, EVERYONE, yes)
        first = frozen.folder_of(home, EVERYONE, 1)
        assert {p.name for p in first.iterdir()} == {"summary", "tags", "salt"}
        assert (frozen.folder_of(home, EVERYONE, 2) / "people").exists()
        clock.now += YEAR + 93 * DAY
        freeze(at, EVERYONE, yes)
        assert not first.exists()
        assert not frozen.folder_of(home, EVERYONE, 3).exists()
        assert len(frozen.epochs(at.store)) == 4  # what was frozen when stays in the books


def test_an_audience_freezes_itself_while_few_people_change(home: Home, tmp_path: Path) -> None:
    clock = Clock()
    define(home, uses=2, every_days=7, largest_change=40)
    define(home, "by-hand", uses=2)
    with books(home, clock) as at:
        assert freezing.due(at) == []  # the first time is the owner's
        freeze(at, EVERYONE, yes)
        freeze(at, "by-hand", yes)
        assert freezing.refresh(at) == []
        clock.now += 7 * DAY
        write_csv(tmp_path / "bank.csv", range(20, 320))
        assert freezing.due(at) == [EVERYONE]
        (done,) = freezing.refresh(at)
        assert (done.audience, done.frozen) == (EVERYONE, True)
        clock.now += 7 * DAY
        write_csv(tmp_path / "bank.csv", range(41, 341))
        (kept,) = freezing.refresh(at)
        assert not kept.frozen
        assert kept.reason == "42 people came or went; largest_change is 40"
        (tmp_path / "bank.csv").unlink()
        (kept,) = freezing.refresh(at)
        assert not kept.frozen
        newest = frozen.newest(at.store, EVERYONE)
        assert newest is not None
        assert newest.number == 2
        frozen.check(at, wanted())  # the last epoch goes on serving


def test_two_freeze_one_audience_one_after_the_other(home: Home) -> None:
    define(home)

    def meanwhile(_: Found) -> bool:
        with pytest.raises(ConfigError, match="being frozen right now"):
            freeze(at, EVERYONE, yes)
        return True

    with books(home, Clock()) as at:
        assert freeze(at, EVERYONE, meanwhile) is not None
        assert len(frozen.epochs(at.store)) == 1


def test_a_use_while_the_table_is_read_is_not_overlooked(home: Home) -> None:
    define(home, uses=6)
    with books(home, Clock()) as at:
        freeze(at, EVERYONE, yes)

        def meanwhile(_: Found) -> bool:
            disclose(at, 1)
            return True

        with pytest.raises(ConfigError, match="was used while it was read"):
            freeze(at, EVERYONE, meanwhile)
        assert len(frozen.epochs(at.store)) == 1


def test_the_commands(home: Home) -> None:
    run, where = CliRunner().invoke, ["--home", str(home.root)]
    define(home, uses=2, every_days=7)
    assert "never frozen" in run(app, ["audience", "list", *where]).output
    asked = run(app, ["audience", "freeze", EVERYONE, *where], input="n\n")
    assert asked.exit_code == 1
    assert "300 people (300 by email, 300 by phone)" in asked.output
    assert run(app, ["audience", "freeze", EVERYONE, "--yes", *where]).exit_code == 0
    assert "2 of 2" in run(app, ["audience", "list", *where]).output
    shown = run(app, ["audience", "show", EVERYONE, *where]).output
    assert "0 of 2" in shown
    assert "rule: everybody" in shown
    assert "nothing is due" in run(app, ["audience", "refresh", *where]).output
    assert isinstance(run(app, ["audience", "show", "other", *where]).exception, ConfigError)


def test_who_may_name_whom(home: Home) -> None:
    """Exact results: an audience of everybody who enters a set, no rule of the job."""
    contract: Contract = home.contract()
    for more, reason in (
        ({"audiences": None}, "bank is missing"),
        ({"audiences": {"bank": EVERYONE}}, "shop is missing"),
        ({"audiences": None, "rules": {"shop": "age >= 50"}}, "audiences that their owners froze"),
    ):
        with pytest.raises(ConfigError, match=reason):
            wanted(**more).check(contract)  # it parses, as in 0.3.0
    for more in (
        {"audiences": {"bank": EVERYONE, "shop": EVERYONE}, "rules": {"shop": "age >= 50"}},
        {"audiences": {"bank": EVERYONE, "telecom": EVERYONE}},
        {"audiences": {"bank": EVERYONE, "shop": EVERYONE}, "cache": "evening"},
        {"audiences": {"bank": EVERYONE, "shop": EVERYONE}, "result": "cache"},
        {"audiences": {"bank": EVERYONE}, "cache": "../evening"},
    ):
        with pytest.raises(ConfigError):
            wanted(**more)


# ---------------------------------------------------------------------- what is lost


def _lose(home: Home, *names: str) -> None:
    for name in names:
        shutil.rmtree(frozen.folder_of(home, name, 1))


def test_what_is_lost_is_ended_by_its_owner_and_counts_against_everybody(home: Home) -> None:
    """One lost folder kept every audience from being frozen until the period was over."""
    define(home, name="a", uses=2)
    define(home, name="b", uses=2)
    plain = read_toml(home.config_file)
    plain.setdefault("limits", {})["exact_disclosures"] = 3
    home.config_file.write_text(tomli_w.dumps(plain))
    clock = Clock()
    with books(home, clock) as at:
        assert freeze(at, "a", yes)
        disclose(at, 1, "a")
        _lose(home, "a")
        with pytest.raises(ConfigError, match="audience lost"):
            freeze(at, "b", yes)
        assert lost.end(at, lambda _: False) == []
        assert frozen.newest(at.store, "a").lost is False  # type: ignore[union-attr]
        (ended,) = lost.end(at, yes_to_all)
        assert (ended.audience, ended.number) == ("a", 1)
        (entry,) = at.store.rows("SELECT content FROM journal WHERE kind = ?", lost.LOST)
        assert bytes(entry[0]) == ended.commitment
        assert lost.found(at) == []
        with pytest.raises(Refused, match="is over"):
            frozen.epoch_for(at, wanted(audiences={"bank": "a", "shop": "a"}).match)
        # one result is taken from everybody's three: two are left
        found = freeze(at, "b", yes)
        assert found is not None
        assert (found.people, found.left_out, found.lost) == (300, 0, 1)
        assert any("count against everybody" in sentence for sentence in found.sentences())
        disclose(at, 2, "b")
        disclose(at, 3, "b")
        with pytest.raises(ConfigError, match="are fewer than"):  # 1 lost + 2 of b + 2 to come
            freeze(at, "a", yes)
        _lose(home, "b")
        lost.end(at, yes_to_all, "b")
        with pytest.raises(ConfigError, match="count against everybody: at most 0 are left"):
            freeze(at, "a", yes)
        clock.now += 2 * YEAR
        assert freeze(at, "a", yes) is not None


def yes_to_all(_: list[Epoch]) -> bool:
    return True


def test_after_the_storage_key_is_lost_audiences_are_frozen_again(home: Home) -> None:
    """docs/keys.md, "When the storage key is lost": as it says, command by command."""
    define(home, uses=1)
    with books(home, Clock()) as at:
        assert freeze(at, EVERYONE, yes)
    (home.keys / "storage.key").write_bytes(os.urandom(32))
    for name in ("jobkeys", "snapshots", "matches", "frozen", "caches"):
        shutil.rmtree(home.state / name, ignore_errors=True)
    home.mark.unlink(missing_ok=True)
    run, at_home = CliRunner(), ["--home", str(home.root)]
    refused = run.invoke(app, ["audience", "freeze", EVERYONE, "--yes", *at_home])
    assert "audience lost" in str(refused.exception)
    asked = run.invoke(app, ["audience", "lost", *at_home], input="n\n")
    assert asked.exit_code == 1, asked.output
    done = run.invoke(app, ["audience", "lost", "--yes", *at_home])
    assert "1 epoch(s) ended" in done.output
    assert run.invoke(app, ["audience", "freeze", EVERYONE, "--yes", *at_home]).exit_code == 0
    again = run.invoke(app, ["audience", "lost", *at_home])
    assert "can be opened" in again.output

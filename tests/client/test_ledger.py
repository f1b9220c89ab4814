from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.journal import BrokenJournal, Journal, verify
from client.ledger import DAY, Charge, Ledger
from client.store import Store
from privacy.errors import LedgerExhausted, Refused
from protos.refusal import Code
from simulations.alliances import Alliance

KEY = bytes(range(32))


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "gate.db", KEY, os.urandom)


def test_charges_add_up_until_the_limit(
    store: Store, make_alliance: Callable[..., Alliance]
) -> None:
    contract, clock = make_alliance(epsilon=1.0, epsilon_per_person=20.0).contract, Clock()
    ledger = Ledger(store, contract, clock)
    limit = contract.mu2_limit()
    ledger.charge("one", [Charge("a", limit * 0.6), Charge("b", limit * 0.3)])
    with pytest.raises(LedgerExhausted) as caught:
        ledger.charge("two", [Charge("a", limit * 0.05), Charge("b", limit * 0.06)])
    assert caught.value.limit == pytest.approx(1.0, rel=1e-6)
    assert caught.value.spent == pytest.approx(ledger.standing().epsilon)
    assert caught.value.asked > 0
    assert ledger.spent_by("two") == 0  # all or nothing
    ledger.charge("two", [Charge("a", limit * 0.0999)])
    assert ledger.standing().epsilon <= 1.0
    clock.now += 366 * DAY
    assert ledger.standing().epsilon == 0
    assert ledger.standing().lifetime == pytest.approx(1.0, rel=1e-3)
    ledger.charge("three", [Charge("a", limit * 0.9)])


def test_the_person_limit_may_be_the_stricter(
    store: Store, make_alliance: Callable[..., Alliance]
) -> None:
    contract = make_alliance(epsilon=8.0, epsilon_per_person=2.0).contract
    ledger = Ledger(store, contract, Clock())
    ledger.charge("a", [Charge("a", contract.mu2_limit() * 0.999)])
    standing = ledger.standing()
    assert standing.person <= 2.0
    assert standing.epsilon < 2.0
    with pytest.raises(LedgerExhausted):
        ledger.require(contract.mu2_limit() * 0.01)


def test_delta_of_truncation_is_charged(
    store: Store, make_alliance: Callable[..., Alliance]
) -> None:
    ledger = Ledger(store, make_alliance().contract, Clock())
    with pytest.raises(LedgerExhausted):
        ledger.charge("a", [Charge("size", 1e-4, 2e-5)])


def test_a_release_is_charged_once(store: Store, make_alliance: Callable[..., Alliance]) -> None:
    ledger = Ledger(store, make_alliance().contract, Clock())
    ledger.charge("a", [Charge("sum", 1e-4)])
    with pytest.raises(Refused):
        ledger.charge("a", [Charge("sum", 1e-4)])
    assert ledger.spent_by("a") == 1e-4


def test_a_full_disk_charges_nothing_and_says_so(
    store: Store, make_alliance: Callable[..., Alliance]
) -> None:
    """SQLite's own page limit stands in for the disk: the same error, at the same place."""
    ledger = Ledger(store, make_alliance().contract, Clock())
    pages = store.row("PRAGMA page_count")
    store.rows(f"PRAGMA max_page_count = {pages[0] if pages else 1}")
    with pytest.raises(Refused) as caught, store.transaction():  # noqa: PT012
        ledger.charge("a", [Charge("sum", 1e-4)])
        store.put_reply("a", "release 0", b"pin", os.urandom(200_000))
    assert caught.value.code == Code.STORAGE
    assert "full" in caught.value.detail
    assert ledger.spent_by("a") == 0
    assert store.reply("a", "release 0", b"pin") is None


def test_stored_values_are_sealed_to_their_place(store: Store, tmp_path: Path) -> None:
    store.put_secret("job", "keys", b"very secret")
    assert store.secret("job", "keys") == b"very secret"
    assert b"very secret" not in (tmp_path / "gate.db").read_bytes()
    sealed = store.row("SELECT sealed FROM secrets")
    store.execute("INSERT INTO secrets VALUES ('other', 'keys', ?)", sealed[0] if sealed else b"")
    with pytest.raises(Refused, match="altered"):
        store.secret("other", "keys")
    store.erase("job")
    assert store.secret("job", "keys") is None


def test_a_reply_is_pinned(store: Store) -> None:
    store.put_reply("job", "release 0", b"one", b"body")
    assert store.reply("job", "release 0", b"one") == b"body"
    with pytest.raises(Refused) as caught:
        store.reply("job", "release 0", b"two")
    assert caught.value.code == Code.STATE


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE journal SET size = size + 1 WHERE sequence = 2",
        "UPDATE journal SET recipient = 'nobody' WHERE sequence = 1",
        "UPDATE journal SET time = 0 WHERE sequence = 3",
        "UPDATE journal SET signature = zeroblob(64) WHERE sequence = 3",
        "DELETE FROM journal WHERE sequence = 2",
        "DELETE FROM journal WHERE sequence = 1",
        "UPDATE journal SET sequence = 9 WHERE sequence = 3",
    ],
)
def test_any_edit_of_the_journal_is_found(store: Store, tmp_path: Path, edit: str) -> None:
    key = Ed25519PrivateKey.from_private_bytes(KEY)
    journal = Journal(store, key, Clock())
    for number in range(3):
        journal.record("masked", "job", b"%d" % number, "coordinator")
    public = key.public_key().public_bytes_raw()
    assert verify(store, public) == 3
    with sqlite3.connect(tmp_path / "gate.db") as direct:
        direct.execute(edit)
    with pytest.raises(BrokenJournal):
        verify(store, public)


def test_a_journal_of_another_key_is_not_ours(store: Store) -> None:
    Journal(store, Ed25519PrivateKey.from_private_bytes(KEY), Clock()).record("k", "j", b"", "c")
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(BrokenJournal):
        verify(store, other)

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.journal import BrokenJournal, Charge, Journal, verify
from client.ledger import DAY, Ledger
from client.store import Store
from privacy.errors import LedgerExhausted, Refused
from protos.addresses import JobId
from protos.refusal import Code
from simulations.alliances import Alliance

KEY = bytes(range(32))
ONE, TWO = JobId("1" * 32), JobId("2" * 32)
TINY = 1e-100


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "gate.db", KEY, os.urandom)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def journal(store: Store, clock: Clock) -> Journal:
    return Journal(store, Ed25519PrivateKey.from_private_bytes(KEY), clock)


def test_charges_add_up_until_the_limit(
    store: Store, journal: Journal, clock: Clock, make_alliance: Callable[..., Alliance]
) -> None:
    contract, confirmed = make_alliance(epsilon=1.0, epsilon_per_person=20.0).contract, [clock.now]
    ledger = Ledger(store, journal, contract, lambda: confirmed[0])
    limit = contract.mu2_limit()
    ledger.charge(ONE, [Charge("a", limit * 0.6, TINY), Charge("b", limit * 0.3, TINY)])
    with pytest.raises(LedgerExhausted) as caught:
        ledger.charge(TWO, [Charge("a", limit * 0.05, TINY), Charge("b", limit * 0.06, TINY)])
    assert caught.value.limit == pytest.approx(1.0, rel=1e-6)
    assert caught.value.spent == pytest.approx(ledger.standing().epsilon)
    assert caught.value.asked > 0
    assert ledger.spent_by(TWO) == 0  # all or nothing
    ledger.charge(TWO, [Charge("a", limit * 0.0999, TINY)])
    assert ledger.standing().epsilon <= 1.0
    clock.now += 366 * DAY
    assert ledger.standing().epsilon > 0.9  # this machine's clock renews nothing
    confirmed[0] += 366 * DAY
    assert ledger.standing().epsilon == 0
    assert ledger.standing().lifetime == pytest.approx(1.0, rel=1e-3)
    ledger.charge(JobId("3" * 32), [Charge("a", limit * 0.9, TINY)])


def test_the_person_limit_may_be_the_stricter(
    store: Store, journal: Journal, clock: Clock, make_alliance: Callable[..., Alliance]
) -> None:
    contract = make_alliance(epsilon=8.0, epsilon_per_person=2.0).contract
    ledger = Ledger(store, journal, contract, clock)
    ledger.charge(ONE, [Charge("a", contract.mu2_limit() * 0.999, TINY)])
    standing = ledger.standing()
    assert standing.person <= 2.0
    assert standing.epsilon < 2.0
    with pytest.raises(LedgerExhausted):
        ledger.require(contract.mu2_limit() * 0.01)


def test_delta_of_truncation_is_charged(
    store: Store, journal: Journal, clock: Clock, make_alliance: Callable[..., Alliance]
) -> None:
    ledger = Ledger(store, journal, make_alliance().contract, clock)
    with pytest.raises(LedgerExhausted):
        ledger.charge(ONE, [Charge("size", 1e-4, 2e-5)])


def test_a_release_is_charged_once(
    store: Store, journal: Journal, clock: Clock, make_alliance: Callable[..., Alliance]
) -> None:
    """What is computed again after a crash uses the charge that there is."""
    ledger = Ledger(store, journal, make_alliance().contract, clock)
    ledger.charge(ONE, [Charge("sum", 1e-4, TINY)])
    ledger.charge(ONE, [Charge("sum", 1e-4, TINY), Charge("more", 1e-5, TINY)])
    assert ledger.spent_by(ONE) == pytest.approx(1.1e-4)


def test_a_full_disk_charges_nothing_and_says_so(
    store: Store, journal: Journal, clock: Clock, make_alliance: Callable[..., Alliance]
) -> None:
    """SQLite's own page limit stands in for the disk: the same error, at the same place."""
    ledger = Ledger(store, journal, make_alliance().contract, clock)
    before = journal.head()
    pages = store.row("PRAGMA page_count")
    store.rows(f"PRAGMA max_page_count = {pages[0] if pages else 1}")
    with pytest.raises(Refused) as caught, store.transaction():  # noqa: PT012
        ledger.charge(ONE, [Charge("sum", 1e-4, TINY)])
        store.put_reply(ONE, "release 0", b"pin", os.urandom(200_000))
    assert caught.value.code == Code.STORAGE
    assert "full" in caught.value.detail
    assert ledger.spent_by(ONE) == 0
    assert journal.head() == before
    assert store.reply(ONE, "release 0", b"pin") is None


def test_stored_values_are_sealed_to_their_place(store: Store, tmp_path: Path) -> None:
    store.put_secret(ONE, "keys", b"very secret")
    store.put_secret(TWO, "other", b"x")
    assert store.secret(ONE, "keys") == b"very secret"
    assert b"very secret" not in (tmp_path / "gate.db").read_bytes()
    sealed = store.row("SELECT sealed FROM secrets WHERE job = ?", ONE)
    store.execute("INSERT INTO secrets VALUES (?, 'keys', ?)", TWO, sealed[0] if sealed else b"")
    with pytest.raises(Refused, match="altered"):
        store.secret(TWO, "keys")
    store.erase(ONE)
    assert store.secret(ONE, "keys") is None


def test_a_reply_is_pinned(store: Store) -> None:
    store.put_reply(ONE, "release 0", b"one", b"body")
    assert store.reply(ONE, "release 0", b"one") == b"body"
    with pytest.raises(Refused) as caught:
        store.reply(ONE, "release 0", b"two")
    assert caught.value.code == Code.STATE


@pytest.mark.parametrize(
    "edit",
    [
        "UPDATE journal SET body = replace(body, '0.25', '0.01') WHERE sequence = 4",
        "UPDATE journal SET body = NULL WHERE sequence = 4",
        "UPDATE journal SET kind = 'masked' WHERE sequence = 4",
        "UPDATE journal SET version = 1 WHERE sequence = 4",
        "UPDATE journal SET content = zeroblob(32) WHERE sequence = 2",
        "UPDATE journal SET size = size + 1 WHERE sequence = 2",
        "UPDATE journal SET recipient = 'nobody' WHERE sequence = 1",
        "UPDATE journal SET time = 0 WHERE sequence = 3",
        "UPDATE journal SET signature = zeroblob(64) WHERE sequence = 3",
        "DELETE FROM journal WHERE sequence = 2",
        "DELETE FROM journal WHERE sequence = 1",
        "UPDATE journal SET sequence = 9 WHERE sequence = 3",
    ],
)
def test_any_edit_of_the_journal_is_found(
    store: Store, journal: Journal, tmp_path: Path, edit: str
) -> None:
    for number in range(3):
        journal.record("masked", ONE, b"%d" % number, "coordinator")
    journal.charge(ONE, [Charge("sum", 0.25, TINY)])
    journal.record("masked", ONE, b"last", "coordinator")
    key = Ed25519PrivateKey.from_private_bytes(KEY)
    public = key.public_key().public_bytes_raw()
    found = verify(store, public)
    assert (found.entries, found.mu2) == (5, 0.25)
    with sqlite3.connect(tmp_path / "gate.db") as direct:
        direct.execute(edit)
    with pytest.raises(BrokenJournal):
        verify(store, public)
    if "signature" not in edit:  # the last entry's signature vouches for the chain
        with pytest.raises(BrokenJournal):
            Journal(store, key, Clock())


def test_two_processes_write_one_chain(store: Store, journal: Journal, tmp_path: Path) -> None:
    other = Store(tmp_path / "gate.db", KEY, os.urandom)
    key = Ed25519PrivateKey.from_private_bytes(KEY)
    beside = Journal(other, key, Clock())
    journal.charge(ONE, [Charge("a", 0.5, TINY)])
    beside.charge(TWO, [Charge("b", 0.25, TINY)])
    journal.record("hello", ONE, b"x", "coordinator")
    assert [c.charge.mu2 for c in journal.charged()] == [0.5, 0.25]
    assert [c.charge.mu2 for c in beside.charged()] == [0.5, 0.25]
    assert verify(store, key.public_key().public_bytes_raw()).entries == 3


def test_an_entry_that_was_cut_under_a_running_gate_is_missed(
    store: Store, journal: Journal, tmp_path: Path
) -> None:
    journal.charge(ONE, [Charge("a", 0.5, TINY)])
    with sqlite3.connect(tmp_path / "gate.db") as direct:
        direct.execute("DELETE FROM journal")
    with pytest.raises(BrokenJournal, match="entry 1"):
        journal.charge(TWO, [Charge("b", 0.25, TINY)])


def test_a_charge_of_a_transaction_that_does_not_stand_does_not_count(
    store: Store, journal: Journal
) -> None:
    journal.charge(ONE, [Charge("a", 0.5, TINY)])
    with pytest.raises(KeyError), store.transaction():  # noqa: PT012
        journal.charge(TWO, [Charge("b", 0.25, TINY)])
        raise KeyError
    assert [c.charge.release for c in journal.charged()] == ["a"]
    journal.charge(TWO, [Charge("b", 0.125, TINY)])
    assert sum(c.charge.mu2 for c in journal.charged()) == 0.625


def test_a_journal_of_another_key_is_not_ours(store: Store) -> None:
    Journal(store, Ed25519PrivateKey.from_private_bytes(KEY), Clock()).record("k", "j", b"", "c")
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    with pytest.raises(BrokenJournal):
        verify(store, other)

"""The book of a partner for commands that read it, whether its gate is running or not."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from client.heads import Heads
from client.home import Home
from client.journal import Journal, Verified, verify
from client.ledger import Ledger
from client.models import Models
from client.store import Store
from privacy.errors import ConfigError
from protos.alliance import Contract


@dataclass(frozen=True)
class Book:
    """What a partner's database holds. Raises BrokenJournal when it is opened and does not fit."""

    store: Store
    contract: Contract
    journal: Journal
    ledger: Ledger
    models: Models
    public: bytes

    def verified(self) -> Verified:
        """The journal recomputed from its first entry on."""
        return verify(self.store, self.public)


def stored(home: Home) -> Store:
    """The database alone: for commands that must work though the journal does not fit."""
    if not home.database.exists():
        raise ConfigError("state", "nothing has run here yet; `start` first")
    return Store(home.database, home.storage_key(), os.urandom)


@contextmanager
def book(home: Home) -> Iterator[Book]:
    """Open the book of ``home``. Raises ConfigError, BrokenJournal, Refused(STORAGE)."""
    store = stored(home)
    try:
        contract, identity = home.contract(), home.identity()
        journal = Journal(store, identity, time.time)
        heads = Heads(store, journal, contract, home.config().name, identity, time.time)
        ledger = Ledger(store, journal, contract, heads.confirmed)
        public = identity.public_key().public_bytes_raw()
        yield Book(store, contract, journal, ledger, Models(store, contract), public)
    finally:
        store.close()

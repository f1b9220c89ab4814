"""The book of a partner for commands that its owner runs, whether the gate is running or not."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from client.context import Context
from client.heads import Heads
from client.home import Home
from client.journal import Journal
from client.ledger import Ledger
from client.models import Models
from client.store import Store
from privacy.errors import ConfigError
from privacy.randomness import Randomness


def stored(home: Home) -> Store:
    """The database alone: for commands that must work though the journal does not fit. Raises ConfigError."""
    if not home.database.exists():
        raise ConfigError("state", "nothing has run here yet; `start` first")
    return Store(home.database, home.storage_key(), os.urandom)


@contextmanager
def owner(
    home: Home,
    randomness: Randomness = os.urandom,
    clock: Callable[[], float] = time.time,
    opener: Callable[..., Store] = Store,
    *,
    started: bool = False,
) -> Iterator[Context]:
    """What the owner's own commands work with: the same book as the gate's, beside it. ``started``: for
    commands that make no sense before a gate ran.

    Raises ConfigError, BrokenJournal, Refused(STORAGE).
    """
    if started:
        stored(home).close()
    config, contract, identity = home.config(), home.contract(), home.identity()
    home.prepare()
    store = opener(home.database, home.storage_key(), randomness)
    try:
        journal = Journal(store, identity, clock)
        heads = Heads(store, journal, contract, config.name, identity, clock)
        ledger = Ledger(store, journal, contract, heads.confirmed, clock)
        yield Context(
            config.name, home, config, contract, contract.digest(), identity, store, journal,
            ledger, heads, Models(store, contract), randomness,
        )  # fmt: skip
    finally:
        store.close()

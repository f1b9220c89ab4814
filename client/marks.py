"""How far the journal was, written down outside the database: a database that was put back alone is seen.

A gate and its owner's commands write the mark at the same time: one after the other, and each looks how far
the journal is when it is its turn, so that no older mark comes over a newer one.

*Not* handled: a restored copy of all of ``state`` has the older mark with it; heads that peers hold find that
one (:mod:`client.heads`).
"""

from __future__ import annotations

from client.home import Home
from client.journal import Journal
from client.store import Store
from protos.files import locked, write_private


def put(home: Home, store: Store, journal: Journal) -> None:
    """Write the journal's head down, outside of any transaction: who waits for the lock must not hold the
    database."""
    with locked(home.mark):
        sequence, digest = journal.head()
        write_private(home.mark, store.seal("mark", f"{sequence} {digest.hex()}".encode()))


def is_behind(home: Home, store: Store, journal: Journal) -> bool:
    """Whether the journal lacks what the mark says it had. Raises Refused(STORAGE) for an edited mark."""
    if not home.mark.exists():
        return False
    sequence, digest = store.unseal("mark", home.mark.read_bytes()).split()
    return journal.at(int(sequence)) != bytes.fromhex(digest.decode())

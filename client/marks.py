"""How far the journal was, written down outside the database: a database that was put back alone is seen.

*Not* handled: a restored copy of all of ``state`` has the older mark with it; heads that peers hold find that
one (:mod:`client.heads`).
"""

from __future__ import annotations

from client.home import Home
from client.journal import Journal
from client.store import Store
from protos.files import write_private


def put(home: Home, store: Store, journal: Journal) -> None:
    """Write the journal's head down."""
    sequence, digest = journal.head()
    write_private(home.mark, store.seal("mark", f"{sequence} {digest.hex()}".encode()))


def is_behind(home: Home, store: Store, journal: Journal) -> bool:
    """Whether the journal lacks what the mark says it had. Raises Refused(STORAGE) for an edited mark."""
    if not home.mark.exists():
        return False
    sequence, digest = store.unseal("mark", home.mark.read_bytes()).split()
    return journal.at(int(sequence)) != bytes.fromhex(digest.decode())

"""Epochs of audiences whose files cannot be opened any more, ended by their owner.

Who was in an epoch stands in its files only, sealed with the storage key. Once that or they are gone, nobody
can say who was in an exact result already, and nothing could be frozen any more until the period is over. So
the owner ends what is lost:

    it serves nobody any more      its uses are over, also through a cache that was made of it
    the journal holds it           an entry for each, with the epoch's commitment
    the limit                      exact results of the period that it was used for count against *everybody*
                                   (limits.exact_disclosures): each person may have been in all of them. Where
                                   that leaves nothing, audiences wait for the period's end

Not handled: files that come back later; what was ended stays so. An owner who ends epochs to forget who was
in them gains nothing: everybody has been in them then.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable

from client import frozen
from client.context import Context
from client.freezing import tags_of
from client.frozen import Epoch
from privacy.errors import ConfigError, Refused

LOST = "audience lost"


def found(at: Context, name: str | None = None) -> list[Epoch]:
    """Epochs of the running period that cannot be opened and were not ended, of one audience or all."""
    every = [each for each in frozen.epochs(at.store) if name in (None, each.audience)]
    if name is not None and not every:
        raise ConfigError(f"audiences.{name}", "was never frozen")
    since = at.ledger.since()
    return [e for e in every if e.until > since and not e.lost and not _opens(at, e)]


def end(
    at: Context, confirm: Callable[[list[Epoch]], bool], name: str | None = None
) -> list[Epoch]:
    """End what is lost if ``confirm``, shown it, says so; what was ended."""
    lost = found(at, name)
    if not lost or not confirm(lost):
        return []
    with at.store.transaction():
        for each in lost:
            frozen.end_lost(at.store, each, at.ledger.now())
            at.journal.record_digest(LOST, "", 0, each.commitment, at.me)
    for each in lost:
        folder = frozen.folder_of(at.home, each.audience, each.number)
        shutil.rmtree(folder, ignore_errors=True)
    return lost


def _opens(at: Context, each: Epoch) -> bool:
    try:
        tags_of(at, each)
    except Refused:
        return False
    return True

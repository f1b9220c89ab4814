"""Sets that this partner entered into matches before: the difference rule.

Two matches whose sets differ by a few people tell about those few. An honest gate therefore refuses a
set that differs from an earlier one of the period by fewer than the smallest cohort, unless they are
equal. People who withdrew do not count as a difference. What a *malicious* partner enters is bounded by
the caps on sizes and by how often it may match, not by this.

Kept of each set: 64 bits of a keyed digest of each label, sorted, encrypted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.store import Store
from privacy.errors import Refused
from privacy.matching.deck import ranks
from privacy.matching.engine import Array
from privacy.noisy_sum.masks import derive
from protos.refusal import Code

Tags = NDArray[np.uint64]
DAY = 86_400.0


class EarlierSets:
    """Tags of the sets of one partner. ``key``: its storage key, 32 bytes."""

    def __init__(self, store: Store, folder: Path, key: bytes) -> None:
        self._store, self._folder = store, folder
        self._key = derive(key, b"", b"tallystick/v1/sets")[:16]

    def tags(self, labels: Array) -> Tags:
        """A keyed digest of each label."""
        return ranks(self._key, labels)

    def check(
        self, kind: str, tags: Tags, smallest: int, since: float, withdrawn: Tags | None = None
    ) -> None:
        """Refused(UNAVAILABLE) if an earlier set differs by 1 to ``smallest`` - 1 people.

        ``tags``: sorted and distinct; ``since``: seconds since the epoch.
        """
        rows = self._store.rows(
            "SELECT id, size FROM sets WHERE kind = ? AND time > ?", kind, since
        )
        gone = len(withdrawn) if withdrawn is not None else 0
        for identity, size in rows:
            if abs(size - len(tags)) >= smallest + gone:
                continue
            earlier = self._read(identity)
            changed = np.setxor1d(earlier, tags, assume_unique=True)
            if withdrawn is not None:
                changed = np.setdiff1d(changed, withdrawn, assume_unique=True)
            if 0 < len(changed) < smallest:
                raise Refused(Code.UNAVAILABLE, "differs by too few people from an earlier match")

    def keep(self, job: str, kind: str, tags: Tags, now: float, period_days: int) -> None:
        """Remember a set for the period; older ones are erased."""
        with self._store.transaction():
            for (old,) in self._store.rows(
                "SELECT id FROM sets WHERE time <= ?", now - period_days * DAY
            ):
                self._store.execute("DELETE FROM sets WHERE id = ?", old)
                (self._folder / str(old)).unlink(missing_ok=True)
            self._store.execute(
                "INSERT INTO sets (job, kind, time, size) VALUES (?, ?, ?, ?)",
                job, kind, now, len(tags),
            )  # fmt: skip
            found = self._store.row("SELECT MAX(id) FROM sets")
            path = self._folder / str(found[0] if found else 0)
            sealed = self._store.seal(f"set {path.name}", tags.tobytes())
            try:
                path.touch(mode=0o600)
                path.write_bytes(sealed)
            except OSError as error:
                raise Refused(Code.STORAGE, f"state/sets: {error.strerror}") from None

    def _read(self, identity: int) -> Tags:
        try:
            sealed = (self._folder / str(identity)).read_bytes()
        except OSError:
            raise Refused(Code.STORAGE, "a file of state/sets is gone") from None
        return np.frombuffer(self._store.unseal(f"set {identity}", sealed), np.uint64)

"""Why this gate refused: for its owner. The peer gets a code and nothing more.

Equal refusals are one row with a count, and the latest ``MOST`` rows are kept, so whoever is refused
cannot fill a disk. What is not signed by the coordinator is only counted, in memory, and written down now
and then."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from client.store import Store
from privacy.errors import Refused

MOST = 500
LONGEST_REASON = 300
FLUSH = 30.0
"""Seconds between two writings of what was not signed."""


@dataclass(frozen=True)
class Refusal:
    """One line for the owner. Times in seconds since the epoch."""

    code: str
    kind: str
    reason: str
    job: str
    count: int
    first: float
    last: float


class Refusals:
    """Refusals of one gate. ``clock`` gives seconds since the epoch."""

    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store, self._clock = store, clock
        self._unsigned: Counter[tuple[str, str]] = Counter()
        self._lock, self._flushed = threading.Lock(), clock()

    def note(self, code: str, kind: str, reason: str, job: str, count: int = 1) -> None:
        """Write one down. ``kind``: of the message that was refused."""
        now, reason = self._clock(), reason[:LONGEST_REASON]
        with self._store.transaction():
            known = self._store.row(
                "SELECT 1 FROM refusals WHERE code = ? AND kind = ? AND reason = ?",
                code,
                kind,
                reason,
            )
            if known is None:
                self._store.execute(
                    "DELETE FROM refusals WHERE rowid IN (SELECT rowid FROM refusals"
                    " ORDER BY last DESC LIMIT -1 OFFSET ?)",
                    MOST - 1,
                )
            self._store.execute(
                "INSERT INTO refusals VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (code, kind, reason)"
                " DO UPDATE SET count = count + excluded.count, last = excluded.last, job = excluded.job",
                code, kind, reason, job, count, now, now,
            )  # fmt: skip

    def note_unsigned(self, code: str, reason: str) -> None:
        """Count something that the coordinator did not sign."""
        with self._lock:
            self._unsigned[(code, reason[:LONGEST_REASON])] += 1
            due = self._clock() - self._flushed > FLUSH
        if due:
            self.flush()

    def flush(self) -> None:
        """Write the counts down."""
        with self._lock:
            counted, self._unsigned = self._unsigned, Counter()
            self._flushed = self._clock()
        try:
            for (code, reason), count in counted.items():
                self.note(code, "unsigned", reason, "", count)
        except Refused:  # the disk: these counts are nobody's loss
            return


def listed(store: Store) -> list[Refusal]:
    """All refusals, the latest last."""
    return [
        Refusal(*row)
        for row in store.rows(
            "SELECT code, kind, reason, job, count, first, last FROM refusals ORDER BY last"
        )
    ]

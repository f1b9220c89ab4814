"""A set of 32-byte labels, distinct, padded, in a secret order: what one side enters into a match.

The order is by AES-128 of the label under a key of the job: pseudo-random to everyone else, and the
same again after a restart. Records are sorted one bucket at a time, so memory stays bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.matching.engine import LABEL_BYTES, Array
from privacy.matching.storage import Spool, bucket_bits
from privacy.randomness import Randomness

CHUNK = 8192
"""Labels in one chunk of a stream."""
WORDS = 6
"""A record in 64-bit words: rank, four of the label, row."""
NO_ROW = -1
Rows = NDArray[np.int64]
Records = NDArray[np.uint64]


class Deck:
    """Labels with the rows they stand for. ``expected``: about how many will be added.

    ``key``: 16 bytes, secret. Add everything, then :meth:`close`; then read.
    """

    def __init__(self, spool: Spool, name: str, key: bytes, expected: int) -> None:
        self._bits = min(bucket_bits(max(1, expected)), 12)
        self._buckets = spool.buckets(name, 1 << self._bits)
        self._spool, self._name, self._key = spool, name, key
        self._starts: list[int] = []
        self.distinct = 0

    def add(self, labels: Array, rows: Rows) -> None:
        """Labels, (n, 32), and the row of each, or NO_ROW."""
        if not len(labels):
            return
        records = np.empty((len(labels), WORDS), np.uint64)
        records[:, 0] = ranks(self._key, labels)
        records[:, 1:5] = np.ascontiguousarray(labels).view(np.uint64)
        records[:, 5] = rows.view(np.uint64)
        if not self._bits:
            self._buckets.append(0, records.tobytes())
            return
        place = records[:, 0] >> np.uint64(64 - self._bits)
        order = np.argsort(place, kind="stable")
        records = records.take(order, axis=0)
        edges = np.searchsorted(place[order], np.arange((1 << self._bits) + 1, dtype=np.uint64))
        for bucket in range(1 << self._bits):
            if edges[bucket] < edges[bucket + 1]:
                part = records[edges[bucket] : edges[bucket + 1]]
                self._buckets.append(bucket, part.tobytes())

    def pad(self, size: int, randomness: Randomness) -> None:
        """Random labels until there are ``size``. Raises ParameterError if there are more already."""
        missing = size - self.count()
        if missing < 0:
            raise ParameterError("the set is larger than the contract allows")
        while missing:
            count = min(missing, 1 << 16)
            labels = np.frombuffer(randomness(LABEL_BYTES * count), np.uint8).reshape(count, -1)
            self.add(labels, np.full(count, NO_ROW, np.int64))
            missing -= count

    def capped(self, most: int, key: bytes) -> Deck:
        """Another deck, still open, of ``most`` labels of this one, with all their rows; this one is gone.

        Which ones: those of smallest rank under ``key``. A person more or less changes the choice by one
        label at most on either side: it takes a place, and who had the last place loses it. ``key`` must
        not be the deck's: labels that are first in the secret order would tell themselves from the
        dummies and the padding that come later.
        """
        ranked = Deck(self._spool, f"{self._name} by rank", key, self.count())
        for labels, rows in self._first(None):
            ranked.add(labels, rows)
        kept = Deck(self._spool, f"{self._name} kept", self._key, most)
        for labels, rows in ranked._first(most):
            kept.add(labels, rows)
        self._spool.discard(self._name)
        self._spool.discard(ranked._name)
        return kept

    def _first(self, most: int | None) -> Iterator[tuple[Array, Rows]]:
        """Labels and rows as they were added, of the ``most`` labels of smallest rank; None: of all."""
        for bucket in range(1 << self._bits):
            records, first = self._group(bucket)
            if most is not None:
                records = records[: first[most]] if most < len(first) else records
                most = max(0, most - len(first))
            if len(records):
                labels = np.ascontiguousarray(records[:, 1:5]).view(np.uint8)
                yield labels, np.ascontiguousarray(records[:, 5]).view(np.int64)

    def close(self) -> None:
        """Fix the order. Labels added after this are lost."""
        self._starts = [0]
        for bucket in range(1 << self._bits):
            self._starts.append(self._starts[-1] + self._distinct_in(bucket))
        self.distinct = self._starts[-1]

    def count(self) -> int:
        """Distinct labels so far."""
        return sum(self._distinct_in(bucket) for bucket in range(1 << self._bits))

    def chunks(self, start: int = 0) -> Iterator[tuple[int, Array, Rows]]:
        """(chunk, labels, row of each), CHUNK at a time, from chunk ``start``."""
        skip = start * CHUNK
        labels = np.empty((0, LABEL_BYTES), np.uint8)
        rows = np.empty(0, np.int64)
        index = start
        for bucket in range(1 << self._bits):
            if self._starts[bucket + 1] <= skip:
                continue
            records, first = self._group(bucket)
            place = first[max(0, skip - self._starts[bucket]) :]
            found = records.take(place, axis=0)
            here = np.ascontiguousarray(found[:, 1:5]).view(np.uint8)
            labels = np.concatenate([labels, here])
            rows = np.concatenate([rows, found[:, 5].view(np.int64)])
            whole = len(labels) // CHUNK
            for i in range(whole):
                part = slice(CHUNK * i, CHUNK * (i + 1))
                yield index, labels[part], rows[part]
                index += 1
            labels, rows = labels[CHUNK * whole :], rows[CHUNK * whole :]
        if len(labels):
            yield index, labels, rows

    def rows_at(self, positions: NDArray[np.int64]) -> Iterator[Rows]:
        """Every row behind the labels at these positions (ascending), padding left out."""
        for bucket in range(1 << self._bits):
            low, high = self._starts[bucket], self._starts[bucket + 1]
            inside = positions[np.searchsorted(positions, low) : np.searchsorted(positions, high)]
            if not len(inside):
                continue
            records, first = self._group(bucket)
            wanted = np.zeros(high - low, np.bool_)
            wanted[inside - low] = True
            lengths = np.diff(np.append(first, len(records)))
            rows = records[np.repeat(wanted, lengths), 5].view(np.int64)
            yield rows[rows != NO_ROW]

    def members(self) -> Iterator[tuple[Rows, Rows]]:
        """(position, row) of everything added, padding left out, in order of position."""
        for bucket in range(1 << self._bits):
            records, first = self._group(bucket)
            places = np.arange(self._starts[bucket], self._starts[bucket + 1], dtype=np.int64)
            places = np.repeat(places, np.diff(np.append(first, len(records))))
            rows = np.ascontiguousarray(records[:, 5]).view(np.int64)
            real = rows != NO_ROW
            yield places[real], rows[real]

    def _distinct_in(self, bucket: int) -> int:
        rank = np.sort(self._read(bucket)[:, 0])
        return int(len(rank) > 0) + int((rank[1:] != rank[:-1]).sum())

    def _read(self, bucket: int) -> Records:
        return np.frombuffer(self._buckets.read(bucket), np.uint64).reshape(-1, WORDS)

    def _group(self, bucket: int) -> tuple[Records, NDArray[np.intp]]:
        """A bucket's records in order, and where each distinct label begins."""
        records = self._read(bucket)
        records = records.take(np.argsort(records[:, 0], kind="stable"), axis=0)
        if len(records) < 2:
            return records, np.arange(len(records), dtype=np.intp)
        same = records[1:, 0] == records[:-1, 0]
        # two labels with one rank: 1 in 2^64 a pair; they would be taken for one
        at = np.flatnonzero(same)
        if bool((records[at, 1:5] != records[at + 1, 1:5]).any()):
            raise ParameterError("two labels have one rank; run the match again")
        return records, np.concatenate([[0], np.flatnonzero(~same) + 1]).astype(np.intp)


def ranks(key: bytes, labels: Array) -> NDArray[np.uint64]:
    """64 pseudo-random bits of each label, (n,): CBC-MAC of its two blocks with AES-128 under ``key``, a
    pseudo-random function of messages of one length (Bellare, Kilian, Rogaway 2000). A label may be what a
    customer wrote: no two that he can choose have one rank but by chance."""
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - a permutation of blocks
    first = cipher.encryptor().update(np.ascontiguousarray(labels[:, :16]).tobytes())
    chained = np.frombuffer(first, np.uint8).reshape(-1, 16) ^ labels[:, 16:]
    data = cipher.encryptor().update(np.ascontiguousarray(chained).tobytes())
    return np.frombuffer(data, "<u8")[::2].astype(np.uint64)

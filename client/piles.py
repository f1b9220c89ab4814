"""Rows on their way to being sorted: in memory, or in encrypted buckets by the person's digest."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, compress, pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from client.people import People
from privacy.matching.storage import Buckets, Spool
from privacy.programs.columns import Floats

Texts = NDArray[np.object_]
"""Python strings, None for null."""

NAME = "table"
"""What the buckets are called in a spool."""
BITS = 7
"""128 buckets: of 10^7 rows some 78,000 are in memory at once."""
_HEAD = struct.Struct("<III")
T = TypeVar("T")


@dataclass(frozen=True)
class Part:
    """Some rows: ``person`` (n, 2), columns of ``values`` and of ``texts``, each (n,)."""

    person: People
    values: list[Floats]
    texts: list[list[str | None]]


def kept(items: Sequence[T], keep: NDArray[np.bool_]) -> list[T]:
    """The items at which ``keep`` is true."""
    return list(compress(items, keep.tolist()))


def picked(column: Sequence[str | None], order: NDArray[np.intp]) -> Texts:
    """Texts at the places ``order``."""
    texts: Texts = np.empty(len(order), dtype=object)
    texts[:] = [column[i] for i in order.tolist()]
    return texts


def joined(parts: Sequence[Part], values: int) -> Part:
    """All rows of ``parts`` in their order; ``values``: how many columns, if there is no part."""
    if not parts:
        return Part(np.zeros((0, 2), np.uint64), [np.zeros(0)] * values, [[]])
    return Part(
        np.concatenate([part.person for part in parts]),
        [np.concatenate(each) for each in zip(*(part.values for part in parts), strict=True)],
        [list(chain(*each)) for each in zip(*(part.texts for part in parts), strict=True)],
    )


def sorted_out(parts: Iterable[Part], spool: Spool, most: int) -> Iterator[Part]:
    """The same rows in piles that follow each other by digest, a person's rows in one of them: at most
    ``most`` rows are one pile, more go through buckets of ``spool``. Raises Refused(STORAGE)."""
    held, count, buckets = list[Part](), 0, None
    try:
        for part in parts:
            held.append(part)
            count += len(part.person)
            if buckets is None and count > most:
                buckets = spool.buckets(NAME, 1 << BITS)
            if buckets is not None:
                for each in held:
                    _deal(each, buckets)
                held.clear()
        if buckets is None:
            if held:
                yield joined(held, 0)
            return
        for number in range(1 << BITS):
            pile = list(_unpacked(buckets.read(number)))
            if pile:
                yield joined(pile, 0)
    finally:
        if buckets is not None:
            spool.discard(NAME)


def _deal(part: Part, buckets: Buckets) -> None:
    number = (part.person[:, 0] >> np.uint64(64 - BITS)).astype(np.int64)
    order = np.argsort(number, kind="stable")
    edges = np.searchsorted(number[order], np.arange((1 << BITS) + 1))
    person = part.person[order]
    values = [column[order] for column in part.values]
    places = order.tolist()
    texts = [[column[i] for i in places] for column in part.texts]
    for bucket in np.flatnonzero(np.diff(edges)).tolist():
        rows = slice(int(edges[bucket]), int(edges[bucket + 1]))
        piece = Part(person[rows], [v[rows] for v in values], [t[rows] for t in texts])
        buckets.append(bucket, _packed(piece))


def _packed(part: Part) -> bytes:
    """Rows as bytes: counts, digests, values, then the lengths and bytes of each column of texts. An
    empty text and null are one, as everywhere in a table."""
    pieces = [_HEAD.pack(len(part.person), len(part.values), len(part.texts))]
    pieces += [part.person.tobytes(), *(column.tobytes() for column in part.values)]
    for column in part.texts:
        encoded = [(text or "").encode() for text in column]
        pieces += [np.array(list(map(len, encoded)), np.uint32).tobytes(), *encoded]
    return b"".join(pieces)


def _unpacked(data: bytes) -> Iterator[Part]:
    at = 0
    while at < len(data):
        count, values, texts = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        person = np.frombuffer(data, np.uint64, 2 * count, at).reshape(count, 2)
        at += 16 * count
        columns = [
            np.frombuffer(data, np.float64, count, at + 8 * count * i) for i in range(values)
        ]
        at += 8 * count * values
        held = list[list[str | None]]()
        for _ in range(texts):
            ends = np.cumsum(np.frombuffer(data, np.uint32, count, at), dtype=np.int64)
            at += 4 * count
            edges = [at, *(at + ends).tolist()]
            held.append([
                data[start:stop].decode() or None for start, stop in pairwise(edges)
            ])  # fmt: skip
            at = edges[-1]
        yield Part(person, columns, held)

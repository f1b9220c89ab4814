"""The fast lane's loops, compiled by numba: cuckoo hashing, bit transposes, BLAKE2s on lanes, look-up.

Sums of 32-bit words are cut back by hand: numba widens them to 64 bits.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
LANES = 16
TRIES = 500
"""Moves before cuckoo hashing gives an item up."""


def _compiled(function: Any) -> Any:
    return numba.njit(nogil=True, cache=True)(function)


@_compiled
def positions(digests: Any, bins: int) -> Any:
    """(n, 3) bins of each item: 32 bits of its digest each, scaled (Lemire 2019)."""
    out = np.empty((len(digests), 3), np.int32)
    scale, low = np.uint64(bins), np.uint64(0xFFFFFFFF)
    for i in range(len(digests)):
        a, b = digests[i, 0], digests[i, 1]
        out[i, 0] = ((a >> np.uint64(32)) * scale) >> np.uint64(32)
        out[i, 1] = ((a & low) * scale) >> np.uint64(32)
        out[i, 2] = ((b >> np.uint64(32)) * scale) >> np.uint64(32)
    return out


@_compiled
def cuckoo(places: Any, bins: int) -> Any:
    """(item of each bin or -1, which of its hashes, items that found no bin)."""
    table, which = np.full(bins, -1, np.int32), np.zeros(bins, np.uint8)
    state, failed = np.uint64(88172645463325252), 0
    for i in range(len(places)):
        item, placed = np.int32(i), False
        for _ in range(TRIES):
            for z in range(3):
                if table[places[item, z]] < 0:
                    table[places[item, z]], which[places[item, z]] = item, z
                    placed = True
                    break
            if placed:
                break
            state ^= state << np.uint64(13)
            state ^= state >> np.uint64(7)
            state ^= state << np.uint64(17)
            turn = np.int64(state % np.uint64(3))
            at = places[item, turn]
            item, table[at] = table[at], item
            which[at] = turn
        if not placed:
            failed += 1
    return table, which, failed


@_compiled
def _transpose(block: Any) -> None:
    """64 x 64 bits in place, bit k of a word of weight 2^k (Warren, Hacker's Delight, 7-3)."""
    step, mask = 32, np.uint64(0x00000000FFFFFFFF)
    while step:
        k, shift = 0, np.uint64(step)
        while k < 64:
            swap = ((block[k] >> shift) ^ block[k + step]) & mask
            block[k] ^= swap << shift
            block[k + step] ^= swap
            k = (k + step + 1) & ~step
        step >>= 1
        if step:
            mask ^= mask << np.uint64(step)


@_compiled
def rows_to_columns(rows: Any) -> Any:
    """(m, w) words to (64 w, m / 64)."""
    count, width = rows.shape
    out, block = np.empty((64 * width, count // 64), np.uint64), np.empty(64, np.uint64)
    for r in range(count // 64):
        for c in range(width):
            for i in range(64):
                block[i] = rows[64 * r + i, c]
            _transpose(block)
            for i in range(64):
                out[64 * c + i, r] = block[i]
    return out


@_compiled
def columns_to_rows(columns: Any) -> Any:
    """Inverse of :func:`rows_to_columns`."""
    width, count = columns.shape[0] // 64, 64 * columns.shape[1]
    out, block = np.empty((count, width), np.uint64), np.empty(64, np.uint64)
    for r in range(count // 64):
        for c in range(width):
            for i in range(64):
                block[i] = columns[64 * c + i, r]
            _transpose(block)
            for i in range(64):
                out[64 * r + i, c] = block[i]
    return out


@_compiled
def add_chosen(columns: Any, sent: Any, choices: Any) -> None:
    """columns[j] ^= choices[j] * sent[j], without a branch on a choice."""
    for j in range(len(columns)):
        mask = np.uint64(0) - np.uint64(choices[j])
        for i in range(columns.shape[1]):
            columns[j, i] ^= sent[j, i] & mask


_SIGMA = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.int64,
)
_IV = np.array(
    [
        0x6A09E667,
        0xBB67AE85,
        0x3C6EF372,
        0xA54FF53A,
        0x510E527F,
        0x9B05688C,
        0x1F83D9AB,
        0x5BE0CD19,
    ],
    np.uint32,
)
_QUARTERS = np.array(
    [[0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
     [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14]],
    np.int64,
)  # fmt: skip


@numba.njit(nogil=True, inline="always")  # type: ignore[untyped-decorator]
def _rotate(x: Any, count: int) -> Any:
    return np.uint32(np.uint32(x >> np.uint32(count)) | np.uint32(x << np.uint32(32 - count)))


@_compiled
def _mix(v: Any, m: Any, q: Any, x: int, y: int) -> None:
    a, b, c, d = q[0], q[1], q[2], q[3]
    for lane in range(LANES):
        va, vb, vc, vd = v[a, lane], v[b, lane], v[c, lane], v[d, lane]
        va = np.uint32(va + vb + m[x, lane])
        vd = _rotate(np.uint32(vd ^ va), 16)
        vc = np.uint32(vc + vd)
        vb = _rotate(np.uint32(vb ^ vc), 12)
        va = np.uint32(va + vb + m[y, lane])
        vd = _rotate(np.uint32(vd ^ va), 8)
        vc = np.uint32(vc + vd)
        vb = _rotate(np.uint32(vb ^ vc), 7)
        v[a, lane], v[b, lane], v[c, lane], v[d, lane] = va, vb, vc, vd


@_compiled
def blake2s(m: Any, v: Any, out: Any) -> None:
    """BLAKE2s-128 (RFC 7693) of one 64-byte block a lane: m (16, 16) words, out (16, 2)."""
    for lane in range(LANES):
        for i in range(8):
            v[i, lane], v[i + 8, lane] = _IV[i], _IV[i]
        v[0, lane] ^= np.uint32(0x01010000 ^ 16)
        v[12, lane] ^= np.uint32(64)
        v[14, lane] = ~v[14, lane]
    for r in range(10):
        for q in range(8):
            _mix(v, m, _QUARTERS[q], _SIGMA[r, 2 * q], _SIGMA[r, 2 * q + 1])
    for lane in range(LANES):
        h0 = _IV[0] ^ np.uint32(0x01010000 ^ 16) ^ v[0, lane] ^ v[8, lane]
        h1, h2 = _IV[1] ^ v[1, lane] ^ v[9, lane], _IV[2] ^ v[2, lane] ^ v[10, lane]
        h3 = _IV[3] ^ v[3, lane] ^ v[11, lane]
        out[lane, 0] = np.uint64(h0) | (np.uint64(h1) << np.uint64(32))
        out[lane, 1] = np.uint64(h2) | (np.uint64(h3) << np.uint64(32))


@_compiled
def _cut(value: Any, width: int) -> Any:
    """The bytes of a second word that stay, of ``width`` bytes in all (8 to 16)."""
    if width >= 16:
        return value
    if width <= 8:
        return np.uint64(0)
    return value & ((np.uint64(1) << np.uint64(8 * (width - 8))) - np.uint64(1))


@_compiled
def _put(m: Any, lane: int, k: int, word: Any) -> None:
    m[2 * k, lane] = np.uint32(word & np.uint64(0xFFFFFFFF))
    m[2 * k + 1, lane] = np.uint32(word >> np.uint64(32))


@_compiled
def hash_rows(rows: Any, held: Any, bins: Any, which: Any, width: int) -> Any:
    """H(z, b, row) for the rows at ``held``: (n, 2) words, cut to ``width`` bytes."""
    n = len(held)
    m, v = np.empty((16, LANES), np.uint32), np.empty((16, LANES), np.uint32)
    out, result = np.empty((LANES, 2), np.uint64), np.empty((n, 2), np.uint64)
    for group in range(0, n, LANES):
        for lane in range(LANES):
            i = min(group + lane, n - 1)
            for k in range(7):
                _put(m, lane, k, rows[held[i], k])
            m[14, lane], m[15, lane] = np.uint32(bins[i]), np.uint32(which[i])
        blake2s(m, v, out)
        for lane in range(min(LANES, n - group)):
            result[group + lane, 0] = out[lane, 0]
            result[group + lane, 1] = _cut(out[lane, 1], width)
    return result


@_compiled
def hash_items(matrix: Any, places: Any, codes: Any, z: int, width: int) -> Any:
    """H(z, b, q_b + C(y) s) for each item's bin: (n, 2) words; ``codes`` are already C(y) s."""
    n = len(places)
    m, v = np.empty((16, LANES), np.uint32), np.empty((16, LANES), np.uint32)
    out, result = np.empty((LANES, 2), np.uint64), np.empty((n, 2), np.uint64)
    for group in range(0, n, LANES):
        for lane in range(LANES):
            i = min(group + lane, n - 1)
            for k in range(7):
                _put(m, lane, k, matrix[places[i], k] ^ codes[i, k])
            m[14, lane], m[15, lane] = np.uint32(places[i]), np.uint32(z)
        blake2s(m, v, out)
        for lane in range(min(LANES, n - group)):
            result[group + lane, 0] = out[lane, 0]
            result[group + lane, 1] = _cut(out[lane, 1], width)
    return result


@_compiled
def _table(values: Any) -> Any:
    size = 16
    while size < 2 * len(values):
        size *= 2
    table, mask = np.full(size, -1, np.int32), np.uint64(size - 1)
    for i in range(len(values)):
        at = values[i, 0] & mask
        while table[np.int64(at)] >= 0:
            at = (at + np.uint64(1)) & mask
        table[np.int64(at)] = i
    return table


@_compiled
def _mark(table: Any, values: Any, others: Any, found: Any) -> None:
    mask = np.uint64(len(table) - 1)
    for j in range(len(others)):
        at = others[j, 0] & mask
        while table[np.int64(at)] >= 0:
            i = table[np.int64(at)]
            if values[i, 0] == others[j, 0] and values[i, 1] == others[j, 1]:
                found[i] = 1
            at = (at + np.uint64(1)) & mask


class Lookup:
    """Values, (n, 2) words, to be found again."""

    def __init__(self, values: Words) -> None:
        self._values, self._table = values, _table(values)

    def mark(self, others: Words, found: NDArray[np.uint8]) -> None:
        """found[i] = 1 where value i is among ``others``."""
        _mark(self._table, self._values, others, found)


def widen(data: bytes, count: int, width: int) -> Words:
    """``count`` values of ``width`` bytes as two words each."""
    whole = np.zeros((count, 16), np.uint8)
    whole[:, :width] = np.frombuffer(data, np.uint8).reshape(count, width)
    return whole.view(np.uint64)

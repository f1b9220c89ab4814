"""Bit matrices, transposed by numpy 64 x 64 bits at a time (Warren, Hacker's Delight, 7-3)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_SWAPS = [
    (32, 0x00000000FFFFFFFF),
    (16, 0x0000FFFF0000FFFF),
    (8, 0x00FF00FF00FF00FF),
    (4, 0x0F0F0F0F0F0F0F0F),
    (2, 0x3333333333333333),
    (1, 0x5555555555555555),
]


def columns_to_rows(columns: Words) -> Words:
    """(w, n/64) words, bit i of column j in word i // 64, to (n, w/64): bit j of row i.

    w and n are multiples of 64; bit k of a word has weight 2^k.
    """
    width, words = columns.shape
    blocks = columns.reshape(width // 64, 64, words).transpose(1, 0, 2).copy()
    for step, mask in _SWAPS:
        view = blocks.reshape(64 // (2 * step), 2, step, -1)
        low, high = view[:, 0], view[:, 1]
        shift = np.uint64(step)
        swap = ((low >> shift) ^ high) & np.uint64(mask)
        low ^= swap << shift
        high ^= swap
    # blocks[i, j, k]: bits of row 64 k + i, columns 64 j ..
    return np.ascontiguousarray(blocks.transpose(2, 0, 1)).reshape(words * 64, width // 64)

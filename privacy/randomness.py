"""Sources of random bytes, always passed in.

A partner passes ``os.urandom``. A researcher passes a :func:`stream` made from a seed, which is
refused outside ``simulations``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Randomness = Callable[[int], bytes]
"""``randomness(n)`` gives n uniform bytes."""


def keystream(key: bytes, size: int) -> bytes:
    """``size`` bytes of AES-256 in counter mode (NIST SP 800-38A, 6.5) under a key used once."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return encryptor.update(bytes(size))


def stream(key: bytes) -> Randomness:
    """A reproducible source for simulations: one AES-256-CTR stream under ``key`` (32 bytes)."""
    encryptor = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
    return lambda size: encryptor.update(bytes(size))


def words(randomness: Randomness, count: int) -> NDArray[np.uint64]:
    """``count`` uniform 64-bit words."""
    return np.frombuffer(randomness(8 * count), dtype="<u8").astype(np.uint64)


def below(randomness: Randomness, bound: int, count: int) -> NDArray[np.int64]:
    """``count`` uniform integers in [0, bound), by rejection. ``bound`` is at most 2^62."""
    if not 0 < bound <= 1 << 62:
        raise ValueError("bound out of range")
    mask = np.uint64((1 << (bound - 1).bit_length()) - 1)
    found = np.empty(0, dtype=np.uint64)
    while len(found) < count:
        draw = words(randomness, 2 * (count - len(found)) + 8) & mask
        found = np.concatenate([found, draw[draw < np.uint64(bound)]])
    return found[:count].astype(np.int64)


def permutation(randomness: Randomness, count: int) -> NDArray[np.intp]:
    """A permutation of ``count``: the order of 128-bit random sort keys, equal keys redrawn."""
    while True:
        keys = np.frombuffer(randomness(16 * count), dtype="<u8").reshape(count, 2)
        order = np.lexsort((keys[:, 1], keys[:, 0]))
        ranked = keys[order]
        if count < 2 or not bool(np.all(ranked[1:] == ranked[:-1], axis=1).any()):
            return order

"""FF1: format-preserving encryption of digits (NIST SP 800-38G, 4.1 and 5.1).

    A, B = halves of X;  ten times:  y = PRF(P || Q(i, B)),  A, B = B, A + y mod radix^m

P depends on length and tweak only and Q is one block here, so PRF(P || Q) = AES(AES(P) xor Q) and a
whole column goes through AES block by block. Revision 1 of the standard demands radix^length of a
million at least, and drops FF3.
"""

from __future__ import annotations

import math

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from privacy.errors import ParameterError

SHORTEST, LONGEST = 6, 32
"""Digits: the least domain of the standard; the most that 64-bit arithmetic holds here."""
_ROUNDS = 10

Digits = NDArray[np.uint8]
Numbers = NDArray[np.uint64]


def encrypt(key: bytes, tweak: bytes, digits: Digits, radix: int = 10) -> Digits:
    """FF1.Encrypt of each row of digits, (n, length), values 0 to radix - 1. Raises ParameterError."""
    return _run(key, tweak, digits, radix, range(_ROUNDS), 1)


def decrypt(key: bytes, tweak: bytes, digits: Digits, radix: int = 10) -> Digits:
    """FF1.Decrypt: inverse of :func:`encrypt`."""
    return _run(key, tweak, digits, radix, range(_ROUNDS - 1, -1, -1), -1)


def _run(key: bytes, tweak: bytes, digits: Digits, radix: int, rounds: range, sign: int) -> Digits:
    count, length = digits.shape
    if not 2 <= radix <= 36 or radix**length < 10**6 or len(tweak) >= 1 << 16:
        raise ParameterError("FF1 needs a domain of a million values at least")
    u = length // 2
    v = length - u
    if radix**v >= 1 << 55:
        raise ParameterError("FF1 is for 32 digits at most here")
    size = math.ceil(math.ceil(v * math.log2(radix)) / 8)
    width = 4 * math.ceil(size / 4) + 4
    prefix = bytes([1, 2, 1]) + radix.to_bytes(3, "big") + bytes([10, u % 256])
    prefix += length.to_bytes(4, "big") + len(tweak).to_bytes(4, "big")
    padding = bytes(-(len(tweak) + size + 1) % 16)
    fixed = prefix + tweak + padding
    cipher = Cipher(algorithms.AES(key), modes.ECB())  # noqa: S305 - single blocks of a PRF
    chained = bytes(16)
    while len(fixed) >= 16:  # whole blocks that no row changes
        block = bytes(a ^ b for a, b in zip(fixed[:16], chained, strict=True))
        chained, fixed = cipher.encryptor().update(block), fixed[16:]
    sides = [_number(digits[:, :u], radix), _number(digits[:, u:], radix)]
    moduli = (np.uint64(radix**u), np.uint64(radix**v))
    for i in rounds:
        changed, other = i % 2, 1 - i % 2
        blocks = np.zeros((count, 16), np.uint8)
        blocks[:, : len(fixed)] = np.frombuffer(fixed, np.uint8)
        blocks[:, 15 - size] = i
        big = sides[other].astype(">u8").view(np.uint8).reshape(count, 8)
        blocks[:, 16 - size :] = big[:, 8 - size :]
        blocks ^= np.frombuffer(chained, np.uint8)
        result = np.frombuffer(cipher.encryptor().update(blocks.tobytes()), np.uint8)
        y = _modulo(result.reshape(count, 16)[:, :width], moduli[changed])
        if sign < 0:
            y = moduli[changed] - y
        sides[changed] = (sides[changed] + y) % moduli[changed]
    return np.concatenate([_digits(sides[0], u, radix), _digits(sides[1], v, radix)], axis=1)


def _number(digits: Digits, radix: int) -> Numbers:
    total = np.zeros(len(digits), np.uint64)
    for column in digits.T:
        total = total * np.uint64(radix) + column
    return total


def _digits(numbers: Numbers, length: int, radix: int) -> Digits:
    found = np.empty((len(numbers), length), np.uint8)
    for place in range(length - 1, -1, -1):
        numbers, found[:, place] = np.divmod(numbers, np.uint64(radix))
    return found


def _modulo(data: NDArray[np.uint8], modulus: np.uint64) -> Numbers:
    """Big-endian rows modulo a number under 2^55."""
    total = np.zeros(len(data), np.uint64)
    for column in data.T:
        total = (total * np.uint64(256) + column) % modulus
    return total

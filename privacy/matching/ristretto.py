"""ristretto255 (RFC 9496) through libsodium: a prime-order group, so no twist and no small subgroups.

libsodium rejects encodings that are not canonical and a product that is the identity; its scalar
multiplication is constant-time and releases the interpreter's lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import rbcl

from privacy.errors import ProtocolError
from privacy.matching.engine import (
    POINT_BYTES,
    SESSION_BYTES,
    TOKEN_BYTES,
    TOKEN_TAG,
    Array,
    in_parts,
)
from privacy.randomness import Randomness

STEP = 512
"""Points a thread takes at a time."""
TAG = b"tallystick/v1/hash-to-group"


class Ristretto255:
    """See :class:`privacy.matching.engine.Engine`."""

    name = "ristretto255"

    def encode(self, session: bytes, labels: Array) -> Array:
        """The one-way map of RFC 9496, 4.3.4, on SHA-512 of tag, session and label."""
        start = hashlib.sha512(TAG + _session(session))

        def one(label: bytes) -> bytes:
            digest = start.copy()
            digest.update(label)
            return bytes(rbcl.crypto_core_ristretto255_from_hash(digest.digest()))

        return in_parts(lambda part: _rows(one, part), labels, STEP)

    def new_key(self, randomness: Randomness) -> bytes:
        """64 bytes reduced modulo the group order."""
        while True:
            scalar = bytes(rbcl.crypto_core_ristretto255_scalar_reduce(randomness(64)))
            if any(scalar):
                return scalar

    def inverse(self, key: bytes) -> bytes:
        return bytes(rbcl.crypto_core_ristretto255_scalar_invert(key))

    def multiply(self, key: bytes, points: Array) -> Array:
        product = rbcl.crypto_scalarmult_ristretto255

        def one(point: bytes) -> bytes:
            return bytes(product(key, point))

        try:
            return in_parts(lambda part: _rows(one, part), points, STEP)
        except (RuntimeError, ValueError, TypeError):
            raise ProtocolError("a point is not on the group, or is its identity") from None

    def tokens(self, points: Array) -> Array:
        def one(point: bytes) -> bytes:
            return hashlib.sha512(point + TOKEN_TAG).digest()[:TOKEN_BYTES]

        return _rows(one, points, TOKEN_BYTES)


def _rows(work: Callable[[bytes], bytes], part: Array, width: int = POINT_BYTES) -> Array:
    data = part.tobytes()
    done = [work(data[i : i + POINT_BYTES]) for i in range(0, len(data), POINT_BYTES)]
    return np.frombuffer(b"".join(done), np.uint8).reshape(-1, width)


def _session(session: bytes) -> bytes:
    if len(session) != SESSION_BYTES:
        raise ValueError("a session has 16 bytes")
    return session

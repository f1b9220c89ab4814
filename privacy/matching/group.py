"""Blinding in ristretto255 (RFC 9496) through libsodium: a prime-order group, so no twist and no
small subgroups. libsodium rejects encodings that are not canonical, and a product that is the
identity. Its scalar multiplication is constant-time and releases the interpreter's lock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count

import rbcl

from privacy.errors import ProtocolError
from privacy.randomness import Randomness

POINT_BYTES = 32
TOKEN_BYTES = 12
"""96 bits: a false match among 10^6 x 10^6 items has probability 2^-56."""
CHUNK = 8192
"""Points in one chunk of a stream."""

_ITEM, _DUMMY = b"\x00", b"\x01"


def hash_to_group(session: bytes, items: Iterable[bytes]) -> list[bytes]:
    """Each item as a group element: the one-way map of RFC 9496, 4.3.4, on SHA-512.

    ``session`` separates jobs, so that elements of two jobs cannot be compared.
    """
    return [_point(session + _ITEM + item) for item in items]


def dummies(session: bytes, count: int) -> list[bytes]:
    """``count`` public elements that no item can equal."""
    return [_point(session + _DUMMY + i.to_bytes(8, "big")) for i in range(count)]


def random_points(randomness: Randomness, count: int) -> list[bytes]:
    """Uniform elements for padding."""
    return [bytes(rbcl.crypto_core_ristretto255_from_hash(randomness(64))) for _ in range(count)]


def new_scalar(randomness: Randomness) -> bytes:
    """A uniform, non-zero blinding scalar: 64 bytes reduced modulo the group order."""
    while True:
        scalar = bytes(rbcl.crypto_core_ristretto255_scalar_reduce(randomness(64)))
        if any(scalar):
            return scalar


def blind(scalar: bytes, points: Sequence[bytes]) -> list[bytes]:
    """scalar * point for each point, on all cores.

    Raises ProtocolError if any encoding is invalid or the identity: one bad point spoils the match,
    it is never skipped.
    """
    workers = cpu_count() or 1
    if len(points) < 256 or workers == 1:
        return _blind_some(scalar, points)
    step = -(-len(points) // workers)
    parts = [points[i : i + step] for i in range(0, len(points), step)]
    with ThreadPoolExecutor(workers) as pool:
        done = pool.map(lambda part: _blind_some(scalar, part), parts)
        return [point for part in done for point in part]


def _blind_some(scalar: bytes, points: Sequence[bytes]) -> list[bytes]:
    multiply = rbcl.crypto_scalarmult_ristretto255
    try:
        return [bytes(multiply(scalar, point)) for point in points]
    except (RuntimeError, ValueError, TypeError) as error:
        raise ProtocolError from error


def _point(message: bytes) -> bytes:
    digest = hashlib.sha512(b"tallystick/v1/hash-to-group" + message).digest()
    return bytes(rbcl.crypto_core_ristretto255_from_hash(digest))


def token(point: bytes) -> bytes:
    """What is compared of a doubly blinded point: 96 bits of its SHA-256."""
    return hashlib.sha256(point).digest()[:TOKEN_BYTES]

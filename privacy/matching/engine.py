"""The blinding core: one interface, two engines.

    curve25519    x coordinates on AVX-512-IFMA, where processor and the extra ``fast`` are there
    ristretto255  libsodium, on all cores, everywhere

Elements of one engine mean nothing to the other, so both sides of a match use the first engine of
the list that both have. Arrays are (n, 32) bytes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.randomness import Randomness

Array = NDArray[np.uint8]
POINT_BYTES = 32
LABEL_BYTES = 32
TOKEN_BYTES = 12
"""96 bits: a false match among 10^7 x 10^7 items has probability under 2^-49."""
TOKEN_TAG = b"tallystick/v1/token"
SESSION_BYTES = 16
NAMES = ("curve25519", "ristretto255")


class Engine(Protocol):
    """Blinding in a group where the decisional Diffie-Hellman problem is hard."""

    name: str

    def encode(self, session: bytes, labels: Array) -> Array:
        """Each 32-byte label as an element; ``session`` (16 bytes) separates jobs."""

    def new_key(self, randomness: Randomness) -> bytes:
        """A uniform scalar."""

    def inverse(self, key: bytes) -> bytes:
        """The key that takes ``key`` away: multiply(inverse(k), multiply(k, P)) = P for an element
        that was multiplied by a key before."""

    def multiply(self, key: bytes, points: Array) -> Array:
        """key * P for each point, constant-time in the key.

        Raises ProtocolError if a point is off the curve, of low order, the identity or not in its
        canonical form: one bad point spoils the match, it is never skipped.
        """

    def tokens(self, points: Array) -> Array:
        """(n, 12): what is compared of a doubly blinded point, 96 bits of its SHA-512."""


def available() -> tuple[str, ...]:
    """Names of the engines that run here, the preferred one first."""
    from privacy.matching import curve25519

    return NAMES if curve25519.available() else NAMES[1:]


def agreed(mine: Sequence[str], theirs: Sequence[str]) -> str:
    """The first engine of :data:`NAMES` that both sides have. Raises ProtocolError if none."""
    for name in NAMES:
        if name in mine and name in theirs:
            return name
    raise ProtocolError("the two sides have no engine in common")


@cache
def engine(name: str) -> Engine:
    """The engine called ``name``, compiled or loaded once. Raises ProtocolError if not here."""
    if name not in available():
        raise ProtocolError("an engine was asked for that does not run here")
    if name == "curve25519":
        from privacy.matching.curve25519 import Curve25519

        return Curve25519()
    from privacy.matching.ristretto import Ristretto255

    return Ristretto255()


def in_parts(work: Callable[[Array], Array], items: Array, step: int) -> Array:
    """work(items) by pieces of ``step`` rows on all cores; for work that releases the GIL."""
    if len(items) <= step:
        return work(items)
    pieces = [items[i : i + step] for i in range(0, len(items), step)]
    return np.concatenate(list(_pool().map(work, pieces)))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="blind")

"""curve25519 by x coordinate (RFC 7748) on eight lanes of AVX-512-IFMA.

    label -> x    encode_to_curve of RFC 9380, 3, suite curve25519_XMD:SHA-512_ELL2_NU_ (8.5) with the
                  session in the domain separation tag; constant-time. Elligator 2 reaches about half of
                  the curve; membership is easy to test and images are easy to sample backwards, so
                  blinded elements stay indistinguishable from random ones under DDH.
    key           8 a modulo 8 l for a uniform a in [1, l): clears the cofactor, and unlike RFC 7748's
                  clamping it is uniform
    check         on the curve, not on its twist; canonical; 8 P is not the identity (Z = 0 after the
                  ladder). Without it a batch's common inversion would let one bad point spoil others.

x-only: P and -P are one element, which does no harm to equality.
"""

from __future__ import annotations

import threading

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.matching.engine import SESSION_BYTES, TOKEN_BYTES, TOKEN_TAG, Array, in_parts
from privacy.randomness import Randomness

ORDER = 2**252 + 27742317777372353535851937790883648493
P = 2**255 - 19
TAG = b"tallystick/v1/curve25519/"
VECTORS = 128
BATCH = 8 * VECTORS
"""Items that share one inversion."""
Words = NDArray[np.uint64]


def available() -> bool:
    """Whether llvmlite is installed and the processor has AVX-512-IFMA."""
    try:
        from privacy.matching import kernels
    except ImportError:
        return False
    return kernels.supported()


def domain(session: bytes) -> bytes:
    """DST_prime of RFC 9380, 5.3.1, for a session of 16 bytes."""
    if len(session) != SESSION_BYTES:
        raise ValueError("a session has 16 bytes")
    tag = TAG + session
    return tag + bytes([len(tag)])


class _Room:
    """One thread's arrays, aligned to 64 bytes. ``word_array``: (16, BATCH) in, ``digest``: out."""

    def __init__(self, scratch_vectors: int) -> None:
        self.word_array = _aligned((16, BATCH))
        self.digest = _aligned((8, BATCH))
        self.flag_array = _aligned((BATCH,))
        self._out = _aligned((4, BATCH))
        self._scratch = _aligned((scratch_vectors * 8,))
        self.words, self.digest_at = self.word_array.ctypes.data, self.digest.ctypes.data
        self.flags, self.out = self.flag_array.ctypes.data, self._out.ctypes.data
        self.scratch = self._scratch.ctypes.data

    def put(self, rows: NDArray[np.uint64], words: int) -> None:
        """Fill the first ``words`` words of up to BATCH items; the others are x = 9, the base."""
        self.word_array[:words, : len(rows)] = rows.T
        if len(rows) < BATCH:
            self.word_array[:words, len(rows) :] = 0
            self.word_array[0, len(rows) :] = 9

    def points(self, count: int) -> Array:
        """The first ``count`` points of the output as rows of 32 bytes."""
        return np.ascontiguousarray(self._out[:, :count].T).view(np.uint8)


class Curve25519:
    """See :class:`privacy.matching.engine.Engine`. Compiles its kernels when made: about a second."""

    name = "curve25519"

    def __init__(self) -> None:
        from privacy.matching import kernels

        self._kernels = kernels.compiled()
        self._scratch = kernels.scratch_vectors(VECTORS)
        self._local = threading.local()
        self._initial = np.array(kernels.sha512_constants()[1], np.uint64)
        self._token_block = _last_block(TOKEN_TAG, 32, 32 + len(TOKEN_TAG))
        room = self._room()
        room.word_array[:] = 0
        self._hash(room, 1, self._initial, np.zeros(16, np.uint64))
        self._after_zeros = room.digest[:, 0].copy()

    def encode(self, session: bytes, labels: Array) -> Array:
        tag = domain(session)
        # expand_message_xmd (RFC 9380, 5.3.1): b_0 over a block of zeros, the label and the tag;
        # then b_1, of which 48 bytes are the field element. The tag is short enough for one block each.
        first = _last_block((48).to_bytes(2, "big") + b"\0" + tag, 32, 128 + 32 + 3 + len(tag))
        second = _last_block(b"\1" + tag, 64, 64 + 1 + len(tag))

        def part(piece: Array) -> Array:
            room = self._room()
            room.put(piece.view(">u8"), 4)
            self._hash(room, 4, self._after_zeros, first)
            room.word_array[:8] = room.digest
            self._hash(room, 8, self._initial, second)
            room.word_array[:6] = room.digest[5::-1]  # big-endian: the first word is the highest
            self._kernels.encode(room.out, room.words, VECTORS, room.scratch)
            return room.points(len(piece))

        return in_parts(part, np.ascontiguousarray(labels), BATCH)

    def new_key(self, randomness: Randomness) -> bytes:
        while True:
            uniform = int.from_bytes(randomness(64), "little")  # bias under 2^-259
            scalar = 8 * (1 + uniform % (ORDER - 1))
            if scalar < 1 << 255 and _inverse(scalar) < 1 << 255:  # fails for 1 in 2^127
                return scalar.to_bytes(32, "little")

    def inverse(self, key: bytes) -> bytes:
        return _inverse(int.from_bytes(key, "little")).to_bytes(32, "little")

    def multiply(self, key: bytes, points: Array) -> Array:
        points = np.ascontiguousarray(points)
        if not _canonical(points):
            raise ProtocolError("an element is not in canonical form")
        bits = np.unpackbits(np.frombuffer(key, np.uint8), bitorder="little")[254::-1].copy()

        def part(piece: Array) -> Array:
            room, count = self._room(), len(piece)
            room.put(piece.view("<u8"), 4)
            self._kernels.check(room.flags, room.words, VECTORS)
            off_curve = bool(room.flag_array[:count].any())
            self._kernels.ladder(
                room.out, room.flags, room.words, bits.ctypes.data, VECTORS, room.scratch
            )
            if off_curve or not bool(room.flag_array[:count].all()):
                raise ProtocolError("an element is not on the curve, or of small order")
            return room.points(count)

        return in_parts(part, points, BATCH)

    def tokens(self, points: Array) -> Array:
        def part(piece: Array) -> Array:
            room = self._room()
            room.put(piece.view(">u8"), 4)
            self._hash(room, 4, self._initial, self._token_block)
            words = np.ascontiguousarray(room.digest[:2, : len(piece)].T).astype(">u8")
            return words.view(np.uint8)[:, :TOKEN_BYTES].copy()

        return in_parts(part, np.ascontiguousarray(points), BATCH)

    def _hash(self, room: _Room, taken: int, state: Words, block: Words) -> None:
        """SHA-512's next block: ``taken`` words of each item, then what ``block`` holds."""
        self._kernels.sha512(
            room.digest_at, room.words, state.ctypes.data, block.ctypes.data, taken, VECTORS
        )

    def _room(self) -> _Room:
        room: _Room | None = getattr(self._local, "room", None)
        if room is None:
            room = self._local.room = _Room(self._scratch)
        return room


def _inverse(scalar: int) -> int:
    """8 / (8 scalar) modulo the order, times 8 without reduction: a multiple of the cofactor."""
    return 8 * pow(8 * scalar, -1, ORDER)


def _canonical(points: Array) -> bool:
    """Whether every x is written as a number below p."""
    if not len(points):
        return True
    words = points.view("<u8").reshape(-1, 4)
    top = np.uint64((1 << 63) - 1)
    if bool((words[:, 3] > top).any()):
        return False
    ones = np.uint64((1 << 64) - 1)
    high = (words[:, 3] == top) & (words[:, 2] == ones) & (words[:, 1] == ones)
    return not bool((high & (words[:, 0] >= np.uint64((1 << 64) - 19))).any())


def _last_block(text: bytes, offset: int, length: int) -> Words:
    """The words of a last block of SHA-512: ``text`` at ``offset``, padding, ``length`` in bits."""
    block = bytearray(128)
    block[offset : offset + len(text)] = text
    block[offset + len(text)] = 0x80
    block[112:] = (8 * length).to_bytes(16, "big")
    return np.frombuffer(bytes(block), ">u8").astype(np.uint64)


def _aligned(shape: tuple[int, ...]) -> Words:
    count = int(np.prod(shape))
    room = np.zeros(8 * count + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + 8 * count].view(np.uint64).reshape(shape)

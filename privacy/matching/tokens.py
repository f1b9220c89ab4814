"""Tokens of doubly blinded elements: kept by the thousand million, sent sorted, compared by bucket.

Sorting is also the shuffle: the order of pseudo-random tokens says nothing of the items' order. A
sorted set travels in Elias-Fano code (Elias 1974; Fano 1971): of each token the low bits as they
are, of the high ones about two bits, so n tokens of t bits take n (t - log2 n + 2) bits.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ProtocolError
from privacy.matching.engine import TOKEN_BYTES, Array
from privacy.matching.storage import Log, Spool, bucket_bits

FRAME_TOKENS = 1 << 14
"""Tokens in a frame, about."""
BITS = 8 * TOKEN_BYTES
RECORD = np.dtype([("token", "u1", (TOKEN_BYTES,)), ("place", "<u4")])
Words = NDArray[np.uint64]


@dataclass(frozen=True)
class Sorted:
    """Tokens in order: the first 64 bits, the other 32, and where each stood, all (n,)."""

    high: Words
    low: NDArray[np.uint32]
    place: NDArray[np.uint32]

    def part(self, start: int, stop: int) -> Sorted:
        """A range of it."""
        return Sorted(self.high[start:stop], self.low[start:stop], self.place[start:stop])

    def contained_in(self, other: Sorted) -> NDArray[np.bool_]:
        """For each token, whether ``other`` has it too."""
        found = np.zeros(len(self.high), np.bool_)
        at = np.searchsorted(other.high, self.high)
        pending = np.arange(len(self.high))
        while len(pending):  # more than once only where tokens agree in 64 bits
            pending = pending[at[pending] < len(other.high)]
            pending = pending[other.high[at[pending]] == self.high[pending]]
            found[pending] |= other.low[at[pending]] == self.low[pending]
            at[pending] += 1
        return found

    def matches(self, other: Sorted) -> NDArray[np.uint32]:
        """Places here of the tokens that are in ``other`` too."""
        return self.place[self.contained_in(other)]

    def as_bytes(self) -> Array:
        """The tokens, (n, 12)."""
        whole = np.empty((len(self.high), TOKEN_BYTES), np.uint8)
        whole[:, :8] = self.high.astype(">u8").view(np.uint8).reshape(-1, 8)
        whole[:, 8:] = self.low.astype(">u4").view(np.uint8).reshape(-1, 4)
        return whole

    def cut(self, token_bits: int) -> Sorted:
        """The same tokens with all but their first ``token_bits`` bits cleared."""
        high_mask = np.uint64(((1 << 64) - 1) ^ ((1 << max(0, 64 - token_bits)) - 1))
        low_mask = np.uint32(((1 << 32) - 1) ^ ((1 << min(32, BITS - token_bits)) - 1))
        return Sorted(self.high & high_mask, self.low & low_mask, self.place)

    def require_distinct(self) -> None:
        """Raises ProtocolError if a token is there twice: one person would count twice."""
        same = (self.high[1:] == self.high[:-1]) & (self.low[1:] == self.low[:-1])
        if bool(same.any()):
            raise ProtocolError("a token is there twice")


class Shelf:
    """Tokens with their places, to be read back in order."""

    def __init__(self, spool: Spool, name: str, expected: int) -> None:
        self.bits = bucket_bits(max(1, expected))
        self._buckets = spool.buckets(name, 1 << self.bits)

    @classmethod
    def of(cls, spool: Spool, name: str, log: Log, expected: int) -> Shelf:
        """The tokens of a log; places count through it."""
        shelf = cls(spool, name, expected)
        place = 0
        for i in range(len(log)):
            tokens = np.frombuffer(log.read(i), np.uint8).reshape(-1, TOKEN_BYTES)
            shelf.add(tokens, place)
            place += len(tokens)
        return shelf

    def add(self, tokens: Array, first: int) -> None:
        """Tokens, (n, 12), at places from ``first``."""
        records = np.empty(len(tokens), RECORD)
        records["token"] = tokens
        records["place"] = np.arange(first, first + len(tokens))
        if not self.bits:
            self._buckets.append(0, records.tobytes())
            return
        top = tokens[:, 0].astype(np.uint32) << 8 | tokens[:, 1]
        bucket = top >> (16 - self.bits)
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange((1 << self.bits) + 1))
        records = records[order]
        for i in range(1 << self.bits):
            if edges[i] < edges[i + 1]:
                self._buckets.append(i, records[edges[i] : edges[i + 1]].tobytes())

    def read(self, bucket: int) -> Sorted:
        """A bucket in order."""
        records = np.frombuffer(self._buckets.read(bucket), RECORD)
        high, low = split(records["token"])
        order = np.lexsort((low, high))
        return Sorted(high[order], low[order], records["place"][order])

    def runs(self, frame_bits: int) -> Iterator[tuple[int, Sorted]]:
        """(frame, its tokens) for 2^frame_bits frames in order; frame_bits >= bits."""
        finer = frame_bits - self.bits
        for bucket in range(1 << self.bits):
            tokens = self.read(bucket)
            firsts = np.arange(1 << finer, dtype=np.uint64) + np.uint64(bucket << finer)
            shift = np.uint64(64 - frame_bits) if frame_bits else np.uint64(0)
            edges = np.searchsorted(tokens.high, firsts << shift) if frame_bits else np.array([0])
            stops = [*edges[1:].tolist(), len(tokens.high)]
            for i, (start, stop) in enumerate(zip(edges.tolist(), stops, strict=True)):
                yield (bucket << finer) + i, tokens.part(start, stop)


def frame_bits(tokens: int) -> int:
    """log2 of the number of frames for a public number of tokens; both sides compute it."""
    return bucket_bits(max(1, tokens), FRAME_TOKENS)


def lookup_bits(tokens: int) -> int:
    """Bits of a token that make one look-up among ``tokens`` wrong with probability 2^-40."""
    return min(BITS, 40 + max(0, tokens - 1).bit_length())


def low_bits(tokens: int, token_bits: int) -> int:
    """Bits of each token that travel as they are."""
    return max(0, token_bits - max(1, tokens).bit_length() + 1)


def split(tokens: Array) -> tuple[Words, NDArray[np.uint32]]:
    """(n, 12) bytes as big-endian numbers of 64 and 32 bits."""
    data = np.ascontiguousarray(tokens)
    high = np.ascontiguousarray(data[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
    low = np.ascontiguousarray(data[:, 8:]).view(">u4").reshape(-1).astype(np.uint32)
    return high, low


def cut(tokens: Array, token_bits: int) -> Array:
    """Tokens with all but their first ``token_bits`` bits cleared."""
    mask = np.packbits(np.arange(BITS) < token_bits)
    return tokens & mask


def encode(tokens: Sorted, frame: int, bits: int, total: int, token_bits: int = BITS) -> bytes:
    """One frame of 2^bits, out of ``total`` tokens: count, unary code, low bits."""
    kept = low_bits(total, token_bits)
    upper_bits = token_bits - kept
    upper = (tokens.high >> np.uint64(64 - upper_bits)).astype(np.int64) if upper_bits else (
        np.zeros(len(tokens.high), np.int64))  # fmt: skip
    upper -= frame << (upper_bits - bits)
    count = len(upper)
    unary = np.zeros(count + (1 << (upper_bits - bits)), np.uint8)
    unary[upper + np.arange(count)] = 1
    low = np.unpackbits(tokens.as_bytes(), axis=1)[:, upper_bits:token_bits]
    return struct.pack("<I", count) + np.packbits(unary).tobytes() + np.packbits(low).tobytes()


def decode(data: bytes, frame: int, bits: int, total: int, token_bits: int = BITS) -> Sorted:
    """Inverse of :func:`encode`; places count within the frame.

    Raises ProtocolError unless the frame is exactly what a sorted, distinct set encodes to.
    """
    kept = low_bits(total, token_bits)
    upper_bits = token_bits - kept
    if len(data) < 4:
        raise ProtocolError("a frame of tokens has no count")
    count = struct.unpack_from("<I", data)[0]
    slots = count + (1 << (upper_bits - bits))
    unary_bytes, low_bytes = -(-slots // 8), -(-count * kept // 8)
    if count > total or len(data) != 4 + unary_bytes + low_bytes:
        raise ProtocolError("a frame of tokens has a wrong size")
    raw = np.frombuffer(data, np.uint8, offset=4)
    unary = np.unpackbits(raw[:unary_bytes])
    ones = np.flatnonzero(unary)
    if len(ones) != count or (count and int(ones[-1]) >= slots):
        raise ProtocolError("the upper bits of tokens do not fit their count")
    upper = (ones - np.arange(count) + (frame << (upper_bits - bits))).astype(np.uint64)
    whole = np.zeros((count, BITS), np.uint8)
    low = np.unpackbits(raw[unary_bytes:])
    if bool(low[count * kept :].any()):
        raise ProtocolError("a frame of tokens has bits after its end")
    whole[:, upper_bits:token_bits] = low[: count * kept].reshape(count, kept)
    high, rest = split(np.packbits(whole, axis=1).reshape(count, TOKEN_BYTES))
    if upper_bits:
        high |= upper << np.uint64(64 - upper_bits)
    result = Sorted(high, rest, np.arange(count, dtype=np.uint32))
    ordered = (high[1:] > high[:-1]) | ((high[1:] == high[:-1]) & (rest[1:] > rest[:-1]))
    if not bool(ordered.all()):
        raise ProtocolError("tokens are not sorted and distinct")
    return result

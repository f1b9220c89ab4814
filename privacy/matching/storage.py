"""Where a match keeps what does not fit in memory. Files are the client's: here is what they must
do, and the version that keeps everything in memory."""

from __future__ import annotations

from typing import Protocol

SPILL = 1 << 18
"""Records in one bucket: what is sorted in memory at once."""


class Log(Protocol):
    """Frames in order. What was appended is still there after a crash."""

    def __len__(self) -> int:
        """Frames kept."""

    def append(self, data: bytes) -> None:
        """Keep one more frame, durably."""

    def read(self, index: int) -> bytes:
        """A frame."""


class Buckets(Protocol):
    """Unordered piles of records, by number. Rebuilt after a crash."""

    def append(self, bucket: int, data: bytes) -> None:
        """Add records to a bucket."""

    def read(self, bucket: int) -> bytes:
        """Everything in a bucket, in order of arrival."""


class Spool(Protocol):
    """Storage of one match at one partner."""

    def log(self, name: str) -> Log:
        """The log called ``name``, with what it held before."""

    def buckets(self, name: str, count: int) -> Buckets:
        """``count`` buckets called ``name``, empty."""

    def discard(self, name: str) -> None:
        """Erase a log or buckets, if there."""


class MemoryLog:
    """A log in memory."""

    def __init__(self) -> None:
        self._frames: list[bytes] = []

    def __len__(self) -> int:
        return len(self._frames)

    def append(self, data: bytes) -> None:
        self._frames.append(bytes(data))

    def read(self, index: int) -> bytes:
        return self._frames[index]


class MemoryBuckets:
    """Buckets in memory."""

    def __init__(self, count: int) -> None:
        self._piles = [bytearray() for _ in range(count)]

    def append(self, bucket: int, data: bytes) -> None:
        self._piles[bucket] += data

    def read(self, bucket: int) -> bytes:
        return bytes(self._piles[bucket])


class MemorySpool:
    """A spool in memory; the same object gives the same logs again, as a disk would."""

    def __init__(self) -> None:
        self._logs: dict[str, MemoryLog] = {}

    def log(self, name: str) -> Log:
        return self._logs.setdefault(name, MemoryLog())

    def buckets(self, name: str, count: int) -> Buckets:
        return MemoryBuckets(count)

    def discard(self, name: str) -> None:
        self._logs.pop(name, None)


def bucket_bits(records: int, most: int = SPILL) -> int:
    """log2 of the number of buckets that keeps each near ``most`` records or below."""
    return max(0, (-(-records // most) - 1).bit_length())

"""The call log: one JSON line for each call of the link, a SHA-256 chain that does not begin anew.

``prev`` in a line is the SHA-256 of the line before it, so whoever edits, moves or removes a line in the
middle breaks the chain. Whoever cuts the end, or computes all of it again, does not: for that the coordinator
signs how many lines there are and what the last one is, and its partners hold what it signed
(:mod:`server.witnesses`).

A line is appended with one write. What a crash or a full disk leaves of one stays as it is, a line of the
chain; the next line says so (``torn``, and ``after``: the digest of the whole line before it, so that nothing
can be put in front of it):

    {...}                                            line n - 1
    {"actor": {"act                                  line n, cut off by a crash
    {"after": H(n - 1), "prev": H(n), "torn": 15}    line n + 1

One process writes (the link holds a lock on the file), others read complete lines only. Beside it lies an
index, ``calls.jsonl.index``: the place of every 256th line, so that nobody reads 300 MB to state a head. It
says where to look and never what is true: a digest is always that of bytes of the log, and what does not fit
by the index is looked for again without it.

*Not* handled: whoever writes what he likes into the log through the link's own process, and what happened
between the last head that a partner holds and a cut.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import struct
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import FileIO
from itertools import takewhile
from pathlib import Path
from typing import Any, BinaryIO

from privacy.errors import ConfigError, TallystickError

GENESIS = "0" * 64
STEP = 256
"""Lines from one place in the index to the next."""
BLOCK = 1 << 20
FURTHEST = 1 << 62
"""A place that no file has."""
_PLACE = struct.Struct(">Q")


class BrokenLog(TallystickError):
    """The log was edited; ``line`` is the first that does not fit."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(f"the call log was edited at line {line}")


@dataclass(frozen=True)
class Last:
    """The last complete line: its number from 1, 0 if there is none, and its digest."""

    line: int
    digest: str


@dataclass(frozen=True)
class Verified:
    """A log whose chain fits: lines, how many of them a crash cut off, whether one is being written."""

    lines: int
    torn: int
    unfinished: bool


class CallLog:
    """The log, to be appended to. Raises ConfigError if another process has it."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = _appending(path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ConfigError(str(path), "another link is writing to it; stop that one") from None
        self._index = _Index(path)
        self._scan(path)

    def close(self) -> None:
        """Close the file, and let go of it."""
        self._index.close()
        self._file.close()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line. What cannot be written raises OSError, and its rest is a torn line."""
        with self._lock:
            self._mend()
            self._write(dict(entry))

    def _scan(self, path: Path) -> None:
        """Where the log ends. The index is made again where it does not lead there."""
        with path.open("rb") as file:
            self._lines, place = self._index.last_place(file)
            self._digest = GENESIS
            self._torn = b""
            for line, whole in _lines(file, place):
                if not whole:
                    self._torn = line
                    break
                place += len(line) + 1
                self._note(line, place)
            self._end = place

    def _note(self, line: bytes, end: int) -> None:
        """A line that is there, up to ``end``."""
        self._lines += 1
        self._digest = hashlib.sha256(line).hexdigest()
        self._end = end
        if self._lines % STEP == 0:
            self._index.add(self._lines, end)

    def _mend(self) -> None:
        """Close what a crash or a full disk left of a line, and say so."""
        if not self._torn:
            return
        torn, after = self._torn, self._digest
        if self._file.write(b"\n") != 1:
            raise OSError("the call log cannot be written")
        self._torn = b""
        self._note(torn, self._end + len(torn) + 1)
        self._write({"torn": len(torn), "after": after})

    def _write(self, entry: dict[str, Any]) -> None:
        data = json.dumps(entry | {"prev": self._digest}, sort_keys=True).encode() + b"\n"
        written = 0
        try:
            written = self._file.write(data) or 0
        finally:
            if written == len(data):
                self._note(data[:-1], self._end + written)
            else:
                self._torn = data[:written]
        if self._torn:
            raise OSError("the call log cannot be written")


def _appending(path: Path) -> FileIO:
    """A file of ours, which this process appends to, unbuffered; no link to another.

    One that an earlier version left open to a group is closed to it, not refused: it is the log so far.
    """
    how = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = FileIO(os.open(path, how, 0o600), "r+")
    except OSError as error:
        raise ConfigError(str(path), f"cannot be written: {error.strerror}") from None
    found = os.fstat(file.fileno())
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != os.geteuid():
        file.close()
        raise ConfigError(str(path), "is not a file of this user's own")
    os.fchmod(file.fileno(), 0o600)
    return file


class _Index:
    """Where every :data:`STEP`-th line ends. It may be ahead of the log, after the power went."""

    def __init__(self, path: Path) -> None:
        self._file = _appending(Path(f"{path}.index"))

    def close(self) -> None:
        self._file.close()

    def last_place(self, log: BinaryIO) -> tuple[int, int]:
        """Lines up to the last place that can be used, and it; what is behind it is forgotten."""
        lines, place = _last_place(_places(self._file), log)
        self._file.truncate(lines // STEP * _PLACE.size)
        return lines, place

    def add(self, lines: int, end: int) -> None:
        if os.fstat(self._file.fileno()).st_size == (lines // STEP - 1) * _PLACE.size:
            self._file.write(_PLACE.pack(end))


def _places(index: BinaryIO | FileIO) -> list[int]:
    index.seek(0)
    data = index.read()
    places = (place for (place,) in _PLACE.iter_unpack(data[: len(data) // 8 * 8]))
    return list(takewhile(lambda place: place < FURTHEST, places))


def _last_place(places: list[int], log: BinaryIO) -> tuple[int, int]:
    """Lines up to the last place in ``log`` that ends a line and has a whole one behind it, and the place."""
    for number in range(len(places), 0, -1):
        place = places[number - 1]
        log.seek(max(0, place - 1))
        if place and log.read(1) == b"\n" and log.readline().endswith(b"\n"):
            return number * STEP, place
    return 0, 0


def _lines(file: BinaryIO, place: int) -> Iterator[tuple[bytes, bool]]:
    """Lines from ``place`` on without their ends, and whether they have one: the last may be unfinished."""
    file.seek(place)
    rest = b""
    while block := file.read(BLOCK):
        parts = (rest + block).split(b"\n")
        rest = parts.pop()
        for part in parts:
            yield part, True
    if rest:
        yield rest, False


# ---------------------------------------------------------------------- reading


class Calls:
    """The log as others read it, while it may be appended to."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def last(self) -> Last | None:
        """The last complete line, on the disk by now; None without a log."""
        try:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())  # what is signed must not be lost with the power
                number, place = _last_place(self._read_index(), file)
                digest = GENESIS
                for line, whole in _lines(file, place):
                    if whole:
                        number, digest = number + 1, hashlib.sha256(line).hexdigest()
        except FileNotFoundError:
            return None
        return Last(number, digest)

    def has(self, line: int, digest: str) -> bool:
        """Whether line ``line`` of the log has that digest."""
        if line == 0:
            return digest == GENESIS
        try:
            with self._path.open("rb") as file:
                places = self._read_index()
                known = min((line - 1) // STEP, len(places))
                start = places[known - 1] if known else 0
                return _has(file, start, line - known * STEP, digest) or (
                    known > 0 and _has(file, 0, line, digest)
                )
        except FileNotFoundError:
            return False

    def verify(self) -> Verified:
        """Recompute the chain. Raises BrokenLog, OSError."""
        before = previous = GENESIS
        torn: bytes | None = None
        count, cut_off = 0, 0
        with self._path.open("rb") as file:
            for line, whole in _lines(file, 0):
                if not whole:
                    return Verified(count, cut_off, True)
                count += 1
                plain = _parsed(line)
                if torn is not None:
                    said = (plain.get("torn"), plain.get("after"))
                    if said != (len(torn), before) or plain.get("prev") != previous:
                        raise BrokenLog(count - 1)
                    torn, cut_off = None, cut_off + 1
                elif plain.get("prev") != previous:
                    torn = line
                before, previous = previous, hashlib.sha256(line).hexdigest()
        if torn is not None:
            raise BrokenLog(count)
        return Verified(count, cut_off, False)

    def _read_index(self) -> list[int]:
        try:
            with Path(f"{self._path}.index").open("rb") as index:
                return _places(index)
        except OSError:
            return []


def _has(file: BinaryIO, place: int, number: int, digest: str) -> bool:
    """Whether the ``number``-th line from ``place`` on has that digest."""
    for line, whole in _lines(file, place):
        number -= 1
        if number == 0:
            return whole and hashlib.sha256(line).hexdigest() == digest
    return False


def _parsed(line: bytes) -> dict[str, Any]:
    """Our own file: Flower's numbers have 64 bits, unsigned."""
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}

"""The call log: one JSON line for each call of the link, a SHA-256 chain that does not begin anew.

``prev`` in a line is the SHA-256 of the line before it, so whoever edits, moves or removes a line in the
middle breaks the chain. Whoever cuts the end, or computes all of it again, does not: for that the coordinator
signs how many lines there are and what the last one is, and its partners hold what it signed
(:mod:`server.witnesses`).

A line is appended with one write. What a crash or a full disk leaves of one stays as it is, a line that is no
entry; the next entry says so: ``torn`` (how many bytes), ``prev`` (their digest) and ``after`` (the digest of
the entry before them, so that nothing can be put in front of them):

    {...}                                            line n - 1
    {"actor": {"act                                  line n, cut off by a crash
    {"after": H(n - 1), "prev": H(n), "torn": 15}    line n + 1

A beginning of an entry is never an object of JSON, so a whole entry cannot stand there as a torn line: an
entry is in its chain or the log was edited. Where the disk was full again and again, several such lines
follow each other; ``torn`` and ``prev`` are then those of all their bytes.

An entry therefore says which bytes are before it, back to the first line, and with them its own number. That
is what a head is compared with: a line has the number that counting from the start gives it, in a chain that
fits up to there. Nothing else says a number, no index beside the log either: who has the disk would edit that
first. Reading all of it once a job is what that costs.

One process writes (the link holds a lock on the file), others read complete lines only.

*Not* handled: whoever writes what he likes into the log through the link's own process, and what happened
between the last head that a partner holds and a cut.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import stat
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from privacy.errors import ConfigError, TallystickError

GENESIS = "0" * 64
BLOCK = 1 << 20
TAIL = 1 << 16
"""Bytes from the end in which a log's last entry is looked for first."""


class BrokenLog(TallystickError):
    """The log was edited; ``line`` is the first that does not fit."""

    def __init__(self, line: int) -> None:
        self.line = line
        super().__init__(f"the call log was edited at line {line}")


@dataclass(frozen=True)
class Last:
    """The last entry: its number from 1, 0 if there is none, and its digest."""

    line: int
    digest: str


@dataclass(frozen=True)
class Verified:
    """A log whose chain fits: lines, how many of them a crash cut off, whether the end is no entry (yet)."""

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
        with path.open("rb") as file:
            self._digest, self._rest = _end(file)

    def close(self) -> None:
        """Close the file, and let go of it."""
        self._file.close()

    def append(self, entry: Mapping[str, Any]) -> None:
        """Add one line. What cannot be written raises OSError, and its rest is a torn line."""
        with self._lock:
            self._mend()
            self._write(b"", dict(entry) | {"prev": self._digest})

    def _mend(self) -> None:
        """Close what a crash or a full disk left behind the last entry, and say so, with one write."""
        if not self._rest:
            return
        line = self._rest.rpartition(b"\n")[2]
        if _parsed(line) is not None:  # it lacks its end and nothing else
            self._put(b"\n", line)
            return
        torn = self._rest.removesuffix(b"\n")
        end = b"" if self._rest.endswith(b"\n") else b"\n"
        self._write(end, {"torn": len(torn), "after": self._digest, "prev": _digest(torn)})

    def _write(self, before: bytes, entry: Mapping[str, Any]) -> None:
        line = json.dumps(entry, sort_keys=True).encode()
        self._put(before + line + b"\n", line)

    def _put(self, data: bytes, entry: bytes) -> None:
        """Write ``data``; ``entry`` is the last one then."""
        written = 0
        try:
            written = self._file.write(data) or 0
        finally:
            if written == len(data):
                self._digest, self._rest = _digest(entry), b""
            else:
                self._rest += data[:written]
        if written != len(data):
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


def _end(file: BinaryIO) -> tuple[str, bytes]:
    """The digest of the last entry that has its end, and all that is behind it."""
    size = file.seek(0, os.SEEK_END)
    window = TAIL
    while True:
        start = max(0, size - window)
        file.seek(start)
        data = file.read(size - start)
        end = len(data)
        while (end := data.rfind(b"\n", 0, end)) >= 0:
            begin = data.rfind(b"\n", 0, end) + 1
            if (begin or not start) and _parsed(data[begin:end]) is not None:
                return _digest(data[begin:end]), data[end + 1 :]
        if not start:
            return GENESIS, data
        window *= 4


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


def _digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _parsed(line: bytes) -> dict[str, Any] | None:
    """An entry; None for what is no object, such as the beginning of one."""
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) else None


# ---------------------------------------------------------------------- reading


class _Chain:
    """A log from its start up to some line; every entry fits those before it."""

    def __init__(self) -> None:
        self.last = Last(0, GENESIS)
        self.lines = self.torn = self.place = 0
        self.run: list[bytes] = []
        """Lines behind the last entry that are none."""
        self._digests = bytearray()

    def add(self, line: bytes) -> None:
        """The next line. Raises BrokenLog, and is as it was."""
        entry = _parsed(line)
        if entry is None:
            self.run.append(line)
            self._count(line, GENESIS)  # of no entry
            return
        said, due = entry.get("prev"), self.last.digest
        if self.run:
            torn = b"\n".join(self.run)
            fits = (entry.get("torn"), entry.get("after"), said) == (len(torn), due, _digest(torn))
        else:
            fits = said == due
        if not fits:
            raise BrokenLog(self.lines - len(self.run) + 1)
        self.torn += len(self.run)
        self.run = []
        self._count(line, _digest(line))
        self.last = Last(self.lines, self.digest(self.lines))

    def _count(self, line: bytes, digest: str) -> None:
        self.lines += 1
        self.place += len(line) + 1
        self._digests += bytes.fromhex(digest)

    def digest(self, line: int) -> str:
        """The digest of the entry that is line ``line``; GENESIS of none."""
        return (
            self._digests[(line - 1) * 32 : line * 32].hex() if 0 < line <= self.lines else GENESIS
        )


class Calls:
    """The log as others read it, while it may be appended to.

    :meth:`last` and :meth:`verify` read it from its start; :meth:`has` goes on from where they came to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._chain = _Chain()

    def last(self) -> Last | None:
        """The last entry, on the disk by now; None without a log. Raises BrokenLog, OSError."""
        self._chain = _Chain()
        try:
            self._read(safely=True)
        except FileNotFoundError:
            return None
        return self._chain.last

    def has(self, line: int, digest: str) -> bool:
        """Whether line ``line`` is an entry with that digest, in a chain that fits up to there."""
        if (
            line > self._chain.lines
        ):  # another job's head, of a line that was not there a moment ago
            with suppress(BrokenLog, FileNotFoundError):
                self._read()
        return digest != GENESIS and self._chain.digest(line) == digest

    def verify(self) -> Verified:
        """Recompute the chain. Raises BrokenLog, OSError."""
        self._chain = _Chain()
        unfinished = self._read()
        chain = self._chain
        return Verified(chain.lines, chain.torn, unfinished or bool(chain.run))

    def _read(self, *, safely: bool = False) -> bool:
        """Read on; whether a line is there without its end."""
        with self._path.open("rb") as file:
            if safely:
                os.fsync(file.fileno())  # what is signed must not be lost with the power
            for line, whole in _lines(file, self._chain.place):
                if not whole:
                    return True
                self._chain.add(line)
        return False

"""What a match keeps on disk: encrypted logs and buckets in a folder of its own.

AES-256-GCM (NIST SP 800-38D) under a key of the match, random nonces; a frame's name and number are
associated data, so frames cannot be swapped. A log survives a crash: a frame that was cut short is
dropped when the log is opened again. The folder goes when the match ends.
"""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privacy.errors import Refused
from privacy.matching.storage import Buckets, Log
from privacy.randomness import Randomness
from protos.files import open_private, own_folder
from protos.refusal import Code

_HEAD = struct.Struct("<I")
_NONCE = 12
PINS = ("sent ", "got ")
"""Logs of digests: they survive a killed process, but need not survive a power cut."""
BUFFER = 1 << 16
"""Bytes of a bucket gathered before they are written."""


class DiskSpool:
    """See :class:`privacy.matching.storage.Spool`. ``key``: 32 bytes. Refused(STORAGE) on a full or
    failing disk, and for a file that was altered."""

    def __init__(self, folder: Path, key: bytes, randomness: Randomness) -> None:
        own_folder(folder)
        self.folder, self._cipher, self._randomness = folder, AESGCM(key), randomness
        self._logs: dict[str, DiskLog] = {}

    def seal(self, name: str, data: bytes) -> bytes:
        """One frame as it lies on disk."""
        nonce = self._randomness(_NONCE)
        return _HEAD.pack(len(data) + 28) + nonce + self._cipher.encrypt(nonce, data, name.encode())

    def open(self, name: str, frame: bytes) -> bytes:
        """Inverse of :meth:`seal`, without the length."""
        try:
            return self._cipher.decrypt(frame[:_NONCE], frame[_NONCE:], name.encode())
        except (InvalidTag, ValueError):
            raise Refused(Code.STORAGE, f"{name} of a match was altered on disk") from None

    def log(self, name: str) -> Log:
        if name not in self._logs:
            durable = not name.startswith(PINS)
            self._logs[name] = DiskLog(self, name, self._path(name), durable=durable)
        return self._logs[name]

    def buckets(self, name: str, count: int) -> Buckets:
        self.discard(name)
        return DiskBuckets(self, name, self._path(name), count)

    def discard(self, name: str) -> None:
        log = self._logs.pop(name, None)
        if log is not None:
            log.close()
        path = self._path(name)
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)

    def __enter__(self) -> DiskSpool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all files; the folder stays."""
        for log in self._logs.values():
            log.close()
        self._logs.clear()

    def destroy(self) -> None:
        """Remove everything."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, name: str) -> Path:
        return self.folder / name.replace(" ", "-")


class DiskLog:
    """Frames in one file."""

    def __init__(self, spool: DiskSpool, name: str, path: Path, *, durable: bool) -> None:
        self._spool, self._name, self._durable = spool, name, durable
        try:
            self._file = open_private(path)
            self._starts = self._whole_frames()
        except OSError as error:
            raise Refused(Code.STORAGE, f"match folder: {error.strerror}") from None

    def _whole_frames(self) -> list[int]:
        size, at, starts = os.fstat(self._file.fileno()).st_size, 0, [0]
        while at + _HEAD.size <= size:
            self._file.seek(at)
            at += _HEAD.size + _HEAD.unpack(self._file.read(_HEAD.size))[0]
            if at <= size:
                starts.append(at)
        self._file.truncate(starts[-1])
        return starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    def append(self, data: bytes) -> None:
        frame = self._spool.seal(f"{self._name}/{len(self)}", data)
        try:
            self._file.seek(self._starts[-1])
            self._file.write(frame)
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise Refused(Code.STORAGE, f"match folder: {error.strerror}") from None
        self._starts.append(self._starts[-1] + len(frame))

    def read(self, index: int) -> bytes:
        start, stop = self._starts[index], self._starts[index + 1]
        frame = os.pread(self._file.fileno(), stop - start, start)
        return self._spool.open(f"{self._name}/{index}", frame[_HEAD.size :])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class DiskBuckets:
    """One file for each bucket, written in pieces of BUFFER bytes."""

    def __init__(self, spool: DiskSpool, name: str, folder: Path, count: int) -> None:
        self._spool, self._name, self._folder = spool, name, folder
        self._waiting = [bytearray() for _ in range(count)]
        self._sizes, self._pieces = [0] * count, [0] * count
        own_folder(folder)

    def append(self, bucket: int, data: bytes) -> None:
        self._waiting[bucket] += data
        if len(self._waiting[bucket]) >= BUFFER:
            self._flush(bucket)

    def read(self, bucket: int) -> bytes:
        self._flush(bucket)
        path = self._folder / str(bucket)
        whole, at, piece = bytearray(), 0, 0
        raw = path.read_bytes() if path.exists() else b""
        if len(raw) != self._sizes[bucket]:
            raise Refused(Code.STORAGE, f"{self._name} of a match was altered on disk")
        view = memoryview(raw)
        while at < len(raw):
            size = _HEAD.unpack_from(raw, at)[0]
            frame = bytes(view[at + _HEAD.size : at + _HEAD.size + size])
            whole += self._spool.open(f"{self._name}/{bucket}/{piece}", frame)
            at += _HEAD.size + size
            piece += 1
        return bytes(whole)

    def _flush(self, bucket: int) -> None:
        if not self._waiting[bucket]:
            return
        path = self._folder / str(bucket)
        name = f"{self._name}/{bucket}/{self._pieces[bucket]}"
        frame = self._spool.seal(name, bytes(self._waiting[bucket]))
        try:
            with open_private(path, append=True) as file:
                file.write(frame)
        except OSError as error:
            raise Refused(Code.STORAGE, f"match folder: {error.strerror}") from None
        self._sizes[bucket] += len(frame)
        self._pieces[bucket] += 1
        self._waiting[bucket].clear()

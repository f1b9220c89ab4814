"""Keys of jobs: what a job's secrets are sealed with, and what is overwritten when the job ends.

A row that SQLite deleted may stand in its write-ahead log or in a free page for long. A job's secrets are
therefore sealed under a key of the job that never was in the database: 32 random bytes, themselves sealed
under the storage key, in a file of their own that is overwritten in place, synced and unlinked. What is
not handled: file systems and disks that write elsewhere than in place (copy on write, wear levelling),
and copies that somebody made of the folder while the job ran.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from privacy.errors import Refused
from privacy.randomness import Randomness
from protos.addresses import JobId
from protos.files import erase, own_folder, write_private
from protos.refusal import Code

_NONCE = 12


class JobKeys:
    """A folder of keys, one file for each open job. ``key``: the storage key, 32 bytes.

    Refused(STORAGE) where the disk does not take a key, or a file was altered.
    """

    def __init__(self, folder: Path, key: bytes, randomness: Randomness) -> None:
        self._folder, self._cipher, self._randomness = folder, ChaCha20Poly1305(key), randomness

    def get(self, job: JobId) -> ChaCha20Poly1305 | None:
        """The job's cipher, if it has a key."""
        try:
            data = self._path(job).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Refused(Code.STORAGE, f"state/jobkeys: {error.strerror}") from None
        try:
            plain = self._cipher.decrypt(data[:_NONCE], data[_NONCE:], job.encode())
        except (InvalidTag, ValueError):
            raise Refused(Code.STORAGE, "a file of state/jobkeys was altered") from None
        return ChaCha20Poly1305(plain)

    def make(self, job: JobId) -> ChaCha20Poly1305:
        """The job's cipher, made if there is none."""
        held = self.get(job)
        if held is not None:
            return held
        plain, nonce = self._randomness(32), self._randomness(_NONCE)
        sealed = nonce + self._cipher.encrypt(nonce, plain, job.encode())
        try:
            write_private(own_folder(self._folder) / job, sealed)
        except OSError as error:
            raise Refused(Code.STORAGE, f"state/jobkeys: {error.strerror}") from None
        return ChaCha20Poly1305(plain)

    def wipe(self, job: JobId) -> None:
        """Overwrite the key in place, then unlink it. Nothing of the job can be opened afterwards."""
        _overwrite(self._path(job))

    def sweep(self, is_open: Callable[[str], bool]) -> None:
        """Wipe every key whose job is not open: what a killed process left."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if not is_open(path.name):
                    _overwrite(path)

    def _path(self, job: JobId) -> Path:
        return self._folder / job


def _overwrite(path: Path) -> None:
    try:
        erase(path)
    except OSError as error:
        raise Refused(Code.STORAGE, f"state/jobkeys: {error.strerror}") from None

"""Masking keys: from a file, an environment variable or the operating system's key ring.

A key text holds one key of 64 hexadecimal digits in each line, the current one first; earlier ones
open old tokens. ``file:PATH``, ``env:NAME``, ``keyring:NAME``. Nothing here prints a key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from privacy.errors import ConfigError, ParameterError
from privacy.masking.keyed import KEY_BYTES, MasterKey
from privacy.randomness import Randomness
from protos.files import LARGEST_KEY, locked, read_private, write_private
from protos.places import check_output

SERVICE = "tallystick-masking"
_LINE = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class KeyRing:
    """``current`` makes tokens; all of ``keys``, by id, open them."""

    current: MasterKey
    keys: Mapping[str, MasterKey]


@dataclass(frozen=True)
class KeySource:
    """Where keys are kept."""

    scheme: str
    name: str

    @classmethod
    def parse(cls, text: str) -> KeySource:
        """Raises ParameterError."""
        scheme, _, name = text.partition(":")
        if scheme not in ("file", "env", "keyring") or not name:
            raise ParameterError("key: is file:PATH, env:NAME or keyring:NAME")
        return cls(scheme, name)

    def __str__(self) -> str:
        return f"{self.scheme}:{self.name}"

    def at(self, folder: Path) -> KeySource:
        """With a relative path taken from ``folder``, where the policy lies."""
        if self.scheme != "file":
            return self
        return KeySource("file", str(folder / self.name))

    def read(self) -> KeyRing:
        """Raises ConfigError that names the place, never the key."""
        text = self._text()
        if text is None:
            raise ConfigError(str(self), "no key is there; make one with `keys new`")
        lines = text.split()
        if not lines or not all(_LINE.fullmatch(line) for line in lines):
            raise ConfigError(str(self), "is not a list of keys of 64 hexadecimal digits")
        keys = [MasterKey(bytes.fromhex(line)) for line in lines]
        return KeyRing(keys[0], {key.id: key for key in reversed(keys)})

    def create(self, randomness: Randomness) -> KeyRing:
        """A first key. Raises ConfigError if there is one already."""
        if self._text() is not None:
            raise ConfigError(str(self), "a key is there already; `keys rotate` adds a new one")
        self._write(randomness(KEY_BYTES).hex() + "\n", once=True)
        return self.read()

    def rotate(self, randomness: Randomness) -> KeyRing:
        """A new current key before those that are there."""
        with locked(Path(self.name)) if self.scheme == "file" else nullcontext():
            self.read()
            self._write(randomness(KEY_BYTES).hex() + "\n" + (self._text() or ""))
            return self.read()

    def _text(self) -> str | None:
        if self.scheme == "env":
            return os.environ.get(self.name)
        if self.scheme == "keyring":
            return _keyring().get_password(SERVICE, self.name)
        path = Path(self.name)
        if not path.exists() and not path.is_symlink():
            return None
        try:
            return read_private(path).decode("ascii")
        except UnicodeDecodeError:
            raise ConfigError(str(path), "key file cannot be read: is not ASCII") from None

    def _write(self, text: str, *, once: bool = False) -> None:
        if self.scheme == "env":
            raise ConfigError(
                str(self), "an environment variable cannot be written; use file: or keyring:"
            )
        if self.scheme == "keyring":
            _keyring().set_password(SERVICE, self.name, text)
            return
        if len(text) > LARGEST_KEY:
            raise ConfigError(
                str(self), f"has no room for another key: {LARGEST_KEY >> 10} KiB are read back"
            )
        try:
            check_output(Path(self.name))
            write_private(Path(self.name), text.encode(), once=once)
        except OSError as error:
            raise ConfigError(str(self), f"cannot be written: {error.strerror}") from None


class _Ring:
    """The operating system's key ring, its failures turned into ours."""

    def get_password(self, service: str, name: str) -> str | None:
        import keyring
        from keyring.errors import KeyringError

        try:
            found: str | None = keyring.get_password(service, name)
            return found
        except KeyringError as error:
            raise ConfigError(
                f"keyring:{name}", f"{type(error).__name__}: is a key ring running?"
            ) from None

    def set_password(self, service: str, name: str, text: str) -> None:
        import keyring
        from keyring.errors import KeyringError

        try:
            keyring.set_password(service, name, text)
        except KeyringError as error:
            raise ConfigError(
                f"keyring:{name}", f"{type(error).__name__}: is a key ring running?"
            ) from None


def _keyring() -> _Ring:
    try:
        import keyring  # noqa: F401 - only whether it is there
    except ImportError:
        raise ConfigError("keyring", "needs the extra: pip install 'tallystick[mask]'") from None
    return _Ring()

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringError

from client.masking.keys import KeySource
from privacy.errors import ConfigError, ParameterError
from privacy.randomness import stream

RANDOM = stream(bytes(range(32)))


class Memory(KeyringBackend):
    """A key ring for as long as a test runs."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        if self.locked:
            raise KeyringError("locked")
        return self.held.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.held[service, username] = password


@pytest.fixture
def ring() -> Iterator[Memory]:
    before, memory = keyring.get_keyring(), Memory()
    keyring.set_keyring(memory)
    yield memory
    keyring.set_keyring(before)


@pytest.mark.parametrize("scheme", ["file", "keyring"])
def test_new_rotate_read(scheme: str, tmp_path: Path, ring: Memory) -> None:
    source = KeySource.parse(f"{scheme}:{tmp_path / 'k' if scheme == 'file' else 'mask'}")
    with pytest.raises(ConfigError, match="no key is there"):
        source.read()
    first = source.create(RANDOM)
    with pytest.raises(ConfigError, match="there already"):
        source.create(RANDOM)
    second = source.rotate(RANDOM)
    assert second.current != first.current
    assert list(second.keys) == [first.current.id, second.current.id]
    assert source.read().current == second.current
    if scheme == "file":
        assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    source = KeySource.parse("env:MASKING")
    with pytest.raises(ConfigError, match="no key is there"):
        source.read()
    monkeypatch.setenv("MASKING", "aa" * 32 + "\n" + "bb" * 32)
    ring = source.read()
    assert len(ring.keys) == 2
    with pytest.raises(ConfigError, match="cannot be written"):
        source.rotate(RANDOM)


def test_errors_never_hold_the_key(tmp_path: Path, ring: Memory) -> None:
    path, secret = tmp_path / "k", "ab" * 31
    path.write_text(secret)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="64 hexadecimal digits") as error:
        KeySource("file", str(path)).read()
    assert secret not in str(error.value)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        KeySource("file", str(path)).read()
    path.chmod(0o600)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot be read"):
        KeySource("file", str(path)).read()
    ring.locked = True
    with pytest.raises(ConfigError, match="is a key ring running"):
        KeySource("keyring", "mask").read()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        KeySource("file", str(tmp_path / "no" / "k")).create(RANDOM)


@pytest.mark.parametrize("text", ["", "file", "file:", "masking.key", "ftp:x"])
def test_sources_that_are_none(text: str) -> None:
    with pytest.raises(ParameterError, match="file:PATH"):
        KeySource.parse(text)


def test_a_relative_path_lies_beside_the_policy(tmp_path: Path) -> None:
    assert KeySource.parse("file:k").at(tmp_path).name == str(tmp_path / "k")
    assert KeySource.parse("file:/k").at(tmp_path).name == "/k"
    assert KeySource.parse("env:K").at(tmp_path).name == "K"

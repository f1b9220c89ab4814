"""The storage key: what seals models, frozen audiences, caches and keys of jobs, and where it may lie.

    [keys] in partner.toml
    storage = "file"             keys/storage.key, beside the database (the default)
    storage = "passphrase"       keys/storage.sealed, which a passphrase opens
    storage = "credential:NAME"  $CREDENTIALS_DIRECTORY/NAME, which systemd gives (LoadCredential=)
    storage = "command"          what ``storage_command``, an absolute path and arguments, prints

With the first, a copy of the folder opens everything in it; with the others it does not. The passphrase goes
through scrypt (RFC 7914, section 6; n = 2^17, r = 8, p = 1: 128 MiB and about half a second for a guess) into
a key for AES-256-GCM (NIST SP 800-38D) over the 32 bytes, with the partner's name as associated data. The
parameters belong to the file's version and are never read from it. Credentials and commands give 64
hexadecimal digits, credentials also 32 bytes; a key that is not the one that ``keys storage`` moved is told
from it by ``keys/storage.check``, which is derived from the key (HKDF, RFC 5869) and says nothing about it.

``start`` gets the key once and hands it to the gate through a pipe: it is in no argument, no environment and
no file.

*Not* handled: who can read this process's memory, or the disk that it is swapped to; a passphrase that can be
guessed; a command that gives the key to whoever runs it, or that others may change by what it reads (the
program itself must be ours or root's, and its folder and those above).
"""

from __future__ import annotations

import getpass
import hmac
import os
import re
import selectors
import signal
import subprocess
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from pydantic import Field, model_validator

from privacy.errors import ConfigError
from privacy.noisy_sum.masks import derive
from privacy.randomness import Randomness
from protos.files import check_folder, read_private, write_private
from protos.toml import Strict

FILE, SEALED, CHECK = "storage.key", "storage.sealed", "storage.check"
SIZE = 32
SHORTEST = 15
"""Characters of a passphrase (NIST SP 800-63B-4, 3.1.1.2: where nothing else is asked for)."""
PATIENCE = 30.0
"""Seconds for the command."""
PASSPHRASE_FILE, PASSPHRASE_FD = "TALLYSTICK_PASSPHRASE_FILE", "TALLYSTICK_PASSPHRASE_FD"
CREDENTIALS = "CREDENTIALS_DIRECTORY"
KEY_ON_INPUT = "key-on-input"
"""What the gate's process is told where the key comes on its standard input."""
_CREDENTIAL = re.compile(r"credential:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_HEX = re.compile(rb"\s*([0-9a-fA-F]{64})\s*")
_HEAD = b"tallystick/v1/storage key\n"
_SALT, _NONCE = 16, 12
_LONGEST = 4096
_MOST_LINKS = 40
"""From link to link; Linux follows no more."""
_ENVIRONMENT = ("PATH", "HOME", "LOGNAME", "LANG")

Ask = Callable[[str], str]


class Keys(Strict):
    """``[keys]`` of ``partner.toml``: where the storage key comes from. ``storage_command``: for "command",
    an absolute path and its arguments; no shell reads them."""

    storage: str = "file"
    storage_command: tuple[str, ...] = Field(default=(), max_length=32)

    @model_validator(mode="after")
    def _known(self) -> Self:
        named = self.storage in ("file", "passphrase", "command")
        if not named and not _CREDENTIAL.fullmatch(self.storage):
            raise ValueError('storage: is "file", "passphrase", "credential:NAME" or "command"')
        if (self.storage == "command") != bool(self.storage_command):
            raise ValueError('storage_command: goes with storage = "command", and only with it')
        if self.storage_command and not Path(self.storage_command[0]).is_absolute():
            raise ValueError("storage_command: begins with an absolute path")
        return self


def opened(folder: Path, name: str, keys: Keys, ask: Ask | None = None) -> bytes:
    """The 32 bytes. ``folder``: the partner's keys; ``name``: the partner's. ``ask``: for a passphrase, in
    place of the terminal. Raises ConfigError, which never holds what was read."""
    if keys.storage == "file":
        key = read_private(folder / FILE)
        if len(key) != SIZE:
            raise ConfigError(
                str(folder / FILE), "key file has a wrong size; restore it from your backup"
            )
        return key
    if keys.storage == "passphrase":
        return _unsealed(folder / SEALED, name, passphrase(f"Passphrase of {name}: ", ask))
    if keys.storage == "command":
        key = _printed(keys.storage_command)
    else:
        key = _credential(keys.storage.removeprefix("credential:"))
    check = folder / CHECK
    if check.exists() and not hmac.compare_digest(read_private(check), check_value(key)):
        raise ConfigError(
            f"keys.storage = {keys.storage!r}",
            "gives another key than the one that was moved there",
        )
    return key


def left_over(folder: Path, keys: Keys) -> list[Path]:
    """What holds the key beside the form that ``partner.toml`` names: a `keys storage` was killed before it
    removed what the key came from."""
    held = {"file": FILE, "passphrase": SEALED}.get(keys.storage)
    return [
        folder / name
        for name in (FILE, SEALED)
        if name != held and ((folder / name).exists() or (folder / name).is_symlink())
    ]


def warning(left: list[Path]) -> str:
    """What to say of :func:`left_over`; empty for nothing."""
    if not left:
        return ""
    return (
        f"the storage key lies in {' and '.join(map(str, left))} too, which partner.toml does not name: type"
        " the same `keys storage --to` once more, which removes it"
    )


def check_value(key: bytes) -> bytes:
    """What tells this key from another."""
    return derive(key, b"", b"tallystick/v1/storage key check")


# ---------------------------------------------------------------------- a passphrase


def seal(path: Path, name: str, key: bytes, secret: str, randomness: Randomness) -> None:
    """Write the key under a passphrase. Raises ConfigError for one that is too short."""
    if len(secret) < SHORTEST:
        raise ConfigError("passphrase", f"has fewer than {SHORTEST} characters; take several words")
    salt, nonce = randomness(_SALT), randomness(_NONCE)
    boxed = AESGCM(_stretched(secret, salt)).encrypt(nonce, key, _HEAD + name.encode())
    write_private(path, _HEAD + salt + nonce + boxed)


def _unsealed(path: Path, name: str, secret: str) -> bytes:
    data = read_private(path)
    if not data.startswith(_HEAD):
        raise ConfigError(str(path), "was not written by `keys storage`")
    salt, nonce = data[len(_HEAD) :][:_SALT], data[len(_HEAD) + _SALT :][:_NONCE]
    boxed = data[len(_HEAD) + _SALT + _NONCE :]
    try:
        key = AESGCM(_stretched(secret, salt)).decrypt(nonce, boxed, _HEAD + name.encode())
    except (InvalidTag, ValueError):
        raise ConfigError(str(path), "the passphrase does not open it") from None
    return key


def _stretched(secret: str, salt: bytes) -> bytes:
    # One passphrase however a keyboard composes its letters (NIST SP 800-63B-4, 3.1.1.2).
    text = unicodedata.normalize("NFKC", secret).encode("utf-8", "surrogatepass")
    return Scrypt(salt=salt, length=32, n=1 << 17, r=8, p=1).derive(text)


def passphrase(prompt: str, ask: Ask | None = None) -> str:
    """From the file or the descriptor that the environment names, or asked for at the terminal."""
    if ask is not None:
        text = ask(prompt)
    elif PASSPHRASE_FILE in os.environ:
        text = _decoded(read_private(Path(os.environ[PASSPHRASE_FILE]), _LONGEST))
    elif PASSPHRASE_FD in os.environ:
        text = _decoded(_from_descriptor(os.environ[PASSPHRASE_FD]))
    else:
        text = at_terminal(prompt)
    return text


def at_terminal(prompt: str) -> str:
    """Ask without an echo. Raises ConfigError where there is nobody to ask."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        raise ConfigError(
            "passphrase",
            f"there is no terminal to ask at; {PASSPHRASE_FILE} may name a file of yours, mode 0600",
        ) from None
    return getpass.getpass(prompt)


def _from_descriptor(number: str) -> bytes:
    try:
        with os.fdopen(int(number), "rb") as file:
            return file.read(_LONGEST)
    except (OSError, ValueError):
        raise ConfigError(PASSPHRASE_FD, "is not a descriptor that can be read") from None


def _decoded(data: bytes) -> str:
    try:
        return data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        raise ConfigError("passphrase", "is not UTF-8") from None


# ---------------------------------------------------------------------- a credential, a command


def _credential(name: str) -> bytes:
    folder = os.environ.get(CREDENTIALS, "")
    if not Path(folder).is_absolute():
        raise ConfigError(
            f"credential:{name}",
            f"{CREDENTIALS} is not set: systemd sets it for a unit with LoadCredential={name}:PATH",
        )
    data = read_private(Path(folder) / name, _LONGEST, by_manager=True)
    return data if len(data) == SIZE else _from_hex(data, f"credential:{name}")


def _from_hex(data: bytes, where: str) -> bytes:
    found = _HEX.fullmatch(data)
    if found is None:
        raise ConfigError(where, "did not give 64 hexadecimal digits")
    return bytes.fromhex(found[1].decode())


def _printed(command: tuple[str, ...]) -> bytes:
    """What the command prints, bounded in size and time; its own messages are dropped with it."""
    program = Path(command[0])
    _check_program(program)
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    try:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise ConfigError(str(program), f"cannot be run: {error.strerror}") from None
    try:
        data, status = _collected(child)
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()
    if status != 0:
        raise ConfigError(str(program), f"ended with status {status}; run it by hand to see why")
    return _from_hex(data, str(program))


def _collected(child: subprocess.Popen[bytes]) -> tuple[bytes, int]:
    """What it prints, and its exit status. Raises ConfigError where it prints or runs for too long."""
    if child.stdout is None:
        raise ConfigError("storage_command", "has no output")
    data, deadline = b"", time.monotonic() + PATIENCE
    with selectors.DefaultSelector() as ready:
        ready.register(child.stdout, selectors.EVENT_READ)
        while len(data) <= _LONGEST and ready.select(max(0.0, deadline - time.monotonic())):
            piece = os.read(child.stdout.fileno(), _LONGEST)
            if not piece:
                with suppress(subprocess.TimeoutExpired):
                    return data, child.wait(max(0.1, deadline - time.monotonic()))
                break
            data += piece
    raise ConfigError(
        str(child.args[0] if isinstance(child.args, tuple) else "storage_command"),
        f"printed over {_LONGEST} bytes, or did not end within {PATIENCE:g} seconds",
    )


def _check_program(path: Path) -> None:
    """Whoever can write the program, or put another in its place, gets the key. Raises ConfigError."""
    try:
        found = path.stat()
        place = path
        for _ in range(_MOST_LINKS):  # a link is as good as the folder that it lies in
            check_folder(place.parent.resolve())
            if not place.is_symlink():
                break
            place = place.parent / place.readlink()
    except OSError as error:
        raise ConfigError(str(path), f"cannot be run: {error.strerror}") from None
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & 0o022:
        raise ConfigError(str(path), "is another user's, or can be written by others")

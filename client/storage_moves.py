"""``tallystick-partner keys storage``: the storage key moves to another place.

The new form is written, partner.toml says so, and what it gives is compared with the key; only then is what
held it before overwritten and unlinked. Whatever ends the command in between, one form is there whole and
partner.toml names it; `doctor` and `start` tell of what was left beside it, and the same command again
removes that and does nothing else. The key stays the same, so a gate that runs goes on.

*Not* handled: copies of ``keys/`` that were made before; file systems that do not write in place.
"""

from __future__ import annotations

import json
import re
import tomllib
from contextlib import suppress
from pathlib import Path

from client import storage_key
from client.home import Home, PartnerConfig
from client.storage_key import CHECK, FILE, SEALED, Ask, Keys
from privacy.errors import ConfigError
from privacy.randomness import Randomness
from protos.files import erase, locked, read_private, write_private
from protos.toml import read_toml

_HEADER = re.compile(r"^\s*\[\s*keys\s*\]\s*(?:#.*)?$")
_SETTING = re.compile(r"^\s*storage(?:_command)?\s*=")


def move(
    home: Home,
    to: Keys,
    randomness: Randomness,
    *,
    ask: Ask | None = None,
    ask_new: Ask | None = None,
) -> None:
    """Bring the key to where ``to`` says. ``ask``, ``ask_new``: for the old and the new passphrase.

    Raises ConfigError, OSError; then the key is where it was.
    """
    with locked(home.config_file):
        config = home.config()
        key = storage_key.opened(home.keys, config.name, config.keys, ask)
        if to == config.keys and storage_key.left_over(home.keys, to):
            _sweep(home, to, key)
        else:
            _move(home, config, to, key, randomness, ask_new)


def _move(
    home: Home,
    config: PartnerConfig,
    to: Keys,
    key: bytes,
    randomness: Randomness,
    ask_new: Ask | None,
) -> None:
    text = _edited(home, to)  # before anything is written
    secret = None
    if to.storage == "file":
        _keep(home.keys / FILE, key)
    elif to.storage == "passphrase":
        secret = storage_key.passphrase(f"New passphrase of {config.name}: ", ask_new)
        storage_key.seal(home.keys / SEALED, config.name, key, secret, randomness)
    else:
        write_private(home.keys / CHECK, storage_key.check_value(key))
    try:
        _prove(home, to, key, secret)
        write_private(home.config_file, text.encode())
    except BaseException:
        if config.keys.storage in ("file", "passphrase"):
            (home.keys / CHECK).unlink(missing_ok=True)
        raise
    _prove(home, home.config().keys, key, secret)  # as the next start will read it
    _erase_others(home, to)


def _sweep(home: Home, to: Keys, key: bytes) -> None:
    """Remove what a killed command left. Not a file of another key, which may be somebody's last copy."""
    if (
        to.storage != "file"
        and (home.keys / FILE).exists()
        and read_private(home.keys / FILE) != key
    ):
        raise ConfigError(
            str(home.keys / FILE), f"holds another key than {to.storage!r} gives; move it away"
        )
    _erase_others(home, to)


def _erase_others(home: Home, to: Keys) -> None:
    held = {"file": FILE, "passphrase": SEALED}.get(to.storage, CHECK)
    for name in {FILE, SEALED, CHECK} - {held}:
        erase(home.keys / name)


def by_hand(home: Home, to: Keys) -> list[str]:
    """What its owner does before the key can be moved to a credential or a command; nothing of it is the
    key's own text."""
    file = home.keys.resolve() / FILE
    first = [] if home.config().keys.storage == "file" else ["first: keys storage --to file"]
    if to.storage == "command":
        return [
            *first,
            f"the command is to print what this prints: od -An -v -w32 -tx1 {file} | tr -d ' '",
        ]
    name = to.storage.removeprefix("credential:")
    sealed = f"/etc/credstore.encrypted/{name}"
    return [
        *first,
        f"as root: systemd-creds encrypt --name={name} {file} {sealed}",
        f"in the unit of `tallystick-partner start`: LoadCredentialEncrypted={name}:{sealed}",
        f"then: systemd-run --pipe --wait -p LoadCredentialEncrypted={name}:{sealed} -p User=$USER"
        f" tallystick-partner keys storage --to {to.storage} --home {home.root.resolve()}",
        "a credential is bound to this machine: keep the key elsewhere too, or lose what it opens with it",
    ]


def _keep(path: Path, key: bytes) -> None:
    """The key as a file; one that is there must be the same."""
    if not path.exists():
        write_private(path, key, once=True)
    elif read_private(path) != key:
        raise ConfigError(str(path), "is there and holds another key; move it away")


def _prove(home: Home, keys: Keys, key: bytes, secret: str | None) -> None:
    again = None if secret is None else (lambda _: secret)
    if storage_key.opened(home.keys, home.config().name, keys, again) != key:
        raise ConfigError(
            f"keys.storage = {keys.storage!r}", "gives another key; nothing was changed"
        )


def _edited(home: Home, to: Keys) -> str:
    """partner.toml with other ``[keys]``, its comments and all else as they are. Raises ConfigError."""
    plain = to.model_dump(mode="json", exclude_defaults=True)
    wanted = {
        key: value for key, value in read_toml(home.config_file, own=True).items() if key != "keys"
    }
    if plain:
        wanted["keys"] = plain
    # A JSON text is a TOML one, and an array stays on a line.
    mine = [f"{name} = {json.dumps(value)}" for name, value in plain.items()]
    lines, found, inside = list[str](), False, False
    for line in home.config_file.read_text(encoding="utf-8").splitlines():
        header = bool(_HEADER.match(line))
        inside = header or (inside and not line.lstrip().startswith("["))
        if inside and _SETTING.match(line):
            continue
        if header and not plain:
            continue
        lines.append(line)
        if header:
            found = True
            lines.extend(mine)
    if plain and not found:
        lines += ["", "[keys]", *mine]
    text = "\n".join(lines) + "\n"
    with suppress(tomllib.TOMLDecodeError):
        if tomllib.loads(text) == wanted:
            return text
    raise ConfigError(
        str(home.config_file), "its [keys] cannot be edited; write them on lines of their own"
    )

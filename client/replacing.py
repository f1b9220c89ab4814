"""What changes when another contract takes the place of the one that is installed.

The threat: an earlier contract, which everybody signed and which has not expired, is sent again, and with it
come back the larger epsilon, the partner who left, the keys that were given up. Signatures do not tell the
older from the newer. So whoever installs one is shown both digests and each difference, and is asked.

*Not* handled: an owner who agrees without reading, and a script that says ``--replace`` always.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from client.home import Home
from privacy.errors import ConfigError
from protos import alliance
from protos.alliance import Contract


def installed(home: Home) -> Contract | None:
    """The contract that is installed, also one that has expired. Raises ConfigError."""
    home.check()
    if not home.contract_file.exists() and not home.contract_file.is_symlink():
        return None
    return alliance.load(home.contract_file, own=True)


def lines(before: Contract | None, after: Contract) -> list[str]:
    """Both digests and every difference; nothing where it is the same contract, or the first. To be shown
    escaped."""
    if before is None or before.digest() == after.digest():
        return []
    return [
        f"installed now: {before.name}, digest {before.digest().hex()[:16]}",
        f"to be installed: {after.name}, digest {after.digest().hex()[:16]}",
        *_differences(before, after),
    ]


def _differences(before: Contract, after: Contract) -> Iterator[str]:
    old, new = _flat(before), _flat(after)
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) != new.get(key):
            yield f"{key}: {old.get(key, 'not there')} -> {new.get(key, 'not there')}"


def _flat(contract: Contract) -> dict[str, str]:
    plain = alliance.to_plain(contract)
    plain.pop("signatures", None)
    plain["parties"] = {party["name"]: party for party in plain["parties"]}
    return dict(_leaves("", plain))


def _leaves(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}" if path else key, item)
    elif isinstance(value, str) and "\n" in value:  # a certificate, a key
        yield path, f"SHA-256 {hashlib.sha256(value.encode()).hexdigest()[:16]}"
    else:
        yield path, str(value)


def standing(home: Home, after: Contract) -> list[str]:
    """:func:`lines` against what is installed here, whether or not this version can read that."""
    try:
        return lines(installed(home), after)
    except ConfigError as error:
        return [
            f"to be installed: {after.name}, digest {after.digest().hex()[:16]}",
            f"what is installed now cannot be read: {error}",
        ]

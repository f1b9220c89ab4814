"""Where no output may go: into what is a partner's or a coordinator's own.

The threat is a slip, or a line that somebody sent to be pasted: ``--out`` names a key, the journal, a table
or a contract, and what stood there is gone with exit code 0. A folder is known by its ``partner.toml`` or its
``coordinator.toml``, whatever ``--home`` says, and from everywhere below it. ``partner.toml`` is read here
for one thing, where its table is, and only to refuse: whose it is does not matter.

*Not* handled: tables that only the ``partner.toml`` of another folder names; an output that overwrites any
other file of the user's, as every program's does.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from privacy.errors import ConfigError
from protos.files import same_file
from protos.toml import read_toml


@dataclass(frozen=True)
class _Kind:
    """A side's folder: what marks it, which folders and files of it are its own."""

    whose: str
    mark: str
    folders: tuple[str, ...]
    files: tuple[str, ...]


PARTNER = _Kind("the partner", "partner.toml", ("keys", "state"), ("partner.toml", "alliance.toml"))
COORDINATOR = _Kind(
    "the coordinator",
    "coordinator.toml",
    ("keys", "state", "parties", "invitations", "certificates"),
    ("coordinator.toml", "draft.toml", "alliance.toml"),
)


def check_output(path: Path, *, changes: bool = False) -> None:
    """Raises ConfigError for an output in the place of what belongs to the partner or the coordinator whose
    folder it lies in. ``changes``: the command reads a contract there and writes it again, which may be the
    one in use."""
    inside = path.parent.resolve()
    for folder in (inside, *inside.parents):
        for kind in (PARTNER, COORDINATOR):
            try:
                found = (folder / kind.mark).is_file()
            except OSError:
                continue  # whoever writes there finds out
            if found:
                check_within(folder, kind, path, changes=changes)


def check_within(root: Path, kind: _Kind, path: Path, *, changes: bool = False) -> None:
    """Raises ConfigError for an output among the keys and the state of the folder ``root``, or in the place
    of its configuration, its contract or its table."""
    where = path.parent.resolve() / path.name
    for name in kind.folders:
        if where.is_relative_to((root / name).resolve()):
            raise ConfigError(str(path), f"lies in {root / name}, which is {kind.whose}'s own")
    files = [root / name for name in kind.files if not (changes and name == "alliance.toml")]
    for taken in files + (_tables(root) if kind == PARTNER else []):
        if where == taken.parent.resolve() / taken.name or same_file(path, taken):
            raise ConfigError(str(path), f"is a file of {kind.whose}'s own; name another")


def _tables(root: Path) -> list[Path]:
    try:
        found = read_toml(root / PARTNER.mark) if (root / PARTNER.mark).is_file() else {}
    except ConfigError:
        return []  # a command that needs it says what is wrong
    data = found.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    return [root / source] if isinstance(source, str) and "://" not in source else []

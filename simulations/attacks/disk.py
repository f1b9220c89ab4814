"""What an insider with a partner's disk does: copy the database, put it back, edit it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from client.home import Home


def copy_of(home: Home) -> Path:
    """A backup of the database as an operator would make it."""
    target = home.root / "backup.db"
    with (
        closing(sqlite3.connect(home.database)) as source,
        closing(sqlite3.connect(target)) as copy,
    ):
        source.backup(copy)
    return target


def put_back(home: Home, backup: Path) -> None:
    """The database as it was; the gate must not be running."""
    for suffix in ("-wal", "-shm"):
        home.database.with_name(home.database.name + suffix).unlink(missing_ok=True)
    shutil.copy(backup, home.database)


def edit(home: Home, *statements: str) -> int:
    """SQL past the gate; how many rows the last one changed."""
    with closing(sqlite3.connect(home.database)) as direct, direct:
        return [direct.execute(statement).rowcount for statement in statements][-1]


def everything(root: Path) -> bytes:
    """All bytes of all files."""
    return b"".join(p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file())

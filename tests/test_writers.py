"""There is one way to write a file: protos/files.py. The sources are read for any other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

FOLDERS = ("client", "server", "protos")
ALLOWED = "protos/files.py"
EXCEPTIONS = {
    (
        "client/store.py",
        "sqlite3.connect",
    ): "SQLite opens its file itself; open_private made it before",
    (
        "server/store.py",
        "sqlite3.connect",
    ): "SQLite opens its file itself; open_private made it before",
    ("client/doctor.py", "sqlite3.connect"): "looks into the database that is there",
    ("client/storage_key.py", "os.open"): "/dev/tty, to find out whether there is somebody to ask",
    (
        "server/calls.py",
        "os.open",
    ): "the call log: O_NOFOLLOW, and its owner, links and mode are looked at there",
    ("server/calls.py", "FileIO"): "of the descriptor that was opened so",
    (
        "server/desks.py",
        "tempfile.TemporaryDirectory",
    ): "a folder for sockets, 0700, without a file in it",
}
"""What is opened for writing elsewhere, and why that is well."""

WRITES = frozenset(
    ("write_text", "write_bytes", "mkdir", "makedirs", "touch", "symlink_to", "hardlink_to", "mkfifo",
     "mknod", "copyfile", "copytree", "copy2", "mkstemp", "mkdtemp", "creat", "FileIO", "FileHandler",
     "RotatingFileHandler", "NamedTemporaryFile", "TemporaryFile", "TemporaryDirectory",
     "SpooledTemporaryFile", "memmap")
)  # fmt: skip
READ_ONLY = frozenset(
    ("O_RDONLY", "O_DIRECTORY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_PATH")
)


def name_of(function: ast.expr) -> tuple[str, str]:
    """("os", "open") of ``os.open``, ("", "open") of ``open``."""
    if isinstance(function, ast.Attribute):
        owner = function.value.id if isinstance(function.value, ast.Name) else "?"
        return owner, function.attr
    return "", function.id if isinstance(function, ast.Name) else "?"


def writers(source: str) -> Iterator[str]:
    """Calls that make or open something for writing."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        owner, name = name_of(node.func)
        copies = owner == "shutil" and name in ("copy", "move")
        if name in WRITES or copies or (owner, name) == ("sqlite3", "connect"):
            yield f"{owner}.{name}".lstrip(".")
        elif (owner, name) == ("os", "open"):
            named = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)} - {
                "open"
            }
            flags = {each for each in named if each.startswith("O_")}
            if not flags or flags - READ_ONLY:
                yield "os.open"
        elif name in ("open", "fdopen"):
            # Of a path the mode comes first, of the functions second. Others than texts are another open.
            at = 0 if isinstance(node.func, ast.Attribute) and owner not in ("io", "os") else 1
            given = [each.value for each in node.keywords if each.arg == "mode"] + node.args[
                at : at + 1
            ]
            for mode in given:
                if isinstance(mode, ast.Constant) and isinstance(mode.value, str):
                    if set(mode.value) <= set("rwaxbtU+") and set(mode.value) & set("wax+"):
                        yield f"{owner}.{name}".lstrip(".")
                elif at == 1 or owner == "":
                    yield f"{owner}.{name} with a mode that is computed".lstrip(".")


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text('x')", "Path('a').write_bytes(b'')", "folder.mkdir(parents=True)",
        "os.makedirs('a')",
        "open('a', 'w')", "open('a', mode='ab')", "path.open('x')", "path.open(mode='r+b')",
        "io.open(p, 'wb')",
        "os.open(p, os.O_WRONLY | os.O_CREAT, 0o600)", "os.open(p, flags)", "os.fdopen(h, 'wb')",
        "tempfile.mkstemp()", "logging.FileHandler('log')", "sqlite3.connect(p)", "open('a', how)",
        "shutil.copyfile(a, b)", "shutil.move(a, b)", "path.touch()",
    ],
)  # fmt: skip
def test_each_way_to_write_is_found(source: str) -> None:
    assert list(writers(source))


@pytest.mark.parametrize(
    "source",
    [
        "open('a')", "path.open('rb')", "path.open(encoding='utf-8')",
        "os.open(p, os.O_RDONLY | os.O_CLOEXEC)",
        "journal.open(job, pin)", "os.fdopen(h, 'rb')", "write_private(path, b'')",
    ],
)  # fmt: skip
def test_what_only_reads_is_not(source: str) -> None:
    assert not list(writers(source))


def test_every_file_is_written_in_one_way() -> None:
    found: dict[tuple[str, str], int] = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            where = path.relative_to(ROOT).as_posix()
            if where == ALLOWED or where.startswith("protos/v1/"):
                continue
            for what in writers(path.read_text(encoding="utf-8")):
                found[where, what] = found.get((where, what), 0) + 1
    assert sorted(set(found) - set(EXCEPTIONS)) == []
    assert sorted(set(EXCEPTIONS) - set(found)) == [], "an exception that nobody needs any more"
    assert Path(ROOT / ALLOWED).is_file()

"""Files that others prepared, links, pipes, owners, and outputs that are inputs."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from privacy.errors import ConfigError
from protos.files import (
    check_folder,
    erase,
    made_private,
    nameless,
    new_private,
    open_private,
    own_folder,
    read_private,
    write_private,
)


@pytest.fixture(params=[True, False], ids=["nameless", "named"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has files without a name, and where it has not."""
    if not request.param:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("either_way")
def test_a_file_is_private_and_whole_or_not_there(tmp_path: Path) -> None:
    write_private(tmp_path / "a", b"one")
    assert (tmp_path / "a").read_bytes() == b"one"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o600

    def fails() -> None:
        with new_private(tmp_path / "a") as file:
            file.write(b"half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert (tmp_path / "a").read_bytes() == b"one"
    assert names(tmp_path) == ["a"]


@pytest.mark.usefixtures("either_way")
def test_a_link_at_the_target_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out").symlink_to("precious")
    write_private(tmp_path / "out", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() == b"new"


@pytest.mark.usefixtures("either_way")
def test_no_name_that_could_be_known_before_is_written_into(tmp_path: Path) -> None:
    """What stood at ``NAME.new`` was read by its owner, or led to something of ours."""
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "out.new").symlink_to("precious")
    (tmp_path / ".out.new").symlink_to("precious")
    write_private(tmp_path / "out", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "out.new").is_symlink()


@pytest.mark.usefixtures("either_way")
def test_a_file_that_is_swapped_while_it_is_written_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def swapping(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        os.unlink(source, dir_fd=src_dir_fd)
        (tmp_path / source).write_bytes(b"theirs")
        replace(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "replace", swapping)
    with pytest.raises(ConfigError, match="replaced by somebody"):
        write_private(tmp_path / "out", b"ours")


@pytest.mark.usefixtures("either_way")
def test_once_means_once(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"one", once=True)
    with pytest.raises(ConfigError, match="never overwritten"):
        write_private(tmp_path / "key", b"two", once=True)
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(ConfigError, match="never overwritten"):
        write_private(tmp_path / "link", b"two", once=True)

    def meanwhile() -> None:
        with new_private(tmp_path / "late", once=True) as file:
            file.write(b"ours")
            (tmp_path / "late").write_bytes(b"theirs, meanwhile")

    with pytest.raises(ConfigError, match="never overwritten"):
        meanwhile()
    assert (tmp_path / "late").read_bytes() == b"theirs, meanwhile"
    assert names(tmp_path) == ["key", "late", "link"]


@pytest.mark.parametrize("how", ["itself", "symbolic", "hard"])
def test_no_output_takes_the_place_of_an_input(tmp_path: Path, how: str) -> None:
    table, out = tmp_path / "table.csv", tmp_path / "out.csv"
    table.write_bytes(b"rows")
    if how == "itself":
        out = table
    elif how == "symbolic":
        out.symlink_to(table)
    else:
        os.link(table, out)
    with pytest.raises(ConfigError, match="it would be lost"):
        write_private(out, b"71 bytes", inputs=[table])
    assert table.read_bytes() == b"rows"


def test_a_key_is_read_only_where_nobody_else_could(tmp_path: Path) -> None:
    key = tmp_path / "key"
    write_private(key, b"k" * 32)
    assert read_private(key) == b"k" * 32
    for mode in (0o640, 0o604, 0o620, 0o602):
        key.chmod(mode)
        with pytest.raises(ConfigError, match="chmod 600"):
            read_private(key)
    key.chmod(0o600)
    (tmp_path / "link").symlink_to("key")
    with pytest.raises(ConfigError, match="is a link"):
        read_private(tmp_path / "link")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigError, match="regular file"):
        read_private(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="no key"):
        read_private(key, limit=31)
    with pytest.raises(ConfigError, match="not found"):
        read_private(tmp_path / "nothing")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_no_key(tmp_path: Path) -> None:
    key = tmp_path / "key"
    write_private(key, b"k" * 32)
    os.chown(key, 65534, 65534)
    with pytest.raises(ConfigError, match="another user"):
        read_private(key)
    folder = own_folder(tmp_path / "home")
    os.chown(folder, 65534, 65534)
    with pytest.raises(ConfigError, match="another user"):
        own_folder(folder)


def test_a_folder_that_others_can_fill_is_refused(tmp_path: Path) -> None:
    above = own_folder(tmp_path / "above")
    home = own_folder(above / "home")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for mode in (0o777, 0o1777, 0o2777):
        home.chmod(mode)
        with pytest.raises(ConfigError, match="written by other users"):
            check_folder(home)
    home.chmod(0o700)
    above.chmod(0o777)
    with pytest.raises(ConfigError, match="above"):
        check_folder(home)
    above.chmod(0o1777)  # as /tmp: what is ours stays ours
    check_folder(home)
    (tmp_path / "link").symlink_to(home)
    with pytest.raises(ConfigError, match="is a link"):
        check_folder(tmp_path / "link")


def test_folders_above_are_private_too_whatever_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        own_folder(tmp_path / "a" / "b" / "c")
    finally:
        os.umask(old)
    for folder in (tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.usefixtures("either_way")
def test_a_spool_has_no_name_and_can_be_read_by_its_descriptor(tmp_path: Path) -> None:
    with nameless(tmp_path) as file:
        assert names(tmp_path) == []
        file.write(b"rows")
        file.flush()
        assert Path(f"/dev/fd/{file.fileno()}").read_bytes() == b"rows"
        assert stat.S_IMODE(os.fstat(file.fileno()).st_mode) == 0o600
    assert names(tmp_path) == []


def test_a_file_that_is_kept_grows_at_its_end(tmp_path: Path) -> None:
    for text in (b"one, ", b"two"):
        with open_private(tmp_path / "log", append=True) as file:
            file.write(text)
    with open_private(tmp_path / "log") as file:
        assert file.read() == b"one, two"
    assert stat.S_IMODE((tmp_path / "log").stat().st_mode) == 0o600
    (tmp_path / "log").chmod(0o620)
    with pytest.raises(ConfigError, match="written by others"):
        open_private(tmp_path / "log")


def test_what_is_erased_is_overwritten_first_and_a_link_is_not_followed(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"k" * 100)
    os.link(tmp_path / "key", tmp_path / "same")  # the same blocks, to look at afterwards
    erase(tmp_path / "key")
    assert (tmp_path / "same").read_bytes() == bytes(100)
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "link").symlink_to("precious")
    erase(tmp_path / "link")
    erase(tmp_path / "nothing")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert names(tmp_path) == ["precious", "same"]


@pytest.mark.parametrize(
    ("look", "holds"), [(made_private, True), (lambda p: open_private(p).close(), False)]
)
def test_looking_at_a_database_gives_no_lock_away(
    tmp_path: Path, look: Callable[[Path], object], holds: bool
) -> None:
    """Locks are a process's, and go with the first descriptor that it closes: another process then wrote into
    what this one thought it held, or removed the write-ahead log under it."""
    path = tmp_path / "gate.db"
    made_private(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    ours = sqlite3.connect(path, isolation_level=None)
    ours.execute("CREATE TABLE t (x)")
    ours.execute("BEGIN IMMEDIATE")
    look(path)
    code = "import sqlite3, sys; sqlite3.connect(sys.argv[1], timeout=0).execute('BEGIN IMMEDIATE')"
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False)
    assert (done.returncode != 0) is holds
    ours.close()

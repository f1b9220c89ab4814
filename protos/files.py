"""Files: the one way in which either side writes one, and the one way in which it reads a key.

Whoever may write into a folder may prepare it: a file of the name that we are about to open, a link from
there to something of ours, a pipe, a file that he still holds open. So nothing is ever written under a name
that could be known before:

    write   into a file without a name (Linux: ``O_TMPFILE``), or under a random one that nobody had
            (``O_EXCL | O_NOFOLLOW``), in the folder of the target and relative to its descriptor; mode 0600;
            synced; given its name in one step; then looked at again: it must be the file that was written
    read    a key: no link, a regular file, ours or root's, nobody else's to read or to write, of bounded
            size; opened before it is looked at. What decides (partner.toml, a contract in use): the same,
            but others may read it
    change  what is read, changed and written again: one command at a time (:func:`locked`)
    spool   a file without a name from its first byte on
    keep    a file that stays and grows (a log, a lock): no link, regular, ours alone, of one name
    erase   a key: overwritten in place, synced, unlinked
    folder  0700, ours; not one that others can write into; one of keys is there whole or not at all

A target that is a link is replaced, not followed. An output that is an input of the same command is refused
(``inputs``), by device and inode, whatever it is called. What a killed process leaves is at most a file under
a random name (``.NAME.RANDOM.new``), where the system has no ``O_TMPFILE``.

*Not* handled: an administrator of the machine; file systems that ignore modes, or that write elsewhere than
in place (copy on write, wear levelling: what was erased may stand there), or that know no locks; somebody
who may rename the folders above (:func:`check_folder` refuses those that others own or write, up to the
root).
"""

from __future__ import annotations

import errno
import fcntl
import grp
import os
import pwd
import secrets
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom, BufferedReader
from pathlib import Path

from privacy.errors import ConfigError

LARGEST_KEY = 64 << 10
"""Bytes of a file that is read as a key."""
PATIENCE = 10.0
"""Seconds for another command that changes the same file."""
_NEW = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


@contextmanager
def new_private(
    path: Path, *, inputs: Iterable[Path] = (), once: bool = False
) -> Iterator[BufferedRandom]:
    """A file only this user can read, that is there whole after the body or not at all.

    Open for reading too. ``inputs``: files that it must not take the place of. ``once``: it must not be there
    yet, as keys must not.
    Raises ConfigError for those, OSError for what the system refuses.
    """
    _check_output(path, inputs, once)
    folder = os.open(path.parent, _FOLDER)
    temporary = ""
    try:
        handle, temporary = _begun(folder, path.name)
        with os.fdopen(handle, "w+b") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
            temporary = temporary or _named(target.fileno(), folder, path.name)
            _put(folder, temporary, path, once)
            temporary = ""
            _check_same(os.fstat(target.fileno()), folder, path)
        os.fsync(folder)
    finally:
        if temporary:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
        os.close(folder)


def write_private(
    path: Path, data: bytes, *, inputs: Iterable[Path] = (), once: bool = False
) -> None:
    """Write a file only this user can read, whole or not at all; see :func:`new_private`."""
    with new_private(path, inputs=inputs, once=once) as file:
        file.write(data)


def read_private(path: Path, limit: int = LARGEST_KEY, *, by_manager: bool = False) -> bytes:
    """The bytes of a secret of ours. Raises ConfigError with what to do where anybody else could have read
    or written it, and where it is no regular file of at most ``limit`` bytes.

    ``by_manager``: put there for us by the service manager. systemd gives a file of root's to a user by an
    access list, whose mask stands where the group's bits are: what is root's may have those of reading.
    """
    with _opened(path, "key file") as file:
        found = os.fstat(file.fileno())
        if found.st_uid not in (os.geteuid(), 0):
            raise ConfigError(
                str(path), "key file belongs to another user, who knows it; make a new key"
            )
        allowed = 0o040 if by_manager and found.st_uid == 0 else 0
        if found.st_mode & 0o077 & ~allowed:
            raise ConfigError(str(path), "key file is readable by others; chmod 600 it")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ConfigError(str(path), f"has over {limit} bytes: it is no key")
    return data


def read_own(path: Path, limit: int) -> bytes:
    """The bytes of a file that decides what is done in our name: others may read it, but only we or root can
    have written it. Of a file of more than ``limit`` bytes one more than that. Raises ConfigError."""
    with _opened(path, "file") as file:
        found = os.fstat(file.fileno())
        theirs = found.st_uid not in (os.geteuid(), 0)
        if theirs or _is_shared(found):
            what = "belongs to another user" if theirs else "can be written by other users"
            raise ConfigError(
                str(path),
                f"{what}: nothing in it is believed; read it, then make it yours, chmod go-w",
            )
        return file.read(limit + 1)


@contextmanager
def _opened(path: Path, what: str) -> Iterator[BufferedReader]:
    """A regular file, no link, and nobody is held up by a pipe. Raises ConfigError."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ConfigError(str(path), f"{what} not found") from None
    except OSError as error:
        reason = "is a link" if path.is_symlink() else (error.strerror or type(error).__name__)
        raise ConfigError(str(path), f"{what} cannot be read: {reason}") from None
    try:
        is_regular = stat.S_ISREG(os.fstat(handle).st_mode)
        if not is_regular:
            raise ConfigError(str(path), "is not a regular file")
    except BaseException:
        os.close(handle)
        raise
    with os.fdopen(handle, "rb") as file:
        yield file


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """The body reads ``path``, changes it and writes it again: one process, and one thread, at a time.

    What is locked is its folder, as the file itself is replaced; so no body locks two files of one folder.
    Raises ConfigError where another holds it for too long, which anybody can who may read the folder.
    """
    folder = os.open(path.parent, _FOLDER)
    try:
        deadline = time.monotonic() + PATIENCE
        while not _is_locked(folder):
            if time.monotonic() > deadline:
                raise ConfigError(
                    str(path), "is being changed by another command; try again when that has ended"
                )
            time.sleep(0.02)
        yield
    finally:
        os.close(folder)  # and the lock is gone


def _is_locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # as without it: some file systems of a network lock no folders
        if error.errno not in (errno.EBADF, errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
            raise
    return True


def open_private(path: Path, *, append: bool = False) -> BufferedRandom:
    """A file of ours that stays: made if it is not there, for reading and writing from its start, or only
    behind its end. Raises ConfigError where somebody else made it or can write it, OSError for what the
    system refuses."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    handle = os.open(path, flags | (os.O_APPEND if append else 0), 0o600)
    file = os.fdopen(handle, "r+b")
    try:
        found = os.fstat(handle)
        _check_own_file(path, found)
        if found.st_mode & 0o077:
            os.fchmod(handle, 0o600)
    except BaseException:
        file.close()
        raise
    return file


def made_private(path: Path) -> None:
    """An empty file of ours if there is none yet, for a library that opens it by its name. What is there is
    looked at without being opened: a database's locks are its process's, and go with the first descriptor of
    it that is closed (POSIX; SQLite, "How to corrupt", 2.2). Raises as :func:`open_private`."""
    try:
        os.close(os.open(path, os.O_RDWR | _NEW, 0o600))
    except FileExistsError:
        found = path.lstat()
        _check_own_file(path, found)
        if found.st_mode & 0o077:
            path.chmod(0o600)


def _check_own_file(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise ConfigError(str(path), "is not a file of its own: a link, or no regular file")
    if found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ConfigError(str(path), "is another user's, or can be written by others; remove it")


def erase(path: Path) -> None:
    """Overwrite a file in place, sync and unlink it; nothing if it is not there. A link goes, not what it
    leads to. Raises OSError."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError:
        if not path.is_symlink():
            raise
        path.unlink()
        return
    with os.fdopen(handle, "wb", buffering=0) as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20))) or 0
        os.fsync(file.fileno())
    path.unlink(missing_ok=True)


def nameless(folder: Path) -> BufferedRandom:
    """A file in ``folder`` that has no name and goes with its last descriptor, however its process ends; to
    be read by name as ``/dev/fd/N``. Raises OSError."""
    at = os.open(folder, _FOLDER)
    try:
        handle, temporary = _begun(at, "spool")
        if temporary:  # nothing was written yet
            os.unlink(temporary, dir_fd=at)
    finally:
        os.close(at)
    return os.fdopen(handle, "w+b")


def own_folder(path: Path) -> Path:
    """Make ``path`` a folder that only this user can enter. Raises ConfigError if it is somebody else's."""
    for folder in (*reversed(path.parents), path):
        folder.mkdir(mode=0o700, exist_ok=True)  # those above too: never as the umask would have it
    check_folder(path)
    path.chmod(0o700)
    return path


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder of files, to be filled under a random name, that is ``path`` after the body, or not there at
    all: what a failed command made is overwritten and removed. Raises ConfigError if ``path`` is there."""
    temporary = own_folder(path.parent / _random_name(path.name))
    try:
        yield temporary
        if path.exists() or path.is_symlink():
            raise ConfigError(str(path), "is there already; it is never overwritten")
        temporary.rename(path)
    except BaseException:
        with suppress(OSError):
            for file in temporary.iterdir():
                erase(file)
            temporary.rmdir()
        raise


def check_folder(path: Path) -> None:
    """Raises ConfigError unless ``path`` is a folder of ours, no link, and neither it nor a folder above it
    can be emptied and filled by another user (as OpenSSH's StrictModes; sticky folders of root will do)."""
    if path.is_symlink():
        raise ConfigError(str(path), "is a link; name the folder itself")
    whole = path.resolve()
    for folder in (whole, *whole.parents):
        found = folder.stat()
        if folder == whole and not stat.S_ISDIR(found.st_mode):
            raise ConfigError(str(path), "is not a folder")
        theirs = found.st_uid not in (os.geteuid(), 0)
        shared = _is_shared(found) and (folder == whole or not found.st_mode & stat.S_ISVTX)
        if theirs or shared:
            what = "belongs to another user" if theirs else "can be written by other users"
            raise ConfigError(
                str(folder), f"{what}: what is kept there could be replaced; chmod go-w it, or move"
            )


def _is_shared(found: os.stat_result) -> bool:
    """Can users other than the owner write there? A group of the user's own, as Debian makes, is nobody."""
    if found.st_mode & 0o002:
        return True
    return bool(found.st_mode & 0o020) and not _is_private_group(found.st_gid)


def _is_private_group(group: int) -> bool:
    try:
        me = pwd.getpwuid(os.geteuid())
        return me.pw_gid == group and set(grp.getgrgid(group).gr_mem) <= {me.pw_name}
    except KeyError:
        return False


def same_file(one: Path, other: Path) -> bool:
    """Do both names lead to one file, by device and inode?"""
    try:
        return one.samefile(other)
    except OSError:
        return False


def _check_output(path: Path, inputs: Iterable[Path], once: bool) -> None:
    if path.name in ("", ".", ".."):
        raise ConfigError(str(path), "is not the name of a file")
    if once and (path.exists() or path.is_symlink()):
        raise ConfigError(str(path), "is there already; it is never overwritten")
    for given in inputs:
        if same_file(path, given):
            raise ConfigError(
                str(path), "is a file that this command reads; it would be lost. Name another"
            )
    if path.is_dir() and not path.is_symlink():
        raise ConfigError(str(path), "is a folder; name a file")


def _begun(folder: int, name: str) -> tuple[int, str]:
    """A new file in ``folder`` and its random name, "" while it has none."""
    nameless = getattr(os, "O_TMPFILE", 0)
    if nameless:
        with suppress(OSError):  # not every file system can
            return os.open(".", os.O_RDWR | nameless | os.O_CLOEXEC, 0o600, dir_fd=folder), ""
    temporary = _random_name(name)
    return os.open(temporary, os.O_RDWR | _NEW, 0o600, dir_fd=folder), temporary


def _named(handle: int, folder: int, name: str) -> str:
    """Give a nameless file a random name."""
    temporary = _random_name(name)
    os.link(f"/proc/self/fd/{handle}", temporary, dst_dir_fd=folder, follow_symlinks=True)
    return temporary


def _random_name(name: str) -> str:
    return f".{name[:100]}.{secrets.token_hex(8)}.new"


def _put(folder: int, temporary: str, path: Path, once: bool) -> None:
    if not once:
        os.replace(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        return
    try:
        os.link(temporary, path.name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise ConfigError(str(path), "is there already; it is never overwritten") from None
    os.unlink(temporary, dir_fd=folder)


def _check_same(written: os.stat_result, folder: int, path: Path) -> None:
    there = os.stat(path.name, dir_fd=folder, follow_symlinks=False)
    if (there.st_dev, there.st_ino) != (written.st_dev, written.st_ino):
        raise ConfigError(
            str(path), "was replaced by somebody while it was written: the folder is not safe"
        )

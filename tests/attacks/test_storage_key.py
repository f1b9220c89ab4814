"""Whoever has a copy of the partner's folder has not the storage key, where its owner put it elsewhere.

Each of the four forms starts real processes and answers a coordinator; then the key is looked for in every
file of the folder, and in the arguments and environments of all processes.
"""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from client import storage_key, storage_moves
from client.home import Home
from client.service import GateClient
from client.storage_key import Keys
from privacy.errors import ConfigError
from protos.files import write_private
from simulations.alliances import Alliance
from simulations.live import tree
from tests.attacks.hostile import Hostile, count
from tests.conftest import ROOT

SECRET = "correct horse battery staple"
MakeAlliance = Callable[..., Alliance]


@pytest.fixture(autouse=True)
def alone() -> Iterator[None]:
    """Nothing of these tests is left in the environment."""
    names = ("CREDENTIALS_DIRECTORY", "TALLYSTICK_PASSPHRASE_FILE", "TALLYSTICK_PASSPHRASE_FD")
    yield
    for name in names:
        os.environ.pop(name, None)


def service(folder: Path, key: bytes) -> tuple[str, ...]:
    """A key service: a program that prints the key, beside some noise on its standard error."""
    folder.mkdir(exist_ok=True)
    write_private(folder / "answer", key.hex().encode() + b"\n")
    program = folder / "service"
    program.write_text(
        f"#!/bin/sh\necho noise >&2\ntest $# = 1 -a $1 = storage -a $(pwd) = / && cat {folder}/answer\n"
    )
    program.chmod(0o700)
    return (str(program), "storage")


def moved(home: Home, form: str, place: Path) -> dict[str, str]:
    """Bring the key to a form; what the environment needs then."""
    key = home.storage_key()
    if form == "passphrase":
        write_private(place / "passphrase", SECRET.encode() + b"\n")
        storage_moves.move(home, Keys(storage=form), os.urandom, ask_new=lambda _: SECRET)
        return {"TALLYSTICK_PASSPHRASE_FILE": str(place / "passphrase")}
    if form == "command":
        keys = Keys(storage=form, storage_command=service(place / "kms", key))
        storage_moves.move(home, keys, os.urandom)
        return {}
    if form.startswith("credential"):
        folder = place / "credentials"
        folder.mkdir()
        write_private(folder / "storage", key)
        os.environ["CREDENTIALS_DIRECTORY"] = str(folder)  # until the test ends
        storage_moves.move(home, Keys(storage=form), os.urandom)
        return {"CREDENTIALS_DIRECTORY": str(folder)}
    return {}


def environment(more: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


@contextmanager
def started(home: Home, more: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """``tallystick-partner start``, with no link to reach."""
    child = subprocess.Popen(
        [sys.executable, "-m", "client.cli", "start", "--home", str(home.root)],
        env=environment(more), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        yield child
    finally:
        child.send_signal(signal.SIGTERM)
        child.communicate(timeout=20)


def answers(alliance: Alliance, home: Home) -> bool:
    """Does a gate at the socket answer a hello?"""
    deadline = time.monotonic() + 30
    while not home.socket.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    client = GateClient(home.socket)
    try:
        hostile = Hostile(alliance, {"bank": client})  # type: ignore[dict-item]
        return hostile.hello("bank", hostile.new(count())).HasField("hello")
    finally:
        client.close()


def gate_of(root: int) -> int:
    for process in tree(root):
        if b"client.service" in Path(f"/proc/{process}/cmdline").read_bytes():
            return process
    raise AssertionError("no gate")


FORMS = ["file", "passphrase", "credential:storage", "command"]


@pytest.mark.parametrize("form", FORMS)
def test_a_gate_starts_and_the_key_is_nowhere_to_be_read(
    make_alliance: MakeAlliance, tmp_path: Path, form: str
) -> None:
    alliance = make_alliance()
    home = alliance.partners["bank"]
    key = home.storage_key()
    more = moved(home, form, tmp_path)
    with started(Home(home.root), more) as child:
        assert answers(alliance, home)
        first = gate_of(child.pid)
        home.socket.unlink()
        os.kill(first, signal.SIGKILL)  # the supervisor hands it over again
        assert answers(alliance, home)
        processes = tree(child.pid)
        assert gate_of(child.pid) != first
        for process in processes:
            for name in ("cmdline", "environ"):
                text = Path(f"/proc/{process}/{name}").read_bytes()
                assert key not in text
                assert key.hex().encode() not in text
                assert SECRET.encode() not in text
                if process != child.pid:  # where it came from is not for the others either
                    assert b"CREDENTIALS_DIRECTORY" not in text
                    assert b"TALLYSTICK_PASSPHRASE" not in text
    holding = [
        path.name
        for path in home.root.rglob("*")
        if path.is_file() and (key in path.read_bytes() or key.hex().encode() in path.read_bytes())
    ]
    assert holding == (["storage.key"] if form == "file" else [])


@pytest.mark.parametrize("form", FORMS[1:])
def test_a_wrong_secret_ends_in_one_clear_line(
    make_alliance: MakeAlliance, tmp_path: Path, form: str
) -> None:
    home = make_alliance().partners["bank"]
    key = home.storage_key()
    more = moved(home, form, tmp_path)
    for name in ("passphrase", "credentials/storage", "kms/answer"):
        if (tmp_path / name).exists():
            write_private(tmp_path / name, b"ab" * 32)
    with started(Home(home.root), more) as child:
        assert child.wait(20) == 2
        said = (child.stderr or sys.stderr).read().decode()  # type: ignore[union-attr]
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    assert ("does not open" in said) or ("gives another key" in said)
    assert "ab" * 32 not in said
    assert key.hex() not in said
    assert not home.socket.exists()


@pytest.mark.parametrize("form", FORMS[1:])
def test_without_its_secret_a_copy_of_the_folder_opens_nothing(
    make_alliance: MakeAlliance, tmp_path: Path, form: str
) -> None:
    home = make_alliance().partners["bank"]
    moved(home, form, tmp_path)
    os.environ.pop("CREDENTIALS_DIRECTORY", None)
    for name in ("passphrase", "kms/answer"):
        (tmp_path / name).unlink(missing_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "client.cli", "ledger", "--home", str(home.root)],
        env=environment({}), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        start_new_session=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1


def test_the_key_goes_round_and_stays_the_same(make_alliance: MakeAlliance, tmp_path: Path) -> None:
    home = make_alliance().partners["bank"]
    key, settings = home.storage_key(), home.config().data
    home.config_file.write_text("# mine\n" + home.config_file.read_text())
    for form in ("passphrase", "command", "file", "credential:storage", "file"):
        if form == "file":
            storage_moves.move(home, Keys(), os.urandom, ask=lambda _: SECRET)
        elif form == "command":
            keys = Keys(storage=form, storage_command=service(tmp_path / "kms", key))
            storage_moves.move(home, keys, os.urandom, ask=lambda _: SECRET)
        else:
            moved(Home(home.root), form, tmp_path)
        again = Home(home.root)
        if form != "passphrase":
            assert again.storage_key() == key
        assert again.config().keys.storage == form
        kept = {path.name for path in home.keys.glob("storage.*")}
        assert kept == {
            {"file": "storage.key", "passphrase": "storage.sealed"}.get(form, "storage.check")
        }
    assert again.config().data == settings
    assert home.config_file.read_text().startswith("# mine\n")
    assert "[keys]" not in home.config_file.read_text()


def test_the_owner_moves_the_key_by_command(make_alliance: MakeAlliance, tmp_path: Path) -> None:
    home = make_alliance().partners["bank"]
    key = home.storage_key()
    write_private(tmp_path / "passphrase", SECRET.encode())

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "client.cli", *arguments, "--home", str(home.root)],
            env=environment(more), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            start_new_session=True, check=False,
        )  # fmt: skip

    secret = {"TALLYSTICK_PASSPHRASE_FILE": str(tmp_path / "passphrase")}
    assert run("keys", "storage", "--to", "credential:k").returncode == 2
    told = run("keys", "storage", "--to", "credential:k").stderr
    assert "systemd-creds encrypt --name=k" in told
    assert "error: credential:k: CREDENTIALS_DIRECTORY is not set" in told
    assert run("keys", "storage", "--to", "passphrase", **secret).returncode == 0
    assert "no terminal" in run("audience", "list").stderr
    assert "TALLYSTICK_PASSPHRASE_FILE" in run("audience", "list").stderr
    done = run("audience", "list", **secret)
    assert done.returncode == 0, done.stderr
    done = run("doctor", **secret)
    assert "ok    storage key" in done.stdout, done.stdout
    assert run("keys", "storage", "--to", "file", **secret).returncode == 0
    assert Home(home.root).storage_key() == key


def test_a_passphrase_is_asked_for_without_an_echo(make_alliance: MakeAlliance) -> None:
    home = make_alliance().partners["bank"]
    storage_moves.move(home, Keys(storage="passphrase"), os.urandom, ask_new=lambda _: SECRET)
    arguments = [sys.executable, "-m", "client.cli", "audience", "list", "--home", str(home.root)]
    process, terminal = pty.fork()
    if not process:
        os.execve(sys.executable, arguments, environment({}))  # noqa: S606
    said = b""
    while b"Passphrase of bank: " not in said:
        said += os.read(terminal, 1024)
    os.write(terminal, SECRET.encode() + b"\n")
    with suppress(OSError):  # the terminal is gone with its process
        while piece := os.read(terminal, 1024):
            said += piece
    _, status = os.waitpid(process, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 0, said
    assert b"audience" in said
    assert SECRET.encode() not in said


@pytest.mark.parametrize("at", ["seal", "config", "prove"])
def test_an_error_in_between_loses_no_key(
    make_alliance: MakeAlliance, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    home = make_alliance().partners["bank"]
    key, before = home.storage_key(), home.config_file.read_bytes()

    def fails(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    if at == "seal":
        monkeypatch.setattr(storage_key, "write_private", fails)
    elif at == "config":
        monkeypatch.setattr(storage_moves, "write_private", fails)
    else:
        monkeypatch.setattr(storage_moves, "_prove", fails)
    with pytest.raises(OSError, match="No space"):
        storage_moves.move(home, Keys(storage="passphrase"), os.urandom, ask_new=lambda _: SECRET)
    assert home.config_file.read_bytes() == before
    assert Home(home.root).storage_key() == key


def test_a_key_is_moved_only_to_what_gives_it(make_alliance: MakeAlliance, tmp_path: Path) -> None:
    home = make_alliance().partners["bank"]
    key = home.storage_key()
    other = Keys(storage="command", storage_command=service(tmp_path / "kms", os.urandom(32)))
    with pytest.raises(ConfigError, match="gives another key"):
        storage_moves.move(home, other, os.urandom)
    with pytest.raises(ConfigError, match="CREDENTIALS_DIRECTORY is not set"):
        storage_moves.move(home, Keys(storage="credential:none"), os.urandom)
    with pytest.raises(ConfigError, match="fewer than 15"):
        storage_moves.move(home, Keys(storage="passphrase"), os.urandom, ask_new=lambda _: "short")
    assert Home(home.root).storage_key() == key
    assert {path.name for path in home.keys.glob("storage.*")} == {"storage.key"}


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo SECRET; exit 3", "status 3"),
        ("echo SECRET", "64 hexadecimal"),
        ("yes SECRET", "bytes, or did not end"),
        ("echo SECRET; sleep 60", "did not end"),
        ("sleep 60 & exec >&-; sleep 60", "did not end"),
    ],
)
def test_a_command_is_bounded_and_what_it_says_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, said: str
) -> None:
    monkeypatch.setattr(storage_key, "PATIENCE", 0.5)
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o700)
    keys = Keys(storage="command", storage_command=(str(program),))
    with pytest.raises(ConfigError, match=said) as error:
        storage_key.opened(tmp_path, "bank", keys)
    assert "SECRET" not in str(error.value)


def test_a_command_that_others_may_write_is_not_run(tmp_path: Path) -> None:
    program = Path(service(tmp_path / "kms", bytes(32))[0])
    program.chmod(0o777)
    with pytest.raises(ConfigError, match="written by others"):
        storage_key.opened(
            tmp_path, "bank", Keys(storage="command", storage_command=(str(program), "storage"))
        )


@pytest.mark.parametrize(
    "plain",
    [
        {"storage": "credential:../../etc/shadow"}, {"storage": "credential:.."}, {"storage": "env:KEY"},
        {"storage": "command"}, {"storage_command": ["/bin/cat"]},
        {"storage": "command", "storage_command": ["cat"]},
        {"storage": "command", "storage_command": ["./cat"]},
    ],
)  # fmt: skip
def test_places_that_are_none(plain: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="storage"):
        Keys.model_validate(plain)


def test_a_credential_of_roots_may_have_an_access_list_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd's files for a user are root's, mode 0440: the group's bits are the mask of the list."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "k").write_bytes(bytes(range(32)))
    keys = Keys(storage="credential:k")
    for mode in (0o444, 0o460, 0o404):
        (tmp_path / "k").chmod(mode)
        with pytest.raises(ConfigError, match="readable by others"):
            storage_key.opened(tmp_path, "bank", keys)
    for mode in (0o400, 0o440) if os.geteuid() == 0 else (0o400,):
        (tmp_path / "k").chmod(mode)
        assert storage_key.opened(tmp_path, "bank", keys) == bytes(range(32))


def test_a_sealed_key_is_its_partners_own(tmp_path: Path) -> None:
    """What one passphrase sealed at another partner is no key of this one."""
    storage_key.seal(tmp_path / "storage.sealed", "shop", bytes(32), SECRET, os.urandom)
    with pytest.raises(ConfigError, match="does not open"):
        storage_key.opened(tmp_path, "bank", Keys(storage="passphrase"), lambda _: SECRET)
    decomposed = "pre\u0301ce\u0301dent passphrase"
    storage_key.seal(tmp_path / "storage.sealed", "bank", bytes(32), decomposed, os.urandom)
    composed = "pr\u00e9c\u00e9dent passphrase"
    assert storage_key.opened(
        tmp_path, "bank", Keys(storage="passphrase"), lambda _: composed
    ) == bytes(32)


def test_a_passphrase_from_a_descriptor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage_key.seal(tmp_path / "storage.sealed", "bank", bytes(32), SECRET, os.urandom)
    reading, writing = os.pipe()
    os.write(writing, SECRET.encode() + b"\n")
    os.close(writing)
    monkeypatch.setenv("TALLYSTICK_PASSPHRASE_FD", str(reading))
    assert storage_key.opened(tmp_path, "bank", Keys(storage="passphrase")) == bytes(32)


# ---------------------------------------------------------------------- the service's folder, what is left


@pytest.mark.parametrize("how", ["its folder", "above it", "a link's folder"])
def test_a_command_that_others_may_replace_is_not_run(tmp_path: Path, how: str) -> None:
    (tmp_path / "opt").mkdir()
    program = Path(service(tmp_path / "opt" / "kms", bytes(32))[0])
    if how == "its folder":
        program.parent.chmod(0o777)
    elif how == "above it":
        program.parent.parent.chmod(0o777)
    else:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "service").symlink_to(program)
        (tmp_path / "bin").chmod(0o777)
        program = tmp_path / "bin" / "service"
    keys = Keys(storage="command", storage_command=(str(program), "storage"))
    with pytest.raises(ConfigError, match="other users"):
        storage_key.opened(tmp_path, "bank", keys)


def test_a_command_by_a_link_in_a_safe_folder_is_run(tmp_path: Path) -> None:
    program = Path(service(tmp_path / "kms", bytes(32))[0])
    (tmp_path / "bin").mkdir(mode=0o755)
    (tmp_path / "bin" / "service").symlink_to(program)
    keys = Keys(storage="command", storage_command=(str(tmp_path / "bin" / "service"), "storage"))
    assert storage_key.opened(tmp_path, "bank", keys) == bytes(32)


def killed_before_the_erasing(home: Home, to: Keys) -> None:
    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage_moves, "erase", dies)
        with pytest.raises(Killed):
            storage_moves.move(home, to, os.urandom, ask_new=lambda _: SECRET)


def test_a_key_that_a_killed_move_left_in_the_clear_is_told_and_swept(
    make_alliance: MakeAlliance, tmp_path: Path
) -> None:
    home = make_alliance().partners["bank"]
    key = home.storage_key()
    write_private(tmp_path / "passphrase", SECRET.encode())
    killed_before_the_erasing(home, Keys(storage="passphrase"))
    assert (home.keys / "storage.key").exists()

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "client.cli", *arguments, "--home", str(home.root)],
            env=environment({"TALLYSTICK_PASSPHRASE_FILE": str(tmp_path / "passphrase")}),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, start_new_session=True, check=False,
        )  # fmt: skip

    told = run("doctor").stdout
    assert "FAIL  storage key" in told
    assert "storage.key too" in told
    with started(home, {"TALLYSTICK_PASSPHRASE_FILE": str(tmp_path / "passphrase")}) as child:
        assert child.stderr is not None
        assert b"storage.key too" in child.stderr.readline()
    sealed = (home.keys / "storage.sealed").read_bytes()
    done = run("keys", "storage", "--to", "passphrase")  # nobody is there to be asked for a new one
    assert done.returncode == 0, done.stderr
    assert {path.name for path in home.keys.glob("storage.*")} == {"storage.sealed"}
    assert (home.keys / "storage.sealed").read_bytes() == sealed
    assert storage_key.opened(home.keys, "bank", home.config().keys, lambda _: SECRET) == key
    assert "ok    storage key" in run("doctor").stdout


def test_another_key_that_lies_there_is_not_swept(make_alliance: MakeAlliance) -> None:
    home = make_alliance().partners["bank"]
    killed_before_the_erasing(home, Keys(storage="passphrase"))
    write_private(home.keys / "storage.key", bytes(32))
    with pytest.raises(ConfigError, match="another key"):
        storage_moves.move(home, Keys(storage="passphrase"), os.urandom, ask=lambda _: SECRET)
    assert (home.keys / "storage.key").read_bytes() == bytes(32)

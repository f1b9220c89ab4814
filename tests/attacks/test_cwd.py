"""A folder that somebody else filled, in which the owner types a command.

Nothing there is run, imported or unpickled: not by the command, and not by a process that it starts. Nor is
a partner's folder that somebody else prepared, or the file in it that says what is run, believed.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from client import cli as partner_cli
from client import setup
from client.home import Home as PartnerHome
from privacy.errors import ConfigError
from protos import console
from server import callers
from server import cli as coordinator_cli
from server import setup as coordinator_setup
from simulations.alliances import Alliance
from simulations.live import free_ports, tree
from tests.conftest import ROOT

NAMES = (
    "protos", "privacy", "client", "server", "simulations", "flwr", "uvicorn", "grpc", "httpx", "numpy",
    "numba", "llvmlite", "yaml", "duckdb", "polars", "pyarrow", "keyring", "psycopg", "cryptography",
    "pydantic", "typer", "rich", "ssl", "socket", "logging", "cuda", "sitecustomize", "usercustomize",
)  # fmt: skip
PROGRAMS = ("python", "python3", "flower-supernode", "uv", "openssl")
COLLECTED = """\
import pathlib
pathlib.Path({flag!r}).open("a").write({name!r} + "\\n")
raise SystemExit("run from the current folder")
"""


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """The folder, and the file that anything in it would write if it ran."""
    folder, flag = tmp_path / "hostile", tmp_path / "ran"
    folder.mkdir()
    for name in NAMES:
        (folder / name).mkdir()
        for file in (folder / name / "__init__.py", folder / f"{name}.py"):
            file.write_text(COLLECTED.format(flag=str(flag), name=name))
    for name in PROGRAMS:
        (folder / name).write_text(f"#!/bin/sh\necho {name} >> {flag}\n")
        (folder / name).chmod(0o755)
    (folder / ".numba_config.yaml").write_text(f"cache_dir: {folder}\ndebug: 1\n")
    (folder / "keyringrc.cfg").write_text(
        f"[backend]\ndefault-keyring=protos.Keyring\nkeyring-path={folder}\n"
    )
    (folder / "pyproject.toml").write_text('[tool.flwr.app]\npublisher = "x"\n')
    for name in ("setup.cfg", ".env", "uvicorn.json", ".duckdbrc", "pg_service.conf", ".netrc"):
        (folder / name).write_text("x\n")
    return folder, flag


@contextlib.contextmanager
def typed(folder: Path, program: str, home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """``program start`` as its owner types it in ``folder``; a path that begins here as well."""
    environment = {**os.environ, "PATH": f".:{os.environ.get('PATH', '')}"}
    environment.pop("PYTHONSAFEPATH", None)
    command = [str(Path(sys.executable).parent / program), "start", "--home"]
    with (home / "typed.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, os.path.relpath(home, folder)],
            cwd=folder, env=environment, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def said(path: Path, what: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and what in path.read_text(errors="replace"):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.slow
def test_start_in_a_hostile_folder_runs_nothing_of_it(
    make_alliance: Callable[..., Alliance], hostile: tuple[Path, Path]
) -> None:
    folder, flag = hostile
    ports = free_ports(3)
    alliance = make_alliance(ports=(ports[0], ports[1], ports[2]))
    bank, home = alliance.partners["bank"], alliance.coordinator
    with (
        typed(folder, "tallystick-coordinator", home.root) as coordinator,
        typed(folder, "tallystick-partner", bank.root) as partner,
    ):
        connected = said(bank.state / "node.log", "is connected", partner)
        logs = [*home.state.glob("*.log"), *bank.state.glob("*.log"),
                home.root / "typed.log", bank.root / "typed.log"]  # fmt: skip
        assert connected, [log.read_text(errors="replace")[-2000:] for log in logs]
        children = [
            child
            for parent in (coordinator, partner)
            for child in tree(parent.pid)
            if child != parent.pid
        ]
        assert len(children) >= 4  # link, exchange, gate, node
        for child in children:
            command = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
            assert Path(f"/proc/{child}/cwd").readlink() == Path("/")
            assert Path(os.fsdecode(command[0])).is_absolute()
            assert b"-P" in command
    assert not flag.exists(), flag.read_text()


@pytest.mark.parametrize("program", ["tallystick-coordinator", "tallystick-partner"])
@pytest.mark.parametrize("command", ["doctor", "--help"])
def test_a_command_in_a_hostile_folder_runs_nothing_of_it(
    make_alliance: Callable[..., Alliance], hostile: tuple[Path, Path], program: str, command: str
) -> None:
    folder, flag = hostile
    alliance = make_alliance()
    home = alliance.coordinator.root if "coord" in program else alliance.partners["bank"].root
    options = ["--home", str(home)] if command == "doctor" else []
    subprocess.run(
        [str(Path(sys.executable).parent / program), command, *options],
        cwd=folder, capture_output=True, check=False, timeout=100,
        env={**os.environ, "PATH": f".:{os.environ.get('PATH', '')}"},
    )  # fmt: skip
    assert not flag.exists(), flag.read_text()


# ---------------------------------------------------------------------- the sources

STARTS = {
    "subprocess.Popen", "subprocess.run", "subprocess.call", "subprocess.check_call",
    "subprocess.check_output", "subprocess.getoutput", "os.system", "os.popen", "os.execv", "os.execve",
    "os.execvp", "os.execvpe", "os.execl", "os.execlp", "os.spawnv", "os.spawnvp", "os.posix_spawn",
    "os.posix_spawnp", "os.fork", "os.forkpty", "pty.spawn",
}  # fmt: skip
MAY_START = {
    "protos/supervise.py": "the one place for Python",
    "client/storage_key.py": "the owner's command for a key: by its whole path",
}
FORKS = {"multiprocessing", "concurrent.futures.process"}


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_one_place_starts_python_and_nobody_else_starts_anything() -> None:
    for path, module in sources("server", "client", "protos", "privacy"):
        for node in ast.walk(module):
            name = dotted(node)
            if path != "protos/supervise.py":
                assert name != "sys.executable", f"{path}: use protos.supervise.python"
            assert name not in STARTS or path in MAY_START, f"{path}: {name}"
            if isinstance(node, ast.Import):
                assert not FORKS & {alias.name for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert node.module not in FORKS, path
                assert node.module not in ("os", "subprocess") or not any(
                    f"{node.module}.{alias.name}" in STARTS for alias in node.names
                ), path
                assert "ProcessPoolExecutor" not in {alias.name for alias in node.names}, path


def test_the_labs_own_interpreters_look_nowhere_else_either() -> None:
    for path, module in sources("simulations"):
        for node in ast.walk(module):
            if (
                isinstance(node, ast.List)
                and node.elts
                and dotted(node.elts[0]) == "sys.executable"
            ):
                second = node.elts[1] if len(node.elts) > 1 else None
                safe = isinstance(second, ast.Constant) and second.value == "-P"
                assert safe or path.startswith("simulations/attacks/"), path


def test_no_module_is_looked_for_by_a_name_from_outside() -> None:
    for path, module in sources("server", "client", "protos", "privacy"):
        for node in ast.walk(module):
            if isinstance(node, ast.Call) and dotted(node.func) in (
                "importlib.import_module", "__import__", "runpy.run_path", "runpy.run_module", "exec",
                "eval", "importlib.metadata.entry_points", "pickle.load", "pickle.loads",
            ):  # fmt: skip
                pytest.fail(f"{path}: {dotted(node.func)}")


# ---------------------------------------------------------------------- a home that somebody prepared

OTHER = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")
READING = [("doctor",), ("doctor", "--data"), ("journal", "show"), ("journal", "verify"), ("refusals",),
           ("ledger",), ("audience", "list"), ("heads",)]  # fmt: skip


def poisoned(home: PartnerHome, flag: Path) -> None:
    """partner.toml names a program for the storage key, and something has run here."""
    text = home.config_file.read_text()
    command = f'["/bin/sh", "-c", "echo ran > {flag}; echo {"0" * 64}"]'
    home.config_file.write_text(
        f'{text}\n[keys]\nstorage = "command"\nstorage_command = {command}\n'
    )
    home.database.write_bytes(b"")


def typed_in(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Exit code and lines of a command that its owner types in ``folder``, without ``--home``."""
    if arguments[0] == "start":
        program = str(Path(sys.executable).parent / "tallystick-partner")
        done = subprocess.run(
            [program, *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, (done.stdout + done.stderr).splitlines()
    out = io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        code = console.run(partner_cli.app, arguments)
    return code, out.getvalue().splitlines()


def test_the_program_for_the_key_would_run(tmp_path: Path) -> None:
    """So the tests below see it if it does."""
    home = setup.init(tmp_path / "partner", "bank", os.urandom)
    poisoned(home, tmp_path / "ran")
    typed_in(tmp_path, "refusals")
    assert (tmp_path / "ran").exists()


@as_root
@pytest.mark.parametrize("how", ["theirs", "open", "state open"])
@pytest.mark.parametrize("command", READING)
def test_a_home_that_others_can_fill_is_not_believed_by_a_command_that_only_reads(
    tmp_path: Path, command: tuple[str, ...], how: str
) -> None:
    """``--home`` is ``./partner``: whoever prepared the current folder would name the program that runs."""
    home = setup.init(tmp_path / "partner", "bank", os.urandom)
    poisoned(home, tmp_path / "ran")
    if how == "theirs":
        for path in (home.root, *home.root.rglob("*")):
            os.chown(path, OTHER, OTHER)
    elif how == "open":
        home.root.chmod(0o777)
    else:
        home.state.chmod(0o777)
    code, lines = typed_in(tmp_path, *command)
    assert code in (1, 2), lines
    assert len(lines) == 1
    assert "other user" in lines[0] or "another user" in lines[0]
    assert not (tmp_path / "ran").exists()


@as_root
@pytest.mark.parametrize("how", ["theirs", "open", "link", "pipe"])
@pytest.mark.parametrize("command", [*READING, ("start",), ("check", "absent.toml")])
def test_settings_that_others_can_write_are_not_believed(
    tmp_path: Path, command: tuple[str, ...], how: str
) -> None:
    """In a folder that is the owner's and that everybody may enter."""
    home = setup.init(tmp_path / "partner", "bank", os.urandom)
    poisoned(home, tmp_path / "ran")
    home.root.chmod(0o755)
    if how == "theirs":
        os.chown(home.config_file, OTHER, OTHER)
    elif how == "open":
        home.config_file.chmod(0o666)
    else:
        home.config_file.rename(tmp_path / "elsewhere")
        if how == "link":
            home.config_file.symlink_to(tmp_path / "elsewhere")
        else:
            os.mkfifo(home.config_file)
    assert typed_in(tmp_path, *command)[0] in (1, 2)
    assert not (tmp_path / "ran").exists()
    with pytest.raises(ConfigError, match=r"partner\.toml"):
        home.config()


def test_settings_that_others_can_read_are_fine(make_alliance: Callable[..., Alliance]) -> None:
    found = make_alliance()
    bank = found.partners["bank"]
    for path in (bank.config_file, bank.contract_file, found.coordinator.draft_file):
        path.chmod(0o644)
    assert bank.config().name == "bank"
    assert bank.contract().digest() == found.contract.digest()


@pytest.mark.parametrize("side", ["coordinator", "partner"])
def test_a_contract_in_use_that_others_can_write_is_not_believed(
    make_alliance: Callable[..., Alliance], side: str
) -> None:
    found = make_alliance()
    home = found.coordinator if side == "coordinator" else found.partners["bank"]
    home.contract_file.chmod(0o666)
    with pytest.raises(ConfigError, match="other users"):
        home.contract()


@pytest.mark.parametrize("name", ["coordinator.toml", "draft.toml", "state/revoked.toml"])
def test_what_a_coordinator_decides_by_is_its_own(
    make_alliance: Callable[..., Alliance], name: str
) -> None:
    home = make_alliance().coordinator
    callers.revoke(home, "bank", "for a test", datetime.now(UTC))
    (home.root / name).chmod(0o666)
    work = callers.revoked if "revoked" in name else lambda at: coordinator_setup.invite(at, "new")
    with pytest.raises(ConfigError, match="other users"):
        work(home)
    if name == "state/revoked.toml":
        assert not callers.Callers(home).allows(
            "shop"
        )  # a list that is not believed lets nobody in


def test_the_folder_of_a_coordinator_is_looked_at(make_alliance: Callable[..., Alliance]) -> None:
    home = make_alliance().coordinator
    home.state.chmod(0o777)
    for work in (home.config, home.contract):
        with pytest.raises(ConfigError, match="other users"):
            work()


def test_results_of_no_coordinator_make_no_folder(tmp_path: Path) -> None:
    for command in ("results", "resume", "watch"):
        arguments = [
            command,
            *(["x"] if command != "results" else []),
            "--home",
            str(tmp_path / "no"),
        ]
        assert console.run(coordinator_cli.app, arguments) == 2
    assert not (tmp_path / "no").exists()

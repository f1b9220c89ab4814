"""A folder that somebody else filled, in which the owner types a command.

Nothing there is run, imported or unpickled: not by the command, and not by a process that it starts.
"""

from __future__ import annotations

import ast
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

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

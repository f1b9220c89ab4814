"""Every command in the README and in docs/ is run, but for the test command itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from simulations.live import tree
from tests.conftest import ROOT

BLOCK = re.compile(r"<!-- (setup|file|run|background)(?:: (\S+))? -->\n```(\w+)\n(.*?)```", re.S)
FENCE = re.compile(r"^```sh\n(.*?)```", re.S | re.M)


def _blocks(document: Path) -> list[tuple[str, str, str]]:
    return [(kind, name, body) for kind, name, _, body in BLOCK.findall(document.read_text())]


def _environment() -> dict[str, str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def _play(document: Path, place: Path) -> None:
    """Write the files, run the commands, start and stop what runs in the background."""
    running: list[subprocess.Popen[bytes]] = []
    try:
        for kind, name, body in _blocks(document):
            if kind == "file":
                (place / name).write_text(body)
                continue
            for line in body.strip().splitlines():
                if kind == "background":
                    running.append(
                        subprocess.Popen(
                            line.split(), cwd=place, env=_environment(), start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                        )
                    )  # fmt: skip
                elif kind == "run":
                    done = subprocess.run(
                        ["bash", "-c", line], cwd=place, env=_environment(), timeout=200,
                        capture_output=True, text=True, check=False,
                    )  # fmt: skip
                    assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
            if kind == "background":
                time.sleep(8.0)
    finally:
        processes = [p for each in running for p in tree(each.pid)]
        for each in reversed(running):
            each.send_signal(signal.SIGTERM)
        for each in running:
            each.wait(30)
        assert not any(Path(f"/proc/{process}").exists() for process in processes)


@pytest.mark.slow
def test_the_readmes_commands(tmp_path: Path) -> None:
    _play(ROOT / "README.md", tmp_path)


@pytest.mark.slow
def test_the_alliance_pages_commands(tmp_path: Path) -> None:
    _play(ROOT / "docs" / "alliance.md", tmp_path)


@pytest.mark.slow
def test_the_matching_pages_commands(tmp_path: Path) -> None:
    _play(ROOT / "docs" / "matching.md", tmp_path)


def test_the_masking_pages_commands(tmp_path: Path) -> None:
    _play(ROOT / "docs" / "masking.md", tmp_path)


@pytest.mark.slow
def test_the_keys_pages_commands(tmp_path: Path) -> None:
    _play(ROOT / "docs" / "keys.md", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_readmes_first_command_in_a_fresh_clone(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", str(ROOT), str(tmp_path / "clone")], check=True)
    commands = [
        body
        for kind, name, body in _blocks(ROOT / "README.md")
        if (kind, name) == ("setup", "demo")
    ]
    assert len(commands) == 1
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        ["bash", "-c", commands[0]], cwd=tmp_path / "clone", env=environment,
        capture_output=True, text=True, timeout=1400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "journal entries, intact" in done.stdout


def test_no_command_is_left_out() -> None:
    for document in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        marked = {body for kind, _, body in _blocks(document) if kind != "file"}
        for body in FENCE.findall(document.read_text()):
            assert body in marked, f"{document.name}: {body}"


def test_every_command_has_help_and_is_named_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    for module in ("client.cli", "server.cli", "simulations.cli"):
        code = (
            f"import json, typer, {module} as m\n"
            "g = typer.main.get_command(m.app)\n"
            "print(json.dumps({n: c.help or '' for n, c in g.commands.items()}))"
        )
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        for name, text in json.loads(done.stdout).items():
            assert text.strip(), f"{module} {name} has no help"
            assert re.search(rf"\b{name}\b", readme), f"{name} is not in the README"


@pytest.mark.parametrize(
    ("module", "arguments", "code", "said"),
    [
        ("client.cli", ["check", "absent.toml", "--home", "nowhere"], 2, "file not found"),
        ("client.cli", ["ledger", "--home", "nowhere"], 2, "nothing has run here yet"),
        ("client.cli", ["start", "--home", "nowhere"], 2, "file not found"),
        ("client.cli", ["init", "Bad Name", "--home", "x"], 2, "name: a-z"),
        ("server.cli", ["run", "absent.toml", "--home", "nowhere"], 2, "file not found"),
        ("server.cli", ["start", "--home", "nowhere"], 2, "file not found"),
        ("server.cli", ["results", "--nonsense"], 2, "No such option"),
        ("simulations.cli", ["run", "absent.toml"], 2, "absent.toml: file not found"),
        ("simulations.cli", ["bench", "nothing"], 2, "Invalid value"),
        ("simulations.cli", ["run", "absent.toml", "--partners", "1"], 2, "between 2 and 100"),
    ],
)
def test_mistakes_end_in_one_clear_line(
    tmp_path: Path, module: str, arguments: list[str], code: int, said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], cwd=tmp_path, env=_environment(),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr

"""Children that are kept alive, and what they may look for where."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from protos.supervise import Child, environment, python

HERE = """
import os, sys
from pathlib import Path
Path(sys.argv[1]).write_text("\\n".join([os.getcwd(), os.environ["PYTHONSAFEPATH"], *sys.path]))
"""


def until(path: Path, child: Child) -> str:
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, child.log.read_text()
        time.sleep(0.02)
    return path.read_text()


def test_a_child_stands_in_the_root_folder_and_looks_for_modules_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", ".", "relative", str(tmp_path / "own")]))
    (tmp_path / "told.py").write_text("raise SystemExit(1)\n")
    script = tmp_path / "here.py"
    script.write_text(HERE)
    child = Child(
        "here", [sys.executable, "-P", str(script), str(tmp_path / "out")], tmp_path / "log"
    )
    child.start()
    folder, safe, *path = until(tmp_path / "out", child).splitlines()
    child.stop()
    assert (folder, safe) == ("/", "1")
    assert str(tmp_path / "own") in path
    assert not {"", ".", "relative", str(tmp_path)} & set(path)


def test_no_relative_folder_is_left_in_the_environment() -> None:
    assert environment({"PYTHONPATH": ":.:x"}) == {"PYTHONSAFEPATH": "1"}
    assert environment({"A": "b", "PYTHONPATH": "/x:y"}) == {
        "A": "b", "PYTHONPATH": "/x", "PYTHONSAFEPATH": "1",
    }  # fmt: skip


def test_a_program_without_its_whole_path_is_not_looked_for(tmp_path: Path) -> None:
    child = Child("python", ["python3", "-c", "print(1)"], tmp_path / "log")
    child.start()
    assert child.process is not None
    assert child.process.wait(30) != 0
    assert "whole path" in child.log.read_text()


def test_a_system_without_room_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """EMFILE once ended `start`, and with it everything that it kept alive."""
    child = Child("child", python("this"), tmp_path / "log")
    failures = [
        OSError(errno.EMFILE, "Too many open files"), BlockingIOError(errno.EAGAIN, "try again"),
        OSError(errno.ENOMEM, "no memory"), MemoryError(),
    ]  # fmt: skip
    real, now = subprocess.Popen, [1000.0]

    def popen(*arguments: object, **options: object) -> object:
        if failures:
            raise failures.pop(0)
        return real(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr("protos.supervise.subprocess.Popen", popen)
    monkeypatch.setattr("protos.supervise.time.monotonic", lambda: now[0])
    for _ in range(40):
        child.tend()
        now[0] += 0.5
    assert failures == []
    assert child.starts >= 1
    assert len(caplog.records) == 1  # it is said once
    child.stop()


def test_descriptors_that_run_out_end_nothing(tmp_path: Path) -> None:
    code = f"""
import os, resource, time
from pathlib import Path
from protos.supervise import Child, python
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
command = [{sys.executable!r}, "-P", "-c", "import time; time.sleep(60)"]
child = Child("child", command, Path({str(tmp_path / "log")!r}))
held = []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    child.tend()
print(child.running())
for each in held:
    os.close(each)
while not child.running():
    time.sleep(0.05)
    child.tend()
print(child.running())
child.stop()
"""
    command = [*python("x")[:2], "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.split() == ["False", "True"], done.stderr
    assert "Too many open files" in done.stderr

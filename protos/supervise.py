"""Keep child processes alive, and take them down with us.

Both sides need it, and it knows neither: a child that ends is started again after a pause that
grows to ``LONGEST_PAUSE``; on SIGTERM or SIGINT all children are stopped, and killed if they do not.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

LONGEST_PAUSE = 10.0
HEALTHY_AFTER = 20.0
STOP_PATIENCE = 8.0


def python(module: str, *arguments: str) -> list[str]:
    """A command line for a module of ours under this very interpreter. ``-P``: nothing is looked for in the
    current folder, where somebody may have put a ``protos/`` of his own."""
    return [sys.executable, "-P", "-m", module, *arguments]


@dataclass
class Child:
    """One supervised process. ``log``: where its standard error goes."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    next_start: float = 0.0
    pause: float = 0.2
    started: float = 0.0

    def start(self) -> None:
        """Start it now."""
        with self.log.open("ab") as target:
            self.process = subprocess.Popen(
                [*python("protos.supervise"), *self.command],
                stdin=subprocess.DEVNULL,
                stdout=target,
                stderr=target,
                env={**os.environ, "PYTHONSAFEPATH": "1", **self.environment},
                start_new_session=True,
            )
        self.starts += 1
        self.started = time.monotonic()

    def running(self) -> bool:
        """Is it alive?"""
        return self.process is not None and self.process.poll() is None

    def tend(self) -> None:
        """Start it, or start it again once its pause is over."""
        now = time.monotonic()
        if self.running():
            if now - self.started > HEALTHY_AFTER:
                self.pause = 0.2
            return
        if self.process is not None and self.next_start <= self.started:
            self.next_start = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
        if now >= self.next_start:
            self.start()

    def stop(self) -> None:
        """Ask it to end, then make it."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()
        try:
            self.process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            self.process.wait()


def run(
    children: Sequence[Child],
    *,
    step: Callable[[], None] = lambda: None,
    seconds: float = 0.2,
    ready: Callable[[], None] = lambda: None,
) -> None:
    """Tend ``children`` and call ``step`` until a signal comes; then stop everything."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    try:
        for child in children:
            child.tend()
        ready()
        while not stop.wait(seconds):
            for child in children:
                child.tend()
            step()
    finally:
        for child in reversed(children):
            if child.process is not None and child.running():
                with contextlib.suppress(ProcessLookupError):
                    child.process.terminate()
        for child in reversed(children):
            child.stop()


def become(command: Sequence[str]) -> None:
    """Turn into ``command``, to be ended by the kernel if the supervisor is killed.

    Linux: prctl PR_SET_PDEATHSIG outlives exec. In a process of its own rather than between fork
    and exec, where a parent with threads may not run code. Elsewhere the gate looks for its parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
        if os.getppid() == 1:
            sys.exit(1)  # the supervisor was gone before we could ask
    os.execvp(command[0], list(command))  # noqa: S606


if __name__ == "__main__":
    become(sys.argv[1:])

"""Keep child processes alive, and take them down with us. The one place that starts Python again.

Both sides need it, and it knows neither: a child that ends is started again after a pause that
grows to ``LONGEST_PAUSE``; on SIGTERM or SIGINT all children are stopped, and killed if they do not. A system
that has no process, descriptor or memory left for a child now is asked again later: nothing ends here.

``start`` may be typed in a folder that somebody else filled: with packages of our names or of our libraries',
with their configuration (numba reads ``.numba_config.yaml`` where it stands, and takes from it where to
unpickle compiled code). So a child looks there for nothing:

    its program     by an absolute path, never by ``PATH``
    its modules     ``-P`` and PYTHONSAFEPATH, for its own children too; of PYTHONPATH only absolute folders
    its folder      ``/``, for what libraries read from the current one; paths of ours are given absolute

*Not* handled: what the user's own environment variables and home folder say.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from privacy.errors import TallystickError
from protos.files import open_private, write_private

log = logging.getLogger("tallystick.supervise")

LONGEST_PAUSE = 10.0
HEALTHY_AFTER = 20.0
STOP_PATIENCE = 8.0
LARGEST_LOG = 8 << 20
"""Bytes of a child's log; then its end is kept beside it, in ``.1``, and it begins anew."""


def python(module: str, *arguments: str) -> list[str]:
    """A command line for a module of ours under this very interpreter. ``-P``: nothing is looked for in the
    current folder, where somebody may have put a ``protos/`` of his own."""
    return [sys.executable, "-P", "-m", module, *arguments]


def beside(name: str) -> Path:
    """The program of that name that was installed with this interpreter."""
    return Path(sys.executable).parent / name


def environment(of: Mapping[str, str]) -> dict[str, str]:
    """``of`` for a child: no relative folder to look for modules in, an empty one among them."""
    kept = {**of, "PYTHONSAFEPATH": "1"}
    folders = [
        each for each in of.get("PYTHONPATH", "").split(os.pathsep) if Path(each).is_absolute()
    ]
    if folders:
        kept["PYTHONPATH"] = os.pathsep.join(folders)
    else:
        kept.pop("PYTHONPATH", None)
    return kept


@dataclass
class Child:
    """One supervised process. ``log``: where its standard error goes. ``secret``: what it finds on its
    standard input each time it is started, of at most a page: no argument, no environment, no file."""

    name: str
    command: Sequence[str]
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    next_start: float = 0.0
    pause: float = 0.2
    started: float = 0.0
    secret: bytes = field(default=b"", repr=False)
    failing: bool = False

    def start(self) -> None:
        """Start it now. Raises OSError if the system has no room for it."""
        with open_private(self.log, append=True) as target:
            self.process = subprocess.Popen(
                [*python("protos.supervise"), *self.command],
                stdin=subprocess.PIPE if self.secret else subprocess.DEVNULL,
                stdout=target,
                stderr=target,
                env=environment({**os.environ, **self.environment}),
                cwd="/",
                start_new_session=True,
            )
        if self.process.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self.process.stdin as pipe:
                pipe.write(self.secret)
        self.starts += 1
        self.started = time.monotonic()

    def running(self) -> bool:
        """Is it alive?"""
        return self.process is not None and self.process.poll() is None

    def _shorten_log(self) -> None:
        """Keep the log's last part beside it and begin anew, under a child that goes on: it appends."""
        with contextlib.suppress(OSError, TallystickError):
            size = self.log.stat(follow_symlinks=False).st_size
            if size <= LARGEST_LOG:
                return
            with open_private(self.log) as file:
                file.seek(-LARGEST_LOG, os.SEEK_END)
                with contextlib.suppress(OSError):  # no room: then there will be
                    write_private(self.log.with_name(f"{self.log.name}.1"), file.read(LARGEST_LOG))
                file.truncate(0)

    def tend(self) -> None:
        """Start it, or start it again once its pause is over."""
        now = time.monotonic()
        self._shorten_log()
        if self.running():
            if now - self.started > HEALTHY_AFTER:
                self.pause = 0.2
            return
        if self.process is not None and self.next_start <= self.started:
            self.next_start = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
        if now >= self.next_start:
            self._try(now)

    def _try(self, now: float) -> None:
        try:
            self.start()
        except (OSError, MemoryError) as error:
            if not self.failing:
                why = getattr(error, "strerror", None) or type(error).__name__
                log.error("%s cannot be started: %s; it is tried again", self.name, why)
            self.failing = True
            self.next_start = now + self.pause
            self.pause = min(2 * self.pause, LONGEST_PAUSE)
        else:
            self.failing = False

    def ask(self) -> None:
        """Ask it to end."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def stop(self) -> None:
        """Ask it to end, then make it."""
        self.ask()
        if self.process is None:
            return
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
            child.ask()
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
    if not Path(command[0]).is_absolute():
        sys.exit("a child's program is named by its whole path")
    os.execv(command[0], list(command))  # noqa: S606


if __name__ == "__main__":
    become(sys.argv[1:])

"""One process at a time: a job has one driver, and one process submits a run and takes it."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator

from protos.files import open_private
from server.home import Home

DRIVING, TAKING = "driving.lock", "taking.lock"


@contextlib.contextmanager
def alone(home: Home, name: str, place: int, patience: float) -> Iterator[None]:
    """Hold one byte of a file in ``state`` while the body runs: no other process holds it, and the kernel
    lets go when this one ends, however it ends. Once for a file and process at a time, as POSIX locks are the
    process's. Raises TimeoutError."""
    with open_private(home.state / name) as file:
        deadline = time.monotonic() + patience
        while True:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process holds {name}") from None
                time.sleep(0.1)
        yield

"""``tallystick-coordinator start``: keeps the link alive, relays matches, works off the jobs.

Every open job gets a ServerApp process. If it dies, or the link does, a new one continues from the
job's last release; a job that keeps dying is failed with a reason.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from protos.supervise import Child, python, run
from server.exchange import Exchange, serve
from server.home import Home
from server.store import JobRow, Store

MOST_STARTS = 25


class Service:
    """The coordinator's supervisor."""

    def __init__(self, home: Home) -> None:
        self.home = home
        home.contract()  # refuse early, with the key path
        self.store = Store(home.database, time.time)
        self.link = Child(
            "link",
            python("server.link", "serve", str(home.root)),
            home.state / "link.log",
        )
        self.worker: Child | None = None
        self.working_on = ""
        self._finished = 0.0

    def parties_of(self, job_id: str) -> tuple[str, ...]:
        """The two parties of an open match; nobody for anything else."""
        current = self.store.next_open()
        if current is None or current.id != job_id:
            return ()
        match = current.job().match
        return match.parties if match else ()

    def step(self) -> None:
        """Start, watch or restart the current job's process."""
        worker, row = self.worker, self.store.next_open()
        if worker is not None:
            if row is None or row.id != self.working_on:
                if worker.running() and self._finished == 0.0:
                    self._finished = time.monotonic()
                if worker.running() and time.monotonic() - self._finished < 5.0:
                    return  # it is saying goodbye to the link
                worker.stop()
                self.worker, self._finished = None, 0.0
            else:
                self._tend(worker, row)
                return
        if row is not None and self.link.running():
            self.working_on = row.id
            self.worker = Child(
                "job",
                python("server.link", "work", str(self.home.root), row.id),
                self.home.state / "jobs.log",
            )
            self.worker.tend()

    def _tend(self, worker: Child, row: JobRow) -> None:
        if not worker.running() and worker.starts >= MOST_STARTS:
            self.store.end(
                row.id, "failed", {}, "its process kept ending; see state/jobs.log and link.log"
            )
            return
        worker.tend()

    def close(self) -> None:
        """Stop the current job's process."""
        if self.worker is not None:
            self.worker.stop()
        self.store.close()


def start(home: Home, ready: Callable[[], None] = lambda: None) -> None:
    """Run until a signal comes. Raises ConfigError or OSError if it cannot start."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    service = Service(home)
    exchange = serve(home, Exchange(service.parties_of))
    try:
        run([service.link], step=service.step, ready=ready)
    finally:
        service.close()
        exchange.stop(0.5).wait(2.0)

"""``tallystick-coordinator start``: keeps the link and the exchange alive, works off the jobs.

Every job that is worked on has a ServerApp process. If it dies, or the link does, a new one continues from
the job's last release; a job that keeps dying is failed with a reason. Jobs over sums go one after the other.
Matches go beside them, at most ``MATCHES`` at once: a match may take a day, and holds nobody up. A match over
a rule with a model waits for the sums that were queued before it, as one of them may make that model.

The supervisor itself listens nowhere: what comes from outside takes none of its descriptors, and if the
system or the store fails it asks again.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import lru_cache

from privacy.errors import TallystickError
from protos import jobs
from protos.certificates import ALARM_DAYS, RENEW_DAYS
from protos.files import check_folder
from protos.matches import MatchJob
from protos.supervise import Child, python, run
from server import setup
from server.home import Home
from server.ports import listen
from server.store import JobRow, Store

log = logging.getLogger("tallystick.service")

MOST_STARTS = 25
MATCHES = 4
"""As many as a partner has places for."""
GOODBYE = 5.0
"""Seconds for a process whose job is over to take leave of the link."""
HOUR = 3600.0


class Service:
    """The coordinator's supervisor."""

    def __init__(self, home: Home) -> None:
        self.home = home
        home.contract()  # refuse early, with the key path
        self.store = Store(home.database, time.time)
        self.link = Child(
            "link", python("server.link", "serve", str(home.root)), home.state / "link.log"
        )
        self.exchange = Child(
            "exchange", python("server.exchange", str(home.root)), home.state / "exchange.log"
        )
        self.workers: dict[str, Child] = {}
        self._over: dict[str, float] = {}
        self._failing = False
        self._next_look = time.monotonic() + HOUR

    def step(self) -> None:
        """Start, watch or restart the processes of the jobs that are worked on now."""
        try:
            self._step()
            self._renew(time.monotonic())
        except (TallystickError, OSError) as error:
            if not self._failing:
                log.error("jobs wait: %s", error)
            self._failing = True
        else:
            self._failing = False

    def _step(self) -> None:
        wanted = {row.id: row for row in chosen(self.store.open_jobs(), self.workers)}
        for job_id in [job_id for job_id in self.workers if job_id not in wanted]:
            self._end(job_id)
        for job_id, row in wanted.items():
            if job_id in self.workers:
                self._tend(self.workers[job_id], row)
            elif self.link.running() and len(self.workers) <= MATCHES:
                worker = self.workers[job_id] = self._worker(job_id)
                worker.tend()

    def _renew(self, now: float) -> None:
        """Every hour: is the server's certificate due? Between jobs while there is time, and then link and
        exchange start again with the new one."""
        if now < self._next_look:
            return
        self._next_look = now + HOUR
        days = ALARM_DAYS if self.workers else RENEW_DAYS
        if setup.renew_server(self.home, datetime.now(UTC), days):
            for child in (self.link, self.exchange):
                child.ask()

    def _worker(self, job_id: str) -> Child:
        command = python("server.link", "work", str(self.home.root), job_id)
        return Child("job", command, self.home.state / "jobs.log")

    def _end(self, job_id: str) -> None:
        """A job is over: its process has a moment to end by itself."""
        worker, now = self.workers[job_id], time.monotonic()
        if worker.running() and now - self._over.setdefault(job_id, now) < GOODBYE:
            return
        worker.stop()
        del self.workers[job_id]
        self._over.pop(job_id, None)

    def _tend(self, worker: Child, row: JobRow) -> None:
        self._over.pop(row.id, None)  # it was resumed while its process took leave
        if not worker.running() and worker.starts >= MOST_STARTS:
            self.store.end(
                row.id, "failed", {}, "its process kept ending; see state/jobs.log and link.log"
            )
            return
        worker.tend()

    def close(self) -> None:
        """Stop all jobs' processes."""
        for worker in self.workers.values():
            worker.ask()
        for worker in self.workers.values():
            worker.stop()
        self.store.close()


def chosen(rows: Sequence[JobRow], worked_on: Collection[str]) -> list[JobRow]:
    """The open jobs, oldest first, to work on now: one over sums, and ``MATCHES`` matches. What is worked on
    already stays."""
    sums: list[JobRow] = []
    matches: list[JobRow] = []
    for row in rows:
        match = _match(row.spec)
        if match is None:
            sums.append(row)
        elif not (sums and _uses_a_model(match)) or row.id in worked_on:
            matches.append(row)
    matches.sort(key=lambda row: row.id not in worked_on)  # stable: then the oldest
    return [*sums[:1], *matches[:MATCHES]]


def _uses_a_model(match: MatchJob) -> bool:
    return any("model:" in rule for rule in match.rules.values())


@lru_cache(1024)
def _match(spec: bytes) -> MatchJob | None:
    """What a match asks for; None for sums, and for what cannot be read: its process fails it."""
    try:
        return jobs.from_canonical(spec).match
    except TallystickError:
        return None


def start(home: Home, ready: Callable[[], None] = lambda: None) -> None:
    """Run until a signal comes. Raises ConfigError or OSError if it cannot start."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    home = Home(home.root.resolve())  # children stand elsewhere
    service = Service(home)
    check_folder(home.keys)
    setup.renew_server(home, datetime.now(UTC))
    config = home.config()
    for host, port in (
        (config.bind, config.link_port),
        (config.bind, config.exchange_port),
        ("127.0.0.1", config.internal_port),
    ):
        listen(host, port).close()  # say now what the children would only write into their logs
    try:
        run([service.link, service.exchange], step=service.step, ready=ready)
    finally:
        service.close()

"""A real alliance on loopback: SuperLink, exchange, gates and nodes as processes, TLS throughout."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from privacy.errors import RoundFailed
from protos import jobs
from protos.supervise import Child, python
from server.cli import submit
from server.store import OPEN_STATES, JobRow, Store
from simulations.alliances import Alliance


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


class Live:
    """Starts ``start`` of the coordinator and of every partner, as people would."""

    def __init__(self, alliance: Alliance, *, stock: bool = False) -> None:
        self.alliance = alliance
        more = ["--stock-supernode"] if stock else []
        home = alliance.coordinator
        self.coordinator = Child(
            "coordinator",
            python("server.cli", "start", "--home", str(home.root)),
            home.state / "start.log",
        )
        self.partners = {
            name: Child(
                name,
                python("client.cli", "start", "--home", str(partner.root), *more),
                partner.state / "start.log",
            )
            for name, partner in alliance.partners.items()
        }
        self.store = Store(home.database, time.time)

    def __enter__(self) -> Self:
        for child in (self.coordinator, *self.partners.values()):
            child.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Stop every process, the partners first."""
        children = [*self.partners.values(), self.coordinator]
        for child in children:
            if child.process is not None and child.running():
                child.process.terminate()
        for child in children:
            child.stop()
        self.store.close()

    def ready(self, patience: float = 60.0) -> None:
        """Wait until every node is connected. Raises RoundFailed with the log to read."""
        deadline = time.monotonic() + patience
        for name, partner in self.alliance.partners.items():
            log = partner.state / "node.log"
            while not (log.exists() and "is connected" in log.read_text(errors="replace")):
                child = self.partners[name]
                if not child.running() or not self.coordinator.running():
                    failed = child if not child.running() else self.coordinator
                    said = failed.log.read_text(errors="replace").strip().splitlines()
                    raise RoundFailed(f"{failed.name} ended: {said[-1] if said else 'no word'}")
                if time.monotonic() > deadline:
                    raise RoundFailed(f"{name} did not connect; see {log}")
                time.sleep(0.1)

    def run(
        self,
        job: jobs.Job,
        patience: float = 300.0,
        watch: Callable[[JobRow], None] = lambda row: None,
    ) -> JobRow:
        """Queue a job and wait for it. Raises RoundFailed if it fails."""
        job_id = submit(self.alliance.coordinator, job).id
        row = self.wait(job_id, patience, watch)
        if row.state != "done":
            raise RoundFailed(f"{job.name} {row.state}: {row.reason}")
        return row

    def wait(
        self,
        job_id: str,
        patience: float = 300.0,
        watch: Callable[[JobRow], None] = lambda row: None,
    ) -> JobRow:
        """The job's row once it is closed, or as it is when patience runs out."""
        deadline = time.monotonic() + patience
        while (row := self.store.job(job_id)).state in OPEN_STATES:
            watch(row)
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)
        watch(row)
        return row


def tree(root: int) -> list[int]:
    """Process ids under ``root``, itself included (Linux)."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(fields[1])
    found, new = {root}, {root}
    while new:
        new = {child for child, parent in parents.items() if parent in new} - found
        found |= new
    return sorted(found)


def memory(root: int) -> float:
    """Proportional set size of a process and all under it, in MB (Linux)."""
    total = 0
    for process in tree(root):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1])
    return total / 1000


def memory_all() -> float:
    """The same for this process and everything it started."""
    return memory(os.getpid())

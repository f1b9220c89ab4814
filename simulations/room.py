"""An alliance in one process: the same programs, gates and rounds, without a network.

Simulated here: the transport and, for matches, the exchange. Everything else is what partners run.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from client.gate import Delivery, Gate
from client.stream import Stream, StreamLost
from privacy.randomness import Randomness
from protos import jobs, wire
from server.display import shown
from server.rounds import Delivered, Rounds, Traffic
from server.tasks.match import MatchDrive
from server.tasks.noisy_sum import Checkpoint, Memory, NoisySumDrive
from simulations.alliances import Alliance

PIPE_TICK, PIPE_PATIENCE = 0.02, 3000
"""Seconds between looks at a pipe; looks before it is given up."""


class _Link:
    """Two bounded queues; ``cut`` ends both ways at once."""

    def __init__(self) -> None:
        self.inboxes: dict[str, queue.Queue[bytes | None]] = {}
        self.cut = threading.Event()


class PairedStream:
    """One end of an in-process pipe."""

    def __init__(self, link: _Link, me: str, peer: str) -> None:
        self._link, self._me, self._peer, self._closed = link, me, peer, False

    def send(self, frame: bytes) -> None:
        self._put(frame)

    def _put(self, frame: bytes | None) -> None:
        for _ in range(PIPE_PATIENCE):
            if self._link.cut.is_set():
                break
            inbox = self._link.inboxes.get(self._peer)
            try:
                if inbox is not None:
                    inbox.put(frame, timeout=PIPE_TICK)
                    return
            except queue.Full:
                continue
            time.sleep(PIPE_TICK)
        raise StreamLost

    def receive(self) -> bytes:
        for _ in range(PIPE_PATIENCE):
            try:
                frame = self._link.inboxes[self._me].get(timeout=PIPE_TICK)
            except queue.Empty:
                if self._link.cut.is_set():
                    break
                continue
            if frame is not None:
                return frame
            break
        raise StreamLost

    def close(self) -> None:
        self._put(None)
        self._closed = True

    def lost(self) -> bool:
        return self._link.cut.is_set()

    def abort(self) -> None:
        if not self._closed:
            self._link.cut.set()


class Pipes:
    """The exchange's stand-in: joins the two ends of each job's streams."""

    def __init__(self) -> None:
        self._links: dict[tuple[str, frozenset[str]], _Link] = {}
        self._lock = threading.Lock()

    def open(self, me: str, job: str, peer: str) -> Stream:
        """An end; whoever comes back cuts the connection there was."""
        key = (job, frozenset((me, peer)))
        with self._lock:
            link = self._links.get(key)
            if link is None or link.cut.is_set() or me in link.inboxes:
                if link is not None:
                    link.cut.set()
                link = self._links[key] = _Link()
            link.inboxes[me] = queue.Queue(maxsize=16)
            return PairedStream(link, me, peer)


@dataclass
class Outcome:
    """A job's result and what it cost."""

    job_id: str
    result: dict[str, Any]
    traffic: Traffic
    seconds: float
    model: dict[str, Any] | None = None


@dataclass
class Room:
    """Gates of an alliance, opened in this process. ``silent``: partners that do not answer."""

    alliance: Alliance
    randomness: Randomness = os.urandom
    clock: Callable[[], float] = time.time
    silent: set[str] = field(default_factory=set)
    gates: dict[str, Gate] = field(default_factory=dict)
    heads: dict[str, wire.Signed] = field(default_factory=dict)
    models: dict[str, tuple[jobs.Job, dict[str, Any]]] = field(default_factory=dict)
    grace: float = 1.0
    patience: float = 120.0

    def __post_init__(self) -> None:
        pipes = Pipes()
        for name, home in self.alliance.partners.items():
            self.gates[name] = Gate(
                home,
                randomness=self.randomness,
                clock=self.clock,
                open_stream=partial(pipes.open, name),
                patience=60.0,
            )
        self._pool = ThreadPoolExecutor(max_workers=max(2, len(self.gates)))

    def __enter__(self) -> Room:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()
        for gate in self.gates.values():
            gate.close()

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        """The transport: calls each gate."""

        def one(name: str) -> Delivered:
            reply = self.gates[name].handle(envelopes[name], Delivery())
            return Delivered(reply, 0, "", 0)

        names = [name for name in envelopes if name not in self.silent]
        return dict(zip(names, self._pool.map(one, names), strict=True))

    def rounds(self, job_id: str) -> Rounds:
        """Rounds of one job over this transport."""
        return Rounds(
            self,
            self.alliance.contract,
            self.alliance.coordinator.identity(),
            job_id,
            randomness=self.randomness,
            clock=self.clock,
            patience=self.patience,
        )

    def run(self, job: jobs.Job, checkpoint: Checkpoint | None = None) -> Outcome:
        """Run one job to its end, as the coordinator would."""
        started = time.monotonic()
        contract = self.alliance.contract
        if job.evaluate:
            job = jobs.with_model(job, *self.models[job.evaluate.model])
        job.check(contract)
        salt = self.randomness(16)
        job_id = jobs.job_id(contract.digest(), job.canonical(), salt)
        rounds = self.rounds(job_id)
        heads = list(self.heads.values())
        model: dict[str, Any] | None = None
        if job.match:
            match = MatchDrive(rounds, job, salt, heads=heads)
            result = match.run()
            signed = match.finish()
        else:
            drive = NoisySumDrive(
                rounds, job, salt, checkpoint or Memory(), heads=heads, grace=self.grace
            )
            result = shown(job, drive.run(), contract.privacy.smallest_cohort)
            model = result.get("model")
            signed = drive.finish(jobs.model_bytes(model))
            if model:
                self.models[job.name.replace("-", "_")] = (job, model)
        self.heads |= {head.party: head for head in signed}
        return Outcome(job_id, result, rounds.traffic, time.monotonic() - started, model)

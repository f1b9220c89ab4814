"""``bench gate``: what a gate adds to the sum itself, and how long its journal takes to check.

A release of propensity over ten categories of a thousand values: a gradient of 10,001 entries over a hundred
people, from the envelope to the signed reply, without the same sum measured beside it. The state that comes
with it is 240 kB, so what is checked, sealed and stored is no small part.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from client.gate import Delivery, Gate
from client.home import Home
from client.journal import Journal, verify
from client.store import Store
from client.summing import exact_sum
from client.table import Snapshot, read
from privacy import accounting
from privacy.errors import RoundFailed
from privacy.noisy_sum import encoding, masks, rounds
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.program import Program, state_digest
from privacy.randomness import stream
from protos import jobs, wire
from protos.toml import build
from simulations.alliances import Alliance, create
from simulations.attacks.letters import Letters
from simulations.attacks.scripts import Step
from simulations.attacks.tables import TARGET
from simulations.bench.report import Row, at_most

NAMES = (TARGET, "shop", "telecom")
CATEGORIES, VALUES, PEOPLE = 10, 1000, 100
RELEASES, ENTRIES = 60, 100_000
GOAL_RELEASE, GOAL_VERIFY = 20.0, 20.0
"""Milliseconds; seconds."""


class TimedStore(Store):
    """A store that notes how long its outermost transactions take."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        self.taken: list[float] = []
        super().__init__(*args, **settings)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """As in a store."""
        outermost, started = self._depth == 0, time.perf_counter()
        try:
            with super().transaction():
                yield
        finally:
            if outermost:
                self.taken.append(time.perf_counter() - started)


@dataclass
class _Times:
    """Seconds of each release, and of its parts."""

    whole: list[float] = field(default_factory=list)
    above: list[float] = field(default_factory=list)
    parts: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, seconds: float) -> None:
        self.parts.setdefault(name, []).append(seconds)


def gate(data: Path | None, quick: bool, peer_python: Path | None = None) -> list[Row]:
    """The table of ``bench gate``."""
    with tempfile.TemporaryDirectory(prefix="tallystick-") as folder:
        alliance = _alliance(Path(folder))
        rows = _release(alliance, 12 if quick else RELEASES)
        return rows + _journal(alliance.partners["telecom"], ENTRIES // 10 if quick else ENTRIES)


def _alliance(root: Path) -> Alliance:
    columns: dict[str, Any] = {
        f"c{n}": {"type": "category", "values": [f"v{i}" for i in range(VALUES)]}
        for n in range(CATEGORIES)
    }
    columns["label"] = {"type": "label"}
    terms = {
        "version": 1,
        "name": "bench",
        "expires": datetime(2100, 1, 1, tzinfo=UTC),
        "privacy": {
            "epsilon": 50.0, "epsilon_per_person": 90.0, "delta": 1e-5, "period_days": 365,
            "smallest_cohort": 50, "colluders": 1, "dropouts": 0, "partners_per_person": 1,
            "rows_per_person": 1,
        },
        "columns": columns,
        "purposes": {"insight": {"kinds": ["propensity"]}},
    }  # fmt: skip
    rng, data = np.random.default_rng(1), {}
    for name in NAMES:
        lines = [",".join(["id", *columns])]
        for person in range(PEOPLE):
            values = [f"v{v}" for v in rng.integers(VALUES, size=CATEGORIES)]
            lines.append(",".join([f"C{person}", *values, str(person % 2)]))
        (root / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        data[name] = {
            "source": str(root / f"{name}.csv"),
            "person": "id",
            "columns": {column: column for column in columns},
        }
    return create(root, NAMES, terms, data)


# ---------------------------------------------------------------------- a release


def _release(alliance: Alliance, releases: int) -> list[Row]:
    job = build(
        jobs.Job,
        {
            "name": "bench", "kind": "propensity", "purpose": "insight", "epsilon": 5.0,
            "propensity": {
                "features": [f"c{n}" for n in range(CATEGORIES)],
                "label": "label",
                "steps": releases + 1,
            },
        },
    )  # fmt: skip
    seed = stream(bytes(32))
    gates = {
        name: Gate(home, randomness=seed, clock=time.time, patience=60.0, store=TimedStore)
        for name, home in alliance.partners.items()
    }
    try:
        letters = Letters(alliance, gates, time.time, b"bench")
        times = _timed(alliance, gates[TARGET], letters, job, releases)
    finally:
        for each in gates.values():
            each.close()
    case = f"{CATEGORIES * VALUES + 1} entries, {PEOPLE} people"
    rows = [
        at_most(case, "above the sum, median", _median(times.above), "ms", GOAL_RELEASE),
        Row(case, "above the sum, p90", _p90(times.above), "ms"),
        Row(case, "release, median", _median(times.whole), "ms"),
        Row(case, "release, p90", _p90(times.whole), "ms"),
    ]
    return rows + [
        Row(case, f"of it {name}", _median(found), "ms") for name, found in times.parts.items()
    ]


def _timed(
    alliance: Alliance, gate: Gate, letters: Letters, job: jobs.Job, releases: int
) -> _Times:
    program, times, rng = job.program(alliance.contract), _Times(), np.random.default_rng(2)
    for number, kind in enumerate(("hello", "prepare")):
        step = Step(number, kind, 1, spec=job.canonical())
        reply = _body(gate.handle(letters.envelope(step), Delivery()))
        letters.note(step, letters.known(1), reply)
    snapshot, _ = read(
        gate.home.source(), alliance.contract.declared_columns(), sorted(job.columns())
    )
    for index in range(releases + 1):
        if index:
            program.absorb(index - 1, rng.normal(0, 1, program.plan()[index - 1].length), 1.0)
        state = program.state().astype("<f8").tobytes()
        step = Step(10 + index, "release", 1, indexes=(index,), state=state)
        envelope = letters.envelope(step)
        if isinstance(gate.store, TimedStore):
            gate.store.taken.clear()
        started = time.perf_counter()
        reply_bytes = gate.handle(envelope, Delivery())
        seconds = time.perf_counter() - started
        if not _body(reply_bytes).HasField("masked"):
            raise RoundFailed(f"the gate did not answer: {_body(reply_bytes).refusal.code}")
        if not index:
            continue  # the first one reads the table
        times.whole.append(seconds)
        times.above.append(seconds - _beside(alliance, program, index, snapshot, times))
        if isinstance(gate.store, TimedStore):
            times.note("transactions", sum(gate.store.taken))
        times.note("envelope and statements", _clock(partial(_parse, alliance, envelope)))
    return times


def _beside(
    alliance: Alliance, program: Program, index: int, snapshot: Snapshot, times: _Times
) -> float:
    """The sum by itself, and what else a release is made of, each by itself."""
    release, roster = program.plan()[index], alliance.contract.roster()
    started = time.perf_counter()
    total = exact_sum(program, index, release, snapshot)
    seconds = time.perf_counter() - started
    variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, roster.honest)
    started = time.perf_counter()
    noise = discrete_gaussian(stream(bytes(31) + b"1"), variance, release.length)
    times.note("noise", time.perf_counter() - started)
    private = bytes(31) + b"2"
    public = masks.public_key(private)
    state = state_digest(program.state())
    started = time.perf_counter()
    rounds.masked(
        total, noise, roster=roster, me=TARGET, keys=rounds.ReleaseKeys(private, private),
        mask_keys=dict.fromkeys(roster.parties, public), transcript=bytes(32), release=index,
        state=state,
    )  # fmt: skip
    times.note("masks", time.perf_counter() - started)
    times.note("the sum", seconds)
    return seconds


def _parse(alliance: Alliance, envelope: bytes) -> None:
    contract = alliance.contract
    request = wire.open_request(envelope, contract.coordinator_identity())
    wire.digest_statements(request.release.prepared)


def _body(reply: bytes) -> wire.ReplyBody:
    return wire.parse(wire.ReplyBody, wire.parse(wire.Reply, reply).body)


def _clock(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _median(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)


def _p90(seconds: list[float]) -> float:
    return 1e3 * float(np.quantile(seconds, 0.9))


# ---------------------------------------------------------------------- the journal


def _journal(home: Home, entries: int) -> list[Row]:
    """A journal of so many entries, written in one transaction."""
    store, key = Store(home.database, home.storage_key(), os.urandom), home.identity()
    try:
        journal = Journal(store, key, time.time)
        with store.transaction():
            for number in range(entries - journal.head()[0]):
                job = hashlib.sha256(number.to_bytes(4, "big")).hexdigest()[:32]
                journal.record("masked", job, job.encode(), "coordinator")
        public = key.public_key().public_bytes_raw()
        seconds = _clock(lambda: verify(store, public))
    finally:
        store.close()
    started = time.perf_counter()
    Gate(home, randomness=os.urandom, clock=time.time).close()
    opened = time.perf_counter() - started
    case = f"journal of {entries:,} entries"
    return [
        at_most(case, "verify", seconds, "s", GOAL_VERIFY),
        Row(case, "a gate opens and closes", opened, "s"),
    ]

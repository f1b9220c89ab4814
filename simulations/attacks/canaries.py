"""A canary among real shares: one person more or less, and all that a coordinator with c partners sees.

The canary is the worst person that a program's bounds allow: at every release its part reaches the clip. The
adversary knows every row but the canary's, runs c of the partners, opens every total, takes off what it knows
(all sums without the canary, and its own partners' noise) and, in training, sends states of its choosing.
What is left of a release is z = present * p + noise, with p, the canary's part at that state, known too. The
Neyman-Pearson test of one Gaussian with known variance against another needs one number of a job,

    T = sum over releases of <z_r, p_r> / s2_r,    s2_r the variance that was accounted for,

whose two distributions lie mu of their deviations apart (Dong, Roth, Su 2022, "Gaussian differential
privacy", section 2). A canary that is a gradient and not a row: Nasr et al. 2021, "Adversary instantiation";
its sign alternates, so that noise used twice falls out of T.

A share is computed by the gate's own code (:class:`client.tasks.noisy_sum.NoisySumTask`) over a table that it
read itself. Not here: the store. Keys lie in memory, nothing is charged or journalled, the same mask keys
serve all runs under transcripts that differ: a run takes milliseconds. Nor dropouts: nobody is gone.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from client import table
from client.context import Context
from client.gate import Gate
from client.snapshots import Rows
from client.tasks.noisy_sum import NoisySumTask
from privacy import accounting
from privacy.noisy_sum import encoding, masks, rounds
from privacy.noisy_sum.encoding import SENSITIVITY, Integers, Ring
from privacy.programs.columns import Floats
from privacy.programs.program import Program, Release, state_digest
from privacy.programs.propensity import LARGEST_WEIGHT, Propensity
from privacy.randomness import Randomness, stream
from protos import wire
from protos.addresses import JobId
from protos.jobs import Job
from simulations.alliances import create
from simulations.attacks.canary_tables import DELTA, DIRECTION, job_of, tables, terms


@dataclass(frozen=True)
class Look:
    """What one run gave. ``statistic``: T; ``information``: sum of |p|^2 / s2; ``noise``: mean square of the
    total's whole noise, in variances that the coordinator states; ``entries``: of how many numbers."""

    statistic: float
    information: float
    noise: float
    entries: int


class Share(NoisySumTask):
    """A gate's half of a release with its keys in memory. ``summed``, ``drawn``: what went into the last
    vector, for those who may know it."""

    def __init__(self, context: Context, job_id: JobId, job: Job, mask: bytes) -> None:
        exact, self.summed, self.drawn = context.parts.exact_sum, np.zeros(0, int), np.zeros(0, int)

        def noted(
            program: Program, index: int, release: Release, snapshot: table.Snapshot
        ) -> Integers:
            self.summed = exact(program, index, release, snapshot)
            return self.summed

        super().__init__(
            replace(context, parts=replace(context.parts, exact_sum=noted)), job_id, job
        )
        self.exact, self.noise_key, self.mask = exact, b"", mask
        self.peers: Mapping[str, bytes] = {}

    def vector(self, index: int, transcript: bytes, state: bytes, rows: Rows) -> Ring:
        """The masked vector, as the gate would send it."""
        digest = state_digest(self._program_state(state))
        sent = wire.parse(wire.MaskedVector, self._masked(index, transcript, digest, rows))
        return encoding.ring_from(sent.vector, self.plan[index].length)

    def part(self, index: int, snapshot: table.Snapshot) -> Integers:
        """The exact sum over other rows, at the state of the last vector."""
        return self.exact(self.program, index, self.plan[index], snapshot)

    def _noise(self, index: int, variance: int, bound_to: bytes) -> Integers:
        self.drawn = super()._noise(index, variance, bound_to)
        return self.drawn

    def _secret(self, name: str) -> bytes:
        return self.noise_key

    def _release_keys(self, index: int) -> rounds.ReleaseKeys:
        return rounds.ReleaseKeys(self.mask, b"")

    def _mask_keys(self, index: int) -> dict[str, bytes]:
        return dict(self.peers)


ShareOf = Callable[[Context, int, JobId, Job, bytes], Share]
"""A party's share; the number is its place in the roster. Tests and planted faults pass in others."""


def sound(context: Context, place: int, job_id: JobId, job: Job, mask: bytes) -> Share:
    """The gate as it is."""
    return Share(context, job_id, job, mask)


class World:
    """One job that can be run with and without the canary, as often as wanted.

    ``kind``: of :data:`JOBS`; ``steps``: of a training; ``customer_of``: at how many honest partners the
    canary is, 1 by the contract; ``seed``: all bytes of all runs.
    """

    def __init__(
        self, kind: str, epsilon: float, folder: Path, *, parties: int = 3, colluders: int = 1,
        steps: int | None = None, seed: int = 1, share: ShareOf = sound, customer_of: int = 1,
    ) -> None:  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.names = [f"partner{i + 1}" for i in range(parties)]
        self.colluders, self.victims = self.names[parties - colluders :], self.names[:customer_of]
        self._draw: Randomness = stream(seed.to_bytes(32, "big"))  # of runs; folders have their own
        alliance = create(
            folder, self.names, terms(colluders), tables(self.names, self.victims, kind, folder)
        )
        self.contract, self.roster = alliance.contract, alliance.contract.roster()
        self.job = job_of(kind, epsilon, steps)
        self.job.check(self.contract)
        self.accounted = accounting.epsilon_of(self._mu(), DELTA)
        self.shares: dict[str, Share] = {}
        self._rows: dict[str, Rows] = {}
        self._canary: dict[str, Rows] = {}
        job_id = JobId("0" * 32)
        with ExitStack() as opened:
            for place, (name, home) in enumerate(alliance.partners.items()):
                gate = Gate(home, randomness=os.urandom, clock=time.time)
                opened.callback(gate.close)
                self.shares[name] = share(gate.context, place, job_id, self.job, self._draw(32))
                self._rows[name] = self._read(gate, folder / f"{name}.csv")
                if name in self.victims:
                    self._canary[name] = self._read(gate, folder / f"{name}-canary.csv")
        self._peers = {name: masks.public_key(held.mask) for name, held in self.shares.items()}
        for held in self.shares.values():
            held.peers = self._peers

    def _mu(self) -> float:
        """What the ledgers would hold of the job: the square root of all that is charged."""
        plan, honest = self.job.program(self.contract).plan(), self.roster.honest
        charged = 0.0
        for release in plan:
            variance = accounting.share_variance(SENSITIVITY, release.mu2, honest)
            charged += accounting.charge_of(SENSITIVITY, variance, honest)
        return float(charged**0.5)

    def _read(self, gate: Gate, path: Path) -> Rows:
        snapshot, _ = gate.parts.read(
            replace(gate.home.source(), location=str(path)), self.contract.declared_columns(),
            sorted(self.job.columns()), rows_per_person=self.contract.privacy.rows_per_person,
        )  # fmt: skip
        return Rows(snapshot, self._draw(32))

    def run(self, *, present: bool) -> Look:
        """The job from first to last release."""
        program, transcript = self.job.program(self.contract), self._draw(32)
        for held in self.shares.values():
            held.noise_key = self._draw(32)
        statistic = information = squares = 0.0
        entries = 0
        plan = program.plan()
        for _, stage in groupby(range(len(plan)), key=lambda i: plan[i].stage):
            indexes = list(stage)
            _steer(program, indexes[0])
            state = program.state()
            for index in indexes:
                release = plan[index]
                total = self._open(index, transcript, state, present)
                seen, part = self._known(index, total, present)
                share = accounting.share_variance(SENSITIVITY, release.mu2, self.roster.honest)
                accounted = float(share * self.roster.honest)
                statistic += float(seen @ part) / accounted
                information += float(part @ part) / accounted
                noise = (total - sum(held.summed for held in self.shares.values())).astype(float)
                squares += float(noise @ noise) / (share * len(self.names))
                entries += release.length
                deviation = (len(self.names) * share) ** 0.5 * release.clip / SENSITIVITY
                natural = encoding.from_ring(encoding.to_ring(total), release.clip)
                program.absorb(index, natural, deviation)
        return Look(statistic, information, squares / entries, entries)

    def _open(self, index: int, transcript: bytes, state: Floats, present: bool) -> Integers:
        """The total of a release as the coordinator opens it, in grid units."""
        packed = state.astype("<f8").tobytes()
        vectors = {}
        for name, held in self.shares.items():
            rows = self._canary[name] if present and name in self._canary else self._rows[name]
            vectors[name] = held.vector(index, transcript, packed, rows)
        total = rounds.unmask(
            vectors, roster=self.roster, mask_keys=self._peers, transcript=transcript,
            release=index, state=state_digest(state),
        )  # fmt: skip
        return total.view(np.int64)

    def _known(self, index: int, total: Integers, present: bool) -> tuple[Floats, Floats]:
        """What is left of a total without all that the adversary knows, and the canary's part in it."""
        left, part = total.copy(), np.zeros(len(total), np.int64)
        for name, held in self.shares.items():
            without = held.summed
            if name in self.victims:
                other = self._rows[name] if present else self._canary[name]
                again = held.part(index, other.snapshot)
                without, with_it = (again, held.summed) if present else (held.summed, again)
                part += with_it - without
            left -= without
            if name in self.colluders:
                left -= held.drawn
        return left.astype(float), part.astype(float)


def _steer(program: Program, index: int) -> None:
    """A coordinator's choice of state: weights at their bound for and against the canary in turn, so that its
    gradient reaches the clip with a sign that alternates. All else stays as the totals made it."""
    if isinstance(program, Propensity) and 0 < index <= program.steps:
        values = program.state()
        sign = 1.0 if index % 2 else -1.0
        values[: len(DIRECTION)] = sign * LARGEST_WEIGHT * DIRECTION
        program.restore(values)

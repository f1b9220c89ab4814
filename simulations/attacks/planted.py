"""Seven faults of a noisy sum, planted: what an audit that finds nothing must be able to find.

Each leaves correct results behind. Six make a canary show more than was accounted for. The seventh, partners
that send no noise, shows the less the more partners there are, and not at all where the silent ones are the
adversary's, whose noise counts for nothing: it is found by the variance that is delivered.

The faults are parts of a gate (:class:`client.context.Parts`) or methods of its task, never copies of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from client.context import Context
from client.table import Snapshot
from privacy.accounting import SMALLEST_SHARE
from privacy.noisy_sum.encoding import SENSITIVITY, Integers
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.program import Program, Release
from privacy.randomness import stream
from protos.addresses import JobId
from protos.jobs import Job
from simulations.attacks.canaries import Share, ShareOf, sound

PARTIES, SILENT = 5, (1, 2)
"""Partners of an alliance with a fault, and the places of the two that send no noise."""
FAR = 1 << 6
"""Clips that a person's sum may have where it is not clipped."""
ExactSum = Callable[[Program, int, Release, Snapshot], Integers]


class _SigmaOverK(Share):
    """Each partner draws sigma/K in place of sigma/sqrt(K - c - d)."""

    def _price(self, release: Release) -> tuple[int, float]:
        variance, charge = super()._price(release)
        parties = len(self.roster.parties)
        small = variance * self.roster.honest // parties**2
        return max(SMALLEST_SHARE**2, small), charge


class _Alone(Share):
    """Each release is given the job's whole mu^2, as if it were the only one."""

    def _price(self, release: Release) -> tuple[int, float]:
        whole = sum(each.mu2 for each in self.plan)
        return super()._price(replace(release, mu2=whole))


class _Reused(Share):
    """The noise's key is of the job, not of the release."""

    def _noise(self, index: int, variance: int, bound_to: bytes) -> Integers:
        self.drawn = discrete_gaussian(stream(self.noise_key), variance, self.plan[index].length)
        return self.drawn


class Silent(Share):
    """No noise."""

    def _noise(self, index: int, variance: int, bound_to: bytes) -> Integers:
        self.drawn = np.zeros(self.plan[index].length, np.int64)
        return self.drawn


def _unclipped(exact: ExactSum) -> ExactSum:
    """Nobody is clipped below 64 clips; the grid is 64 times coarser."""

    def exact_sum(program: Program, index: int, release: Release, rows: Snapshot) -> Integers:
        wide = replace(release, clip=release.clip * FAR)
        total: Integers = exact(program, index, wide, rows) * FAR
        return total

    return exact_sum


def _clipped_as_one(exact: ExactSum) -> ExactSum:
    """Only the partner's sum is clipped, to what so many people are expected to have together."""
    unclipped = _unclipped(exact)

    def exact_sum(program: Program, index: int, release: Release, rows: Snapshot) -> Integers:
        total = unclipped(program, index, release, rows)
        norm = math.sqrt(float(np.square(total.astype(float)).sum()))
        most = SENSITIVITY * math.sqrt(rows.people)
        clipped: Integers = np.trunc(total * min(1.0, most / max(norm, 1.0))).astype(np.int64)
        return clipped

    return exact_sum


def _with(exact: Callable[[ExactSum], ExactSum]) -> ShareOf:
    def share(context: Context, place: int, job_id: JobId, job: Job, mask: bytes) -> Share:
        parts = replace(context.parts, exact_sum=exact(context.parts.exact_sum))
        return Share(replace(context, parts=parts), job_id, job, mask)

    return share


def at(kind: type[Share], places: tuple[int, ...] = tuple(range(PARTIES))) -> ShareOf:
    """A faulty share at some places of the roster, the gate's own at the others."""

    def share(context: Context, place: int, job_id: JobId, job: Job, mask: bytes) -> Share:
        return (kind if place in places else Share)(context, job_id, job, mask)

    return share


@dataclass(frozen=True)
class Planted:
    """A fault. ``customer_of``: at how many partners the canary is, where the contract says one;
    ``by_variance``: it is the delivered variance that shows it."""

    share: ShareOf
    customer_of: int = 1
    by_variance: bool = False


PLANTED: dict[str, Planted] = {
    "noise of sigma/K": Planted(at(_SigmaOverK)),
    "each release as if alone": Planted(at(_Alone)),
    "no clip per person": Planted(_with(_unclipped)),
    "only the partner's sum is clipped": Planted(_with(_clipped_as_one)),
    "one noise key for all releases": Planted(at(_Reused)),
    "a person at two partners": Planted(sound, customer_of=2),
    "two of five send no noise": Planted(at(Silent, SILENT), by_variance=True),
}

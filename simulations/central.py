"""Programs over pooled snapshots, for research: no gates, no masks, no keys.

Simulated: the partners are arrays in this process, and the noise is drawn here. The programs, the
clipping, the quantised exact sums and the sampler are the gate's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from client import people, piles
from client.summing import exact_sum
from client.table import Snapshot
from privacy import accounting
from privacy.noisy_sum import encoding
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.columns import Floats
from privacy.programs.program import Program
from privacy.randomness import Randomness

Noise = Literal["central", "partners", "none"]


def snapshot(rows: dict[str, Floats], keys: Sequence[str]) -> Snapshot:
    """A partner's snapshot from arrays: grouped as a gate does it, folds added."""
    own = [str(key) for key in keys]
    person = people.digests(people.canonical(own, "trimmed"))
    order = people.grouped(person, list(rows.values()), [own], 0).order
    held = {name: np.ascontiguousarray(values[order]) for name, values in rows.items()}
    held["fold"] = people.fold(person[order])
    return Snapshot(person[order], held, piles.picked(own, order))


def run(
    program: Program,
    snapshots: Sequence[Snapshot],
    randomness: Randomness,
    noise: Noise,
    colluders: int = 1,
) -> dict[str, Any]:
    """The program's result.

    ``central``: one draw of the promised variance for each release, whatever the number of partners.
    ``partners``: every partner's own share, sigma^2 / (K - c), as in an alliance without dropouts.
    """
    honest = max(1, len(snapshots) - colluders) if noise == "partners" else 1
    draws = len(snapshots) if noise == "partners" else 1
    for index, release in enumerate(program.plan()):
        total = np.zeros(release.length, dtype=np.int64)
        for each in snapshots:
            total += exact_sum(program, index, release, each)
        deviation = 0.0
        if noise != "none":
            variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, honest)
            for _ in range(draws):
                total += discrete_gaussian(randomness, variance, release.length)
            deviation = (draws * variance) ** 0.5 * release.clip / encoding.SENSITIVITY
        natural = encoding.from_ring(encoding.to_ring(total), release.clip)
        program.absorb(index, natural, deviation)
    return program.result()


def split(rows: dict[str, Floats], keys: Sequence[str], partners: int, seed: int) -> list[Snapshot]:
    """Rows dealt to ``partners`` at random."""
    at = np.random.default_rng(seed).integers(0, partners, len(keys))
    names = np.array(keys)
    return [
        snapshot({n: v[at == i] for n, v in rows.items()}, list(names[at == i]))
        for i in range(partners)
    ]

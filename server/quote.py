"""What a job would cost, before anything runs and without touching data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privacy.matching.size import SizeNoise
from protos.alliance import Contract
from protos.jobs import Job

HEADER_BYTES = 700
"""Signed header, statements and framing of one reply, roughly."""
SETUP_ROUNDS, FINISH_ROUNDS = 2, 1


@dataclass(frozen=True)
class Quote:
    """Epsilon for a customer at one partner and for a person at several; rounds and bytes;
    ``errors``: one standard deviation of each figure, with the noise that will be delivered."""

    epsilon: float
    epsilon_person: float
    mu2: float
    releases: int
    rounds: int
    bytes: int
    errors: dict[str, float]


def quote(job: Job, contract: Contract) -> Quote:
    """The price of a job. Raises ConfigError if the contract does not allow it."""
    job.check(contract)
    mu2 = job.mu2(contract)
    person = contract.per_person(mu2) if mu2 else 0.0
    if job.match and contract.matching:
        noise = SizeNoise.for_mu2(mu2) if mu2 else None
        errors = {"size": noise.deviation * 2.0**0.5} if noise else {}
        smallest = contract.matching.bucket + (noise.dummies if noise else 0)
        return Quote(job.epsilon, person, mu2, 1, 3, 3 * 32 * smallest, errors)
    program = job.program(contract)
    plan, roster = program.plan(), contract.roster()
    stages = len({release.stage for release in plan})
    per_stage = 1 if not roster.dropouts else 2
    parties = len(roster.parties)
    delivered = float(np.sqrt(parties / roster.honest))
    words = sum(release.length for release in plan)
    return Quote(
        job.epsilon,
        person,
        mu2,
        len(plan),
        SETUP_ROUNDS + per_stage * stages + FINISH_ROUNDS,
        parties * (8 * words + 2 * HEADER_BYTES * (stages + 3)),
        {name: error * delivered for name, error in program.expected_error().items()},
    )

"""What a job would cost, before anything runs and without touching data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privacy.errors import ConfigError
from privacy.matching.overlap import dummy_groups
from protos.alliance import Contract
from protos.jobs import Job
from protos.matches import MatchJob

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
    """The price of a job. Raises ConfigError if the contract does not allow it, or if it alone would pass the
    contract's limit: every gate would refuse it, whatever its ledger holds."""
    job.check(contract)
    mu2 = job.mu2(contract)
    if mu2 > contract.mu2_limit() * (1 + 1e-9):
        raise ConfigError("epsilon", "this job alone is above the contract's limit for a period")
    person = contract.per_person(mu2) if mu2 else 0.0
    if job.match and contract.matching:
        return _match(job, job.match, contract, mu2, person)
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


def _match(job: Job, match: MatchJob, contract: Contract, mu2: float, person: float) -> Quote:
    """Bytes are those of the smallest sets, with the padding that is drawn on average; the noise is that of
    both sides."""
    size = match.size_noise(mu2) if mu2 else None
    total = match.sum_noise(contract, mu2) if mu2 else None
    errors = {"size": size.deviation * 2.0**0.5} if size else {}
    if total:
        errors["sum"] = total.deviation * 2.0**0.5
    parties = len(match.parties)
    groups = dummy_groups(parties) if match.result == "overlap" else 1
    bucket = contract.matching.bucket if contract.matching else 0
    padding = match.padding_noise(mu2) if mu2 else None
    smallest = max(1, -(-(padding.bound if padding else 0) // max(1, bucket))) * bucket
    smallest += size.dummies * groups if size else 0
    per_item = 74 if parties == 2 else 42 * parties
    releases = len(match.price(contract, mu2)) if mu2 else 0
    return Quote(job.epsilon, person, mu2, releases, 3, per_item * smallest, errors)

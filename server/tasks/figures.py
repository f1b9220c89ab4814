"""What a match may find: names, noise and bounds of its figures, by contract and price alone.

A receiver's figures are its word. Their names and deviations follow from the job, so anything else is
refused; values must be finite and within what sets of the contract's largest size and noise can give,
whatever the receiver's peers do. Noise is Gaussian and has no bound: 40 deviations are allowed, which no
honest draw reaches (1e-350).

Not handled: a value within the bounds that is false. The size of its own set each party of an overlap tells
the receiver; one that is out of bounds is told with both names.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from privacy.errors import RoundFailed
from privacy.matching import algebra, engine, overlap
from privacy.matching.size import SizeNoise
from protos import wire
from protos.alliance import Contract
from protos.jobs import Job
from protos.matches import MatchJob
from protos.statements import BadStatement

ENGINES = frozenset((*engine.NAMES, "fast"))
FAR = 40.0
"""Deviations of noise that an honest figure stays within."""
CLOSE = 1e-9
"""Relative difference of two deviations that are the same."""


@dataclass(frozen=True)
class Expected:
    """A figure's noise, and what its value lies between."""

    deviation: float
    low: float
    high: float


def read_engine(reply: wire.MatchReply) -> str:
    """The engine that was used, one that exists. Raises BadStatement."""
    if reply.engine not in ENGINES:
        raise BadStatement("match: names an engine that does not exist")
    return reply.engine


def read_figures(job: Job, contract: Contract, reply: wire.MatchReply) -> dict[str, dict[str, Any]]:
    """Exactly the figures that the job has, each within its bounds. Raises BadStatement.

    A size below zero is noise; a sum may be below zero.
    """
    wanted = expected(job, contract)
    first, *others = job.participants(contract)
    heard = {f"size {name}" for name in others}
    given = {figure.name: figure for figure in reply.figures}
    if len(reply.figures) != len(wanted) or set(given) != set(wanted):
        raise BadStatement("match: has other figures than were asked for")
    values: dict[str, dict[str, Any]] = {}
    for name, bounds in wanted.items():
        figure = given[name]
        if not math.isclose(figure.deviation, bounds.deviation, rel_tol=CLOSE):
            raise BadStatement("match: a figure has other noise than the job pays for")
        if not bounds.low <= figure.value <= bounds.high:  # nor for what is not a number
            if name in heard:
                raise RoundFailed(f"the {name}, as {first} was told it, is out of bounds")
            raise BadStatement("match: a figure is out of bounds")
        value = figure.value if name == "sum" else max(0.0, figure.value)
        values[name] = {"value": value, "deviation": figure.deviation}
    return values


def expected(job: Job, contract: Contract) -> dict[str, Expected]:
    """By name, as :mod:`client.tasks.matching` and :mod:`client.tasks.rings` make them."""
    spec, matching, mu2 = job.match, contract.matching, job.mu2(contract)
    if spec is None or matching is None or not spec.is_noisy:
        return {}
    size = spec.size_noise(mu2)
    if size is None:
        raise RoundFailed("a noisy match without noise")
    padding = spec.padding_noise(mu2)
    groups = overlap.dummy_groups(len(spec.parties)) if spec.is_ring else 1
    most = float(matching.largest_set + matching.bucket + (padding.most if padding else 0))
    most += size.dummies * groups
    both = size.deviation * 2.0**0.5
    count = _bounds(size, both, most)
    if spec.result == "overlap":
        return _overlap(spec, size, count, float(matching.largest_set))
    found = {"size": count}
    total = spec.sum_noise(contract, mu2)
    if total is not None:
        deviation = total.deviation * 2.0**0.5
        reach = (most + size.dummies) * total.largest + 2 * FAR * deviation
        found["sum"] = Expected(deviation, -reach, reach)
    return found


def _bounds(size: SizeNoise, deviation: float, most: float) -> Expected:
    reach = size.dummies + FAR * deviation
    return Expected(deviation, -reach, most + reach)


def _overlap(
    spec: MatchJob, size: SizeNoise, count: Expected, largest: float
) -> dict[str, Expected]:
    names = spec.parties
    cells = overlap.cells(len(names))
    own = _bounds(size, size.deviation, largest)
    found = {" & ".join(names[i] for i in cell): count for cell in cells}
    found |= {f"size {name}": own for name in names}
    if spec.audience is None:
        return found
    audience = algebra.parse(spec.audience)

    def inside(cell: overlap.Cell) -> int:
        return int(audience.select({n: np.array([i in cell]) for i, n in enumerate(names)})[0])

    alone = [inside((i,)) for i in range(len(names))]
    weights = [inside(cell) - sum(alone[i] for i in cell) for cell in cells]
    variance = sum(a**2 for a in alone) + 2 * sum(w**2 for w in weights)
    far = max(own.high, count.high, -own.low, -count.low)
    reach = far * (sum(alone) + sum(map(abs, weights)))
    found["audience"] = Expected(size.deviation * variance**0.5, -reach, reach)
    return found

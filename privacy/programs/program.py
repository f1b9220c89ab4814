"""What a program over noisy sums is.

The same object runs at a partner (``restore``, ``contribution``) and at the coordinator (``plan``,
``absorb``, ``state``, ``result``). It sees no network and no files. The gate, not the program,
clips, quantises and sums.

Programs are total. ``restore`` bounds every number of a state by what ``absorb`` can produce; for any
state that it accepts and any rows, ``contribution`` returns its shape without an error or a warning,
and finite values for rows within the contract's bounds. Once a release is charged, nothing that follows
can fail by what a row holds. ``absorb`` keeps to the same bounds for any total, so that a state that
one side made is one that the other accepts.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from privacy.errors import ParameterError
from privacy.noisy_sum.encoding import LARGEST_CLIP, SMALLEST_CLIP
from privacy.programs.columns import Floats, Rows

LONGEST = 1 << 20
"""Longest vector of one release."""
MOST_RELEASES = 1000
LARGEST_FIGURE = 1e15
"""No count of people in a state is above this: a total of 64 bits is under 2^45 clips."""


@dataclass(frozen=True)
class Release:
    """One noisy sum, stated before anything runs.

    ``stage``: releases of one stage do not depend on each other and travel together.
    ``clip``: L2 bound on one person's contribution, in the program's units.
    ``mu2``: the release's share of the job's mu^2.
    """

    name: str
    stage: int
    length: int
    clip: float
    mu2: float

    def __post_init__(self) -> None:
        if not 1 <= self.length <= LONGEST:
            raise ParameterError(f"release {self.name}: length out of range")
        if not SMALLEST_CLIP <= self.clip <= LARGEST_CLIP:
            raise ParameterError(f"release {self.name}: clip must lie between 1e-100 and 1e100")
        if not 0.0 < self.mu2 < np.inf:
            raise ParameterError(f"release {self.name}: mu^2 must be finite and positive")


class Program(Protocol):
    """A program over noisy sums; see the module's docstring."""

    def plan(self) -> Sequence[Release]:
        """Every release in order of stage. Depends on public parameters only."""

    def contribution(self, index: int, rows: Rows) -> Floats:
        """One vector per row for release ``index``, (n, length), row by row independent."""

    def absorb(self, index: int, total: Floats, deviation: float) -> None:
        """Take the noisy total (length,); ``deviation``: of the delivered noise, per entry."""

    def state(self) -> Floats:
        """Public state (m,), finite; what the next contributions depend on."""

    def restore(self, state: Floats) -> None:
        """Take a public state. Raises ParameterError for a wrong shape, a value that is not finite or
        one that :meth:`absorb` could not have made."""

    def result(self) -> dict[str, Any]:
        """What was found, as plain JSON values."""

    def expected_error(self) -> dict[str, float]:
        """What noise alone does to each figure: one standard deviation, in the figure's units,
        for sigma_r = clip / sqrt(mu2); the caller scales it to the noise delivered."""


def plan_digest(plan: Sequence[Release]) -> bytes:
    """SHA-256 of a plan: what partners sign and both sides must agree on, bit for bit."""
    digest = hashlib.sha256(b"tallystick/v1/plan")
    for release in plan:
        name = release.name.encode()
        digest.update(len(name).to_bytes(2, "big") + name)
        digest.update(
            struct.pack(">IIdd", release.stage, release.length, release.clip, release.mu2)
        )
    return digest.digest()


def check_plan(plan: Sequence[Release], mu2: float) -> None:
    """Stages never fall, and the shares add up to at most ``mu2``; else ParameterError."""
    if not 1 <= len(plan) <= MOST_RELEASES:
        raise ParameterError("a plan has between 1 and 1000 releases")
    stages = [release.stage for release in plan]
    if stages != sorted(stages) or len({release.name for release in plan}) != len(plan):
        raise ParameterError("stages must not fall and names must differ")
    if sum(release.mu2 for release in plan) > mu2 * (1 + 1e-9):
        raise ParameterError("the plan's shares exceed the job's mu^2")


def finite_state(state: Floats, length: int) -> Floats:
    """``state`` if it is (length,) and finite, else ParameterError."""
    if state.shape != (length,) or not bool(np.isfinite(state).all()):
        raise ParameterError("program state has a wrong shape or is not finite")
    return np.array(state, dtype=np.float64)


def check_within(values: Floats | float, low: float, high: float, what: str) -> None:
    """Raises ParameterError, naming ``what``, unless all values lie in [low, high]."""
    found = np.asarray(values)
    if not bool(((found >= low) & (found <= high)).all()):
        raise ParameterError(f"program state: {what} out of range")


def state_digest(state: Floats) -> bytes:
    """SHA-256 of a state's little-endian bytes; pins a release to one state."""
    return hashlib.sha256(b"tallystick/v1/state" + state.astype("<f8").tobytes()).digest()

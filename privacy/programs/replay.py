"""A model is accepted only with the totals that it was made from.

A partner that is handed a model runs the job again: from a fresh program, stage by stage, the state must
be the one that its gate saw and answered, and the noisy totals must lead to the next. What comes out at
the end is what the model has to be. So a coordinator cannot hand out a model that no noisy sum made: one
whose weights carry something else, or the noise-free one of a single partner's rows.

Held by this: the model is a function of the totals. Not held: that the totals are those of the release.
A gate cannot tell a total that the coordinator invented between its last answer and the next state; it
can tell that all partners were given the same (:func:`outcome_digest`, which they compare).

States are compared within a tolerance, since numbers differ in their last bits between processors, and
replay goes on from the state that the gate saw, so differences do not add up. A start of segments is a
choice among several; where two are alike to the last bits another processor may take the other, and the
model is refused.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from privacy.errors import ParameterError, ProtocolError
from privacy.programs.columns import Floats
from privacy.programs.program import LONGEST, Program

TOLERANCE = 1e-6
LARGEST_TOTAL = 2.0**45
"""In clips: a total is a residue of 64 bits in units of clip / 2^18."""
MOST_VALUES, DEEPEST = 1 << 20, 8

Totals = Mapping[int, tuple[Floats, float]]
"""By release: the total, (length,), in the release's units, and the noise's deviation per entry."""


def replay(
    program: Program, states: Mapping[int, Floats], totals: Totals, tolerance: float = TOLERANCE
) -> dict[str, Any]:
    """The result that ``totals`` lead to. ``program`` is fresh; ``states``: by stage, as this gate saw them.

    |a - b| <= tolerance * (1 + |b|) counts as equal. Raises ProtocolError if a stage or a release is
    missing or too many, a total is not finite or of another length, or a state is not the one that the
    totals before it make.
    """
    plan = program.plan()
    stages = sorted({release.stage for release in plan})
    if sorted(states) != stages or sorted(totals) != list(range(len(plan))):
        raise ProtocolError("replay: a stage or a release is missing, or too many")
    for stage in stages:
        seen = np.asarray(states[stage], dtype=np.float64)
        if not _close(program.state(), seen, tolerance):
            raise ProtocolError(f"replay: the state of stage {stage} does not follow")
        try:
            program.restore(seen)
        except ParameterError:
            raise ProtocolError(f"replay: the state of stage {stage} is out of range") from None
        for index, release in enumerate(plan):
            if release.stage != stage:
                continue
            total, deviation = totals[index]
            found = np.array(total, dtype=np.float64)
            # written so that what is not a number is refused
            if found.shape != (release.length,) or not bool(
                (np.abs(found) <= LARGEST_TOTAL * release.clip).all()
            ):
                raise ProtocolError(f"replay: the total of release {index} is malformed")
            if not 0.0 <= deviation <= LARGEST_TOTAL * release.clip:
                raise ProtocolError(f"replay: the deviation of release {index} is malformed")
            program.absorb(index, found, float(deviation))
    return program.result()


def _close(ours: Floats, seen: Floats, tolerance: float) -> bool:
    if ours.shape != seen.shape or seen.size > LONGEST or not bool(np.isfinite(seen).all()):
        return False
    return bool((np.abs(ours - seen) <= tolerance * (1.0 + np.abs(seen))).all())


def same_model(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> bool:
    """Whether two plain models are the same: the same keys and lengths, equal texts, finite numbers
    within |a - b| <= tolerance * (1 + |b|), and nothing more."""
    return _same(ours, theirs, tolerance, [MOST_VALUES], 0)


def _same(ours: Any, theirs: Any, tolerance: float, left: list[int], depth: int) -> bool:
    left[0] -= 1
    if left[0] < 0 or depth > DEEPEST:
        return False
    if isinstance(ours, dict):
        if not isinstance(theirs, dict) or set(ours) != set(theirs):
            return False
        return all(_same(ours[k], theirs[k], tolerance, left, depth + 1) for k in ours)
    if isinstance(ours, (list, tuple)):
        if not isinstance(theirs, (list, tuple)) or len(ours) != len(theirs):
            return False
        pairs = zip(ours, theirs, strict=True)
        return all(_same(a, b, tolerance, left, depth + 1) for a, b in pairs)
    if isinstance(ours, (str, bool)) or ours is None:
        return type(ours) is type(theirs) and bool(ours == theirs)
    if type(ours) not in (int, float) or type(theirs) not in (int, float):
        return False
    try:
        a, b = float(ours), float(theirs)
    except OverflowError:
        return False
    finite = math.isfinite(a) and math.isfinite(b)
    return finite and abs(a - b) <= tolerance * (1.0 + abs(b))


def outcome_digest(states: Mapping[int, Floats], totals: Totals, model_bytes: bytes) -> bytes:
    """SHA-256 of everything that a model was made from: what partners compare.

    Every part is preceded by its kind, number and length in bytes; numbers are little-endian doubles.
    Raises ParameterError if a part is longer than a release may be.
    """
    digest = hashlib.sha256(b"tallystick/v1/outcome")

    def add(kind: bytes, number: int, data: bytes) -> None:
        if not 0 <= number < 1 << 32 or len(data) > 8 * LONGEST + 8:
            raise ParameterError("outcome: a part is too long")
        digest.update(kind + struct.pack(">IQ", number, len(data)) + data)

    for stage in sorted(states):
        add(b"s", stage, np.asarray(states[stage]).astype("<f8").tobytes())
    for index in sorted(totals):
        total, deviation = totals[index]
        add(b"t", index, np.asarray(total).astype("<f8").tobytes() + struct.pack("<d", deviation))
    add(b"m", 0, model_bytes)
    return digest.digest()

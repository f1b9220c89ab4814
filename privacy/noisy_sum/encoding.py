"""Fixed-point encoding: clip and round each person towards zero, add exactly.

Rounding towards zero per person means that neither the L2 nor the L-infinity sensitivity grows,
and that the noiseless total is the same integer however rows are split over partners.

Everything here is total: whatever a person's values are, :func:`quantise` gives integers within the
norm and says nothing else, since an error that one person can cause is an answer about that person.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError

SENSITIVITY = 1 << 18
"""The clipping norm of every release, in grid units."""
SMALLEST_CLIP, LARGEST_CLIP = 1e-100, 1e100
"""Within these 2^18 / clip and every square below neither overflow nor vanish."""
_FAR = 1e200
"""Beyond any clip: a row whose peak is above this is first brought down to it, in its own direction."""

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Ring = NDArray[np.uint64]


def quantise(block: Floats, clip: float) -> Integers:
    """Clip each row of ``block`` (n, d), one person each, to L2 norm ``clip``; round towards zero.

    Returns (n, d) integers in units of clip / 2^18 whose integer norm is checked to be at most 2^18.
    A person with a value that is not finite becomes all zeros. Raises ParameterError only for a clip
    outside [1e-100, 1e100], which is public.
    """
    if not SMALLEST_CLIP <= clip <= LARGEST_CLIP:
        raise ParameterError("clipping norm must lie between 1e-100 and 1e100")
    with np.errstate(all="ignore"):
        rows = np.ascontiguousarray(block, dtype=np.float64)
        peak = np.max(np.abs(rows), axis=1, initial=0.0)  # not a number if any value is not
        lost = ~np.isfinite(peak)
        peak = np.maximum(peak, np.finfo(np.float64).tiny)
        near = np.minimum(peak, _FAR)
        unit = rows / peak[:, None]  # so that squaring neither overflows nor underflows
        norm = near * np.sqrt(np.add.reduce(unit * unit, axis=1))
        factor = SENSITIVITY / np.maximum(norm, clip) * (near / peak)
        scaled = np.trunc(rows * factor[:, None])
        scaled[lost] = 0.0
        grid = scaled.astype(np.int64)
    bound = SENSITIVITY * SENSITIVITY
    # The floating-point norm may be off by a few ulp; the integer norm is the promise.
    # No coordinate exceeds 2^18 by more than that, so squares fit 64 bits up to 2^26 columns.
    while True:
        over = np.add.reduce(grid * grid, axis=1) > bound
        if not bool(over.any()):
            result: Integers = grid
            return result
        grid[over] -= np.sign(grid[over])


def add(blocks: Integers) -> Integers:
    """Exact column sums of quantised rows, (n, d) -> (d,)."""
    total: Integers = np.add.reduce(blocks, axis=0, dtype=np.int64)
    return total


def check_range(people: int, total_deviation: float) -> None:
    """Refuse a release that could wrap: people * L-inf + 12 deviations must stay below 2^63."""
    if people * SENSITIVITY + 12.0 * total_deviation >= 2.0**63:
        raise ParameterError("too many people or too much noise for a 64-bit sum")


def to_ring(values: Integers) -> Ring:
    """Two's complement: the residue modulo 2^64."""
    return values.astype(np.int64).view(np.uint64)


def from_ring(total: Ring, clip: float) -> Floats:
    """The centred residue, in natural units."""
    return total.view(np.int64).astype(np.float64) * (clip / SENSITIVITY)


def ring_bytes(values: Ring) -> bytes:
    """Little-endian bytes of a ring vector."""
    return values.astype("<u8").tobytes()


def ring_from(data: bytes, length: int) -> Ring:
    """Parse a ring vector of known length. Raises ParameterError if the size differs."""
    if len(data) != 8 * length:
        raise ParameterError("vector has the wrong length")
    return np.frombuffer(data, dtype="<u8").astype(np.uint64)

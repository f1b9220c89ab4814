"""The gate's own arithmetic: clipped, quantised, exact sums over people.

Not handled here: noise and masks (:mod:`client.tasks.noisy_sum`), and what a person is (:mod:`client.table`).
"""

from __future__ import annotations

import numpy as np

from client.table import Snapshot
from privacy.errors import ParameterError
from privacy.noisy_sum import encoding
from privacy.programs.program import Program, Release

BLOCK_VALUES = 1 << 21
"""Numbers in one block of contributions: 16 MiB."""


def exact_sum(
    program: Program, index: int, release: Release, snapshot: Snapshot
) -> encoding.Integers:
    """One release over a snapshot, (length,) in grid units.

    Rows of one person are added before clipping; what is not finite counts as zero for that person.
    """
    total = np.zeros(release.length, dtype=np.int64)
    starts = snapshot.starts()
    people = len(starts) - 1
    step = max(64, BLOCK_VALUES // release.length)
    for first in range(0, people, step):
        last = min(people, first + step)
        low, high = starts[first], starts[last]
        rows = {name: values[low:high] for name, values in snapshot.rows.items()}
        with np.errstate(all="ignore"):  # a warning must not tell anybody anything
            block = program.contribution(index, rows)
            if block.shape != (high - low, release.length):
                raise ParameterError("the program's contribution has a wrong shape")
            if high - low != last - first:
                block = np.add.reduceat(block, starts[first:last] - low, axis=0)
            total += encoding.add(encoding.quantise(block, release.clip))
    return total

"""The gate's own arithmetic: clipped, quantised, exact sums over people.

Not handled here: noise and masks (:mod:`client.tasks.noisy_sum`), and what a person is (:mod:`client.table`).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from client import people
from client.table import Snapshot
from privacy.errors import ParameterError
from privacy.noisy_sum import encoding
from privacy.programs.columns import Category, Columns, Label
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


def made_up(columns: Columns, names: Iterable[str]) -> Snapshot:
    """Rows that the contract alone makes: every column at its ends and between, (8,) each.

    A sum over them before anything is charged shows whether a program can run at all: what would fail for
    everybody must not first fail over rows, where an empty table would be told from another.
    """
    person = people.digests([str(i) for i in range(8)])
    rows = {"fold": people.fold(person)}
    for name in names:
        column = columns[name]
        if isinstance(column, Category):
            rows[name] = np.arange(8.0) % len(column.values)
        elif isinstance(column, Label):
            rows[name] = np.arange(8.0) % 2
        else:
            rows[name] = np.linspace(column.low, column.high, 8)
    return Snapshot(person, rows)

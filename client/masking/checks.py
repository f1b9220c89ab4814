"""Quality and duplicates of a whole table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from client.masking.outputs import created
from client.masking.policy import Policy
from client.masking.run import Progress
from client.masking.tables import Table, column_errors
from privacy.identifiers.text import put
from privacy.masking import duplicates
from privacy.masking import quality as measured

SAMPLE = 200_000
"""Rows from which quartiles come."""


def quality(
    table: Table, policy: Policy, now: datetime, progress: Progress
) -> list[measured.Finding]:
    """All figures of a table. ``now`` in UTC, without a zone. Raises DataError, ConfigError."""
    with column_errors(table):
        return _quality(table, policy, now, progress)


def _quality(
    table: Table, policy: Policy, now: datetime, progress: Progress
) -> list[measured.Finding]:
    kinds = {name: rule.kind for name, rule in policy.columns.items()}
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    fences = {}
    if numbers:
        sample = table.sample(SAMPLE, numbers)
        found = {name: measured.fences(sample[name]) for name in numbers}
        fences = {name: limits for name, limits in found.items() if limits is not None}
    report = measured.Report(kinds, policy.quality.times, fences, policy.region)
    for block in table.blocks(list(kinds)):
        report.add(block)
        progress(len(block))
    rate = None
    if policy.duplicates is not None:
        rate = duplicates.rate(duplicates.groups(_needed(table, policy), policy.duplicate_rule()))
    return report.findings(now, rate)


@dataclass(frozen=True)
class Deduped:
    """``before``, ``after``: shares of repeated rows. ``uncompared``: rows whose names were not compared,
    because too many agree on ``within``."""

    before: float
    after: float
    rows: int
    uncompared: int


def dedupe(
    table: Table, policy: Policy, out: Path, progress: Progress, *, inputs: Sequence[Path] = (),
    as_is: bool = True,
) -> Deduped:  # fmt: skip
    """Write the table with one row for each person, in order of first appearance: it is masked and matched
    next, so its cells stay as they are unless it is for people (not ``as_is``). In memory are the columns
    that tell a person, and the rows that repeat one. Raises DataError, ConfigError."""
    rule = policy.duplicate_rule()
    newest = policy.duplicates.newest if policy.duplicates else None
    with column_errors(table):
        needed = _needed(table, policy)
        found = duplicates.groups(needed, rule)
        first = found == np.arange(len(found))
        several = np.bincount(found, minlength=len(found))[found] > 1
        people = [needed.filter(pl.Series(first & ~several))]
        rows = pl.concat(list(_where(table, several)))
        merged = duplicates.merged(rows, found[several], newest)
        with created(out, table.path, None, inputs=inputs, as_is=as_is) as writer:
            for block in _replaced(table, first, several, merged):
                writer.write(block)
                progress(len(block))
        people.append(merged.select(needed.columns))
        after = duplicates.rate(duplicates.groups(pl.concat(people), rule))
    return Deduped(
        duplicates.rate(found), after, int(first.sum()), duplicates.uncompared(needed, rule)
    )


def _where(table: Table, chosen: NDArray[np.bool_]) -> Iterator[pl.DataFrame]:
    start = 0
    for block in table.blocks():
        yield block.filter(pl.Series(chosen[start : start + len(block)]))
        start += len(block)


def _replaced(
    table: Table, first: NDArray[np.bool_], several: NDArray[np.bool_], merged: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """The first row of each person; of those who have several, the merged one, in order."""
    start = used = 0
    for block in table.blocks():
        here = slice(start, start + len(block))
        kept = block.filter(pl.Series(first[here]))
        places = pl.Series(np.flatnonzero(several[here][first[here]]))
        ours = merged.slice(used, len(places))
        start, used = start + len(block), used + len(places)
        yield pl.DataFrame([put(kept[name], places, ours[name]) for name in kept.columns])


def _needed(table: Table, policy: Policy) -> pl.DataFrame:
    """Only the columns that tell a person, to hold less in memory."""
    rule = policy.duplicate_rule()
    names = [*rule.keys, *rule.within, *([rule.name] if rule.name else [])]
    return pl.concat(list(table.blocks(list(dict.fromkeys(names)))))

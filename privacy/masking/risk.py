"""How far a table singles people out: k-anonymity, l-diversity, uniqueness.

k-anonymity (Samarati, Sweeney 1998): the size of the smallest group of rows that agree on every
quasi-identifier. l-diversity (Machanavajjhala et al. 2007, distinct l-diversity): the least number of
different sensitive values in a group. Uniqueness: the share of rows that are alone in their group.
A release is refused under a threshold; these are no guarantee against who knows more than the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl


@dataclass(frozen=True)
class Risk:
    """``k``: smallest group; ``unique``: share of rows alone; ``under``: share of rows in groups below
    the threshold; ``diversity``: least different values for each sensitive column."""

    rows: int
    groups: int
    k: int
    unique: float
    under: float
    diversity: dict[str, int] = field(default_factory=dict)


def measure(
    table: pl.LazyFrame, quasi: Sequence[str], sensitive: Sequence[str], threshold: int
) -> Risk:
    """Groups by ``quasi``; streamed, so that memory follows the number of groups."""
    if not quasi:
        rows = int(table.select(pl.len()).collect(engine="streaming").item())
        counts = table.select(*(pl.col(n).n_unique() for n in sensitive)) if sensitive else None
        least = counts.collect(engine="streaming").row(0) if counts is not None else ()
        return Risk(rows, min(rows, 1), rows, float(rows == 1), float(0 < rows < threshold),
                    dict(zip(sensitive, map(int, least), strict=True)))  # fmt: skip
    groups = table.group_by(*quasi).agg(
        pl.len().alias("len"), *(pl.col(n).n_unique().alias(f"l/{n}") for n in sensitive)
    )
    found = groups.select(
        pl.col("len").sum().alias("rows"),
        pl.len().alias("groups"),
        pl.col("len").min().alias("k"),
        (pl.col("len") == 1).sum().alias("alone"),
        pl.col("len").filter(pl.col("len") < threshold).sum().alias("under"),
        *(pl.col(f"l/{n}").min() for n in sensitive),
    ).collect(engine="streaming").row(0, named=True)  # fmt: skip
    rows = int(found["rows"] or 0)
    return Risk(
        rows,
        int(found["groups"]),
        int(found["k"] or 0),
        (found["alone"] or 0) / max(1, rows),
        (found["under"] or 0) / max(1, rows),
        {n: int(found[f"l/{n}"] or 0) for n in sensitive},
    )


def nearly_unique(table: pl.LazyFrame, columns: Sequence[str]) -> list[str]:
    """Columns in which more than half of the values stand alone: whatever they are called, each points at
    a row."""
    if not columns:
        return []
    shares = table.select(
        pl.len().alias("rows"), *(pl.col(name).is_unique().sum().alias(f"u/{name}") for name in columns)
    ).collect(engine="streaming").row(0, named=True)  # fmt: skip
    return [name for name in columns if shares[f"u/{name}"] * 2 > shares["rows"] > 1]


def culprits(
    table: pl.LazyFrame, quasi: Sequence[str], threshold: int, now: Risk
) -> list[tuple[str, float]]:
    """Each quasi-identifier with the share of rows that dropping it would bring over the threshold,
    the greatest first."""
    found = []
    for name in quasi:
        without = measure(table, [n for n in quasi if n != name], (), threshold)
        found.append((name, now.under - without.under))
    return sorted(found, key=lambda pair: -pair[1])

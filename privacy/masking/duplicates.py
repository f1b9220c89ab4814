"""Rows of one person: found by equal identifiers and by names that are nearly equal, then merged.

An equal ID card number joins two rows. An equal phone number or e-mail address joins them where the
names agree too, or one has none: families share telephones. Nearly equal names join rows that agree
on everything in ``within`` (a birth date, say). Joined rows are one person, transitively.
Similarity is Jaro-Winkler's (Winkler 1990), of normalised names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.identifiers import HOME_REGION, person_name
from privacy.masking.kinds import kind as kind_of

LARGEST_BLOCK = 200
"""Rows that share a value beyond this share a placeholder, not a person: such a value joins nobody."""
AGREES = 0.75
"""Names this similar do not contradict an equal telephone number."""

Groups = NDArray[np.int64]


@dataclass(frozen=True)
class Rule:
    """``keys``: columns by kind that join where equal; ``name``: the column of names, if any;
    ``within``: columns that must be equal for nearly equal names to join; ``similarity``: how nearly."""

    keys: Mapping[str, str]
    name: str | None = None
    within: tuple[str, ...] = ()
    similarity: float = 0.92
    region: str = HOME_REGION


def groups(table: pl.DataFrame, rule: Rule) -> Groups:
    """For each row the first row of its person, (n,)."""
    names = person_name.normalise(table[rule.name].cast(pl.String)).to_list() if rule.name else None
    parts = [np.empty((0, 2), np.int64)]
    for column, kind in rule.keys.items():
        canonical = kind_of(kind).canonical(table[column], rule.region)
        pairs = _equal(canonical)
        if kind != "id_card" and names is not None:
            pairs = _agreeing(pairs, names, AGREES, _one_name(canonical, names))
        parts.append(pairs)
    if names is not None and rule.within:
        block = table.select(pl.concat_str(*(pl.col(n).cast(pl.String) for n in rule.within),
                                           separator="\x1f"))  # fmt: skip
        pairs = _equal(block.to_series(), every=True)
        parts.append(_agreeing(pairs, names, rule.similarity, np.zeros(len(table), np.bool_)))
    return _joined(len(table), np.concatenate(parts))


def _equal(values: pl.Series, *, every: bool = False) -> NDArray[np.int64]:
    """Pairs of rows with one value, null aside: each with the next, or ``every`` one with each other."""
    frame = pl.DataFrame({"value": values, "row": np.arange(len(values))}).drop_nulls()
    frame = frame.filter(pl.len().over("value").is_between(2, LARGEST_BLOCK)).sort("value", "row")
    code = frame["value"].rank("dense").to_numpy()
    row = frame["row"].to_numpy()
    pairs, distance = [np.empty((0, 2), np.int64)], 1
    while True:
        same = code[distance:] == code[:-distance]
        if not same.any():
            break
        pairs.append(np.stack([row[:-distance][same], row[distance:][same]], axis=1))
        if (
            not every and distance >= 8
        ):  # a chain joins them all; more partners only help past bad names
            break
        distance += 1
    return np.concatenate(pairs)


def _one_name(values: pl.Series, names: Sequence[str | None]) -> NDArray[np.bool_]:
    """For each row: do all rows with its value that have a name have the same one? Only then does a
    row without a name join them."""
    frame = pl.DataFrame({"value": values, "name": pl.Series(names, dtype=pl.String)})
    one = frame.select((pl.col("name").drop_nulls().n_unique() <= 1).over("value"))
    return one.to_series().to_numpy()


def _agreeing(
    pairs: NDArray[np.int64],
    names: Sequence[str | None],
    least: float,
    nameless: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Pairs whose names are similar; where one has no name, ``nameless`` of its row decides."""
    try:
        from rapidfuzz.distance import JaroWinkler
    except ImportError:
        raise ParameterError(
            "similar names need the extra: pip install 'tallystick[mask]'"
        ) from None
    kept = []
    for left, right in pairs.tolist():
        one, other = names[left], names[right]
        if one is None or other is None:
            good = bool(nameless[left])
        else:
            good = one == other or JaroWinkler.similarity(one, other) >= least
        kept.append(good)
    return pairs[np.array(kept, np.bool_)]


def _joined(count: int, pairs: NDArray[np.int64]) -> Groups:
    """Connected components, each named by its least row: least labels spread until none changes."""
    label = np.arange(count)
    while True:
        before = label.copy()
        least = np.minimum(label[pairs[:, 0]], label[pairs[:, 1]])
        np.minimum.at(label, pairs[:, 0], least)
        np.minimum.at(label, pairs[:, 1], least)
        label = label[label]
        if bool((label == before).all()):
            return label


def rate(found: Groups) -> float:
    """Share of rows that repeat a person."""
    return 1.0 - len(np.unique(found)) / max(1, len(found))


def merged(table: pl.DataFrame, found: Groups, newest: str | None) -> pl.DataFrame:
    """One row for each person, in order of first appearance: each column's first value that is there,
    from the newest row on, or from the one with the fewest gaps."""
    filled = pl.sum_horizontal(pl.all().is_not_null())
    order = pl.col(newest) if newest else filled
    return (
        table.with_columns(pl.Series("_person", found), order.alias("_order"))
        .sort("_order", descending=True, nulls_last=True, maintain_order=True)
        .group_by("_person", maintain_order=True)
        .agg(pl.exclude("_order").drop_nulls().first())
        .sort("_person")
        .drop("_person")
    )

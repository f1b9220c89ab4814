"""Rows of one person: found by equal identifiers and by names that are nearly equal, then merged.

An equal ID card number joins two rows. An equal phone number or e-mail address joins them where the
names agree too, or one has none: families share telephones. Nearly equal names join rows that agree
on everything in ``within`` (a birth date, say). Joined rows are one person, transitively.
Similarity is Jaro-Winkler's (Winkler 1990), of normalised names.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.identifiers import HOME_REGION, person_name
from privacy.masking.kinds import kind as kind_of

LARGEST_BLOCK = 200
"""Rows that share a value beyond this share a placeholder, not a person: such a value joins nobody."""
LARGEST_WITHIN = 5_000
"""Rows that agree on ``within``, whose names are compared each with each other."""
AGREES = 0.75
"""Names this similar do not contradict an equal telephone number."""

Groups = NDArray[np.int64]
Pairs = NDArray[np.int64]
"""Rows, (m, 2)."""


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
    names = person_name.normalise(table[rule.name].cast(pl.String)) if rule.name else None
    parts = [np.empty((0, 2), np.int64)]
    for column, kind in rule.keys.items():
        canonical = kind_of(kind).canonical(table[column], rule.region)
        pairs = _equal(canonical)
        if kind != "id_card" and names is not None:
            pairs = _agreeing(pairs, names, _one_name(canonical, names))
        parts.append(pairs)
    if names is not None and rule.within:
        parts += _nearly_equal(_within(table, rule), names, rule.similarity)
    return _joined(len(table), np.concatenate(parts))


def uncompared(table: pl.DataFrame, rule: Rule) -> int:
    """Rows whose names were not compared, because more than LARGEST_WITHIN agree on ``within``."""
    if rule.name is None or not rule.within:
        return 0
    sizes = (
        pl.DataFrame({"block": _within(table, rule)}).drop_nulls().group_by("block").len()["len"]
    )
    return int(sizes.filter(sizes > LARGEST_WITHIN).sum())


def _within(table: pl.DataFrame, rule: Rule) -> pl.Series:
    """One text for equal values of ``within``, null where one is missing."""
    columns = [pl.col(name).cast(pl.String) for name in rule.within]
    return table.select(pl.concat_str(*columns, separator="\x1f").alias("block")).to_series()


def _equal(values: pl.Series) -> Pairs:
    """Pairs of rows with one value, null aside. A chain would join them all; each with the next eight
    gets past names that do not agree."""
    frame = pl.DataFrame({"value": values, "row": np.arange(len(values))}).drop_nulls()
    frame = frame.filter(pl.len().over("value").is_between(2, LARGEST_BLOCK)).sort("value", "row")
    code, row = frame["value"].rank("dense").to_numpy(), frame["row"].to_numpy()
    pairs = [np.empty((0, 2), np.int64)]
    for distance in range(1, 9):
        same = code[distance:] == code[:-distance]
        pairs.append(np.stack([row[:-distance][same], row[distance:][same]], axis=1))
    return np.concatenate(pairs)


def _one_name(values: pl.Series, names: pl.Series) -> NDArray[np.bool_]:
    """For each row: do all rows with its value that have a name have the same one? Only then does a
    row without a name join them."""
    frame = pl.DataFrame({"value": values, "name": names})
    one = frame.select((pl.col("name").drop_nulls().n_unique() <= 1).over("value"))
    return one.to_series().to_numpy()


def _agreeing(pairs: Pairs, names: pl.Series, nameless: NDArray[np.bool_]) -> Pairs:
    """Pairs whose names do not contradict; where one has no name, ``nameless`` of its row decides."""
    process, similarity = _rapidfuzz()
    left, right = names.gather(pairs[:, 0]), names.gather(pairs[:, 1])
    named = (left.is_not_null() & right.is_not_null()).to_numpy()
    good = nameless[pairs[:, 0]]
    both = process.cpdist(
        left.filter(named).to_list(),
        right.filter(named).to_list(),
        scorer=similarity,
        dtype=np.float64,
    )
    good[named] = both >= AGREES
    return pairs[good]


def _nearly_equal(blocks: pl.Series, names: pl.Series, least: float) -> list[Pairs]:
    """Pairs of rows of one block whose names are ``least`` similar: rows of equal names by a chain, names
    each with each other."""
    process, similarity = _rapidfuzz()
    frame = pl.DataFrame({"block": blocks, "name": names, "row": np.arange(len(names))})
    frame = frame.drop_nulls("block")
    frame = frame.filter(pl.len().over("block").is_between(2, LARGEST_WITHIN)).drop_nulls("name")
    frame = frame.sort("block", "name", "row").with_columns(pl.col("block").rank("dense"))
    again = frame.select(
        pl.struct("block", "name") == pl.struct("block", "name").shift(1)
    ).to_series()
    equal = again.fill_null(value=False).to_numpy()
    row = frame["row"].to_numpy()
    found = [np.stack([row[:-1][equal[1:]], row[1:][equal[1:]]], axis=1)]
    first = frame.filter(~pl.Series(equal))
    row, texts = first["row"].to_numpy(), first["name"].to_list()
    starts = np.flatnonzero(np.diff(first["block"].to_numpy(), prepend=-1, append=-1))
    for start, end in itertools.pairwise(starts.tolist()):
        if end - start > 1:
            some = texts[start:end]
            near = process.cdist(  # which rounds away what is just as similar as its cutoff
                some, some, scorer=similarity, score_cutoff=least - 1e-6, dtype=np.float64
            )
            one, other = np.nonzero(np.triu(near >= least, 1))
            if len(one):
                found.append(np.stack([row[start + one], row[start + other]], axis=1))
    return found


def _rapidfuzz() -> tuple[Any, Any]:
    try:
        from rapidfuzz import process
        from rapidfuzz.distance import JaroWinkler
    except ImportError:
        raise ParameterError(
            "similar names need the extra: pip install 'tallystick[mask]'"
        ) from None
    return process, JaroWinkler.similarity


def _joined(count: int, pairs: Pairs) -> Groups:
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
    return (len(found) - len(np.unique(found))) / max(1, len(found))


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

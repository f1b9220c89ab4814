"""What a policy does to one column: a transform, applied to a block of values.

A value that is invalid for its column's kind is hidden whole by masks that people look at (``***``)
and has no token at all under a key: every invalid value would otherwise join with every other. Both
are counted. Nulls stay null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from privacy.errors import DataError, ParameterError
from privacy.identifiers import HOME_REGION
from privacy.masking import generalise, keyed, text
from privacy.masking.kinds import kind as kind_of
from privacy.masking.own import Own
from privacy.randomness import Randomness

HIDDEN = "***"
KEYED = ("hmac", "token", "ff1")
TRANSFORMS = ("keep", "partial", *KEYED, "generalise", "suppress", "noise", "redact")


@dataclass(frozen=True)
class Transform:
    """``do``: one of TRANSFORMS. ``to``: how to generalise. ``scale``: of the noise. ``find``: kinds
    to redact, all if empty. ``long_numbers``: whether redaction takes unknown long numbers too. ``own``:
    whether it takes the row's own values, see :class:`Column`."""

    do: str
    to: str = ""
    scale: float = 0.0
    find: tuple[str, ...] = ()
    long_numbers: bool = True
    own: bool = True

    def check(self, kind: str) -> None:
        """Raises ParameterError unless this can be done to columns of ``kind``."""
        if self.do not in TRANSFORMS:
            raise ParameterError(f"{self.do} is not one of {', '.join(TRANSFORMS)}")
        if self.do == "partial" and kind_of(kind).partial is None:
            raise ParameterError(f"there is no partial mask for {kind}; redact or suppress it")
        if self.do == "generalise":
            generalise.check(kind, self.to)
        elif self.to:
            raise ParameterError(f"to is for generalise, not for {self.do}")
        if self.do == "noise":
            if kind != "number" or not self.scale > 0:
                raise ParameterError("noise is for numbers and needs a scale above 0")
        elif self.scale:
            raise ParameterError(f"scale is for noise, not for {self.do}")
        if self.do == "redact":
            if kind != "text":  # what it does not recognise it leaves
                raise ParameterError(f"redact is for text, not for {kind}")
            text.chosen(self.find)
        elif self.find or not self.long_numbers or not self.own:
            raise ParameterError(f"find, long_numbers and own are for redact, not for {self.do}")
        if self.do in KEYED and kind == "text":
            raise ParameterError(f"{self.do} is for values that repeat, not for free text")


@dataclass(frozen=True)
class Column:
    """One column of a policy. ``domain``: columns with one domain have one key, so that equal values
    have equal tokens. ``region``: of telephone numbers without a country code. ``own``: names and kinds of
    the columns whose values are redacted from this one, row by row."""

    name: str
    kind: str
    transform: Transform
    domain: str
    region: str = HOME_REGION
    own: tuple[tuple[str, str], ...] = ()


@dataclass
class Counts:
    """``values``: not null. ``invalid``: hidden whole, or without a token. ``found``: redactions."""

    values: int = 0
    nulls: int = 0
    invalid: int = 0
    found: int = 0

    def add(self, other: Counts) -> None:
        """Sum of two blocks."""
        self.values += other.values
        self.nulls += other.nulls
        self.invalid += other.invalid
        self.found += other.found


def apply(
    column: Column,
    values: pl.Series,
    key: keyed.MasterKey | None,
    randomness: Randomness,
    own: Sequence[Own] = (),
) -> tuple[pl.Series, Counts]:
    """The column masked, (n,), and what was counted. ``own``: what the same rows hold, for redaction.
    Raises ParameterError if a key is missing."""
    do, nulls = column.transform.do, values.null_count()
    counts = Counts(len(values) - nulls, nulls)
    if do == "keep":
        return values, counts
    if do == "redact":
        find, long_numbers = column.transform.find or text.KINDS, column.transform.long_numbers
        result = text.redacted(values, find, long_numbers=long_numbers, own=own)
        counts.found = sum(result.found.values())
        return result.text, counts
    if do == "suppress":
        masked = pl.Series([None], dtype=pl.String).new_from_index(0, len(values))
        return masked.alias(values.name), counts
    if do == "noise":
        masked = generalise.noisy(values, column.transform.scale, randomness)
        counts.invalid = masked.null_count() - nulls
        return masked, counts
    masked = _masked(column, values, key)
    counts.invalid = masked.null_count() - nulls
    if counts.invalid and do not in KEYED:
        held = values.is_not_null() & masked.is_null()
        masked = masked.zip_with(~held, pl.Series([HIDDEN]))
    return masked, counts


def _masked(column: Column, values: pl.Series, key: keyed.MasterKey | None) -> pl.Series:
    """Null where there is no value, or none that fits."""
    kind, transform = kind_of(column.kind), column.transform
    if transform.do == "generalise":
        return generalise.generalised(column.kind, values, transform.to)
    canonical = kind.canonical(values, column.region)
    if transform.do == "partial":
        if kind.partial is None:
            raise ParameterError(f"there is no partial mask for {kind.name}")
        return kind.partial(canonical)
    if key is None:
        raise ParameterError(f"{transform.do} of {column.name} needs a key")
    if transform.do == "hmac":
        joined = kind.join(values) if kind.join else canonical
        return keyed.hmacs(joined, key, column.domain)
    if transform.do == "token":
        return keyed.tokens(canonical, key, column.domain)
    return keyed.enciphered(canonical, key, column.domain)


def masked(
    columns: Sequence[Column],
    frame: pl.DataFrame,
    key: keyed.MasterKey | None,
    randomness: Randomness,
    counts: dict[str, Counts],
) -> pl.DataFrame:
    """A block of a table with every column of the policy masked and no other; adds to ``counts``. The block
    holds the columns and those that are redacted from them.

    Raises DataError that names the column, ParameterError.
    """
    result = []
    for column in columns:
        values = frame[column.name]
        own = [(kind, frame[name]) for name, kind in column.own]
        try:
            series, counted = apply(column, values, key, randomness, own)
        except pl.exceptions.PolarsError:  # whose message may quote values
            reason = f"values of type {values.dtype} cannot become {column.transform.do}"
            raise DataError(f"column {column.name}: {reason} of a {column.kind}") from None
        counts.setdefault(column.name, Counts()).add(counted)
        result.append(series.alias(column.name))
    return pl.DataFrame(result)


def candidates(kind: str, transform: Transform) -> float | None:
    """How many values remain possible behind one masked value, for who knows nothing else: 10,000
    behind 138****1234. None where nobody can say, infinity where a key or nothing is left."""
    if transform.do in ("suppress", *KEYED):
        return float("inf")
    if transform.do == "keep":
        return 1.0
    if transform.do == "partial":
        return kind_of(kind).left
    if transform.do == "generalise" and kind == "birth_date":
        if transform.to == "month":
            return 30.0
        years = 1 if transform.to == "year" else int(transform.to.removesuffix("-year"))
        return 365.0 * years
    return None

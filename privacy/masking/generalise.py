"""Coarser values: a year for a date, a band for a number, a province for an address or an ID card.

Each gives null where a value does not fit the form. Whether the result can be released is for
:mod:`privacy.masking.risk` to say.
"""

from __future__ import annotations

import re

import numpy as np
import polars as pl

from privacy.errors import ParameterError
from privacy.identifiers import documents, id_card
from privacy.identifiers.text import cleaned, keep
from privacy.randomness import Randomness, words

FORMS = "year, month, N-year, band:WIDTH, province, prefix:N"
_PROVINCE = "|".join(
    sorted(
        {re.sub("(省|市|壮族自治区|回族自治区|维吾尔自治区|自治区|特别行政区)$", "", name)
         for name in id_card.PROVINCES.values()}
    )
)  # fmt: skip


def check(kind: str, to: str) -> None:
    """Raises ParameterError unless ``to`` is a way to generalise columns of ``kind``."""
    rules = {
        "year": ("birth_date",),
        "month": ("birth_date",),
        "province": ("id_card", "address"),
    }
    if re.fullmatch(r"[1-9]\d?-year", to):
        allowed: tuple[str, ...] = ("birth_date",)
    elif re.fullmatch(r"band:(\d+(\.\d+)?)", to) and float(to[5:]) > 0:
        allowed = ("number",)
    elif re.fullmatch(r"prefix:[1-9]\d?", to):
        allowed = ("category", "phone", "ip")
    elif to in rules:
        allowed = rules[to]
    else:
        raise ParameterError(f"{to} is not one of {FORMS}")
    if kind not in allowed:
        raise ParameterError(f"{to} is for {' or '.join(allowed)}, not for {kind}")


def generalised(kind: str, values: pl.Series, to: str) -> pl.Series:
    """``values`` made coarser by :func:`check`'s rules, as texts."""
    check(kind, to)
    if to == "year":
        return documents.date(values).dt.year().cast(pl.String)
    if to == "month":
        return documents.date(values).dt.strftime("%Y-%m")
    if to.endswith("-year"):
        return _bands(documents.date(values).dt.year().cast(pl.Float64), float(to[:-5]), 1.0)
    if to.startswith("band:"):
        return _bands(values.cast(pl.Float64, strict=False), float(to[5:]), 0.0)
    if to == "province" and kind == "id_card":
        return id_card.province(id_card.normalise(values))
    if to == "province":
        return cleaned(values).str.extract(f"^(?:中国)?({_PROVINCE})")
    size = int(to[7:])
    text = cleaned(values)
    return keep(text.str.head(size) + "*", text.str.len_chars() > size)


def _bands(values: pl.Series, width: float, last: float) -> pl.Series:
    """``low..high``: multiples of ``width``; ``last`` is taken off the upper end."""
    finite = values.is_finite().fill_null(value=False)
    low = (keep(values, finite) / width).floor() * width
    whole = width.is_integer()
    return _plain(low, whole=whole) + ".." + _plain(low + width - last, whole=whole)


def _plain(values: pl.Series, *, whole: bool) -> pl.Series:
    """One spelling for a width, whatever else is in the block."""
    return (values.cast(pl.Int64) if whole else values.round(6)).cast(pl.String)


def noisy(values: pl.Series, scale: float, randomness: Randomness) -> pl.Series:
    """Numbers with Laplace noise of ``scale`` in their own unit; null for null and for what is none.

    It blurs single values. It is no differential privacy: nothing is accounted, and floating point
    leaks (Mironov 2012). For that there are noisy sums.
    """
    numbers = values.cast(pl.Float64, strict=False)
    drawn = (words(randomness, len(numbers)) >> np.uint64(12)).astype(np.float64)
    centred = (
        drawn + 0.5
    ) * 2.0**-52 - 0.5  # never an end of the interval, whose logarithm is infinite
    noise = -scale * np.sign(centred) * np.log1p(-2 * np.abs(centred))
    return (numbers + pl.Series(noise)).round(6)

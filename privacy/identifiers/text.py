"""What all normalisers do first: one Unicode form, no invisible characters.

Columns are polars series of texts. What cannot be used is null: it is counted, never guessed.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
from numpy.typing import NDArray

INVISIBLE = (
    "[\u00ad\u180e\u200b\u200c\u200d\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufe0e\ufe0f\ufeff]"
)
"""Soft hyphen, zero-width and direction marks, variation selectors, byte-order mark."""
Check = Callable[[NDArray[np.uint8]], NDArray[np.bool_]]
"""Which rows of bytes, (n, width), are right."""
LONGEST = 320
"""Characters of the longest identifier: an e-mail address (RFC 3696, 3, erratum 1690)."""


_PLAIN = "^(?:[!-~](?:[ -~]*[!-~])?|[\u4e00-\u9fff]+)$"
"""Printable ASCII or unified ideographs, no blank at the ends: NFKC and all the rest change nothing."""


def cleaned(values: pl.Series) -> pl.Series:
    """NFKC (full-width to ASCII), invisible characters out, stripped; null if empty or too long."""
    text = short(values)
    plain = text.str.contains(_PLAIN).fill_null(value=False)
    rest = (~plain & text.is_not_null()).arg_true()
    if len(rest):
        odd = text.gather(rest).str.normalize("NFKC").str.replace_all(INVISIBLE, "")
        odd = odd.str.strip_chars()
        text = put(text, rest, keep(odd, odd != ""))
    longest = text.str.len_bytes().max()
    if longest is not None and int(str(longest)) > LONGEST:
        text = keep(text, text.str.len_chars() <= LONGEST)
    return text


def texts(values: pl.Series) -> pl.Series:
    """Values as texts. Whole numbers that a null has turned into 1.38e10 are whole numbers again, as far as
    a float holds them exactly."""
    if values.dtype == pl.String:
        return values
    if values.dtype.is_float():
        whole = (values == values.round()) & (values.abs() < 2.0**53)
        if bool((whole | values.is_null()).all()):
            values = values.cast(pl.Int64)
    return values.cast(pl.String)


def short(values: pl.Series) -> pl.Series:
    """The column without values that no identifier can be: they would only cost memory."""
    text = texts(values)
    longest = text.str.len_bytes().max()
    if longest is None or int(str(longest)) <= 4 * LONGEST:
        return text
    return keep(text, text.str.len_bytes() <= 4 * LONGEST)


def keep(values: pl.Series, good: pl.Series) -> pl.Series:
    """``values`` where ``good`` is true, null elsewhere."""
    if bool(good.all(ignore_nulls=False)):
        return values
    return values.set(~good.fill_null(value=False), None)


def matrix(values: pl.Series, width: int) -> NDArray[np.uint8]:
    """The bytes of texts that are all ``width`` bytes long, (n, width)."""
    data = str(values.str.join("").item()).encode() if len(values) else b""
    return np.frombuffer(data, np.uint8).reshape(len(values), width)


def tidied(
    values: pl.Series, shape: str, clean: Callable[[pl.Series], pl.Series]
) -> tuple[pl.Series, pl.Series]:
    """A column whose values have the canonical ``shape``, a regular expression, or are null; and which
    have it. Most values have it as they come: only the others go through ``clean``."""
    text = texts(values)
    good = text.str.contains(shape).fill_null(value=False)
    rest = (~good & text.is_not_null()).arg_true()
    if not len(rest):
        return text, good
    mended = clean(text.gather(rest))
    fits = mended.str.contains(shape).fill_null(value=False)
    return put(text, rest, keep(mended, fits)), put(good, rest, fits)


def checked(values: pl.Series, good: pl.Series, check: Check) -> pl.Series:
    """``values`` without those marked ``good`` whose bytes fail ``check``; zeros are written before
    shorter ones."""
    whole = bool(good.all())
    chosen = values if whole else values.filter(good)
    if not len(chosen):
        return values
    lengths = chosen.str.len_bytes()
    width = int(str(lengths.max()))
    if lengths.min() != width:
        chosen = chosen.str.zfill(width)
    failed = pl.Series(~check(matrix(chosen, width)))
    if not bool(failed.any()):
        return values
    places = failed.arg_true() if whole else good.arg_true().filter(failed)
    return put(values, places, None)


def put(values: pl.Series, places: pl.Series, what: pl.Series | None) -> pl.Series:
    """A copy of ``values`` with ``what`` at ``places``: ``Series.scatter`` changes its series itself."""
    return values.clone().scatter(places, what) if len(places) else values


def by_value(values: pl.Series, one: Callable[[str], str | None]) -> pl.Series:
    """``one`` of each distinct value: for rules that only a library for single values knows."""
    distinct = values.drop_nulls().unique()
    if not len(distinct):
        return values
    results = [one(value) for value in distinct]
    return values.replace_strict(
        distinct, pl.Series(results, dtype=pl.String), default=None, return_dtype=pl.String
    )


def luhn(digits: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows of ASCII digits, (n, width up to 28), pass ISO/IEC 7812-1, annex B."""
    total = np.zeros(len(digits), np.uint8)  # nine for each of 28 digits at most
    for place, column in enumerate(np.ascontiguousarray(digits.T)[::-1]):
        value = column - np.uint8(48)
        if place % 2:
            value = value * np.uint8(2)
            value -= np.uint8(9) * (value > 9)
        total += value
    passes: NDArray[np.bool_] = total % 10 == 0
    return passes

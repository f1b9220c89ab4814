"""Phone numbers in E.164. A number without a country code is read as one of the home region.

Chinese mobiles take the shortest way; what :mod:`privacy.identifiers.numbering` can decide by one
pattern comes next; the rest goes through ``phonenumbers``.
"""

from __future__ import annotations

import polars as pl

from privacy.identifiers.numbering import one, plan_of, plans
from privacy.identifiers.text import by_value, cleaned, keep, put

HOME_REGION = "CN"
_MOBILE = r"^(?:(?:\+|00)?86)?(1[3-9][0-9]{9})$"


def normalise(values: pl.Series, region: str = HOME_REGION) -> pl.Series:
    """``+`` and digits, null for anything else. ``region``: ISO 3166-1 alpha-2."""
    text = values if values.dtype == pl.String else values.cast(pl.String)
    if region != "CN":
        return _decided(_clean(text), region)
    mobile = text.str.contains("^1[3-9][0-9]{9}$").fill_null(value=False)
    rest = (~mobile & text.is_not_null()).arg_true()
    return put("+86" + text, rest, _other(text.gather(rest))) if len(rest) else "+86" + text


def _other(values: pl.Series) -> pl.Series:
    """What is not plainly a Chinese mobile number; some become one when they are cleaned."""
    text = _clean(values).str.replace(_MOBILE, "+86$1")
    mobile = text.str.contains(r"^\+861[3-9][0-9]{9}$").fill_null(value=False)
    return text.zip_with(mobile, _decided(keep(text, ~mobile), HOME_REGION))


def _clean(values: pl.Series) -> pl.Series:
    text = cleaned(values).str.strip_prefix("tel:").str.replace_all(r"[\s\-().·/]+", "")
    return keep(text, text.str.contains(r"^(?:\+|00)?[0-9]{7,15}$"))


def _decided(text: pl.Series, region: str) -> pl.Series:
    text = text.str.replace("^00", "+")
    known, home = plans(), plan_of(region)
    found: list[str | None] = []
    unsure = []
    for place, number in enumerate(text.to_list()):
        result: str | None = None
        if number is not None:
            if number[0] != "+":
                result = home.at_home(number)
            elif plan := known.get(number[1:4]):
                result = plan.abroad(number)
            if result == "":
                unsure.append(place)
        found.append(result)
    column = pl.Series(found, dtype=pl.String)
    places = pl.Series(unsure, dtype=pl.UInt32)
    return put(column, places, by_value(text.gather(places), lambda number: one(number, region)))

"""Phone numbers in E.164. A number without a country code is read as one of the home region.

Chinese mobiles take the shortest way; what :mod:`privacy.identifiers.numbering` can decide by one
pattern comes next; the rest goes through ``phonenumbers``.
"""

from __future__ import annotations

import polars as pl

from privacy.identifiers import HOME_REGION
from privacy.identifiers.numbering import Plan, one, plan_of, plans
from privacy.identifiers.text import by_value, cleaned, keep, put, texts

_MOBILE = r"^(?:(?:\+|00)?86)?(1[3-9][0-9]{9})$"


def normalise(values: pl.Series, region: str = HOME_REGION) -> pl.Series:
    """``+`` and digits, null for anything else. ``region``: ISO 3166-1 alpha-2."""
    text = texts(values)
    if region != HOME_REGION:
        return decided(_clean(text), region)
    mobile = text.str.contains("^1[3-9][0-9]{9}$").fill_null(value=False)
    rest = (~mobile & text.is_not_null()).arg_true()
    return put("+86" + text, rest, _other(text.gather(rest))) if len(rest) else "+86" + text


def _other(values: pl.Series) -> pl.Series:
    """What is not plainly a Chinese mobile number; some become one when they are cleaned."""
    text = _clean(values).str.replace(_MOBILE, "+86$1")
    mobile = text.str.contains(r"^\+861[3-9][0-9]{9}$").fill_null(value=False)
    return text.zip_with(mobile, decided(keep(text, ~mobile), HOME_REGION))


def _clean(values: pl.Series) -> pl.Series:
    text = cleaned(values).str.strip_prefix("tel:").str.replace_all(r"[\s\-().·/]+", "")
    return keep(text, text.str.contains(r"^(?:\+|00)?[0-9]{7,15}$"))


MANY, SHARE = 256, 0.1
"""Numbers of one calling code from which whole columns are quicker than single numbers."""


def decided(text: pl.Series, region: str) -> pl.Series:
    """E.164 of digits that may begin with + or 00 and nothing else, null for what cannot exist."""
    text = text.str.replace("^00", "+")
    sure = _sure(text) if len(text) >= MANY else None
    if sure is None:
        return _one_by_one(text, region)
    rest = (~sure & text.is_not_null()).arg_true()
    return put(keep(text, sure), rest, _one_by_one(text.gather(rest), region))


def _sure(text: pl.Series) -> pl.Series | None:
    """Which numbers surely exist, for calling codes that occur often; None where none does."""
    heads = text.str.extract(r"^\+([0-9]{3})")
    counts: dict[int, tuple[Plan, list[str], int]] = {}
    for head, count in heads.drop_nulls().value_counts().iter_rows():
        plan = plans().get(head)
        if plan is not None and plan.quick is not None:
            _, some, total = counts.get(id(plan), (plan, [], 0))
            counts[id(plan)] = (plan, [*some, head], total + count)
    result = None
    for plan, some, total in counts.values():
        if total < max(MANY, SHARE * len(text)) or plan.quick is None:
            continue
        whole = total == len(text)
        places = heads.is_in(some).fill_null(value=False).arg_true()
        numbers = (text if whole else text.gather(places)).str.slice(1 + len(plan.code))
        if result is None:
            result = pl.repeat(False, len(text), eager=True)
        result = put(result, places, plan.quick.valid(numbers))
    return result


def _one_by_one(text: pl.Series, region: str) -> pl.Series:
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

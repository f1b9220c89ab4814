"""Passports, number plates, addresses of the internet, birth dates: as they are written, checked for form.

None of them has a check digit that is printed with it, so form is all that can be checked.
"""

from __future__ import annotations

import ipaddress

import polars as pl

from privacy.identifiers.text import by_value, cleaned, keep, tidied

PLATE = (
    "[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领]"
    "[A-HJ-NP-Z][A-HJ-NP-Z0-9]{4,5}[A-HJ-NP-Z0-9挂学警港澳]"
)
"""GA 36-2018: province, city, five characters or, for new-energy cars, six."""
PASSPORT = "(?:[EGDSPHMKC][0-9]{8}|E[A-HJ-NP-Z][0-9]{7}|[A-Z]{1,2}[0-9]{6,8}|[0-9]{9})"
"""Chinese passports and permits; two letters at most and six to nine digits elsewhere."""
_IPV4 = r"^(?:(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])(?:\.|$)){4}$"
DATE_FORMS = ("%Y-%m-%d", "%Y/%m/%d", "%Y%m%d", "%Y.%m.%d", "%Y年%m月%d日")
"""Year first: where the day may come first, 03/04 is two dates, and none is guessed."""


def passport(values: pl.Series) -> pl.Series:
    """Upper case without spaces, null for anything else."""
    return tidied(values, f"^{PASSPORT}$", _compact)[0]


def plate(values: pl.Series) -> pl.Series:
    """Upper case without spaces or dots, null for anything else."""
    return tidied(values, f"^{PLATE}$", _compact)[0]


def ip(values: pl.Series) -> pl.Series:
    """IPv4 in dotted decimal, IPv6 as RFC 5952 writes it; null for anything else."""
    text = cleaned(values)
    fourth = text.str.contains(_IPV4).fill_null(value=False)
    sixth = text.str.contains("^[0-9a-fA-F:.]*:[0-9a-fA-F:.]*$").fill_null(value=False)
    if not bool(sixth.any()):
        return keep(text, fourth)
    return keep(text, fourth).zip_with(~sixth, by_value(keep(text, sixth), _sixth))


def date(values: pl.Series) -> pl.Series:
    """Dates, null for what is none or lies before 1850."""
    if values.dtype == pl.Date or values.dtype == pl.Datetime:
        found = values.cast(pl.Date)
    else:
        text = cleaned(values)
        found = text.str.to_date(DATE_FORMS[0], strict=False)
        for form in DATE_FORMS[1:]:
            if found.null_count() == text.null_count():
                break
            found = found.zip_with(found.is_not_null(), text.str.to_date(form, strict=False))
        if found.null_count() > text.null_count():  # a time behind the date
            day = text.str.extract(r"^([0-9]{4}-[0-9]{2}-[0-9]{2})[T ][0-9]{2}:")
            found = found.zip_with(found.is_not_null(), day.str.to_date("%Y-%m-%d", strict=False))
    return found.zip_with(found.dt.year() >= 1850, pl.Series([None], dtype=pl.Date))


def date_text(values: pl.Series) -> pl.Series:
    """Dates as YYYY-MM-DD, null for anything else."""
    return date(values).dt.strftime("%Y-%m-%d")


def _compact(values: pl.Series) -> pl.Series:
    return cleaned(values).str.replace_all("[ .·•-]", "").str.to_uppercase()


def _sixth(text: str) -> str | None:
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return None

"""Resident identity numbers of the People's Republic of China, GB 11643-1999.

18 digits: six for the region, eight for the birth date, three for the order, one check digit by
ISO 7064 MOD 11-2. The 15-digit form of before 1999 becomes the 18-digit one.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Sequence

from privacy.identifiers.text import clean

_NEW = re.compile(r"[1-9]\d{16}[0-9X]")
_OLD = re.compile(r"[1-9]\d{14}")
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"
_PROVINCES = frozenset(
    [
        "11",
        "12",
        "13",
        "14",
        "15",
        "21",
        "22",
        "23",
        "31",
        "32",
        "33",
        "34",
        "35",
        "36",
        "37",
        "41",
        "42",
        "43",
        "44",
        "45",
        "46",
        "50",
        "51",
        "52",
        "53",
        "54",
        "61",
        "62",
        "63",
        "64",
        "65",
        "71",
        "81",
        "82",
        "83",
    ]
)


def check_digit(body: str) -> str:
    """The check digit of 17 digits (GB 11643-1999, 4.2)."""
    total = sum(int(d) * w for d, w in zip(body, _WEIGHTS, strict=True))
    return _CHECKS[total % 11]


def normalise(values: Sequence[str | None]) -> list[str | None]:
    """18 characters with a true check digit, region and birth date, or None."""
    return [_one(value) for value in values]


def _one(value: str | None) -> str | None:
    text = clean(value)
    if text is None or not text.isascii():
        return None
    text = re.sub(r"[\s-]", "", text).upper()
    if _OLD.fullmatch(text):
        body = text[:6] + "19" + text[6:]
        text = body + check_digit(body)
    if not _NEW.fullmatch(text) or _region(text) not in _PROVINCES:
        return None
    if check_digit(text[:17]) != text[17]:
        return None
    try:
        born = datetime.date(int(text[6:10]), int(text[10:12]), int(text[12:14]))
    except ValueError:
        return None
    return text if born.year >= 1850 else None


def _region(text: str) -> str:
    """Province code; permanent residence cards of foreigners (2023) write 9 before it."""
    return text[1:3] if text[0] == "9" else text[:2]

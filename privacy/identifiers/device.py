"""Device identifiers: advertising ids (RFC 9562 UUIDs, lower case, hyphens) and IMEIs (Luhn)."""

from __future__ import annotations

import re
from collections.abc import Sequence

from privacy.identifiers.text import clean

_UUID = re.compile(r"([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})")
_IMEI = re.compile(r"\d{15}")


def normalise(values: Sequence[str | None]) -> list[str | None]:
    """Canonical identifier, or None; the all-zero id of "do not track" is None."""
    return [_one(value) for value in values]


def _one(value: str | None) -> str | None:
    text = clean(value)
    if text is None:
        return None
    text = text.lower().strip("{}")
    found = _UUID.fullmatch(text)
    if found:
        return "-".join(found.groups()) if set("".join(found.groups())) != {"0"} else None
    if _IMEI.fullmatch(text) and text.isascii() and set(text) != {"0"} and luhn(text):
        return text
    return None


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0

"""Phone numbers in E.164. A number without a country code is read as Chinese.

Chinese mobiles take a fast path; everything else goes through ``phonenumbers``, which knows which
numbers can exist.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from privacy.identifiers.text import clean

_SEPARATORS = re.compile(r"[\s\-().·/]+")
_CHINESE = re.compile(r"(?:\+86|0086|86)?(1[3-9]\d{9})")
_OTHER = re.compile(r"(?:\+|00)?\d{7,15}")
HOME_REGION = "CN"


def normalise(values: Sequence[str | None]) -> list[str | None]:
    """``+`` and digits, or None."""
    return [_one(value) for value in values]


def _one(value: str | None) -> str | None:
    text = clean(value)
    if text is None:
        return None
    text = _SEPARATORS.sub("", text.removeprefix("tel:"))
    if not text.isascii():
        return None
    mobile = _CHINESE.fullmatch(text)
    if mobile:
        return "+86" + mobile.group(1)
    return _parsed(text) if _OTHER.fullmatch(text) else None


def _parsed(text: str) -> str | None:
    import phonenumbers

    if text.startswith("00"):
        text = "+" + text[2:]
    try:
        number = phonenumbers.parse(text, HOME_REGION)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))

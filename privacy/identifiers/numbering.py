"""The world's numbering plans as one regular expression for each country calling code.

``phonenumbers`` (libphonenumber's metadata) knows which numbers can exist and decides one number in
tens of microseconds. Most numbers are plain: international digits, or the home region's own form,
with no prefix to strip. For those its rules can be said as one pattern (its ``_number_type_helper``
and ``_region_code_for_number_from_list``), which decides in one. Whatever a national or
international prefix could change is left to ``phonenumbers`` itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

import polars as pl

from privacy.errors import ParameterError

TYPES = (
    "premium_rate", "toll_free", "shared_cost", "voip", "personal_number", "pager", "uan",
    "voicemail", "fixed_line", "mobile",
)  # fmt: skip


@dataclass(frozen=True)
class Quick:
    """The first region's rules without look-around, for whole columns: a number of ``general`` form is
    valid if its length and one of the patterns of ``types`` fit. Says yes or nothing."""

    changed: str
    general: str
    types: tuple[tuple[tuple[int, ...], str], ...]

    def valid(self, national: pl.Series) -> pl.Series:
        """Which national numbers surely exist, (n,)."""
        length, found = national.str.len_bytes(), None
        for lengths, pattern in self.types:
            fits = national.str.contains(pattern)
            if lengths:
                fits &= length.is_in(lengths)
            found = fits if found is None else found | fits
        if found is None:
            return pl.repeat(False, len(national), eager=True)
        found &= national.str.contains(self.general)
        return found & ~national.str.contains(self.changed)


@dataclass(frozen=True)
class Plan:
    """Numbers of one calling code, ``code``. ``quick``: for columns, where the plan allows it.

    ``valid``: a whole national number that exists. ``changed``: what would be stripped from a
    number behind its code; ``altered``: from a number written at home. ``has_trunk``: whether at home
    a 0 stands before it that is simply dropped.
    """

    code: str
    valid: re.Pattern[str]
    changed: re.Pattern[str]
    altered: re.Pattern[str]
    has_trunk: bool
    quick: Quick | None

    def abroad(self, number: str) -> str | None:
        """E.164 of ``+`` and digits that begin with the code; ``""`` for "ask phonenumbers"."""
        start = 1 + len(self.code)
        if self.changed.match(number, start):
            return ""
        return number if self.valid.match(number, start) else None

    def at_home(self, number: str) -> str | None:
        """E.164 of digits without a code; ``""`` for "ask phonenumbers"."""
        if not self.altered.match(number):
            return f"+{self.code}{number}" if self.valid.match(number) else None
        if self.has_trunk and number[0] == "0" != number[1] and self.valid.match(number, 1):
            return f"+{self.code}{number[1:]}"
        return ""


@cache
def plans() -> dict[str, Plan]:
    """By every first three digits that a calling code can stand at the beginning of."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE

    found: dict[str, Plan] = {}
    for code, regions in COUNTRY_CODE_TO_REGION_CODE.items():
        plan = _plan(code, regions)
        first, size = str(code), 10 ** (3 - len(str(code)))
        for rest in range(size):
            found[f"{first}{str(rest).zfill(3 - len(first)) if size > 1 else ''}"] = plan
    return found


@cache
def plan_of(region: str) -> Plan:
    """Plan of a region such as ``CN``. Raises ParameterError if there is none."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, country_code_for_region

    code = country_code_for_region(region)
    if not code:
        raise ParameterError(f"{region} is not a region; use ISO 3166-1 alpha-2, such as CN")
    return _plan(code, COUNTRY_CODE_TO_REGION_CODE[code])


def one(text: str, region: str) -> str | None:
    """E.164 of digits that may begin with + or a prefix, by ``phonenumbers`` itself; None if the
    number cannot exist."""
    import phonenumbers

    try:
        number = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))


def _plan(code: int, regions: tuple[str, ...]) -> Plan:
    """The first region is the one whose prefixes are stripped."""
    from phonenumbers import PhoneMetadata

    metadata = [PhoneMetadata.metadata_for_region_or_calling_code(code, r) for r in regions]
    home: Any = metadata[0]
    prefix, idd = home.national_prefix_for_parsing, home.international_prefix
    stripped = [part for part in (str(code), idd, prefix) if part]
    return Plan(
        str(code),
        re.compile(_valid(metadata)),
        re.compile(prefix or "(?!)"),
        re.compile("|".join(f"(?:{part})" for part in stripped)),
        prefix == "0" or (prefix or "").endswith("|0"),
        _quick(home, prefix),
    )


def _quick(home: Any, prefix: str | None) -> Quick | None:
    if home is None or home.leading_digits:
        return None
    by_length: dict[tuple[int, ...], list[str]] = {}
    for name in TYPES:
        kind = getattr(home, name)
        if kind is not None and kind.national_number_pattern:
            by_length.setdefault(kind.possible_length, []).append(kind.national_number_pattern)
    types = [(lengths, f"^(?:{'|'.join(shapes)})$") for lengths, shapes in by_length.items()]
    general = f"^(?:{home.general_desc.national_number_pattern})$"
    return Quick(f"^(?:{prefix})" if prefix else "^$", general, tuple(types))


def _valid(regions: list[Any]) -> str:
    """Matches a whole national number that exists in one of the regions."""
    parts, earlier = [], ""
    for region in regions:
        if region is None:
            continue
        own = f"(?={region.leading_digits})" if region.leading_digits else ""
        parts.append(f"{earlier}{own}{_region(region)}")
        if region.leading_digits:
            earlier += f"(?!{region.leading_digits})"
    return f"(?:{'|'.join(parts)})"


def _region(region: Any) -> str:
    types = [getattr(region, name) for name in TYPES]
    shapes = [_described(kind) for kind in types if kind is not None]
    possible = "|".join(shape for shape in shapes if shape)
    return f"(?={_described(region.general_desc)}$)(?:{possible or '(?!)'})$"


def _described(description: Any) -> str:
    pattern = description.national_number_pattern
    if not pattern:
        return ""
    lengths = "|".join(rf"\d{{{length}}}" for length in description.possible_length)
    return (f"(?=(?:{lengths})$)" if lengths else "") + f"(?:{pattern})(?=$)"

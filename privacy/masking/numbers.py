"""E-mail addresses, telephone numbers, cards and other numbers in running text.

Kinds with a check digit come first and are checked; a card number is never called a phone.
"""

from __future__ import annotations

from collections.abc import Callable

import polars as pl

from privacy.identifiers import bank_card, company, documents, id_card, phone
from privacy.masking.pattern import Accepts, Pattern


def _valid(canonical: Callable[[pl.Series], pl.Series]) -> Accepts:
    return lambda values: canonical(values).is_not_null()


def _issued(values: pl.Series) -> pl.Series:
    """Which are payment cards that somebody issues, and no ID card with a typing error."""
    digits = values.str.replace_all("[ -]", "")
    valid = bank_card.normalise(digits).is_not_null() & digits.str.contains(_ISSUED)
    return valid & ~digits.str.contains(f"^(?:{_ID})$")


def _long_enough(values: pl.Series) -> pl.Series:
    """Which have the eight to fifteen digits of an international number, whether it exists or not."""
    digits = values.str.replace_all("[^0-9]", "").str.len_bytes()
    return (digits >= 8) & (digits <= 15)


def _american(values: pl.Series) -> pl.Series:
    """Which ten digits are a number of North America that can exist: nothing else shows that they are one
    where no sign stands between them."""
    digits = values.str.replace("[xe].*$", "").str.replace_all("[^0-9]", "").str.tail(10)
    return phone.decided("+1" + digits, "US").is_not_null()


_GAP = "[ -]?"
_DATE = "(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_EMAIL = (
    "[0-9A-Za-z][0-9A-Za-z.!#$%&'+/=?^_`{|}~-]{0,63}"
    r"@(?:[0-9A-Za-z][0-9A-Za-z-]{0,62}\.)+[A-Za-z]{2,24}"
)
_ID = (
    rf"[1-9][0-9]{{5}}{_GAP}(?:18|19|20)[0-9]{{2}}{_GAP}{_DATE}{_GAP}[0-9]{{3}}[0-9Xx]"
    rf"|[1-9][0-9]{{5}}[0-9]{{2}}{_DATE}[0-9]{{3}}"
)
_IBAN = r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
_USCC = "[1-9ANY][1-9][0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}"
_CARD = (
    r"[1-6][0-9]{3}(?:[ -]?[0-9]{4}){2}(?:[ -]?[0-9]{1,7})?"
    r"|3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5}"
)
_ISSUED = (
    "^(?:62[0-9]{14,17}|4[0-9]{12}|4[0-9]{15}|4[0-9]{18}|(?:1800|2131)[0-9]{11}"
    "|(?:50(?:18|20|38)|5893|6304|676[1-3]|6759)[0-9]{8,15}|5[1-5][0-9]{14}|2[2-7][0-9]{14}|3[47][0-9]{13}"
    "|35[0-9]{14}|3(?:0[0-5]|[68][0-9])[0-9]{11}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12})$"
)
"""Beginnings and lengths of UnionPay, Visa, JCB, Maestro, Mastercard, American Express, Diners, Discover."""
_SPACE = "[ .\u00a0-]?"
_MOBILE = (
    rf"(?:\(?(?:\+|00)?86\)?{_SPACE})?1[3-9][0-9](?:{_SPACE}[0-9]{{4}}{_SPACE}[0-9]{{4}}"
    rf"|[0-9]{_SPACE}[0-9]{{3}}{_SPACE}[0-9]{{4}}|[0-9]{{2}}{_SPACE}[0-9]{{3}}{_SPACE}[0-9]{{3}})"
)
_LOCAL = r"[2-8][0-9]{6,7}(?:(?:-|转)[0-9]{1,5})?"
_LANDLINE = rf"0[1-9][0-9]{{1,2}}{_LOCAL}"
_LANDLINE_WRITTEN = rf"(?:\(0[1-9][0-9]{{1,2}}\)[ -]?|0[1-9][0-9]{{1,2}}[ -]){_LOCAL}"
_EXTENSION = r"(?: ?(?:x|ext\.?) ?[0-9]{1,6})?"
_US = rf"(?:(?:\+?1|001)[ .-]?)?\(?[2-9][0-9]{{2}}\)?[ ./-]?[2-9][0-9]{{2}}[ .-]?[0-9]{{4}}{_EXTENSION}"
_US_WRITTEN = (
    r"(?:(?:\+?1|001)[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ ./-])[0-9]{3}[ .-][0-9]{4}"
    rf"{_EXTENSION}"
)
_REST = r"[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,5}\)?){2,5}"

NUMBERS: tuple[Pattern, ...] = (
    Pattern("email", _EMAIL, "@", anywhere=True),
    Pattern("iban", _IBAN, "[A-Z]{2}[0-9]{2}", _valid(company.iban)),
    Pattern("id_card", _ID, "[0-9]{6}", _valid(id_card.normalise), touching=True),
    Pattern("uscc", _USCC, "[0-9]{6}[0-9A-Z]{10}", _valid(company.uscc)),
    Pattern("bank_card", _CARD, "[0-9]{4}", _issued, touching=True),
    Pattern("phone", _MOBILE, "[0-9]{4}", touching=True),
    Pattern("phone", _LANDLINE_WRITTEN, "0[0-9]{2,3}[ )-]", touching=True),
    Pattern("phone", _LANDLINE, "0[0-9]{9}"),
    Pattern("phone", _US_WRITTEN, "[ .-][0-9]{4}", touching=True),
    Pattern("phone", _US, "[0-9]{4}", _american),
    Pattern("phone", rf"\+{_REST}", r"\+[0-9]", _long_enough),
    Pattern("phone", f"00{_REST}", "00[1-9]", _valid(phone.normalise)),
    Pattern("plate", documents.PLATE, "[A-Z][A-Z0-9]{4}"),
    Pattern("passport", "[EGDSPHM][0-9]{8}|E[A-HJ-NP-Z][0-9]{7}", "[0-9]{7}"),
    Pattern("ip", r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", r"[0-9]\.[0-9]", _valid(documents.ip)),
)  # fmt: skip
"""In the order in which they are looked for."""
NUMBER = Pattern("number", "[0-9](?:[ -]?[0-9]){11,}", "[0-9]{4}", touching=True)
"""Twelve digits or more that are nothing known."""

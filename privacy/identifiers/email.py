"""E-mail addresses: trimmed, lower case, of the form local@domain.tld in ASCII (RFC 5321 limits).

Dots and +tags stay: only some platforms drop them, and a partner join must not guess. International
domains become ASCII (RFC 5891) through ``email-validator``.
"""

from __future__ import annotations

import polars as pl

from privacy.identifiers.text import by_value, cleaned, keep, put, tidied

_ATOM = "[a-z0-9!#$%&'*+/=?^_`{|}~-]+"
_LABEL = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
_SHAPE = rf"^{_ATOM}(?:\.{_ATOM})*@(?:{_LABEL}\.)+[a-z][a-z0-9-]*[a-z0-9]$"
_WRONG = "^[^@]{65}|@.*[^.@]{64}"
"""A local part, a label too long."""


def normalise(values: pl.Series) -> pl.Series:
    """Canonical addresses, null for anything else."""
    text, _ = tidied(values, _SHAPE, _clean)
    longest = text.str.len_bytes().max()
    if longest is None or int(str(longest)) <= 64:
        return text
    wrong = (text.str.len_bytes() > 254) | text.str.contains(_WRONG)
    return put(text, wrong.fill_null(value=False).arg_true(), None)


def _clean(values: pl.Series) -> pl.Series:
    text = cleaned(values).str.strip_prefix("mailto:").str.to_lowercase()
    foreign = (text.str.len_bytes() > text.str.len_chars()) & text.str.contains("@", literal=True)
    foreign = foreign.fill_null(value=False)
    if not bool(foreign.any()):
        return text
    return text.zip_with(~foreign, by_value(keep(text, foreign), _international))


def _international(address: str) -> str | None:
    from email_validator import EmailNotValidError, validate_email

    try:
        found = validate_email(address, check_deliverability=False).ascii_email
    except EmailNotValidError:
        return None
    return found.lower() if found else None

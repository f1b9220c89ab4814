"""Payment card numbers: 12 to 19 digits with a true check digit (ISO/IEC 7812-1)."""

from __future__ import annotations

import polars as pl

from privacy.identifiers.text import checked, cleaned, luhn, tidied


def normalise(values: pl.Series) -> pl.Series:
    """Digits only, null for anything else."""
    text, good = tidied(values, "^[1-9][0-9]{11,18}$", _clean)
    return checked(text, good, luhn)


def _clean(values: pl.Series) -> pl.Series:
    return cleaned(values).str.replace_all("[ -]", "")

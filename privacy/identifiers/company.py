"""Unified social credit identifiers of Chinese organisations (GB 32100-2015) and IBANs (ISO 13616)."""

from __future__ import annotations

import polars as pl

from privacy.identifiers.text import by_value, cleaned, keep


def uscc(values: pl.Series) -> pl.Series:
    """18 characters with a true check character, null for anything else."""
    text = cleaned(values).str.replace_all("[ -]", "").str.to_uppercase()
    text = keep(text, text.str.contains("^[0-9A-HJ-NPQRTUWXY]{2}[0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}$"))
    return by_value(text, _uscc)


def iban(values: pl.Series) -> pl.Series:
    """Upper case, no spaces, with true check digits and the country's length; null for others."""
    text = cleaned(values).str.replace_all("[ -]", "").str.to_uppercase()
    text = keep(text, text.str.contains("^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$"))
    return by_value(text, _iban)


def _uscc(text: str) -> str | None:
    from stdnum.cn import uscc as rule

    return text if rule.is_valid(text) else None


def _iban(text: str) -> str | None:
    from stdnum import iban as rule

    return text if rule.is_valid(text) else None

"""Names of people: one case, one width, single spaces, no titles."""

from __future__ import annotations

import polars as pl

from privacy.identifiers.text import cleaned, keep

_BEFORE = r"^(?:(?:mrs|mr|ms|miss|mx|dr|prof|herr|frau|mme|sir|dame|rev)\.?\s+)+"
_AFTER = (
    r"(?:(?:\s*,\s*|\s+)(?:jr|sr|snr|jnr|ii|iii|iv|phd|ph\.d|md|m\.d|dds|esq|cpa|ret)\.?)+$"
    r"|(?:先生|女士|小姐|太太|老师|老師|博士|教授)$"
)


def normalise(values: pl.Series) -> pl.Series:
    """Lower case, titles and suffixes out; null where nothing that looks like a name remains."""
    text = cleaned(values).str.to_lowercase().str.replace_all(r"\s+", " ")
    text = text.str.replace(_BEFORE, "").str.replace(_AFTER, "").str.strip_chars(" ,.")
    chinese = text.str.contains(r"^[\p{Han} ·•.]+$").fill_null(value=False)
    text = text.zip_with(~chinese, text.str.replace_all("[ ·•.]", ""))
    return keep(text, text.str.contains(r"\p{L}"))

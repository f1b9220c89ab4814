"""Device identifiers: advertising ids (RFC 9562 UUIDs, lower case, hyphens) and IMEIs (Luhn)."""

from __future__ import annotations

import polars as pl

from privacy.identifiers.text import checked, cleaned, keep, luhn, tidied

_HEX = "[0-9a-f]"
_CANONICAL = f"^(?:{_HEX}{{8}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{4}}-{_HEX}{{12}}|[0-9]{{15}})$"
_PARTS = f"^({_HEX}{{8}})-?({_HEX}{{4}})-?({_HEX}{{4}})-?({_HEX}{{4}})-?({_HEX}{{12}})$"
_NOBODY = "^[0-]+$"
"""The all-zero id of "do not track"."""


def normalise(values: pl.Series) -> pl.Series:
    """Canonical identifiers, null for anything else."""
    text, _ = tidied(values, _CANONICAL, _clean)
    text = keep(text, ~text.str.contains(_NOBODY) | text.is_null())
    imei = (text.str.len_bytes() == 15).fill_null(value=False)
    return checked(text, imei, luhn) if bool(imei.any()) else text


def _clean(values: pl.Series) -> pl.Series:
    text = cleaned(values).str.to_lowercase().str.strip_chars("{}")
    return text.str.replace(_PARTS, "$1-$2-$3-$4-$5")

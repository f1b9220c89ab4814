"""Identifiers that were normalised and hashed elsewhere: SHA-256 as 64 hexadecimal digits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl


def normalise(values: pl.Series) -> pl.Series:
    """Lower-case digits, null for anything else."""
    from privacy.identifiers.text import keep, short

    text = short(values).str.strip_chars().str.to_lowercase()
    return keep(text, text.str.contains("^[0-9a-f]{64}$"))


def all_at_once(values: Sequence[str | None]) -> NDArray[np.uint8] | None:
    """All digests, (n, 32), if every value is plainly 64 digits; None where one is not."""
    try:
        if set(map(len, values)) - {64}:  # type: ignore[arg-type]
            return None
        data = bytes.fromhex("".join(values))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if len(data) != 32 * len(values):  # blanks between bytes are skipped
        return None
    return np.frombuffer(data, np.uint8).reshape(-1, 32)

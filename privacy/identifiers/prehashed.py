"""Identifiers that were normalised and hashed elsewhere: SHA-256 as 64 hexadecimal digits."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_DIGEST = re.compile(r"[0-9a-f]{64}")


def normalise(values: Sequence[str | None]) -> list[str | None]:
    """Lower-case digits, None for anything else."""
    cleaned = [None if value is None else value.strip().lower() for value in values]
    return [v if v is not None and _DIGEST.fullmatch(v) else None for v in cleaned]


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

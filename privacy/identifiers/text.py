"""What all normalisers do first: one Unicode form, no invisible characters."""

from __future__ import annotations

import unicodedata

INVISIBLE = dict.fromkeys(
    [0x00AD, 0x180E, 0x200B, 0x200C, 0x200D, 0x200E, 0x200F, 0x202A, 0x202B, 0x202C, 0x202D,
     0x202E, 0x2060, 0x2066, 0x2067, 0x2068, 0x2069, 0xFEFF]
)  # fmt: skip
LONGEST = 320


def clean(value: str | None) -> str | None:
    """NFKC (full-width to ASCII), invisible characters out, stripped; None if empty or too long."""
    if value is None or len(value) > 4 * LONGEST:
        return None
    text = value if value.isascii() else unicodedata.normalize("NFKC", value).translate(INVISIBLE)
    text = text.strip()
    return text if 0 < len(text) <= LONGEST else None

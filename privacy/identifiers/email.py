"""E-mail addresses: trimmed, lower case, of the form local@domain.tld in ASCII (RFC 5321 limits).

Dots and +tags stay: only some platforms drop them, and a partner join must not guess.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from privacy.identifiers.text import clean

_SHAPE = re.compile(
    r"(?=.{6,254}\Z)(?=[^@]{1,64}@)"
    r"[a-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[a-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])"
)


def normalise(values: Sequence[str | None]) -> list[str | None]:
    """Canonical address, or None."""
    result: list[str | None] = []
    for value in values:
        text = clean(value)
        text = text.removeprefix("mailto:").lower() if text else None
        result.append(text if text and _SHAPE.fullmatch(text) else None)
    return result

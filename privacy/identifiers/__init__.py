"""Identifiers of people: normalised, then SHA-256, whole columns at a time.

What does not normalise is None: it is counted, never guessed. An unkeyed digest of a phone number
is reversible in minutes (10^10 candidates), so digests exist inside a gate only; what goes through
the second door is blinded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

from privacy.errors import ParameterError
from privacy.identifiers import device, email, id_card, phone

Normaliser = Callable[[Sequence[str | None]], list[str | None]]

NORMALISERS: dict[str, Normaliser] = {
    "email": email.normalise,
    "phone": phone.normalise,
    "id_card": id_card.normalise,
    "device_id": device.normalise,
}


def normalised(kind: str, values: Sequence[str | None]) -> list[str | None]:
    """Canonical text of each value, None where invalid. Raises ParameterError for a kind unknown."""
    if kind not in NORMALISERS:
        raise ParameterError(f"{kind} is not a kind of identifier")
    return NORMALISERS[kind](values)


def hashed(kind: str, values: Sequence[str | None]) -> list[bytes | None]:
    """SHA-256 of each canonical text, 32 bytes, None where invalid."""
    return [
        None if text is None else hashlib.sha256(text.encode()).digest()
        for text in normalised(kind, values)
    ]

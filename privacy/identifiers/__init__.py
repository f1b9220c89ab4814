"""Identifiers of people: normalised, then SHA-256, whole columns at a time.

What does not normalise is None: it is counted, never guessed. An unkeyed digest of a phone number
is reversible in minutes (10^10 candidates), so digests exist inside a gate only; what goes through
the second door is blinded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.identifiers import device, email, id_card, phone, prehashed

Normaliser = Callable[[Sequence[str | None]], list[str | None]]

NORMALISERS: dict[str, Normaliser] = {
    "email": email.normalise,
    "phone": phone.normalise,
    "id_card": id_card.normalise,
    "device_id": device.normalise,
    "hashed": prehashed.normalise,
}


def normalised(kind: str, values: Sequence[str | None]) -> list[str | None]:
    """Canonical text of each value, None where invalid. Raises ParameterError for a kind unknown."""
    if kind not in NORMALISERS:
        raise ParameterError(f"{kind} is not a kind of identifier")
    return NORMALISERS[kind](values)


def hashed(kind: str, values: Sequence[str | None]) -> list[bytes | None]:
    """SHA-256 of each canonical text, 32 bytes, None where invalid; of kind ``hashed`` the digest that
    the text spells."""
    if kind == "hashed":
        return [None if t is None else bytes.fromhex(t) for t in prehashed.normalise(values)]
    return [
        None if text is None else hashlib.sha256(text.encode()).digest()
        for text in normalised(kind, values)
    ]


def labels(kind: str, values: Sequence[str | None]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Digests of the valid values, (m, 32), and which values those are, (m,)."""
    if kind == "hashed":
        whole = prehashed.all_at_once(values)
        if whole is not None:
            return whole, np.arange(len(values), dtype=np.int64)
    digests = hashed(kind, values)
    held = [i for i, digest in enumerate(digests) if digest is not None]
    data = b"".join(digest for digest in digests if digest is not None)
    return np.frombuffer(data, np.uint8).reshape(-1, 32), np.array(held, np.int64)

"""Identifiers of people: normalised, then SHA-256, whole columns at a time.

What does not normalise is null: it is counted, never guessed. An unkeyed digest of a phone number
is reversible in minutes (10^10 candidates), so digests exist inside a gate and in upload files
that a platform asks for; what goes through the second door is blinded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from privacy.errors import ParameterError
from privacy.identifiers import prehashed

if TYPE_CHECKING:
    import polars as pl

Normaliser = Callable[["pl.Series"], "pl.Series"]
HOME_REGION = "CN"
"""Region of telephone numbers that are written without a country code, where nobody names another."""


def normalisers() -> dict[str, Normaliser]:
    """By kind. polars is loaded here, so that a gate at rest does without."""
    from privacy.identifiers import bank_card, company, device, email, id_card, person_name, phone

    return {
        "email": email.normalise,
        "phone": phone.normalise,
        "id_card": id_card.normalise,
        "device_id": device.normalise,
        "hashed": prehashed.normalise,
        "bank_card": bank_card.normalise,
        "iban": company.iban,
        "uscc": company.uscc,
        "name": person_name.normalise,
    }


def normalised(kind: str, values: pl.Series, region: str = HOME_REGION) -> pl.Series:
    """Canonical text of each value, null where invalid. ``region``: ISO 3166-1 alpha-2, of telephone
    numbers without a country code. Raises ParameterError for a kind or region unknown."""
    from privacy.identifiers import phone

    known = normalisers()
    if kind not in known:
        raise ParameterError(f"{kind} is not a kind of identifier")
    return phone.normalise(values, region) if kind == "phone" else known[kind](values)


def labels(
    kind: str, values: Sequence[str | None], region: str = HOME_REGION
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """SHA-256 of the canonical text of the valid values, (m, 32), and which values those are, (m,);
    of kind ``hashed`` the digest that the text spells."""
    if kind == "hashed":
        whole = prehashed.all_at_once(values)
        if whole is not None:
            return whole, np.arange(len(values), dtype=np.int64)
    import polars as pl

    canonical = normalised(kind, pl.Series(values, dtype=pl.String), region)
    held = canonical.is_not_null().arg_true().to_numpy().astype(np.int64)
    texts = canonical.drop_nulls().to_list()
    if kind == "hashed":
        data = bytes.fromhex("".join(texts))
    else:
        data = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
    return np.frombuffer(data, np.uint8).reshape(-1, 32), held

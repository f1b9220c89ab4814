"""The kinds of column that a table policy can name, and what each of them means to a mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from privacy.errors import ParameterError
from privacy.identifiers import (
    bank_card,
    company,
    device,
    documents,
    email,
    id_card,
    person_name,
    phone,
)
from privacy.identifiers.text import cleaned, keep
from privacy.masking import partial

Column = Callable[[pl.Series], pl.Series]
Canonical = Callable[[pl.Series, str], pl.Series]
"""Of values and of the region of telephone numbers without a country code."""


def _alike(normalise: Column) -> Canonical:
    """For kinds that are written alike in every region."""
    return lambda values, region: normalise(values)


@dataclass(frozen=True)
class Kind:
    """``canonical``: one text for equal values, null for invalid ones. ``partial``: what a person may
    see of canonical values, null where the form does not fit; None where there is no such mask.
    ``left``: what that mask hides, as a number of values, None where nobody can say. ``checksum``:
    whether a value proves itself. ``identifies``: one person, alone. ``join``: what an HMAC is made of,
    where it says less than the canonical text, from which a token must come back."""

    name: str
    canonical: Canonical
    partial: Column | None = None
    left: float | None = None
    checksum: bool = False
    identifies: bool = True
    join: Column | None = None


def _number(values: pl.Series) -> pl.Series:
    """Texts that spell a finite number, as they are written."""
    text = cleaned(values)
    return keep(text, text.cast(pl.Float64, strict=False).is_finite())


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("name", _alike(cleaned), partial.name, join=person_name.normalise),
        Kind("email", _alike(email.normalise), partial.email),
        Kind("phone", phone.normalise, partial.phone, 1e4),
        Kind("id_card", _alike(id_card.normalise), partial.id_card, 999, checksum=True),
        Kind("passport", _alike(documents.passport), partial.passport, 1e5),
        Kind("bank_card", _alike(bank_card.normalise), partial.bank_card, 1e7, checksum=True),
        Kind("iban", _alike(company.iban), partial.iban, 1e8, checksum=True),
        Kind("uscc", _alike(company.uscc), partial.uscc, 31.0**9, checksum=True, identifies=False),
        Kind("address", _alike(cleaned), partial.address),
        Kind("birth_date", _alike(documents.date_text), partial.birth_date, 365, identifies=False),
        Kind("ip", _alike(documents.ip), partial.ip, 2.0**16),
        Kind("device_id", _alike(device.normalise), partial.device_id, 1e10),
        Kind("plate", _alike(documents.plate), partial.plate, 33.0**4),
        Kind("text", _alike(lambda values: values.cast(pl.String)), identifies=False),
        Kind("number", _alike(_number), identifies=False),
        Kind("category", _alike(cleaned), identifies=False),
    )
}
"""``left`` counts numbers of the shortest form: a longer card number leaves more."""


def kind(name: str) -> Kind:
    """The kind called ``name``. Raises ParameterError."""
    if name not in KINDS:
        raise ParameterError(f"{name} is not a kind; known are {', '.join(KINDS)}")
    return KINDS[name]

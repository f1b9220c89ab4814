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


@dataclass(frozen=True)
class Kind:
    """``canonical``: one text for equal values, null for invalid ones. ``partial``: what a person may
    see of canonical values, null where the form does not fit; None where there is no such mask.
    ``left``: what that mask hides, as a number of values, None where nobody can say. ``checksum``:
    whether a value proves itself. ``identifies``: one person, alone. ``join``: what an HMAC is made of,
    where it says less than the canonical text, from which a token must come back."""

    name: str
    canonical: Column
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
        Kind("name", cleaned, partial.name, join=person_name.normalise),
        Kind("email", email.normalise, partial.email),
        Kind("phone", phone.normalise, partial.phone, 1e4),
        Kind("id_card", id_card.normalise, partial.id_card, 999, checksum=True),
        Kind("passport", documents.passport, partial.passport, 1e5),
        Kind("bank_card", bank_card.normalise, partial.bank_card, 1e7, checksum=True),
        Kind("iban", company.iban, partial.iban, 1e8, checksum=True),
        Kind("uscc", company.uscc, partial.uscc, 31.0**9, checksum=True, identifies=False),
        Kind("address", cleaned, partial.address),
        Kind("birth_date", documents.date_text, partial.birth_date, 365, identifies=False),
        Kind("ip", documents.ip, partial.ip, 2.0**16),
        Kind("device_id", device.normalise, partial.device_id, 1e10),
        Kind("plate", documents.plate, partial.plate, 33.0**4),
        Kind("text", lambda values: values.cast(pl.String), identifies=False),
        Kind("number", _number, identifies=False),
        Kind("category", cleaned, identifies=False),
    )
}
"""``left`` counts numbers of the shortest form: a longer card number leaves more."""


def kind(name: str) -> Kind:
    """The kind called ``name``. Raises ParameterError."""
    if name not in KINDS:
        raise ParameterError(f"{name} is not a kind; known are {', '.join(KINDS)}")
    return KINDS[name]


def canonical(kind_name: str, values: pl.Series, region: str) -> pl.Series:
    """One text for equal values, null for invalid ones; telephone numbers without a country code are of
    ``region``. Raises ParameterError."""
    if kind_name == "phone":
        return phone.normalise(values, region)
    return kind(kind_name).canonical(values)

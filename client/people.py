"""Who a row belongs to. A person is what the gate computes, never what a source calls equal.

A key is text; one declared normalisation makes its canonical form, and the first 16 bytes of
SHA-256("tallystick/v1/fold" || UTF-8 of that form) are the person. Rows are grouped by these bytes here:
a source's order, equality, collation or type plays no part, so one person's rows can neither split nor
join another's. Two keys fall together by chance with probability below n^2 / 2^129.

Not handled: one person under two keys (that is two people, and the owner's to mend), and a key that
stands for nobody, such as "unknown" (that is one person, bounded like any other).
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from privacy.programs.columns import Floats

Normalisation = Literal["exact", "trimmed", "caseless"]
"""``exact``: the text as it is. ``trimmed``: NFC, surrounding white space removed. ``caseless``: NFKC
and case folded besides."""
People = NDArray[np.uint64]
"""(n, 2): the first 16 bytes of each row's digest, big-endian."""

_DOMAIN = b"tallystick/v1/fold"


def canonical(keys: Sequence[str | None], how: Normalisation) -> list[str]:
    """The form of each key that is hashed; "" is nobody."""
    if how == "exact":
        return [key or "" for key in keys]
    if how == "trimmed":
        return [_trimmed(key) if key else "" for key in keys]
    return [_caseless(key) if key else "" for key in keys]


def _trimmed(key: str) -> str:
    key = key.strip()
    return key if key.isascii() else unicodedata.normalize("NFC", key)


def _caseless(key: str) -> str:
    key = key.strip().casefold()
    if key.isascii():
        return key
    # Folding may undo a composition and composing may make what folds: as Unicode's NFKC_Casefold.
    key = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", key).casefold())
    return key.strip()


def digests(keys: Sequence[str]) -> People:
    """The person of each canonical key."""
    sha256 = hashlib.sha256
    data = b"".join([sha256(_DOMAIN + key.encode()).digest()[:16] for key in keys])
    return np.frombuffer(data, ">u8").astype(np.uint64).reshape(-1, 2)


def fold(person: People) -> Floats:
    """A number in [0, 1) of each person: public, so that every partner holds out alike."""
    return (person[:, 0] >> np.uint64(11)).astype(np.float64) * 2.0**-53


def fold_of(keys: Sequence[str]) -> tuple[NDArray[np.uint64], Floats]:
    """The first 8 bytes of each key's digest and its fold, keys normalised as gates do by default."""
    person = digests(canonical(keys, "trimmed"))
    return np.ascontiguousarray(person[:, 0]), fold(person)


@dataclass(frozen=True)
class Grouping:
    """``order``: which rows to keep, one person's together. ``new``: whether a kept row is its
    person's first. ``over``: rows left out because their person has too many."""

    order: NDArray[np.intp]
    new: NDArray[np.bool_]
    over: int


def grouped(
    person: People, values: Sequence[Floats], texts: Sequence[Sequence[str | None]], most: int
) -> Grouping:
    """Rows in order of digest, then of their values and texts; at most ``most`` of a person, all for 0.

    A function of the set of rows: the order in which they came changes nothing.
    """
    order: NDArray[np.intp] = np.lexsort((person[:, 1], person[:, 0]))
    new = firsts(person[order])
    several = ~new  # rows of people who have more than one
    several[:-1] |= ~new[1:]
    if several.any():
        place = np.flatnonzero(several)
        rows = order[place]
        within = [np.cumsum(new)[place], *(column[rows] for column in values)]
        within += [_ranks([column[row] or "" for row in rows.tolist()]) for column in texts]
        order[place] = rows[np.lexsort(within[::-1])]
    at = np.arange(len(order))
    kept = at - np.maximum.accumulate(np.where(new, at, 0)) < most if most else at >= 0
    return Grouping(order[kept], new[kept], int((~kept).sum()))


def firsts(person: People) -> NDArray[np.bool_]:
    """(n,): whether a row's person differs from the row's before."""
    new: NDArray[np.bool_] = np.ones(len(person), np.bool_)
    new[1:] = (person[1:] != person[:-1]).any(axis=1)
    return new


def _ranks(texts: list[str]) -> NDArray[np.intp]:
    rank = {text: i for i, text in enumerate(sorted(set(texts)))}
    return np.array([rank[text] for text in texts], np.intp)

"""Bends the plain values of a file, and texts: what a parser of TOML, JSON, CSV or PEM is given."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from datetime import UTC, date, datetime
from random import Random
from typing import Any

WORDS: tuple[str, ...] = (
    "", " ", "a", "A", "bank", "shop", "telecom", "nobody", "coordinator", "everyone", "count", "sum(age)",
    "mean(spend)", "histogram(age,5)", "histogram(region)", "age", "spend", "region", "returned", "fold",
    "person", "email", "phone", "hashed", "id_card", "query", "match", "segment", "size", "list", "cache",
    "overlap", "fast", "ristretto255", "semi_honest", "keep", "token", "ff1", "hmac", "suppress", "direct",
    "../../etc/passwd", "./bank", "/dev/zero", "-", "--help", "a" * 33, "x" * 300, "x" * 70_000, "\0",
    "bank\x1b[2J\x07", "\u202ebank", "\ufeff", "b\u0430nk", "\U0001f9ee", "\ud7ff", "\u2028", "\r\n", "\x85",
    "=1+1", "@SUM", "%s%n{0}", "${HOME}", "'; DROP TABLE jobs; --", "model:buyers", "model:buyers@00",
    "age > 40", "age >= 1e400", "not " * 40 + "age > 1", "(" * 60, 'region == "east"', "bank & shop",
    "bank & (shop | telecom)", "!bank", "AAAA", "AA==", "AB==", "0" * 64, "f" * 32, "unix:/tmp/x",
    "127.0.0.1:9", "[::1]:9", "host:0", "host:65536", "host:\u0661", "file:/x", "env:X", "keyring:",
    "ssh-ed25519 AAAA", "CN", "US", "ZZ",
)  # fmt: skip
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 3, 5, 49, 50, 64, 100, 101, 255, 365, 1000, 65_535, 65_536, 10**6, 2**31, 2**53, 2**63 - 1,
    -(2**63), 0.0, -0.0, 0.5, 1.0, 1e-5, 1e-12, 5e-324, 1e100, 1e300, 1.7976931348623157e308, -1e308,
    2.2250738585072014e-308, 0.1 + 0.2, 14.0, 99.9,
)  # fmt: skip
ODD: tuple[Any, ...] = (
    None, True, False, [], {}, [[]], {"": 0}, [None], float("nan"), float("inf"), float("-inf"), 2**64,
    10**40, datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999_999), date(2020, 2, 29),
)  # fmt: skip
"""Of a type that is seldom meant. Not every format can hold each."""
PIECES: tuple[str, ...] = (
    "\n", "\r\n", "\r", ",", ";", "\t", "|", '"', "'", '"""', "'''", "\\", "\\u0041", "\\ud800", "#", "=",
    "[", "]", "[[", "]]", "{", "}", ".", ":", "0", "9" * 30, "1e999", "nan", "inf", "-", "+", "_", "true",
    "null", "\0", "\ufeff", "\u2028", "\x1a", "\u00e9", "\U0001f9ee", "(", ")", "&", "&&", "|", "!", "~",
    "and", "or", "not", "==", "<", "model:", "@", "--", "-----BEGIN CERTIFICATE-----", "=HYPERLINK(1)", " ",
)  # fmt: skip


OPENERS = (
    "[", "{", "(", "a.", '{"a":', "[[a]]\n", "a=1\n", "1,", "not ", "!", '"', "\\", "#\n", "-",
)  # fmt: skip


def bent(rng: Random, values: Any, most: int = 4) -> Any:
    """A copy of plain values with up to ``most`` of them changed, added, taken out or moved."""
    whole = copy.deepcopy(values)
    for _ in range(rng.choice([1, 1, 1, 2, most])):
        whole = _one(rng, whole)
    return whole


def _one(rng: Random, whole: Any) -> Any:
    places = list(_places(whole, []))
    if not places:
        return _any(rng, whole)
    owner, key = rng.choice(places)
    chance = rng.random()
    if chance < 0.12:
        del owner[key]
    elif chance < 0.2 and isinstance(owner, dict):
        name = (
            rng.choice(WORDS) if rng.random() < 0.5 else f"{key}{rng.choice(['', '_', 'x', ' '])}"
        )
        owner[name] = owner[key] if rng.random() < 0.5 else owner.pop(key)
    elif chance < 0.28 and isinstance(owner, list):
        owner[key:key] = [copy.deepcopy(owner[key])] * rng.choice([1, 1, 2, 50, 300])
    elif chance < 0.36:
        other, at = rng.choice(places)
        if at in other if isinstance(other, dict) else at < len(other):
            owner[key] = copy.deepcopy(other[at])
    else:
        owner[key] = _any(rng, owner[key])
    return whole


def _places(value: Any, found: list[tuple[Any, Any]]) -> Sequence[tuple[Any, Any]]:
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, item in items:
        found.append((value, key))
        _places(item, found)
    return found


def _any(rng: Random, value: Any) -> Any:
    """Another value, most often of the same type."""
    chance = rng.random()
    if chance < 0.12:
        return copy.deepcopy(rng.choice(ODD))  # what is put in may itself be bent next
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)) and chance < 0.9:
        if rng.random() < 0.4:
            return type(value)(rng.choice([-value, value + 1, value * 2, value / 3]))
        return rng.choice(NUMBERS)
    if isinstance(value, str) and chance < 0.6:
        return text(rng, value, 2)
    if isinstance(value, list) and chance < 0.5:
        return [rng.choice(WORDS) for _ in range(rng.choice([0, 1, 2, 7, 60]))]
    return rng.choice(WORDS if chance < 0.85 else NUMBERS)


def text(rng: Random, whole: str, most: int = 8) -> str:
    """A text with pieces put in, taken out, doubled or replaced."""
    for _ in range(rng.choice([1, 1, 2, most])):
        at, chance = rng.randrange(len(whole) + 1), rng.random()
        if chance < 0.4:
            whole = whole[:at] + rng.choice(PIECES) + whole[at:]
        elif chance < 0.6:
            whole = whole[:at] + whole[at + rng.choice([1, 1, 3, 20, 400]) :]
        elif chance < 0.75:
            size = rng.choice([1, 4, 30, 300])
            whole = (
                whole[:at] + whole[at : at + size] * rng.choice([2, 2, 3, 40]) + whole[at + size :]
            )
        elif chance < 0.9:
            whole = whole[:at] + rng.choice(PIECES) + whole[at + 1 :]
        else:
            other = rng.randrange(len(whole) + 1)
            whole = whole[:at] + whole[other : other + 60] + whole[at:]
        whole = whole[:200_000]
    return whole


def nested(rng: Random) -> str:
    """A text that is deep, long or many, up to well past what is allowed."""
    many = rng.choice([10, 31, 32, 33, 500, 20_000])
    kind = rng.choice(
        ["[", "{", "(", "a.", '{"a":', "[[a]]\n", "a=1\n", "1,", "not ", "!", '"', "\\", "#\n", "-"]
    )
    return f"{rng.choice(['', 'a = ', '[', 'x'])}{kind * many}{rng.choice(['', ']', '}', '1'])}"

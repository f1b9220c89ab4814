"""Synthetic people with realistic, dirty identifiers. All of them are made up.

The same customer number gives the same e-mail address and telephone number everywhere; each partner
writes them down in its own sloppy way, and sometimes wrongly.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_FIRST = [
    "li",
    "wang",
    "zhang",
    "liu",
    "chen",
    "anna",
    "ben",
    "carla",
    "david",
    "emma",
    "felix",
    "greta",
    "hugo",
    "ida",
    "jonas",
]
_LAST = [
    "wei",
    "fang",
    "na",
    "min",
    "jing",
    "smith",
    "meyer",
    "rossi",
    "dubois",
    "novak",
    "garcia",
    "silva",
    "kim",
    "tanaka",
]
_HOSTS = ("example.com", "example.org", "mail.example.net", "post.example.cn")


def email(number: int) -> str:
    """The clean address of customer ``number``."""
    first, last = _FIRST[number % len(_FIRST)], _LAST[number // 7 % len(_LAST)]
    return f"{first}.{last}{number}@{_HOSTS[number % len(_HOSTS)]}"


def phone(number: int) -> str:
    """The clean E.164 number of customer ``number``: 19x mobile numbers, made up."""
    return f"+8619{number * 7919 % 1_000_000_000:09d}"


def _full_width(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


_EMAIL_DIRT: tuple[Callable[[str], str], ...] = (
    lambda t: t,
    str.upper,
    lambda t: f"  {t} ",
    lambda t: t.capitalize(),
    _full_width,
    lambda t: t + "\u200b",
)
_PHONE_DIRT: tuple[Callable[[str], str], ...] = (
    lambda t: t,
    lambda t: t[3:],
    lambda t: f"{t[3:6]} {t[6:10]} {t[10:]}",
    lambda t: f"0086-{t[3:6]}-{t[6:]}",
    lambda t: _full_width(t[3:]),
    lambda t: f"(+86) {t[3:]}",
)


def dirty_emails(numbers: list[int], seed: int, wrong: float = 0.02) -> list[str]:
    """Addresses as a partner holds them; ``wrong`` of them are unusable."""
    return _dirty([email(n) for n in numbers], _EMAIL_DIRT, seed, wrong, "unknown at example")


def dirty_phones(numbers: list[int], seed: int, wrong: float = 0.02) -> list[str]:
    """Telephone numbers as a partner holds them; ``wrong`` of them are unusable."""
    return _dirty([phone(n) for n in numbers], _PHONE_DIRT, seed, wrong, "n/a")


def _dirty(
    texts: list[str],
    dirt: tuple[Callable[[str], str], ...],
    seed: int,
    wrong: float,
    unusable: str,
) -> list[str]:
    rng = np.random.default_rng(seed)
    pick, bad = rng.integers(0, len(dirt), len(texts)), rng.random(len(texts)) < wrong
    return [
        unusable if is_bad else dirt[which](text)
        for text, which, is_bad in zip(texts, pick.tolist(), bad.tolist(), strict=True)
    ]

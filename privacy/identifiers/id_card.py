"""Resident identity numbers of the People's Republic of China (GB 11643-1999), and the cards of Hong
Kong and Taiwan.

18 digits: six for the region, eight for the birth date, three for the order, one check digit by
ISO 7064 MOD 11-2. The 15-digit form of before 1999 becomes the 18-digit one. Regions are checked by
province: districts come and go, and numbers of abolished ones stay valid. Permits of residents from
Hong Kong, Macau and Taiwan begin with 81, 82 and 83; residence cards of foreigners (2023) write 9
before the province.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from privacy.identifiers.text import by_value, checked, cleaned, keep, matrix, put, tidied

_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = np.frombuffer(b"10X98765432", np.uint8)
PROVINCES = {
    11: "北京市", 12: "天津市", 13: "河北省", 14: "山西省", 15: "内蒙古自治区", 21: "辽宁省",
    22: "吉林省", 23: "黑龙江省", 31: "上海市", 32: "江苏省", 33: "浙江省", 34: "安徽省",
    35: "福建省", 36: "江西省", 37: "山东省", 41: "河南省", 42: "湖北省", 43: "湖南省",
    44: "广东省", 45: "广西壮族自治区", 46: "海南省", 50: "重庆市", 51: "四川省", 52: "贵州省",
    53: "云南省", 54: "西藏自治区", 61: "陕西省", 62: "甘肃省", 63: "青海省",
    64: "宁夏回族自治区", 65: "新疆维吾尔自治区", 71: "台湾省", 81: "香港特别行政区",
    82: "澳门特别行政区", 83: "台湾省",
}  # fmt: skip
"""First two digits of GB/T 2260; 83 is used in permits of residents from Taiwan."""
_KNOWN = np.isin(np.arange(100), list(PROVINCES))
_LAST_DAYS = np.zeros((3, 100), np.int32)
_LAST_DAYS[1, 1:13] = _LAST_DAYS[2, 1:13] = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_LAST_DAYS[2, 2] = 29
_Y = np.arange(10_000)
_LEAP = (_Y % 4 == 0) & ((_Y % 100 != 0) | (_Y % 400 == 0))
_YEARS = np.where(_Y < 1850, 0, np.where(_LEAP, 2, 1))
"""By year: 0 too early, 1 ordinary, 2 leap; selects a row of the last days of months."""
_NEW = "^[1-9][0-9]{16}[0-9X]$"
_ELSEWHERE = "^[A-Z][0-9]{9}$|^[A-Z]{1,2}[0-9]{6}[0-9A]$"
_TAIWAN = {
    letter: 10 + place for place, letter in enumerate("ABCDEFGHJKLMNPQRSTUVXYWZIO")
}  # the order of issue, not of the alphabet


def normalise(values: pl.Series) -> pl.Series:
    """Numbers with true check digit, region and birth date; null for anything else."""
    text, fits = tidied(values, f"{_NEW}|{_ELSEWHERE}", _clean)
    mainland = (text.str.len_bytes() == 18).fill_null(value=False) & fits
    text = checked(text, mainland, true_numbers)
    other = fits & ~mainland
    if not bool(other.any()):
        return text
    return text.zip_with(~other, by_value(keep(text, other), _elsewhere))


def _clean(values: pl.Series) -> pl.Series:
    text = cleaned(values).str.replace_all(r"[\s-]", "").str.to_uppercase()
    text = text.str.replace(r"^([A-Z]{1,2}[0-9]{6})\(([0-9A])\)$", "$1$2")
    old = text.str.contains("^[1-9][0-9]{14}$").fill_null(value=False)
    return put(text, old.arg_true(), _from_old(text.filter(old)))


def true_numbers(text: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which rows, (n, 18) of ASCII digits and a last digit or X, are numbers that can exist."""
    digits = np.ascontiguousarray(text.T) - np.uint8(48)
    good: NDArray[np.bool_] = _CHECKS[_sum(digits[:17], _WEIGHTS) % 11] == text[:, 17]
    first, second, third = digits[:3]
    foreign = first == 9
    good &= _KNOWN[np.where(foreign, second, first) * 10 + np.where(foreign, third, second)]
    year = _sum(digits[6:10], (1000, 100, 10, 1))
    good &= dates_exist(year, _sum(digits[10:12], (10, 1)), _sum(digits[12:14], (10, 1)))
    return good


def check_characters(text: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The check characters of rows of 17 ASCII digits (ISO 7064 MOD 11-2), (n,)."""
    found: NDArray[np.uint8] = _CHECKS[_sum(text.T - np.uint8(48), _WEIGHTS) % 11]
    return found


def _sum(digits: NDArray[np.uint8], weights: tuple[int, ...]) -> NDArray[np.int16]:
    """Weighted sum of each column of digits, (len(weights), n). Not by BLAS, whose threads would spin
    for as long again; sums stay under 2^15."""
    total = np.zeros(digits.shape[1], np.int16)
    for row, weight in zip(digits, weights, strict=True):
        total += row * np.int16(weight)
    return total


def dates_exist(
    year: NDArray[np.int16], month: NDArray[np.int16], day: NDArray[np.int16]
) -> NDArray[np.bool_]:
    """Which dates exist in the proleptic Gregorian calendar since 1850. All (n,) and under 10,000."""
    found: NDArray[np.bool_] = (day >= 1) & (day <= _LAST_DAYS[_YEARS[year], month % 100])
    return found


def province(numbers: pl.Series) -> pl.Series:
    """The province of canonical numbers; null where there is none."""
    pair = numbers.str.slice(0, 2).zip_with(
        ~numbers.str.starts_with("9").fill_null(value=False), numbers.str.slice(1, 2)
    )
    names = {str(code): name for code, name in PROVINCES.items()}
    return pair.replace_strict(names, default=None, return_dtype=pl.String)


def _from_old(numbers: pl.Series) -> pl.Series:
    bodies = numbers.str.slice(0, 6) + "19" + numbers.str.slice(6)
    last = [chr(code) for code in check_characters(matrix(bodies, 17))]
    return bodies + pl.Series(last, dtype=pl.String)


def _elsewhere(text: str) -> str | None:
    """Hong Kong: one or two letters, six digits, a check digit by weights 9 to 1 modulo 11. Taiwan: a
    letter, nine digits, weights modulo 10."""
    if len(text) == 10 and text[0] in _TAIWAN and text[1:].isdigit() and text[1] in "1289":
        code = _TAIWAN[text[0]]
        total = code // 10 + code % 10 * 9 + int(text[9])
        total += sum(int(digit) * (8 - i) for i, digit in enumerate(text[1:9]))
        return text if total % 10 == 0 else None
    letters = text[:-7]
    if len(letters) not in (1, 2) or not letters.isalpha() or not text[-7:-1].isdigit():
        return None
    padded = [36] if len(letters) == 1 else []
    padded += [ord(letter) - 55 for letter in letters] + [int(digit) for digit in text[-7:-1]]
    total = sum(value * weight for value, weight in zip(padded, range(9, 1, -1), strict=True))
    total += 10 if text[-1] == "A" else int(text[-1])
    return text if total % 11 == 0 else None

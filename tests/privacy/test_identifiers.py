from __future__ import annotations

import hashlib
import json

import phonenumbers
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ParameterError
from privacy.identifiers import NORMALISERS, hashed, normalised
from privacy.masking import display
from tests.conftest import shared


@pytest.mark.parametrize(
    ("kind", "raw", "clean"),
    [
        ("email", "  Foo.Bar+x@GMAIL.com ", "foo.bar+x@gmail.com"),
        ("email", "ｆｏｏ@ｂａｒ.com", "foo@bar.com"),
        ("email", "a@b\u200b.co", "a@b.co"),
        ("email", "no at sign", None),
        ("email", "a@b", None),
        ("email", "a..b@c.de", None),
        ("email", "x" * 70 + "@c.de", None),
        ("email", "", None),
        ("email", None, None),
        ("phone", "138 1234 1234", "+8613812341234"),
        ("phone", "０１３８", None),
        ("phone", "0086-13812341234", "+8613812341234"),
        ("phone", "+1 (415) 555-2671", "+14155552671"),
        ("phone", "0044 20 7946 0958", "+442079460958"),
        ("phone", "123", None),
        ("phone", "12345678901234567890", None),
        ("id_card", "11010519491231002x", "11010519491231002X"),
        ("id_card", "110105491231002", "11010519491231002X"),
        ("id_card", "110105194912310021", None),
        ("id_card", "11010519491331002X", None),
        (
            "device_id",
            "{6D92078A-8246-4BA4-AE5B-76104861E7DC}",
            "6d92078a-8246-4ba4-ae5b-76104861e7dc",
        ),
        ("device_id", "00000000-0000-0000-0000-000000000000", None),
        ("device_id", "490154203237518", "490154203237518"),
        ("device_id", "490154203237517", None),
    ],
)
def test_normalisers(kind: str, raw: str | None, clean: str | None) -> None:
    assert normalised(kind, [raw]) == [clean]
    expected = None if clean is None else hashlib.sha256(clean.encode()).digest()
    assert hashed(kind, [raw]) == [expected]


@given(st.sampled_from(sorted(NORMALISERS)), st.text(max_size=60))
def test_normalising_twice_changes_nothing(kind: str, text: str) -> None:
    once = normalised(kind, [text])[0]
    assert once is None or normalised(kind, [once]) == [once]


def test_unknown_kind() -> None:
    with pytest.raises(ParameterError):
        hashed("passport", ["x"])


def test_id_cards_of_hutool() -> None:
    lines = shared("vectors", "hutool_idcard_uscc.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines[1:]]
    cases = [c for c in cases if c["fn"] == "isValidCard" and len(c["in"]) in (15, 18)]
    assert len(cases) >= 5
    wrong = [
        i for i, c in enumerate(cases)
        if (normalised("id_card", [c["in"]])[0] is not None) != c["valid"] and not c["strict_case"]
    ]  # fmt: skip
    assert wrong == []


def test_example_numbers_of_libphonenumber() -> None:
    lines = shared("vectors", "libphonenumber_example_numbers.jsonl").read_text().splitlines()
    cases = [json.loads(line) for line in lines[1:]]
    raw = [f"+{c['cc']} {c['national']}" for c in cases]
    found = normalised("phone", raw)
    expected = []
    for text in raw:
        number = phonenumbers.parse(text)
        valid = phonenumbers.is_valid_number(number)
        form = phonenumbers.PhoneNumberFormat.E164
        expected.append(phonenumbers.format_number(number, form) if valid else None)
    long_enough = [i for i, c in enumerate(cases) if len(c["cc"] + c["national"]) >= 7]
    assert len(long_enough) > 1000
    assert [found[i] for i in long_enough] == [expected[i] for i in long_enough]


@pytest.mark.parametrize(
    ("kind", "raw", "shown"),
    [
        ("name", "张三丰", "张***"),
        ("name", "欧阳锋", "欧阳***"),
        ("name", "欧阳", "欧***"),
        ("name", "John Smith", "***"),
        ("name", "张", "***"),
        ("phone", "13812341234", "138****1234"),
        ("phone", "+86 138-1234-1234", "138****1234"),
        ("phone", "1381234123", "***"),
        ("phone", "+14155552671", "***"),
        ("id_card", "11010519491231002X", "11010519491231****"),
        ("id_card", "110105491231002", "11010519491231****"),
        ("id_card", "1101051949123100", "***"),
    ],
)
def test_masks(kind: str, raw: str, shown: str) -> None:
    assert display.masked(kind, [raw, None]) == ([shown, None], int(shown == "***"))


@given(st.sampled_from(sorted(display.MASKS)), st.text(max_size=40))
def test_masks_fail_closed(kind: str, text: str) -> None:
    shown = display.MASKS[kind](text)
    assert shown is not None
    assert shown == "***" or "***" in shown
    assert len(text.strip()) < 4 or text.strip() not in shown

from __future__ import annotations

import datetime
import hashlib
import json
import random

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ParameterError
from privacy.identifiers import (
    documents,
    id_card,
    labels,
    normalised,
    normalisers,
    numbering,
    phone,
)
from privacy.identifiers.platforms import PROFILES
from privacy.identifiers.text import by_value, luhn, matrix
from protos.alliance import PLATFORMS
from simulations.bench import vectors
from tests.conftest import shared


def one(kind: str, value: str | None) -> str | None:
    result: str | None = normalised(kind, pl.Series([value], dtype=pl.String))[0]
    return result


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
        ("email", "info@bücher.example", "info@xn--bcher-kva.example"),
        ("email", "张三@例子.中国", None),
        ("email", "a@-b.de", None),
        ("email", "a@b.c", None),
        ("email", "a" * 64 + "@" + "b" * 63 + ".de", "a" * 64 + "@" + "b" * 63 + ".de"),
        ("email", "a" * 64 + "@" + "b" * 64 + ".de", None),
        ("phone", "010-6234 5678", "+861062345678"),
        ("phone", "tel:+86 138 1234 1234", "+8613812341234"),
        ("phone", "+99999999999", None),
        ("id_card", "110105 19491231 002X", "11010519491231002X"),
        ("id_card", "990105194912310022", None),
        ("id_card", "A123456(3)", "A1234563"),
        ("id_card", "A123456(4)", None),
        ("id_card", "A123456789", "A123456789"),
        ("id_card", "A123456788", None),
        ("bank_card", "4111 1111 1111 1111", "4111111111111111"),
        ("bank_card", "4111111111111112", None),
        ("bank_card", "4111", None),
        ("iban", "gb82 west 1234 5698 7654 32", "GB82WEST12345698765432"),
        ("iban", "GB82WEST12345698765431", None),
        ("uscc", "91310115591693856a", "91310115591693856A"),
        ("uscc", "91310115591693856B", None),
        ("name", " Dr. John  SMITH, Jr. ", "john smith"),
        ("name", "张三 先生", "张三"),
        ("name", "张 三丰", "张三丰"),
        ("name", "12", None),
    ],
)
def test_normalisers(kind: str, raw: str | None, clean: str | None) -> None:
    assert one(kind, raw) == clean


def test_the_same_value_alone_and_in_a_column() -> None:
    raw = [
        None,
        " ",
        "１３８１２３４１２３４",
        "13812341234",
        "+1 415-555-2671",
        "x" * 5000,
        "a\x00b",
    ]
    column = normalised("phone", pl.Series(raw))
    assert column.to_list() == [one("phone", value) for value in raw]


def test_a_column_is_not_changed_by_being_normalised() -> None:
    raw = ["４１１１１１１１１１１１１１１１", "11010519491231002x", "FOO@BAR.COM", None]
    for kind in normalisers():
        column = pl.Series(raw)
        normalised(kind, column)
        assert column.to_list() == raw


@given(st.sampled_from(sorted(normalisers())), st.text(max_size=60))
def test_normalising_twice_changes_nothing(kind: str, text: str) -> None:
    once = one(kind, text)
    assert once is None or one(kind, once) == once


@given(
    st.sampled_from(sorted(normalisers())), st.lists(st.text(max_size=30) | st.none(), max_size=8)
)
def test_rows_do_not_see_each_other(kind: str, texts: list[str | None]) -> None:
    column = normalised(kind, pl.Series(texts, dtype=pl.String))
    assert column.to_list() == [one(kind, text) for text in texts]


def test_typed_columns() -> None:
    assert normalised("phone", pl.Series([13812341234, None])).to_list() == ["+8613812341234", None]
    assert normalised("phone", pl.Series([13812341234.0, None])).to_list() == [
        "+8613812341234",
        None,
    ]
    assert normalised("id_card", pl.Series([1.1010519491231002e17])).to_list() == [None]


def test_unknown_kind() -> None:
    with pytest.raises(ParameterError):
        one("passport", "x")


def test_labels_are_digests_of_what_is_valid() -> None:
    digests, places = labels("phone", ["13812341234", None, "nothing", "138 1234 1234"])
    assert places.tolist() == [0, 3]
    expected = hashlib.sha256(b"+8613812341234").digest()
    assert [row.tobytes() for row in digests] == [expected, expected]
    spelt = ["ab" * 32, " " + "CD" * 32, "ef"]
    digests, places = labels("hashed", spelt)
    assert places.tolist() == [0, 1]
    assert digests[1].tobytes() == bytes([0xCD] * 32)


@pytest.mark.parametrize("region", ["CN", "US", "DE", "BR", "IT", "RU", "GB", "MX"])
def test_plans_say_what_phonenumbers_says(region: str) -> None:
    """Example numbers of all countries with digits changed, as written at home and abroad."""
    lines = shared("vectors", "libphonenumber_example_numbers.jsonl").read_text().splitlines()
    rng, raw = random.Random(7), []
    for line in lines[1:]:
        case = json.loads(line)
        digits = list(case["national"])
        for _ in range(rng.choice([0, 1, 2, 4])):
            digits[rng.randrange(len(digits))] = rng.choice("0123456789")
        raw.append(rng.choice([f"+{case['cc']}", f"+{case['cc']}", "", "0"]) + "".join(digits))
    raw = [text for text in raw if 7 <= len(text.lstrip("+")) <= 15]
    found = phone.decided(pl.Series(raw), region).to_list()
    assert found == [numbering.one(text, region) for text in raw]


def test_whole_columns_of_one_country_say_what_phonenumbers_says() -> None:
    rng = random.Random(8)
    for code, size in (("1", 10), ("44", 10), ("86", 11), ("49", 11)):
        raw = [
            "+" + code + "".join(rng.choice("0123456789") for _ in range(size)) for _ in range(600)
        ]
        found = phone.decided(pl.Series(raw), "CN").to_list()
        assert found == [numbering.one(text, "CN") for text in raw]


def test_numbers_of_another_home() -> None:
    column = pl.Series(["030 901820", "0151-12345678", "13812341234"])
    assert normalised("phone", column, "DE").to_list() == ["+4930901820", "+4915112345678", None]
    assert len(labels("phone", ["030 901820"], "DE")[1]) == 1


def test_an_unknown_region() -> None:
    with pytest.raises(ParameterError, match="ISO 3166"):
        phone.normalise(pl.Series(["13812341234"]), "XX")


@given(st.lists(st.integers(0, 10**15), min_size=1, max_size=20))
def test_luhn_is_stdnums(numbers: list[int]) -> None:
    from stdnum import luhn as reference

    texts = [f"{number:016d}" for number in numbers]
    assert luhn(matrix(pl.Series(texts), 16)).tolist() == [reference.is_valid(t) for t in texts]


def test_dates_of_id_cards_are_the_calendars() -> None:
    bodies = [
        f"110105{year}{month:02d}{day:02d}001"
        for year in (1849, 1850, 1899, 1900, 1996, 2000, 2003)
        for month in range(14)
        for day in range(33)
    ]
    column = pl.Series(bodies)
    checks = [chr(c) for c in id_card.check_characters(matrix(column, 17))]
    found = normalised("id_card", column + pl.Series(checks)).is_not_null().to_list()

    def exists(text: str) -> bool:
        try:
            return datetime.datetime.strptime(text, "%Y%m%d").year >= 1850
        except ValueError:
            return False

    assert found == [exists(body[6:14]) for body in bodies]


def test_documents() -> None:
    assert documents.plate(pl.Series(["京A·12345", "沪AD12345", "XA12345"])).to_list() == [
        "京A12345", "沪AD12345", None,
    ]  # fmt: skip
    assert documents.passport(pl.Series(["e12345678", "E 1234 5678", "12"])).to_list() == [
        "E12345678", "E12345678", None,
    ]  # fmt: skip
    assert documents.ip(pl.Series(["10.0.0.1", "256.1.1.1", "2001:DB8::1", "1.2.3"])).to_list() == [
        "10.0.0.1", None, "2001:db8::1", None,
    ]  # fmt: skip
    raw = ["1949-12-31", "1949/12/31", "19491231", "1949年12月31日", "1949-12-31 10:00:00", "31/12/1949",
           "1949-02-30", "0001-01-01"]  # fmt: skip
    assert documents.date_text(pl.Series(raw)).to_list() == ["1949-12-31"] * 5 + [None] * 3


def test_single_value_rules_see_each_value_once() -> None:
    seen: list[str] = []

    def upper(text: str) -> str:
        seen.append(text)
        return text.upper()

    assert by_value(pl.Series(["a", None, "a", "b"]), upper).to_list() == ["A", None, "A", "B"]
    assert sorted(seen) == ["a", "b"]


def test_contracts_know_the_platforms_that_there_are() -> None:
    assert set(PLATFORMS) == set(PROFILES)


@pytest.mark.parametrize("name", vectors.NAMES)
def test_vectors_of_others(name: str) -> None:
    tried, wrong = vectors.wrong(shared("vectors", name).parent, name)
    assert tried >= 6
    assert wrong == []

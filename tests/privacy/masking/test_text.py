from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import ParameterError
from privacy.masking import text
from simulations import corpus


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("请联系13812341234,13912341234、15012345678", "请联系[phone],[phone]、[phone]"),
        ("tel13812341234转", "tel[phone]转"),
        ("电话１３８１２３４１２３４，谢谢。", "电话[phone],谢谢。"),
        ("138\u200b1234\u200b1234", "[phone]"),
        ("138.1234.1234 1381 234 1234 13812-341-234", "[phone] [phone] [phone]"),
        ("(+86)13812341234，0086 138\u00a01234\u00a01234", "[phone]，[phone]"),
        ("836-771-0049x141, 001-313-465-8063 ext. 34, +999 1234 5678", "[phone], [phone], [phone]"),
        (
            "4155552671 is one, 9155550000000 and 1155552671 are not",
            "[phone] is one, [number] and 1155552671 are not",
        ),
        ("4873059085056 and 180030929787322", "[bank_card] and [bank_card]"),
        ("415/555-2671, (415)555-2671", "[phone], [phone]"),
        ("邮箱a.b+c@Example.com。", "邮箱[email]。"),
        ("call (415) 555-2671 or 415.555.2671", "call [phone] or [phone]"),
        ("+44 20 7946 0958, 010-62345678转123", "[phone], [phone]"),
        ("身份证11010519491231002X和11010519491231002x", "身份证[id_card]和[id_card]"),
        ("110105 19491231 002X", "[id_card]"),
        ("old 110105491231002 card", "old [id_card] card"),
        ("IBAN GB82 WEST 1234 5698 7654 32 OK", "IBAN [iban] OK"),
        ("card 4111-1111-1111-1111, 4111111111111112", "card [bank_card], [number]"),
        ("车牌京A12345，护照E12345678", "车牌[plate]，护照[passport]"),
        ("from 192.0.2.7 to 256.1.1.1", "from [ip] to 256.1.1.1"),
        ("91310115591693856A", "[uscc]"),
        (
            "订单 1234567，时间 2024-09-03 05:16:37，¥1,234.50",
            "订单 1234567，时间 2024-09-03 05:16:37，¥1,234.50",
        ),
        ("版本 1.2.3，共 12 件", "版本 1.2.3，共 12 件"),
        ("line\n13812341234\nline", "line\n[phone]\nline"),
        ("👍13812341234👍", "👍[phone]👍"),
        ("\u202e13812341234\u202c", "[phone]"),
        ("", ""),
    ],
)
def test_redaction(raw: str, expected: str) -> None:
    assert text.redacted(pl.Series([raw])).text[0] == expected


def test_counts_nulls_and_chosen_kinds() -> None:
    values = pl.Series(["13812341234 a@b.com", None, "[phone] 13812341234"])
    result = text.redacted(values, ("email",))
    assert result.text.to_list() == ["13812341234 [email]", None, "[phone] 13812341234"]
    assert result.found == {"email": 1, "number": 0}
    assert text.redacted(values).found["phone"] == 2
    with pytest.raises(ParameterError, match="cannot be found"):
        text.redacted(values, ("device_id",))


def test_long_numbers_are_hidden_unless_one_says_otherwise() -> None:
    values = pl.Series(["ref 123456789012 and 1234 5678 9012 3456 7890"])
    assert text.redacted(values).text[0] == "ref [number] and [number]"
    assert text.redacted(values, long_numbers=False).text[0] == values[0]


def test_a_hit_behind_a_candidate_that_fails() -> None:
    values = pl.Series(["2024 4111 1111 1111 1111", "ID x110105194912310021x11010519491231002X"])
    assert text.redacted(values, long_numbers=False).text.to_list() == [
        "2024 [bank_card]", "ID x110105194912310021x[id_card]",
    ]  # fmt: skip
    found = text.findings(values)
    assert found["bank_card"].rows() == [(0, "4111 1111 1111 1111")]
    assert found["id_card"].rows() == [(1, "11010519491231002X")]


def test_a_checksum_has_the_last_word() -> None:
    values = pl.Series(["110105194912310021 110105194912310021 11010519491231002X"])
    found = text.findings(values)
    assert found["id_card"]["text"].to_list() == ["11010519491231002X"]
    assert found["bank_card"].is_empty()
    assert found["phone"].is_empty()


@given(st.text(max_size=20), st.text(max_size=20))
def test_a_phone_number_among_anything_is_hidden(before: str, after: str) -> None:
    """Unless a digit touches it: then it is part of a longer number."""
    raw = f"{before}，13812341234，{after}"
    assert "13812341234" not in text.redacted(pl.Series([raw])).text[0]


ANYWHERE = (
    "13812341234", "138 1234 1234", "+8613812341234", "010-62345678", "415-555-2671", "(415) 555-2671",
    "a.b@example.com", "11010519491231002X", "110105491231002", "4111 1111 1111 1111",
    "GB82WEST12345698765432",
)  # fmt: skip
BESIDE = "abX张，；:/\\_-+#*~ \n\t'\"<>|"


@given(st.sampled_from(ANYWHERE), st.text(BESIDE, max_size=4), st.text(BESIDE, max_size=4))
def test_whatever_stands_beside_it(value: str, before: str, after: str) -> None:
    """Letters, signs, Chinese characters; digits would make it another number."""
    assert value not in text.redacted(pl.Series([before + value + after])).text[0]


@given(
    st.lists(
        st.sampled_from(["13812341234", "a@b.com", "11010519491231002X", " ", "，", "x"]),
        max_size=8,
    )
)
def test_redacting_twice_changes_nothing(parts: list[str]) -> None:
    once = text.redacted(pl.Series(["".join(parts)])).text
    assert text.redacted(once).text.to_list() == once.to_list()


def test_rows_do_not_see_each_other() -> None:
    notes = corpus.make(400, 9).texts
    together = text.redacted(notes).text.to_list()
    assert together == [text.redacted(pl.Series([note])).text[0] for note in notes]


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_recall_and_precision_on_labelled_notes(kind: str) -> None:
    """4,000 made-up notes with a fixed seed; `bench mask` prints the figures on more."""
    notes = corpus.make(4_000, 5)
    found = {
        (int(row), kind, corpus.same(kind, value))
        for row, value in text.findings(notes.texts, corpus.KINDS)[kind].iter_rows()
    }
    recall, precision = corpus.scores(notes.labels, found, kind)
    least, exact = (0.85, 0.85) if kind == "phone" else (0.99, 0.98)
    assert recall >= least
    assert precision >= exact

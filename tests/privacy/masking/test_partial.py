from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import DataError, ParameterError
from privacy.masking.kinds import KINDS
from privacy.masking.transform import HIDDEN, Column, Transform, apply, candidates, masked
from privacy.randomness import stream

MASKED = [kind for kind, facts in KINDS.items() if facts.partial]


def shown(kind: str, value: str | None) -> str | None:
    column = Column("c", kind, Transform("partial"), "c")
    masked, counts = apply(column, pl.Series([value], dtype=pl.String), None, stream(bytes(32)))
    assert counts.invalid == int(masked[0] == HIDDEN)
    result: str | None = masked[0]
    return result


@pytest.mark.parametrize(
    ("kind", "raw", "expected"),
    [
        ("name", "张三丰", "张***"),
        ("name", "欧阳锋", "欧阳***"),
        ("name", "欧阳", "欧***"),
        ("name", "John Smith", "***"),
        ("name", "张", "***"),
        ("phone", "13812341234", "138****1234"),
        ("phone", "+86 138-1234-1234", "138****1234"),
        ("phone", "1381234123", "***"),
        ("phone", "+14155552671", "****2671"),
        ("id_card", "11010519491231002X", "11010519491231****"),
        ("id_card", "110105491231002", "11010519491231****"),
        ("id_card", "1101051949123100", "***"),
        ("id_card", "A123456789", "***"),
        ("email", "alice@example.com", "a***@example.com"),
        ("email", "al@example.com", "***"),
        ("bank_card", "4111 1111 1111 1111", "****1111"),
        ("iban", "GB82 WEST 1234 5698 7654 32", "GB****5432"),
        ("uscc", "91310115591693856A", "91310115**********"),
        ("address", "浙江省杭州市西湖区文三路1号", "浙江省杭州市***"),
        ("address", "Baker Street 221b", "***"),
        ("birth_date", "1949/12/31", "1949-**-**"),
        ("ip", "192.0.2.7", "192.0.*.*"),
        ("ip", "2001:db8::1", "2001:db8:****"),
        ("ip", "::1", "***"),
        ("device_id", "aebe52e7-03ee-455a-b3c4-e57283966239", "aebe****"),
        ("plate", "京A12345", "京A****5"),
        ("passport", "E12345678", "E*****678"),
        ("passport", "1234567", "***"),
        ("phone", "", "***"),
        ("phone", None, None),
    ],
)
def test_masks(kind: str, raw: str | None, expected: str | None) -> None:
    assert shown(kind, raw) == expected


@given(st.sampled_from(MASKED), st.text(max_size=40))
def test_masks_fail_closed(kind: str, text: str) -> None:
    result = shown(kind, text)
    assert result is not None
    assert "*" in result
    assert len(text.strip()) < 4 or text.strip() not in result


@pytest.mark.parametrize("cut", range(1, 12))
def test_nothing_short_is_shown_because_it_is_short(cut: int) -> None:
    """What others' masks return unmasked (ShardingSphere, Hutool)."""
    for kind, value in (
        ("phone", "13812341234"), ("id_card", "11010519491231002X"), ("bank_card", "411111111111"),
        ("email", "alice@example"),
    ):  # fmt: skip
        assert shown(kind, value[:cut]) == "***" or value[:cut] == "13812341234"


def test_shardingsphere_masks_show_short_values_and_ours_do_not() -> None:
    for text in ("ab", "abc", "abc1", "abc12345"):
        for kind in MASKED:
            if kind not in ("passport",):
                assert shown(kind, text) == "***"


def test_columns_that_are_no_texts() -> None:
    for values in (pl.Series("c", [[1], [2]]), pl.Series("c", [b"\xff", b"a"])):
        plan = [Column("c", "phone", Transform("partial"), "c")]
        with pytest.raises(DataError, match="column c: values of type") as error:
            masked(plan, values.to_frame(), None, stream(bytes(32)), {})
        assert "\\xff" not in str(error.value)


def test_how_many_values_remain() -> None:
    assert candidates("phone", Transform("partial")) == 10_000
    assert candidates("id_card", Transform("partial")) == 999
    assert candidates("birth_date", Transform("generalise", to="5-year")) == 1825
    assert candidates("phone", Transform("hmac")) == float("inf")
    assert candidates("email", Transform("partial")) is None
    assert candidates("city", Transform("keep")) == 1


@pytest.mark.parametrize(
    ("kind", "transform", "reason"),
    [
        ("phone", Transform("blur"), "not one of"),
        ("text", Transform("partial"), "no partial mask"),
        ("phone", Transform("generalise", to="year"), "for birth_date"),
        ("number", Transform("generalise", to="band:0"), "not one of"),
        ("number", Transform("noise"), "scale above 0"),
        ("phone", Transform("noise", scale=1.0), "for numbers"),
        ("phone", Transform("redact"), "for text"),
        ("text", Transform("redact", find=("shoe size",)), "cannot be found"),
        ("text", Transform("hmac"), "free text"),
        ("phone", Transform("partial", to="year"), "for generalise"),
        ("phone", Transform("partial", scale=2.0), "for noise"),
        ("phone", Transform("partial", find=("email",)), "for redact"),
    ],
)
def test_what_contradicts_itself(kind: str, transform: Transform, reason: str) -> None:
    with pytest.raises(ParameterError, match=reason):
        transform.check(kind)

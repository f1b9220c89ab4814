"""Names and addresses in running text, and what a row says about itself."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privacy.masking import text
from privacy.masking.own import without_own
from privacy.masking.transform import Column, Transform, masked
from privacy.randomness import stream
from simulations import customers

PEOPLE = customers.table(300, 11, dirt=0.0)
CHINESE = PEOPLE["name"].filter(PEOPLE["name"].str.contains(r"^\p{Han}")).to_list()
LATIN = PEOPLE["name"].filter(PEOPLE["name"].str.contains("^[A-Z]")).to_list()


def redacted(raw: str, **more: object) -> str:
    return str(text.redacted(pl.Series([raw]), ("name", "address"), **more).text[0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("联系人：张三要求改地址", "联系人：[name]要求改地址"),
        ("姓名: 欧阳修，已核对；收件人陈静", "姓名: [name]，已核对；收件人[name]"),
        ("我叫王小明，她叫段誉", "我叫[name]，她叫[name]"),
        ("感谢李老师，请转告周先生和郑小姐", "感谢[name]老师，请转告[name]先生和[name]小姐"),
        ("康樊女士来过", "[name]女士来过"),
        ("Mr. Smith and Dr O'Neill met Prof. Anna van", "Mr. [name] and Dr [name] met Prof. [name] van"),
        ("my name is Anna-Maria McDonald PhD.", "my name is [name]."),
        ("Contact: Jean-Luc Dubois, CUSTOMER: Bo Li", "Contact: [name], CUSTOMER: [name]"),
        ("Name: Ida\nFULL NAME: Hugo Meyer Jr.", "Name: [name]\nFULL NAME: [name]."),
        # nobody
        ("高级经理来了，经理不在，老师傅都说好", "高级经理来了，经理不在，老师傅都说好"),
        ("Product name: Blue Widget; file name: Report", "Product name: Blue Widget; file name: Report"),
        ("Contact: please call back. Contact: Support", "Contact: please call back. Contact: Support"),
        ("[name]先生，联系人：[name]", "[name]先生，联系人：[name]"),
    ],
)  # fmt: skip
def test_names(raw: str, expected: str) -> None:
    assert redacted(raw) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("寄到浙江省杭州市西湖区文三路478号华星大厦12楼，谢谢", "寄到[address]，谢谢"),
        ("住在阳光花园3栋2单元501室", "住在[address]"),
        ("地址:内蒙古自治区呼和浩特市新城区中山街道人民路一百二十号 010000", "地址:[address]"),
        ("文三路12号,13812341234", "[address],13812341234"),
        ("at 12345 N Main St, Apt 4B, Springfield, IL 62704 now", "at [address] now"),
        ("350 5th Ave, New York, NY 10118-0110.", "[address]."),
        ("19249 Rachel Radial\nBrittanymouth, VT 03628", "[address]"),
        ("PSC 6942, Box 7494\nAPO AE 92010; P.O. Box 123", "[address]; [address]"),
        # nowhere in particular
        ("人民路旁边，3号柜台，订单12号", "人民路旁边，3号柜台，订单12号"),
        ("Main Street is closed. 2 Items left.", "Main Street is closed. 2 Items left."),
        ("in Springfield, IL 62704", "in Springfield, IL 62704"),
    ],
)
def test_addresses(raw: str, expected: str) -> None:
    assert redacted(raw, long_numbers=False) == expected


@given(
    st.sampled_from(CHINESE),
    st.sampled_from(["联系人：{}，谢谢", "请转告{}先生", "我叫{}。", "户名{}\n"]),
)
def test_an_announced_chinese_name_is_hidden(name: str, sentence: str) -> None:
    assert redacted(sentence.format(name)) == sentence.format("[name]")


@given(
    st.sampled_from(LATIN),
    st.sampled_from(["Contact: {}, thanks.", "My name is {}.", "Ms. {}: 2 calls", "Dear Mr {},"]),
)
def test_an_announced_latin_name_is_hidden(name: str, sentence: str) -> None:
    assert redacted(sentence.format(name)) == sentence.format("[name]")


def test_the_scanner_counts_them() -> None:
    notes = pl.Series(["Mr. Smith lives at 12 Oak Road", None, "王先生"])
    found = text.findings(notes)
    assert sorted(found["name"].rows()) == [(0, "Smith"), (2, "王")]
    assert found["address"].rows() == [(0, "12 Oak Road")]
    assert found["phone"].is_empty()


NOTES = [
    "张伟强打电话来，伟强说要退款", "anna smith, ANNA and Smithson", "C0000017 and C00000171", None,
    "李四来了，李四走了", "a1", "３ 王五",
]  # fmt: skip
NAMES = ["张伟强", "Anna Smith", None, "李四", "李四", "a1", "王五"]
IDS = ["C1", "C2", "C0000017", "C4", "C5", "a1", "3"]


def test_the_rows_own_values_are_hidden() -> None:
    own = [("name", pl.Series(NAMES)), ("category", pl.Series(IDS))]
    made, found = without_own(pl.Series(NOTES), own)
    assert made.to_list() == [
        "[name]打电话来，[name]说要退款", "[name], [name] and Smithson", "[id] and C00000171", None,
        "[name]来了，[name]走了", "a1", "３ [name]",
    ]  # fmt: skip
    assert found == 8


@given(st.sampled_from(CHINESE + LATIN), st.text(max_size=12), st.text(max_size=12))
def test_the_rows_own_name_among_anything(name: str, before: str, after: str) -> None:
    """Unless letters touch it: then it is part of another word."""
    made, _ = without_own(pl.Series([f"{before} {name} {after}"]), [("name", pl.Series([name]))])
    assert f" {name} " not in made[0]


def test_of_other_rows_nothing() -> None:
    own = [("name", pl.Series(["李四", "王五"]))]
    assert without_own(pl.Series(["王五", "李四"]), own)[0].to_list() == ["王五", "李四"]


def test_a_table_s_notes_without_its_direct_identifiers() -> None:
    frame = pl.DataFrame({"who": ["张伟强", "Anna Smith"], "note": ["伟强来电", "Anna paid"]})
    plan = [Column("note", "text", Transform("redact"), "note", own=(("who", "name"),))]
    counts: dict[str, object] = {}
    made = masked(plan, frame, None, stream(bytes(32)), counts)  # type: ignore[arg-type]
    assert made.to_dict(as_series=False) == {"note": ["[name]来电", "[name] paid"]}
    assert counts["note"].found == 2  # type: ignore[attr-defined]

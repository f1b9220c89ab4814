"""The three display masks. What does not fit its form is masked whole: they fail closed.

A display mask hides, it does not de-identify: birthplace and birth date alone single out most
people. Never release a table on the strength of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from privacy.identifiers import id_card, phone
from privacy.identifiers.text import clean

HIDDEN = "***"
_DOUBLE = frozenset(
    [
        "欧阳",
        "司马",
        "上官",
        "诸葛",
        "东方",
        "皇甫",
        "尉迟",
        "公孙",
        "慕容",
        "司徒",
        "令狐",
        "长孙",
        "宇文",
        "夏侯",
        "端木",
        "百里",
        "南宫",
        "独孤",
        "轩辕",
        "闻人",
        "澹台",
        "公冶",
        "宗政",
        "濮阳",
        "淳于",
        "单于",
        "太叔",
        "申屠",
        "仲孙",
        "钟离",
        "鲜于",
        "司空",
        "闾丘",
        "西门",
        "歐陽",
        "司馬",
        "諸葛",
        "東方",
        "尉遲",
        "公孫",
        "長孫",
        "獨孤",
        "軒轅",
        "聞人",
        "鍾離",
        "西門",
    ]
)


def name(value: str | None) -> str | None:
    """张三丰 to 张***. Names that are not Chinese are hidden whole: their surname may be anywhere."""
    if value is None:
        return None
    text = clean(value)
    if text is None or not 2 <= len(text) <= 6 or not all("一" <= c <= "鿿" for c in text):
        return HIDDEN
    return (text[:2] if text[:2] in _DOUBLE and len(text) > 2 else text[:1]) + HIDDEN


def phone_number(value: str | None) -> str | None:
    """13812341234 to 138****1234, for Chinese mobiles; every other number is hidden whole."""
    if value is None:
        return None
    number = phone.normalise([value])[0]
    if number is None or not number.startswith("+861") or len(number) != 14:
        return HIDDEN
    return f"{number[3:6]}****{number[10:]}"


def identity_card(value: str | None) -> str | None:
    """Birthplace and birth date remain: 11010519491231002X to 11010519491231****."""
    if value is None:
        return None
    number = id_card.normalise([value])[0]
    return HIDDEN if number is None else number[:14] + "****"


MASKS: dict[str, Callable[[str | None], str | None]] = {
    "name": name,
    "phone": phone_number,
    "id_card": identity_card,
}


def masked(kind: str, values: Sequence[str | None]) -> tuple[list[str | None], int]:
    """A column masked, and how many values had to be hidden whole. Nulls stay null."""
    mask = MASKS[kind]
    result = [mask(value) for value in values]
    return result, sum(1 for text in result if text == HIDDEN)

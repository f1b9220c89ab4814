"""A table of made-up customers with everything that a mask must deal with; none of them exists.

Seven of ten are Chinese. Identifiers are right in form and check digit, but drawn at random; some are
written sloppily, some are missing, some are wrong, as ``dirt`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from privacy.identifiers.id_card import PROVINCES, check_characters
from privacy.identifiers.text import luhn, matrix

COLUMNS = (
    "id", "name", "phone", "email", "id_card", "bank_card", "birth_date", "address", "city",
    "amount", "updated", "note",
)  # fmt: skip
_SURNAMES = [
    *"王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗郑梁谢宋唐许韩邓冯曹", "欧阳", "司马",
]  # fmt: skip
_GIVEN = [
    *"伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华玉兰红梅建国",
    "子涵", "欣怡", "浩然", "雨桐", "梓萱", "宇轩", "志强", "晓明", "文博", "思远",
]  # fmt: skip
_FIRST = [
    "Anna", "Ben", "Carla", "David", "Emma", "Felix", "Greta", "Hugo", "Ida", "Jonas", "Karen",
    "Liam", "Mia", "Noah", "Olga", "Paul",
]  # fmt: skip
_LAST = [
    "Smith", "Meyer", "Rossi", "Dubois", "Novak", "Garcia", "Silva", "Kim", "Tanaka", "Jensen",
    "Kowalski", "Murphy",
]  # fmt: skip
_HOSTS = ["example.com", "example.org", "mail.example.net", "post.example.cn"]
_CITIES = [
    "北京市", "上海市", "广州市", "深圳市", "杭州市", "成都市", "武汉市", "南京市", "西安市", "重庆市",
]  # fmt: skip
_PLACES = [
    "北京市朝阳区", "上海市浦东新区", "广东省广州市天河区", "广东省深圳市南山区", "浙江省杭州市西湖区",
    "四川省成都市武侯区", "湖北省武汉市洪山区", "江苏省南京市玄武区", "陕西省西安市雁塔区", "重庆市渝中区",
]  # fmt: skip
_ROADS = ["人民路", "中山路", "解放大道", "建设街", "文三路", "科技园路", "长安街", "滨江大道"]
_NOTES = (
    "客户来电咨询订单进度，已答复。",
    "请尽快回拨{phone}，客户很着急。",
    "资料已发到{email}，等待确认。",
    "身份证{id_card}已核验，可以开户。",
    "Customer asked for a refund; reply to {email}.",
    "Please call {us} before noon, order 20{order}.",
    "换绑手机：旧{phone}新{us}，工单{order}。",
    "VIP, prefers WeChat, no calls.",
)


def blocks(
    rows: int, seed: int, *, dirt: float = 0.05, size: int = 500_000
) -> Iterator[pl.DataFrame]:
    """``rows`` customers in blocks; ``dirt``: share of values written sloppily, and a fifth of it wrong."""
    for start in range(0, rows, size):
        yield table(min(size, rows - start), seed + start, first=start, dirt=dirt)


def table(rows: int, seed: int, *, first: int = 0, dirt: float = 0.05) -> pl.DataFrame:
    """Customers ``first`` to ``first + rows``."""
    rng = np.random.default_rng(seed)
    chinese = rng.random(rows) < 0.7
    born = rng.integers(date(1940, 1, 1).toordinal(), date(2006, 1, 1).toordinal(), rows)
    births = pl.Series((born - date(1970, 1, 1).toordinal()).astype(np.int32)).cast(pl.Date)
    phones, cards = _mobile(rng, rows), id_cards(rng, births)
    mails, american = _emails(rng, rows, first), _american(rng, rows)
    frame = pl.DataFrame(
        {
            "id": [f"C{first + i:08d}" for i in range(rows)],
            "name": _names(rng, chinese),
            "phone": phones.zip_with(pl.Series(chinese), "+1 " + american),
            "email": mails,
            "id_card": cards.set(pl.Series(~chinese), None),
            "bank_card": bank_cards(rng, rows),
            "birth_date": births.dt.strftime("%Y-%m-%d"),
            "address": _pick(rng, _PLACES, rows) + _pick(rng, _ROADS, rows)
            + pl.Series(rng.integers(1, 400, rows)).cast(pl.String) + "号",
            "city": _pick(rng, _CITIES, rows),
            "amount": np.round(rng.lognormal(5, 1, rows), 2),
            "updated": pl.Series(rng.integers(1_700_000_000, 1_750_000_000, rows) * 1_000_000)
            .cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M:%S"),
            "note": notes(rng, phones, mails, cards, american),
        }
    )  # fmt: skip
    return frame.with_columns(
        _dirty(rng, frame[name], dirt)
        for name in ("name", "phone", "email", "id_card", "bank_card")
    )


def repeated(frame: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """The table with some of its people again, so that ``share`` of all rows are repeats: under new ids,
    written otherwise, with a gap here and there; at random places."""
    rng = np.random.default_rng(seed)
    count = int(len(frame) * share / (1 - share))
    again = frame[rng.integers(0, len(frame), count)]
    again = again.with_columns(
        ("R" + pl.Series(np.arange(count)).cast(pl.String).str.zfill(8)).alias("id"),
        *(_dirty(rng, again[name], 0.3) for name in ("name", "phone", "email")),
    )
    whole = pl.concat([frame, again])
    return whole[rng.permutation(len(whole))]


def id_cards(rng: np.random.Generator, births: pl.Series) -> pl.Series:
    """Numbers with a province, these birth dates and a true check digit."""
    count = len(births)
    codes = np.array([c for c in PROVINCES if c < 70])[rng.integers(0, 31, count)]
    districts = codes * 10_000 + rng.integers(1, 20, count) * 100 + rng.integers(1, 30, count)
    bodies = (
        pl.Series(districts).cast(pl.String) + births.dt.strftime("%Y%m%d")
        + pl.Series(rng.integers(0, 1000, count)).cast(pl.String).str.zfill(3)
    )  # fmt: skip
    return bodies + pl.Series([chr(c) for c in check_characters(matrix(bodies, 17))])


def bank_cards(rng: np.random.Generator, count: int) -> pl.Series:
    """Sixteen digits, beginning with 62, with a true check digit."""
    bodies = "62" + pl.Series(rng.integers(0, 10**13, count)).cast(pl.String).str.zfill(13)
    found = bodies + "0"
    for digit in range(1, 10):
        wrong = pl.Series(~luhn(matrix(found, 16)))
        if not bool(wrong.any()):
            break
        found = found.zip_with(~wrong, bodies + str(digit))
    return found


def notes(
    rng: np.random.Generator,
    phones: pl.Series,
    mails: pl.Series,
    cards: pl.Series,
    american: pl.Series,
) -> pl.Series:
    """Free text; five of eight notes hold something personal."""
    count = len(phones)
    orders = pl.Series(rng.integers(0, 10**6, count)).cast(pl.String).str.zfill(6)
    which = rng.integers(0, len(_NOTES), count)
    values = {"phone": phones, "email": mails, "id_card": cards, "us": american, "order": orders}
    parts = pl.DataFrame(values).with_columns(pl.Series("which", which))
    text = pl.lit(None, pl.String)
    for number, note in enumerate(_NOTES):
        names = [n for n in values if f"{{{n}}}" in note]
        order = sorted(names, key=lambda n: note.index(f"{{{n}}}"))
        shape = note
        for name in order:
            shape = shape.replace(f"{{{name}}}", "{}")
        made = pl.format(shape, *(pl.col(n) for n in order)) if order else pl.lit(note)
        text = pl.when(pl.col("which") == number).then(made).otherwise(text)
    return parts.select(text.alias("note")).to_series()


def _names(rng: np.random.Generator, chinese: NDArray[np.bool_]) -> pl.Series:
    count = len(chinese)
    local = _pick(rng, _SURNAMES, count) + _pick(rng, _GIVEN, count)
    foreign = _pick(rng, _FIRST, count) + " " + _pick(rng, _LAST, count)
    return local.zip_with(pl.Series(chinese), foreign)


def _mobile(rng: np.random.Generator, count: int) -> pl.Series:
    heads = rng.choice([13, 15, 17, 18, 19], count)
    return pl.Series(heads * 10**9 + rng.integers(0, 10**9, count)).cast(pl.String)


def _american(rng: np.random.Generator, count: int) -> pl.Series:
    areas = np.array([212, 213, 312, 415, 503, 617, 646, 702, 718, 818, 917, 949])
    area = pl.Series(areas[rng.integers(0, len(areas), count)]).cast(pl.String)
    line = pl.Series(rng.integers(2_000_000, 9_990_000, count)).cast(pl.String)
    return area + "-" + line.str.head(3) + "-" + line.str.tail(4)


def _emails(rng: np.random.Generator, count: int, first: int) -> pl.Series:
    number = pl.Series(np.arange(first, first + count)).cast(pl.String)
    name = (
        _pick(rng, [n.lower() for n in _FIRST], count)
        + "."
        + _pick(rng, [n.lower() for n in _LAST], count)
    )
    return name + number + "@" + _pick(rng, _HOSTS, count)


def _pick(rng: np.random.Generator, choices: list[str], count: int) -> pl.Series:
    return pl.Series(choices).gather(rng.integers(0, len(choices), count))


def _dirty(rng: np.random.Generator, values: pl.Series, share: float) -> pl.Series:
    """Blanks, full-width characters, capitals; a fifth of them cut short, a fifth missing."""
    count = len(values)
    draw, place = rng.random(count), np.flatnonzero(rng.random(count) < share)
    texts = values.gather(place).to_list()
    for at, (row, text) in enumerate(zip(place.tolist(), texts, strict=True)):
        if text is None:
            continue
        how = int(draw[row] * 5)
        texts[at] = (
            f" {text} ", "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
            text.upper(), text[: len(text) // 2], None,
        )[how]  # fmt: skip
    return (
        values.clone().scatter(place, pl.Series(texts, dtype=pl.String)) if len(place) else values
    )

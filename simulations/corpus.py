"""Labelled free text, Chinese and English: made-up notes with made-up personal data and things that look
like it. Written for this benchmark; real notes are dirtier, and figures on them will be lower.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

import numpy as np
import polars as pl

from simulations import customers

KINDS = ("email", "phone", "id_card", "bank_card", "iban")
_SENTENCES = (
    "客户来电，手机{phone}，要求改地址。", "请联系{phone}或发邮件到{email}。", "身份证号{id_card}，已核对。",
    "证件：{id_card}；电话:{phone}", "卡号{bank_card}扣款失败，联系{phone}处理。", "退款到{bank_card}，户名张三。",
    "邮箱{email}收不到验证码", "座机{landline}无人接听", "微信同号{phone}，QQ见资料", "tel{phone}转张经理",
    "收款IBAN {iban}，金额¥{amount}", "Call {us} before noon.", "My number is {us}; email {email}.",
    "Reach me at {email} or {us}, thanks!", "Refund to card {bank_card} please.",
    "Wire it to {iban} by Friday.", "IBAN: {iban}, BIC DEUTDEFF", "Contact: <{email}>; fax {us}",
    "ID {id_card} verified by agent.", "付款账户{iban}已验证，客户邮箱：{email}", "旧号{phone}、新号{phone}均可",
    # nothing personal in these
    "订单{order}已发货，运单{tracking}。", "金额¥{amount}，时间{time}。", "版本{version}已上线，工单{ticket}。",
    "Order {order} shipped, tracking {tracking}.", "Build {version} at {stamp}, commit {hash}.",
    "Session {uuid} expired.", "无效证件号{badid}，请重新上传", "Card {badcard} was declined: not a valid number.",
    "坐标{amount}，房间{room}，共{room}件", "请@{room}号柜台处理，编号{serial}", "Ref {serial}; batch {order}.",
    "The part 415-55-26{room} is out of stock; see {order}.", "Invoice {ten} is overdue.",
    "客户表示满意，五星好评。", "No answer, will retry.",
)  # fmt: skip


@dataclass(frozen=True)
class Corpus:
    """``texts``: (n,). ``labels``: row, kind and value, as :func:`same` writes it."""

    texts: pl.Series
    labels: frozenset[tuple[int, str, str]]


def same(kind: str, text: str) -> str:
    """One form of a value, so that finders agree on what they found: letters and digits only, without
    country code or extension for telephone numbers."""
    plain = re.sub(r"[^0-9a-z@]", "", _narrow(text).lower())
    if kind == "email":
        return _narrow(text).lower()
    if kind == "phone":
        plain = re.sub(r"[^0-9]", "", re.split("转|x|ext", _narrow(text).lower())[0])
        plain = re.sub(r"^(?:00)?86(?=1[3-9]\d{9}$)", "", plain)
        return re.sub(r"^1(?=[2-9]\d{9}$)", "", plain)
    return plain


def _narrow(text: str) -> str:
    return "".join(chr(ord(c) - 0xFEE0) if "！" <= c <= "～" else c for c in text)


def make(rows: int, seed: int) -> Corpus:
    """``rows`` notes with their labels."""
    rng = np.random.default_rng(seed)
    people = customers.table(rows * 2, seed, dirt=0.0)
    cards = customers.id_cards(rng, people["birth_date"].str.to_date()).to_list()
    phones = pl.Series(rng.choice([13, 15, 17, 18, 19], rows * 2) * 10**9
                       + rng.integers(0, 10**9, rows * 2)).cast(pl.String).to_list()  # fmt: skip
    us = people["phone"].str.extract(r"^\+1 (.*)$").drop_nulls().to_list()
    sources = {
        "email": people["email"].to_list(), "phone": phones, "id_card": cards, "us": us,
        "bank_card": people["bank_card"].to_list(),
    }  # fmt: skip
    texts, labels = [], set()
    for row in range(rows):
        sentence = _SENTENCES[int(rng.integers(len(_SENTENCES)))]
        text = ""
        for part in re.split(r"(\{[a-z_]+\})", sentence):
            if not part.startswith("{"):
                text += part
                continue
            slot = part[1:-1]
            kind, value = _value(rng, slot, sources)
            if kind:
                labels.add((row, kind, same(kind, value)))
            text += value
        texts.append(text)
    return Corpus(pl.Series(texts, dtype=pl.String), frozenset(labels))


def _value(rng: np.random.Generator, slot: str, sources: dict[str, list[str]]) -> tuple[str, str]:
    """Kind, empty for what is not personal, and a value in one of the ways that people write it."""
    drawn = int(rng.integers(1 << 30))
    if slot in sources:
        value = sources[slot][drawn % len(sources[slot])]
        kind = "phone" if slot == "us" else slot
        return kind, _written(slot, value, drawn >> 8)
    if slot == "iban":
        return "iban", _iban(rng, grouped=drawn % 2 == 0)
    if slot == "landline":
        area = ("010", "021", "0755", "0571")[drawn % 4]
        return "phone", f"{area}-{rng.integers(20_000_000, 89_999_999)}"
    return "", _harmless(rng, slot, sources)


def _written(slot: str, value: str, how: int) -> str:
    if slot == "phone":
        a, b, c = value[:3], value[3:7], value[7:]
        wide = "".join(chr(ord(d) + 0xFEE0) for d in value)
        return (value, value, value, value, f"{a} {b} {c}", f"{a}-{b}-{c}", f"+86 {value}", f"+86{value}",
                f"86-{value}", wide, f"{a} {b}{c}", f"+86-{a}-{b}-{c}", f"(+86){value}", f"0086{value}",
                f"{a}.{b}.{c}", f"{value[:4]} {value[4:7]} {c}", f"{value[:5]}-{value[5:8]}-{value[8:]}",
                f"{a}\u00a0{b}\u00a0{c}")[how % 18]  # fmt: skip
    if slot == "us":
        a, b, c = value.split("-")
        return (value, value, value, f"({a}) {b}-{c}", f"{a}.{b}.{c}", f"+1 {a} {b} {c}", f"+1-{value}",
                f"1 {a} {b} {c}", a + b + c, f"+1{a}{b}{c}", f"({a}){b}-{c}", f"1-{value}",
                f"+1 ({a}) {b}-{c}", f"{a}/{b}-{c}", f"{a} {b}-{c}", f"{value} x12")[how % 16]  # fmt: skip
    if slot == "id_card":
        old = value[:6] + value[8:17]
        spaced = f"{value[:6]} {value[6:14]} {value[14:]}"
        forms = (value, value, value, value.lower(), spaced)
        return old if value[6:8] == "19" and how % 20 == 0 else forms[how % 5]
    if slot == "bank_card":
        return (value, " ".join(value[i : i + 4] for i in range(0, 16, 4)),
                "-".join(value[i : i + 4] for i in range(0, 16, 4)))[how % 3]  # fmt: skip
    return (value, value, value.replace("@", "+shop@"), value.title())[how % 4]


def _iban(rng: np.random.Generator, *, grouped: bool) -> str:
    """German and British numbers with true check digits (ISO 13616, by stdnum); banks are made up."""
    from stdnum import iban

    if rng.random() < 0.5:
        country, body = "DE", f"{rng.integers(10**8):08d}{rng.integers(10**10):010d}"
    else:
        country = "GB"
        body = f"{('WEST', 'BARC', 'MIDL')[int(rng.integers(3))]}{rng.integers(10**14):014d}"
    text = country + iban.calc_check_digits(f"{country}00{body}") + body
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4)) if grouped else text


def _harmless(rng: np.random.Generator, slot: str, sources: dict[str, list[str]]) -> str:
    number = int(rng.integers(10**15))
    if slot == "badid":
        value = sources["id_card"][number % len(sources["id_card"])]
        return value[:17] + ("1" if value[17] != "1" else "2")
    if slot == "badcard":
        value = sources["bank_card"][number % len(sources["bank_card"])]
        return value[:15] + str((int(value[15]) + 1) % 10)
    lengths = (8, 12, 14, 16, 18, 20)
    made = {
        "ten": str(number % 8 + 2) + f"{number // 8 % 10**9:09d}", "amount": f"{number % 10**7 / 100:,.2f}", "order": str(number % 10**6 + 10**6),
        "tracking": f"SF{number:015d}"[: 12 + number % 4],
        "time": f"2024-{number % 12 + 1:02d}-{number % 28 + 1:02d} {number % 24:02d}:16:37",
        "version": f"{number % 9}.{number % 23}.{number % 7}", "ticket": f"T{number % 10**6:06d}",
        "stamp": str(1_700_000_000 + number % 10**7), "hash": f"{number:015x}"[:12],
        "uuid": str(uuid.UUID(int=number * 10**20 % (1 << 128))), "room": str(number % 900 + 100),
        "serial": "".join(str(d) for d in rng.integers(0, 10, lengths[number % 6])),
    }  # fmt: skip
    return made[slot]


def scores(
    labels: frozenset[tuple[int, str, str]], found: set[tuple[int, str, str]], kind: str
) -> tuple[float, float]:
    """Recall and precision of one kind."""
    wanted = {label for label in labels if label[1] == kind}
    got = {hit for hit in found if hit[1] == kind}
    right = len(wanted & got)
    return right / max(1, len(wanted)), right / max(1, len(got))

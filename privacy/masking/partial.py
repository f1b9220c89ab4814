"""Masks that leave a part to see: 张***, 138****1234, a***@example.com.

Each takes canonical values and gives null where a value does not fit the form: whoever calls hides
it whole. They fail closed: nothing short is shown because it is short. A partial mask hides, it does
not de-identify: birthplace and birth date alone single out most people. Never release a table on the
strength of one.
"""

from __future__ import annotations

import polars as pl

from privacy.identifiers.person_name import DOUBLE_SURNAMES
from privacy.identifiers.text import keep

_HAN = "^[\u3400-\u9fff\U00020000-\U000323af]{2,6}$"
_DOUBLE = f"^(?:{'|'.join(DOUBLE_SURNAMES)})."
_PLACE = r"^(?:中国)?([^\s\d]{2,7}?(?:省|自治区|特别行政区|市)(?:[^\s\d]{1,9}?(?:市|自治州|地区|盟|区|县))?)."


def name(values: pl.Series) -> pl.Series:
    """张三丰 to 张***. Only Chinese names: in others the surname may be anywhere."""
    text = keep(values, values.str.contains(_HAN))
    single = text.str.head(1) + "***"
    double = text.str.contains(_DOUBLE).fill_null(value=False)
    return single.zip_with(~double, text.str.head(2) + "***") if bool(double.any()) else single


def email(values: pl.Series) -> pl.Series:
    """alice@example.com to a***@example.com, from three characters before the @ on."""
    parts = values.str.split_exact("@", 1).struct.unnest()
    local, host = parts.to_series(0), parts.to_series(1)
    return keep(local.str.head(1) + "***@" + host, local.str.len_chars() >= 3)


def phone(values: pl.Series) -> pl.Series:
    """+8613812341234 to 138****1234; other numbers of ten digits or more to ****2671."""
    chinese = values.str.starts_with("+861") & (values.str.len_bytes() == 14)
    shown = values.str.slice(3, 3) + "****" + values.str.slice(10)
    if bool(chinese.all()):
        return shown
    other = keep("****" + values.str.tail(4), values.str.len_bytes() >= 11)
    return shown.zip_with(chinese.fill_null(value=False), other)


def id_card(values: pl.Series) -> pl.Series:
    """Birthplace and birth date remain: 11010519491231002X to 11010519491231****."""
    return keep(values.str.head(14) + "****", values.str.len_bytes() == 18)


def passport(values: pl.Series) -> pl.Series:
    """E12345678 to E*****678."""
    return keep(values.str.head(1) + "*****" + values.str.tail(3), values.str.len_bytes() >= 9)


def bank_card(values: pl.Series) -> pl.Series:
    """The last four digits: ****1111 (PCI DSS 4.0, 3.4.1, allows more)."""
    return "****" + values.str.tail(4)


def iban(values: pl.Series) -> pl.Series:
    """Country and the last four characters: GB****5432."""
    return values.str.head(2) + "****" + values.str.tail(4)


def uscc(values: pl.Series) -> pl.Series:
    """Kind of organisation and region: 91310115**********."""
    return values.str.head(8) + "**********"


def address(values: pl.Series) -> pl.Series:
    """Province and city of a Chinese address: 浙江省杭州市***."""
    return values.str.extract(_PLACE) + "***"


def birth_date(values: pl.Series) -> pl.Series:
    """1949-12-31 to 1949-**-**."""
    return values.str.head(4) + "-**-**"


def ip(values: pl.Series) -> pl.Series:
    """The network: 192.0.*.*, 2001:db8:****."""
    fourth = values.str.extract(r"^([0-9]+\.[0-9]+)\.[0-9]+\.[0-9]+$") + ".*.*"
    sixth = values.str.extract("^([0-9a-f]+:[0-9a-f]+):") + ":****"
    return fourth.zip_with(fourth.is_not_null(), sixth)


def device_id(values: pl.Series) -> pl.Series:
    """The first four characters: aebe****."""
    return values.str.head(4) + "****"


def plate(values: pl.Series) -> pl.Series:
    """Province, city and the last character: 京A****8."""
    return values.str.head(2) + "****" + values.str.tail(1)

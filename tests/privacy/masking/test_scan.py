from __future__ import annotations

import re

import polars as pl
import pytest

from privacy.masking import scan
from privacy.masking.keyed import MasterKey
from privacy.masking.transform import Column, Transform, masked
from privacy.randomness import stream
from simulations import customers

TABLE = customers.table(3_000, 11)
KINDS = {
    "name": "name", "phone": "phone", "email": "email", "id_card": "id_card",
    "bank_card": "bank_card", "birth_date": "birth_date", "address": "address", "city": "category",
    "amount": "number", "note": "text",
}  # fmt: skip


@pytest.mark.parametrize(("column", "kind"), KINDS.items())
def test_kinds_are_recognised(column: str, kind: str) -> None:
    found = scan.column(TABLE[column])
    assert found.kind == kind
    assert found.low <= found.hits / found.values <= found.high
    assert found.unmasked == (kind not in ("category", "number"))


def test_recognised_without_a_helpful_heading() -> None:
    for column in ("phone", "email", "id_card", "bank_card", "address"):
        assert scan.column(TABLE[column].alias("c7")).kind == column


def test_examples_are_masked() -> None:
    raw = {str(v) for name in TABLE.columns for v in TABLE[name].drop_nulls()}
    for found in scan.scan(TABLE):
        for example in found.examples:
            assert "*" in example
            assert example not in raw


def test_the_share_of_true_check_digits() -> None:
    numbers = pl.Series("n", ["4111111111111111"] * 90 + ["4111111111111112"] * 10)
    found = scan.column(numbers)
    assert (found.kind, found.hits, found.values) == ("bank_card", 90, 100)
    assert found.checked == pytest.approx(0.9)


def test_telephone_numbers_that_became_floats() -> None:
    numbers = pl.Series("n", [13812341234.0, None, 13912341234.0])
    assert scan.column(numbers).kind == "phone"


def test_masked_tables_hold_nothing_unmasked_and_a_leak_is_found() -> None:
    plan = [
        Column("name", "name", Transform("partial"), "name"),
        Column("phone", "phone", Transform("partial"), "phone"),
        Column("email", "email", Transform("hmac"), "email"),
        Column("id_card", "id_card", Transform("partial"), "id_card"),
        Column("bank_card", "bank_card", Transform("token"), "bank_card"),
        Column("birth_date", "birth_date", Transform("generalise", to="5-year"), "birth_date"),
        Column("note", "text", Transform("redact"), "note"),
    ]
    made = masked(plan, TABLE, MasterKey(bytes(32)), stream(bytes(32)), {})
    assert [s.column for s in scan.scan(made) if s.unmasked] == []
    for name, leak in (
        ("note", "请联系13812341234"), ("phone", "13812341234"), ("id_card", "11010519491231002X"),
        ("name", "mail me: a.b@example.com"), ("name", "张三丰"),
    ):  # fmt: skip
        leaky = made[name].clone().scatter([7, 8], leak)
        assert scan.column(leaky).unmasked, name


def test_one_address_among_a_hundred_thousand_values() -> None:
    values = pl.Series("note", ["nothing to see here, really nothing"] * 100_000)
    assert not scan.column(values).unmasked
    values[77_777] = "write to a.b@example.com"
    assert scan.column(values).unmasked


def test_tokens_and_blocks() -> None:
    values = pl.Series("t", ["ab" * 32] * 10)
    assert scan.column(values).kind == "token"
    parts = [scan.column(TABLE["phone"].head(100)), scan.column(TABLE["phone"].tail(50))]
    both = scan.together(parts)
    assert both.values == parts[0].values + parts[1].values
    assert both.hits == parts[0].hits + parts[1].hits
    assert both.unmasked
    assert both.low < both.hits / both.values < both.high


def test_columns_with_nothing_in_them() -> None:
    for values in (
        pl.Series("a", [None, None], dtype=pl.String), pl.Series("a", ["", " "]),
        pl.Series("a", [], dtype=pl.String), pl.Series("a", [True, False]),
        pl.Series("a", [[1], [2]]), pl.Series("a", [1.5, 2.5]),
    ):  # fmt: skip
        found = scan.column(values)
        assert not found.unmasked
        assert not re.search(r"\d{4}", " ".join(found.examples))

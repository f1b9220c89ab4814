"""A policy with every purpose, and made-up customers for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.masking.keys import KeySource
from client.masking.outputs import created
from privacy.randomness import stream
from simulations import customers

POLICY = """\
version = 1
name = "customers"
key = "file:masking.key"

[columns.id]
kind = "category"
role = "direct"
domain = "customer"
partner_join = "hmac"

[columns.name]
kind = "name"
role = "direct"
display = "partial"

[columns.phone]
kind = "phone"
role = "direct"
display = "partial"
partner_join = "token"
platform_upload = "phone"

[columns.email]
kind = "email"
role = "direct"
display = "partial"
partner_join = "hmac"
platform_upload = "email"

[columns.id_card]
kind = "id_card"
role = "direct"
partner_join = "ff1"

[columns.birth_date]
kind = "birth_date"
role = "quasi"
display = { do = "generalise", to = "year" }
release = { do = "generalise", to = "10-year" }

[columns.city]
kind = "category"
role = "quasi"
display = "keep"
release = "keep"

[columns.amount]
kind = "number"
role = "sensitive"
display = "keep"
release = { do = "generalise", to = "band:100" }

[columns.note]
kind = "text"
role = "sensitive"
display = "redact"

[release]
k = 5
l = 2

[duplicates]
keys = ["phone", "email"]
name = "name"
within = ["birth_date"]

[quality]
times = ["updated"]

[columns.updated]
kind = "category"
role = "safe"
"""
ROWS = 2_000


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return prepared(tmp_path)


def prepared(tmp_path: Path) -> Path:
    """A folder with policy.toml, masking.key, customers.csv and customers.parquet."""
    (tmp_path / "policy.toml").write_text(POLICY)
    KeySource("file", str(tmp_path / "masking.key")).create(stream(bytes(range(32))))
    table = customers.table(ROWS, 3)
    for name in ("customers.csv", "customers.parquet"):
        with created(tmp_path / name, None, None, as_is=True) as writer:
            writer.write(table)
    return tmp_path

"""A table's tokens brought to the current key, so that an earlier one can be put away."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from client.masking.keys import KeyRing
from client.masking.outputs import created
from client.masking.policy import Policy, Purpose
from client.masking.tables import Table, column_errors
from privacy.errors import ConfigError
from privacy.masking.keyed import opened, tokens


def retoken(
    table: Table, policy: Policy, purpose: Purpose, out: Path, *, keys: KeyRing,
    inputs: Sequence[Path] = (), as_is: bool = False,
) -> tuple[int, list[str]]:  # fmt: skip
    """The table with its tokens under the current key; rows, and which columns. What an earlier key made
    as HMAC or FF1 stays: an HMAC has no way back, and FF1 does not say which key made it."""
    columns = [c for c in policy.for_purpose(purpose) if c.transform.do == "token"]
    names = [column.name for column in columns]
    if not columns:
        raise ConfigError("columns", f"no column is a token for {purpose}")
    table.check_has(names)
    rows = 0
    with created(out, table.path, None, inputs=inputs, as_is=as_is) as writer:
        for block in table.blocks():
            for column in columns:
                with column_errors(table):
                    values = block[column.name].cast(pl.String)
                plain = opened(values, keys.keys, column.domain, rows)
                again = tokens(plain, keys.current, column.domain)
                block = block.with_columns(again.alias(column.name))
            writer.write(block)
            rows += len(block)
    return rows, names

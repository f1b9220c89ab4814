"""Blocks of Arrow as frames of polars, looked at first.

pyarrow reads a Parquet file without asking whether its texts are UTF-8, and polars takes the word of whoever
hands it Arrow: a cell that is not would be undefined behaviour in Rust, where one byte ends the process and
another is written on as it is. So every block is validated whole (Arrow, ``Validate(full)``: UTF-8, offsets,
indices of dictionaries) before polars gets it, whatever read it; and dates that nothing can write down, which
polars panics at, are no dates.

*Not* handled: dates within lists and structures; what panics there ends the command with a sentence
(:func:`client.masking.tables.column_errors`), but Rust prints its own lines before.
"""

from __future__ import annotations

from datetime import date
from typing import TYPE_CHECKING

import polars as pl

from privacy.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_FIRST, _LAST = date(1, 1, 1), date(9999, 12, 31)
_EPOCH = date(1970, 1, 1)
_DAY = {"ms": 86_400_000, "us": 86_400_000_000}


def frame(batch: pa.RecordBatch, name: str, start: int = 0) -> pl.DataFrame:
    """A block of the table called ``name``; ``start``: rows before it. Raises DataError that names row and
    column, never a value."""
    import pyarrow as pa

    try:
        batch.validate(full=True)
    except (pa.ArrowException, ValueError):
        raise DataError(f"{name}: {_invalid(batch, start)}") from None
    try:
        made = pl.from_arrow(batch)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise DataError(f"{name}: a column has a type that cannot be read here") from None
    if not isinstance(made, pl.DataFrame):
        raise DataError(f"{name}: a block of the table is not a table")
    _check_dates(made, name, start)
    dictionaries = [n for n, t in made.schema.items() if t == pl.Categorical or t == pl.Enum]
    return made.with_columns(pl.col(dictionaries).cast(pl.String)) if dictionaries else made


def _invalid(batch: pa.RecordBatch, start: int) -> str:
    """Where the first column that does not validate stops doing so."""
    import pyarrow as pa

    for column, values in zip(batch.schema.names, batch.columns, strict=True):
        if _is_valid(values):
            continue
        if isinstance(values, pa.DictionaryArray):
            try:
                values = values.dictionary_decode()  # looks at no text
            except pa.ArrowException:
                return f"column {column}: is damaged"
        low, high = 0, len(values)  # the first row that does not fit is in [low, high)
        while high - low > 1:
            middle = (low + high) // 2
            if _is_valid(values.slice(low, middle - low)):
                low = middle
            else:
                high = middle
        flat = not pa.types.is_nested(values.type)
        place = f"row {start + low + 1}, column {column}" if flat else f"column {column}"
        return f"{place}: is not UTF-8, or damaged; mend the row"
    return "is damaged"


def _is_valid(values: pa.Array) -> bool:
    import pyarrow as pa

    try:
        values.validate(full=True)
    except (pa.ArrowException, ValueError):
        return False
    return True


def _check_dates(made: pl.DataFrame, name: str, start: int) -> None:
    for series in made:
        kind = series.dtype
        if kind == pl.Date:
            unit = 1
        elif isinstance(kind, pl.Datetime) and kind.time_unit in _DAY:
            unit = _DAY[kind.time_unit]
        else:  # nanoseconds in 64 bits are of the years 1677 to 2262
            continue
        numbers = series.to_physical()
        first, last = ((each - _EPOCH).days * unit for each in (_FIRST, _LAST))
        beyond = (numbers < first) | (numbers >= last + unit)
        if beyond.any():
            row = start + int(beyond.arg_true()[0]) + 1
            raise DataError(
                f"{name}: row {row}, column {series.name}: is no date of the years 1 to 9999"
            )

"""What one cell says, whatever the other cells say: numbers, categories, yes and no.

A cell is a text as the table has it, a float from a database's own number, or None. What cannot be used
is NaN here and counted by the caller.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from privacy.programs.columns import Category, Column, Floats, Label

Cell = str | float | None
Cells = Sequence[Cell]

_NAN = float("nan")
_SPOKEN = dict.fromkeys(("1", "1.0", "true", "t", "yes", "y"), 1.0) | dict.fromkeys(
    ("0", "0.0", "false", "f", "no", "n"), 0.0
)


def values(column: Column, cells: Cells) -> Floats:
    """(n,): numbers, codes of categories, labels; NaN for what cannot be used."""
    if isinstance(column, Category):
        codes = {value.strip(): float(i) for i, value in enumerate(column.values)}
        # A vocabulary may tell values apart by their blanks: as it is written comes first.
        codes |= {value: float(i) for i, value in enumerate(column.values)}
        return np.array([_category(codes, cell) for cell in cells], np.float64)
    if isinstance(column, Label):
        return np.array([_label(cell) for cell in cells], np.float64)
    return _numbers(cells)


def texts(cells: Cells) -> list[str | None]:
    """Texts; None for an empty one too, as not every source tells the two apart."""
    return [str(cell) if cell else None for cell in cells]


def _category(codes: dict[str, float], cell: Cell) -> float:
    if not isinstance(cell, str):
        return _NAN
    found = codes.get(cell)
    return codes.get(cell.strip(), _NAN) if found is None else found


def _label(cell: Cell) -> float:
    if isinstance(cell, str):
        found = _SPOKEN.get(cell)
        if found is None:
            found = _SPOKEN.get(cell.strip().lower())
        if found is not None:
            return found
    number = _number(cell)  # 1.00 of a NUMERIC column
    return number if number in (0.0, 1.0) else _NAN


def _numbers(cells: Cells) -> Floats:
    kinds = set(map(type, cells))
    if kinds <= {float, type(None)}:
        return np.array(cells, np.float64)
    if kinds == {str} and "_" not in "".join(map(str, cells)):
        try:
            return np.array(list(map(float, cells)), np.float64)  # type: ignore[arg-type]
        except ValueError:
            pass  # some cell is no number: find out which
    return np.array([_number(cell) for cell in cells], np.float64)


def _number(cell: Cell) -> float:
    """As Python reads a number, but for underscores, which only programmers write."""
    if cell is None or (isinstance(cell, str) and "_" in cell):
        return _NAN
    try:
        return float(cell)
    except ValueError:
        return _NAN

"""The row's own values in its free text: what a table knows about a person is looked for in the notes
about that person.

No pattern is needed, so names are found whatever stands beside them; but only those of this row, spelled
as the table spells them. Values that are too short to be told from other words stay: one Chinese character,
three Latin letters or digits.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from privacy.identifiers.text import cleaned, keep, put

SHORTEST = 4
"""Bytes of a value in UTF-8: two Chinese characters have six, one has three."""
PLAIN = ("category", "number", "text")
"""Kinds that name nothing: such a column names a person because its policy says so."""


Own = tuple[str, pl.Series]
"""A kind, and a column, (n,), of the table that the text is a column of."""


def without_own(text: pl.Series, own: Sequence[Own]) -> tuple[pl.Series, int]:
    """``text``, (n,), without the values of the same rows, each replaced by its kind in brackets, ``[id]``
    where that says nothing; and how many were."""
    found, lower = 0, text.str.to_lowercase()
    for kind, column in own:
        label = f"[{'id' if kind in PLAIN else kind}]"
        values = cleaned(column).str.to_lowercase()
        for form in [values, *(_parts(values) if kind == "name" else ())]:
            held = _holds(lower, form)
            if held is None:
                continue
            places, made = held.arg_true(), []
            for note, value in zip(text.gather(places), form.gather(places), strict=True):
                changed, hits = _replaced(note, value, label)
                made.append(changed)
                found += hits
            texts = pl.Series(made, dtype=pl.String)
            text, lower = put(text, places, texts), put(lower, places, texts.str.to_lowercase())
    return text, found


def _parts(values: pl.Series) -> list[pl.Series]:
    """A Chinese given name of two characters; the first three words of other names."""
    given = keep(values.str.slice(-2), values.str.contains(r"^\p{Han}{3,}$"))
    return [given, *values.str.splitn(" ", 3).struct.unnest()]


def _holds(lower: pl.Series, values: pl.Series) -> pl.Series | None:
    """Which rows hold their value, both in lower case; None where none does."""
    frame = pl.DataFrame({"t": lower, "v": values})
    held = frame.select(
        pl.col("t").str.contains(pl.col("v"), literal=True)
        & (pl.col("v").str.len_bytes() >= SHORTEST)
    ).to_series()
    return held.fill_null(value=False) if bool(held.any()) else None


def _replaced(note: str, value: str, label: str) -> tuple[str, int]:
    """Where no more of the same touches the value: a letter or digit of ASCII one of its own."""
    where = note.lower()
    if len(where) != len(note):  # a few letters of other scripts have two characters in lower case
        where = note
    parts, done, at = [], 0, 0
    while (start := where.find(value, at)) >= 0:
        end = start + len(value)
        at = start + 1
        before, after = where[max(0, start - 1) : start], where[end : end + 1]
        if _joined(before, value[0]) or _joined(value[-1], after):
            continue
        parts += [note[done:start], label]
        done = at = end
    return "".join([*parts, note[done:]]), len(parts) // 2


def _joined(left: str, right: str) -> bool:
    both = left + right
    return len(both) == 2 and both.isascii() and both.isalnum()

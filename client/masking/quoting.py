"""Texts of whole tables for spreadsheets, and back: :mod:`client.sheets` for columns of polars."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import polars as pl

from client import sheets
from privacy.identifiers.text import put


def quoted(block: pl.DataFrame) -> pl.DataFrame:
    """Names and texts as a spreadsheet may have them."""
    return _each_text(block, sheets.quoted, [sheets.ROUGHLY, sheets.SUSPECT], sheets.NUMBER)


def plain(block: pl.DataFrame) -> pl.DataFrame:
    """Inverse of :func:`quoted`."""
    return _each_text(block, sheets.plain, ["'"])


def _each_text(
    block: pl.DataFrame,
    change: Callable[[str], str],
    suspect: Sequence[str],
    but: str | None = None,
) -> pl.DataFrame:
    """``change`` of the names, and of the texts in which each of ``suspect`` is found and ``but`` is not."""
    changed = []
    for series in block:
        if series.dtype == pl.String:
            places, some = pl.int_range(len(series), eager=True), series
            for pattern in suspect:
                found = some.str.contains(pattern)
                places, some = places.filter(found), some.filter(found)
            if but is not None:
                found = ~some.str.contains(but)
                places, some = places.filter(found), some.filter(found)
            texts = pl.Series([change(text) for text in some], dtype=pl.String)
            series = put(series, places, texts)
        changed.append(series.alias(change(series.name)))
    return pl.DataFrame(changed)

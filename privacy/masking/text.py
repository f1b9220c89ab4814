"""Personal data in free text, Chinese and English: found, checked, replaced by its kind.

Where letters may touch a number (``tel13812341234``), a second look takes the neighbours into groups of
their own, and runs until nothing is left that shares a neighbour. Long numbers that are no known kind are
replaced too, unless the caller says otherwise.

Names are found where the words beside them show them (:mod:`privacy.masking.names`), not elsewhere: that
takes a language model, and a mask that fails open. Suppress columns that are full of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import polars as pl

from privacy.errors import ParameterError
from privacy.identifiers.text import INVISIBLE, put
from privacy.masking.addresses import ADDRESSES
from privacy.masking.names import NAMES
from privacy.masking.numbers import NUMBER, NUMBERS
from privacy.masking.own import Own, without_own
from privacy.masking.pattern import Pattern

PATTERNS = (*NUMBERS, *ADDRESSES, *NAMES)
"""In the order in which they are looked for."""
KINDS = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))


@dataclass
class Redacted:
    """``text``: (n,), with ``[phone]`` for a phone number and so on. ``found``: hits by kind."""

    text: pl.Series
    found: dict[str, int] = field(default_factory=dict)


def chosen(kinds: Sequence[str]) -> list[Pattern]:
    """The patterns of ``kinds`` in their order. Raises ParameterError for a kind unknown."""
    for kind in kinds:
        if kind not in KINDS:
            raise ParameterError(f"{kind} cannot be found in text; known are {', '.join(KINDS)}")
    return [pattern for pattern in PATTERNS if pattern.kind in kinds]


def redacted(
    values: pl.Series,
    kinds: Sequence[str] = KINDS,
    *,
    long_numbers: bool = True,
    own: Sequence[Own] = (),
) -> Redacted:
    """Every hit of ``kinds``, and every value of ``own`` in its row, replaced by its kind in brackets,
    null for null.

    A row with full-width or invisible characters is brought into one Unicode form first.
    """
    result = Redacted(_one_form(values.cast(pl.String)))
    patterns = chosen(kinds)
    result.found = dict.fromkeys([*kinds, *["number"] * long_numbers], 0)

    def count(
        pattern: Pattern, _: pl.DataFrame | None, before: pl.Series, after: pl.Series
    ) -> None:
        label = f"[{pattern.kind}]"
        now, earlier = (
            int(t.str.count_matches(label, literal=True).sum() or 0) for t in (after, before)
        )
        result.found[pattern.kind] += now - earlier

    result.text = _replaced(result.text, [p for p in patterns if p in NUMBERS], count)
    if own:  # after the numbers, which are found faster by their form, and before what is vague
        result.text, result.found["own"] = without_own(result.text, own)
    result.text = _replaced_seldom(result.text, [p for p in patterns if p not in NUMBERS], count)
    if long_numbers:
        result.text = _replaced(result.text, [NUMBER], count)
    return result


def findings(values: pl.Series, kinds: Sequence[str] = KINDS) -> dict[str, pl.DataFrame]:
    """For each kind the hits as a frame of ``row`` and ``text``; for the scanner, which masks them."""
    found = {kind: [pl.DataFrame(schema=_HITS)] for kind in kinds}

    def keep(pattern: Pattern, hits: pl.DataFrame | None, *_: pl.Series) -> None:
        if hits is not None:
            found[pattern.kind].append(hits)

    patterns, text = chosen(kinds), _one_form(values.cast(pl.String))
    text = _replaced(text, [p for p in patterns if p in NUMBERS], keep, with_hits=True)
    _replaced_seldom(text, [p for p in patterns if p not in NUMBERS], keep, with_hits=True)
    return {kind: pl.concat(frames) for kind, frames in found.items()}


_WIDE = "[\uff10-\uff19\uff20-\uff3a\uff41-\uff5a]"
"""Full-width digits, @ and letters."""
_HITS = {"row": pl.UInt32, "text": pl.String}


def _one_form(text: pl.Series) -> pl.Series:
    """Full-width digits and letters to ASCII, invisible characters out, in rows that have any; Chinese
    punctuation alone changes nothing."""
    odd = text.str.contains(_WIDE) | text.str.contains(INVISIBLE)
    places = odd.fill_null(value=False).arg_true()
    if not len(places):
        return text
    mended = text.gather(places).str.normalize("NFKC").str.replace_all(INVISIBLE, "")
    return put(text, places, mended)


Sweep = tuple[pl.DataFrame | None, pl.Series, pl.Series]


Tell = Callable[[Pattern, pl.DataFrame | None, pl.Series, pl.Series], None]
"""Is told a pattern, its hits where they were asked for, and the rows that hold them before and after."""


def _replaced(
    text: pl.Series, patterns: Sequence[Pattern], tell: Tell, *, with_hits: bool = False
) -> pl.Series:
    """``text`` with every hit replaced by its kind."""
    for pattern in patterns:
        for hits, places, rows in _swept(text, pattern, with_hits=with_hits):
            tell(pattern, hits, text.gather(places), rows)
            text = put(text, places, rows)
    return text


def _replaced_seldom(
    text: pl.Series, patterns: Sequence[Pattern], tell: Tell, *, with_hits: bool = False
) -> pl.Series:
    """The same where hardly any row holds a hit: one look at all hints together finds that out."""
    if not patterns:
        return text
    hint = "|".join(pattern.hint for pattern in patterns)
    places = text.str.contains(hint).fill_null(value=False).arg_true()

    def tell_where(
        pattern: Pattern, hits: pl.DataFrame | None, before: pl.Series, after: pl.Series
    ) -> None:
        if hits is not None:
            hits = hits.with_columns(places.gather(hits["row"]).alias("row"))
        tell(pattern, hits, before, after)

    some = _replaced(text.gather(places), patterns, tell_where, with_hits=with_hits)
    return put(text, places, some)


def _swept(text: pl.Series, pattern: Pattern, *, with_hits: bool = False) -> Iterator[Sweep]:
    """Rows that change: the hits, where asked for; their places; their new texts."""
    label = f"[{pattern.kind}]"
    hinted = text.str.contains(pattern.hint, literal=pattern.hint == "@").fill_null(value=False)
    places = hinted.arg_true()
    if not len(places):  # a pattern that is not asked for is not compiled: polars keeps 32
        return
    rows = text.gather(places)
    beside = pattern.shape, 2, f"${{1}}{label}${{3}}"
    shape, group, new = beside if pattern.grouped else (pattern.bounded, 0, label)
    places, rows = _holding(places, rows, pattern.shape if pattern.touching else shape)
    while len(places):
        found = None
        if pattern.accepts or with_hits:
            found = rows.str.extract_all(shape)
            if group:
                found = found.list.eval(pl.element().str.extract(shape, group))
        hits, sure, rest = _judged(places, rows, found, pattern)
        if rest is not None:
            yield rest
            places, rows = places.filter(sure), rows.filter(sure)
        rows = rows.str.replace_all(shape, new)
        yield hits, places, rows
        if not pattern.touching and not pattern.grouped:
            return
        # Letters beside it, or a neighbour that two hits share and the first one took: look again.
        shape, group, new = beside
        places, rows = _holding(places, rows, shape)


def _holding(places: pl.Series, rows: pl.Series, shape: str) -> tuple[pl.Series, pl.Series]:
    held = rows.str.contains(shape).fill_null(value=False)
    return (places, rows) if bool(held.all()) else (places.filter(held), rows.filter(held))


def _judged(
    places: pl.Series, rows: pl.Series, found: pl.Series | None, pattern: Pattern
) -> tuple[pl.DataFrame | None, pl.Series, Sweep | None]:
    """The hits in rows whose candidates all pass; which rows those are; the other rows, done."""
    every = pl.repeat(True, len(places), eager=True)
    if found is None:
        return None, every, None
    hits = pl.DataFrame({"row": places, "text": found}).explode("text").drop_nulls()
    if pattern.accepts is None:
        return hits, every, None
    passes = pattern.accepts(hits["text"]).fill_null(value=False)
    if bool(passes.all()):
        return hits, every, None
    sure = ~places.is_in(hits["row"].filter(~passes).implode())
    rest = _one_by_one(places.filter(~sure), rows.filter(~sure), pattern)
    return hits.filter(hits["row"].is_in(places.filter(sure).implode())), sure, rest


def _one_by_one(places: pl.Series, rows: pl.Series, pattern: Pattern) -> Sweep:
    """Rows where a candidate fails its check: each candidate decided by itself, and behind the first
    character of one that fails the search goes on."""
    accepts = pattern.accepts or (lambda values: values.is_not_null())
    candidates = {match for text in rows.to_list() for match in pattern.compiled.findall(text)}
    distinct = pl.Series(sorted(candidates), dtype=pl.String)
    known: dict[str, bool] = dict(zip(distinct, accepts(distinct), strict=True))

    def good(core: str) -> bool:
        if core not in known:
            known[core] = bool(accepts(pl.Series([core])).all())
        return known[core]

    hit_rows: list[int] = []
    hit_texts: list[str] = []
    texts = []
    for place, text in zip(places.to_list(), rows.to_list(), strict=True):
        parts, done, at = [], 0, 0
        while match := pattern.compiled.search(text, at):
            core = match.group()
            while not good(core) and pattern.kind == "iban" and " " in core:
                core = core.rpartition(" ")[0]  # it may have swallowed the word behind it
            at = match.start() + 1
            if good(core):
                hit_rows.append(place)
                hit_texts.append(core)
                parts += [text[done : match.start()], f"[{pattern.kind}]"]
                done = at = match.start() + len(core)
        texts.append("".join([*parts, text[done:]]))
    hits = pl.DataFrame({"row": hit_rows, "text": hit_texts}, schema=_HITS)
    return hits, places, pl.Series(texts, dtype=pl.String)

"""Personal data in free text, Chinese and English: found, checked, replaced by its kind.

A word boundary does not exist beside Chinese characters, and the engine has no look-around: patterns
stand between half boundaries over ASCII, which Chinese text does not disturb. Where letters may touch
a number (``tel13812341234``), a second look takes the neighbours into groups of their own, and runs
until nothing is left that shares a neighbour. Kinds with a check digit come first and are checked; a
card number is never called a phone. Long numbers that are no known kind are replaced too, unless the
caller says otherwise.

Names are not found: that takes a language model, and a mask that fails open. Suppress such columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

import polars as pl

from privacy.errors import ParameterError
from privacy.identifiers import bank_card, company, documents, id_card, phone
from privacy.identifiers.text import INVISIBLE, put

Accepts = Callable[[pl.Series], pl.Series]
"""Which texts, (n,), pass the check of a kind."""


@dataclass(frozen=True)
class Pattern:
    """How a kind looks in running text. ``core``: a pattern of both regex engines without groups that
    capture; ``touching``: ASCII letters may stand beside it, and only digits may not; ``anywhere``:
    anything may; ``hint``: what every row that holds one contains, cheaper to look for."""

    kind: str
    core: str
    hint: str
    accepts: Accepts | None = None
    touching: bool = False
    anywhere: bool = False

    @property
    def bounded(self) -> str:
        """Between anything but ASCII letters, digits and underscores."""
        if self.anywhere:
            return self.core
        return rf"(?-u:\b{{start-half}})(?:{self.core})(?-u:\b{{end-half}})"

    @property
    def shape(self) -> str:
        """Between anything but digits: groups 1, 2, 3."""
        return f"(^|[^0-9])({self.core})([^0-9]|$)"

    @property
    def compiled(self) -> re.Pattern[str]:
        """For Python, which has look-around."""
        near = "0-9" if self.touching else "0-9A-Za-z_"
        return _compiled(f"(?<![{near}])(?:{self.core})(?![{near}])")


@cache
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


def _valid(canonical: Callable[[pl.Series], pl.Series]) -> Accepts:
    return lambda values: canonical(values).is_not_null()


def _issued(values: pl.Series) -> pl.Series:
    """Which are payment cards that somebody issues, and no ID card with a typing error."""
    digits = values.str.replace_all("[ -]", "")
    valid = bank_card.normalise(digits).is_not_null() & digits.str.contains(_ISSUED)
    return valid & ~digits.str.contains(f"^(?:{_ID})$")


def _long_enough(values: pl.Series) -> pl.Series:
    """Which have the eight to fifteen digits of an international number, whether it exists or not."""
    digits = values.str.replace_all("[^0-9]", "").str.len_bytes()
    return (digits >= 8) & (digits <= 15)


def _american(values: pl.Series) -> pl.Series:
    """Which ten digits are a number of North America that can exist: nothing else shows that they are one
    where no sign stands between them."""
    digits = values.str.replace("[xe].*$", "").str.replace_all("[^0-9]", "").str.tail(10)
    return phone.decided("+1" + digits, "US").is_not_null()


_GAP = "[ -]?"
_DATE = "(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
_EMAIL = (
    "[0-9A-Za-z][0-9A-Za-z.!#$%&'+/=?^_`{|}~-]{0,63}"
    r"@(?:[0-9A-Za-z][0-9A-Za-z-]{0,62}\.)+[A-Za-z]{2,24}"
)
_ID = (
    rf"[1-9][0-9]{{5}}{_GAP}(?:18|19|20)[0-9]{{2}}{_GAP}{_DATE}{_GAP}[0-9]{{3}}[0-9Xx]"
    rf"|[1-9][0-9]{{5}}[0-9]{{2}}{_DATE}[0-9]{{3}}"
)
_IBAN = r"[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?"
_USCC = "[1-9ANY][1-9][0-9]{6}[0-9A-HJ-NPQRTUWXY]{10}"
_CARD = (
    r"[1-6][0-9]{3}(?:[ -]?[0-9]{4}){2}(?:[ -]?[0-9]{1,7})?"
    r"|3[0-9]{3}[ -]?[0-9]{6}[ -]?[0-9]{4,5}"
)
_ISSUED = (
    "^(?:62[0-9]{14,17}|4[0-9]{12}|4[0-9]{15}|4[0-9]{18}|(?:1800|2131)[0-9]{11}"
    "|(?:50(?:18|20|38)|5893|6304|676[1-3]|6759)[0-9]{8,15}|5[1-5][0-9]{14}|2[2-7][0-9]{14}|3[47][0-9]{13}"
    "|35[0-9]{14}|3(?:0[0-5]|[68][0-9])[0-9]{11}|6(?:011|5[0-9]{2}|4[4-9][0-9])[0-9]{12})$"
)
"""Beginnings and lengths of UnionPay, Visa, JCB, Maestro, Mastercard, American Express, Diners, Discover."""
_SPACE = "[ .\u00a0-]?"
_MOBILE = (
    rf"(?:\(?(?:\+|00)?86\)?{_SPACE})?1[3-9][0-9](?:{_SPACE}[0-9]{{4}}{_SPACE}[0-9]{{4}}"
    rf"|[0-9]{_SPACE}[0-9]{{3}}{_SPACE}[0-9]{{4}}|[0-9]{{2}}{_SPACE}[0-9]{{3}}{_SPACE}[0-9]{{3}})"
)
_LOCAL = r"[2-8][0-9]{6,7}(?:(?:-|转)[0-9]{1,5})?"
_LANDLINE = rf"0[1-9][0-9]{{1,2}}{_LOCAL}"
_LANDLINE_WRITTEN = rf"(?:\(0[1-9][0-9]{{1,2}}\)[ -]?|0[1-9][0-9]{{1,2}}[ -]){_LOCAL}"
_EXTENSION = r"(?: ?(?:x|ext\.?) ?[0-9]{1,6})?"
_US = rf"(?:(?:\+?1|001)[ .-]?)?\(?[2-9][0-9]{{2}}\)?[ ./-]?[2-9][0-9]{{2}}[ .-]?[0-9]{{4}}{_EXTENSION}"
_US_WRITTEN = (
    r"(?:(?:\+?1|001)[ .-]?)?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ ./-])[0-9]{3}[ .-][0-9]{4}"
    rf"{_EXTENSION}"
)
_REST = r"[1-9][0-9]{0,2}(?:[ .-]?\(?[0-9]{1,5}\)?){2,5}"

PATTERNS: tuple[Pattern, ...] = (
    Pattern("email", _EMAIL, "@", anywhere=True),
    Pattern("iban", _IBAN, "[A-Z]{2}[0-9]{2}", _valid(company.iban)),
    Pattern("id_card", _ID, "[0-9]{6}", _valid(id_card.normalise), touching=True),
    Pattern("uscc", _USCC, "[0-9]{6}[0-9A-Z]{10}", _valid(company.uscc)),
    Pattern("bank_card", _CARD, "[0-9]{4}", _issued, touching=True),
    Pattern("phone", _MOBILE, "[0-9]{4}", touching=True),
    Pattern("phone", _LANDLINE_WRITTEN, "0[0-9]{2,3}[ )-]", touching=True),
    Pattern("phone", _LANDLINE, "0[0-9]{9}"),
    Pattern("phone", _US_WRITTEN, "[ .-][0-9]{4}", touching=True),
    Pattern("phone", _US, "[0-9]{4}", _american),
    Pattern("phone", rf"\+{_REST}", r"\+[0-9]", _long_enough),
    Pattern("phone", f"00{_REST}", "00[1-9]", _valid(phone.normalise)),
    Pattern("plate", documents.PLATE, "[A-Z][A-Z0-9]{4}"),
    Pattern("passport", "[EGDSPHM][0-9]{8}|E[A-HJ-NP-Z][0-9]{7}", "[0-9]{7}"),
    Pattern("ip", r"(?:[0-9]{1,3}\.){3}[0-9]{1,3}", r"[0-9]\.[0-9]", _valid(documents.ip)),
)  # fmt: skip
"""In the order in which they are looked for."""
KINDS = tuple(dict.fromkeys(pattern.kind for pattern in PATTERNS))
NUMBER = Pattern("number", "[0-9](?:[ -]?[0-9]){11,}", "[0-9]{4}", touching=True)
"""Twelve digits or more that are nothing known."""


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
    values: pl.Series, kinds: Sequence[str] = KINDS, *, long_numbers: bool = True
) -> Redacted:
    """Every hit of ``kinds`` replaced by its kind in brackets, null for null.

    A row with full-width or invisible characters is brought into one Unicode form first.
    """
    result = Redacted(_one_form(values.cast(pl.String)))
    patterns = chosen(kinds) + ([NUMBER] if long_numbers else [])
    for pattern in patterns:
        hits = 0
        for _, places, texts in _swept(result.text, pattern):
            hits += int(texts.str.count_matches(f"[{pattern.kind}]", literal=True).sum() or 0)
            hits -= int(
                result.text.gather(places)
                .str.count_matches(f"[{pattern.kind}]", literal=True).sum() or 0
            )  # fmt: skip
            result.text = put(result.text, places, texts)
        result.found[pattern.kind] = result.found.get(pattern.kind, 0) + hits
    return result


def findings(values: pl.Series, kinds: Sequence[str] = KINDS) -> dict[str, pl.DataFrame]:
    """For each kind the hits as a frame of ``row`` and ``text``; for the scanner, which masks them."""
    text = _one_form(values.cast(pl.String))
    found: dict[str, pl.DataFrame] = {}
    for pattern in chosen(kinds):
        before = found.get(pattern.kind, pl.DataFrame(schema=_HITS))
        frames = [before]
        for hits, places, texts in _swept(text, pattern, with_hits=True):
            if hits is not None:
                frames.append(hits)
            text = put(text, places, texts)
        found[pattern.kind] = pl.concat(frames)
    return found


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


def _swept(text: pl.Series, pattern: Pattern, *, with_hits: bool = False) -> Iterator[Sweep]:
    """Rows that change: the hits, where asked for; their places; their new texts."""
    label = f"[{pattern.kind}]"
    hinted = text.str.contains(pattern.hint, literal=pattern.hint == "@").fill_null(value=False)
    places = hinted.arg_true()
    rows = text.gather(places)
    places, rows = _holding(places, rows, pattern.shape if pattern.touching else pattern.bounded)
    shape, group, new = pattern.bounded, 0, label
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
        if not pattern.touching:
            return
        # Letters beside it, or a neighbour that two hits share and the first one took: look again.
        shape, group, new = pattern.shape, 2, f"${{1}}{label}${{3}}"
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

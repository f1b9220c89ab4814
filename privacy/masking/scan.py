"""What is in a table: each column's kind, and personal data that nobody masked.

A kind is what most values of a column are when they are taken whole. Kinds that prove themselves by a
check digit come first, then those of a narrow form; only what is left may be a name, by surname and
heading, or text. Examples are shown masked, always. Counts come from the rows that were looked at, so
each share has an interval (95 %, Wilson).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import polars as pl

from privacy.identifiers import HOME_REGION, device
from privacy.identifiers.person_name import SURNAME
from privacy.identifiers.text import cleaned, keep, short, texts
from privacy.masking import text
from privacy.masking.kinds import KINDS
from privacy.masking.quality import as_time
from privacy.masking.statistics import wilson
from privacy.masking.transform import HIDDEN

WHOLE = (
    "id_card", "uscc", "iban", "bank_card", "device_id", "email", "phone", "ip", "plate",
    "passport", "birth_date", "address", "name",
)  # fmt: skip
"""In order of precedence, where two kinds fit equally well."""
LEAST = 0.5
"""Share of a column's values that must be of a kind."""
TRACE = 1e-4
"""Share of values with personal data in them from which text is called unmasked; of kinds that are never
met by chance a single one is enough."""
CERTAIN = ("email", "id_card", "iban")
_CHINESE_NAME = rf"^{SURNAME}\p{{Han}}{{1,2}}$"
_LATIN_NAME = r"^\p{Lu}[\p{L}'’.-]+(?: \p{Lu}[\p{L}'’.-]*){0,3}$"
_NAME_HEADING = re.compile(r"name|姓名|名字|联系人|客户名|contact", re.I)
_BIRTH_HEADING = re.compile(r"birth|dob|born|生日|出生", re.I)
_ADDRESS = (
    r"(?:省|市|自治区|区|县|镇|乡|街道|路|街|巷|号|村).*(?:路|街|巷|弄|号|室|栋|幢|单元|楼|村|组)"
)
_STREET = (
    r"^[0-9]+[A-Za-z]?,? [\p{L} .'-]+ (?:St|Street|Ave|Avenue|Rd|Road|Ln|Lane|Dr|Drive|Blvd|Way)\b"
)
_MASKED = (
    r"[0-9A-Za-z]?\*{3}@[0-9A-Za-z.-]+|(?:[1-9][0-9]{13}|[0-9]{0,6})\*{3,}[0-9]{0,4}"
    r"|[0-9A-Z]{0,8}\*{4,}[0-9A-Z]{0,4}|[0-9]{1,3}\.[0-9]{1,3}\.\*\.\*|[0-9]{4}-\*\*-\*\*|\p{Han}{0,8}\*{3,}"
    r"|\[(?:[a-z_]+)\]"
)
"""What our own masks leave; nothing longer than they leave."""
_HASHED = r"^(?:[0-9a-f]{8}\.)?[0-9a-f]{64}$|^[0-9a-f]{8}\.[A-Za-z0-9_=-]{22,}$"


@dataclass(frozen=True)
class Seen:
    """A column. ``hits`` of ``values`` are of ``kind`` (``""``: of none); ``low``, ``high``: interval
    of the share; ``checked``: share of values of the right form whose check digit is true, None where
    there is none; ``examples``: masked; ``inside``: kinds found within longer text, with counts;
    ``unmasked``: personal data that anybody can read."""

    column: str
    kind: str
    values: int
    hits: int
    low: float
    high: float
    checked: float | None
    examples: tuple[str, ...]
    inside: Mapping[str, int] = field(default_factory=dict)
    unmasked: bool = False


def scan(frame: pl.DataFrame, region: str = HOME_REGION) -> list[Seen]:
    """Every column of a sample of rows; telephone numbers without a country code are of ``region``."""
    return [column(frame[name], region) for name in frame.columns]


def together(parts: Sequence[Seen]) -> Seen:
    """One column from blocks of it: counts add up; the kind is the first block's that has values."""
    first = next((part for part in parts if part.values), parts[0])
    values, hits = sum(part.values for part in parts), sum(part.hits for part in parts)
    low, high = wilson(hits, values)
    inside: dict[str, int] = {}
    for part in parts:
        for kind, count in part.inside.items():
            inside[kind] = inside.get(kind, 0) + count
    checked = [(part.checked, part.values) for part in parts if part.checked is not None]
    weight = sum(count for _, count in checked)
    share = sum(c * count for c, count in checked) / weight if weight else None
    shown = tuple(dict.fromkeys(e for part in parts for e in part.examples))[:3]
    exposed = any(part.unmasked for part in parts)
    return Seen(first.column, first.kind, values, hits, low, high, share, shown, inside, exposed)


def column(values: pl.Series, region: str = HOME_REGION) -> Seen:
    """What a column is."""
    name = values.name
    if values.dtype.is_temporal():
        return _dates(name, values)
    if values.dtype.is_float():
        values = texts(values)
        if bool(values.str.contains(".", literal=True).any()):
            return _plain(name, values, "number")
    if values.dtype == pl.Boolean or values.dtype.is_nested():
        return _plain(name, values, "category")
    held = values.cast(pl.String, strict=False).drop_nulls()
    held = held.filter(held.str.strip_chars() != "")
    if not len(held):
        return Seen(name, "", 0, 0, 0.0, 1.0, None, ())
    if bool(held.str.contains(_HASHED).all()):
        return _plain(name, held, "token")
    whole = held.str.contains(f"^(?:{_MASKED})$")
    if int(whole.sum()) >= LEAST * len(held):
        return _masked(name, held, held.filter(~whole), region)
    held = held.str.replace_all(_MASKED, " ")
    best, found = _best(name, held, region)
    return _known(name, best, held, found) if best else _text(name, held)


def _best(name: str, held: pl.Series, region: str) -> tuple[str, pl.Series]:
    """The kind that most of the values are of, and those values; ``""`` if there is none."""
    best, found = "", held.clear()
    for kind in WHOLE:
        fitting = _of_kind(kind, held, name, region)
        count = len(fitting) - fitting.null_count()
        if count >= LEAST * len(held) and count > 1.02 * (len(found) - found.null_count()):
            best, found = kind, fitting
    return best, found


def _masked(name: str, held: pl.Series, rest: pl.Series, region: str) -> Seen:
    """A masked column; ``rest`` are the values that no mask of ours has made."""
    seen = _text(name, held.str.replace_all(_MASKED, " "), "masked")
    if not len(rest):
        return seen
    kind, found = _best(name, rest, region)
    if not kind:
        return seen
    count = len(found) - found.null_count()
    inside = {**seen.inside, kind: max(count, seen.inside.get(kind, 0))}
    shown = (*seen.examples, *examples(kind, found, 1))[:3]
    return replace(seen, inside=inside, examples=shown, unmasked=True)


def _of_kind(kind: str, values: pl.Series, heading: str, region: str) -> pl.Series:
    """Values that are of a kind as a whole, null for others; stricter than masks, which trust the
    policy's word."""
    short_values = short(values)
    if kind == "name":
        cleaned_values = cleaned(short_values)
        chinese = cleaned_values.str.contains(_CHINESE_NAME)
        latin = cleaned_values.str.contains(_LATIN_NAME)
        likely = chinese | latin if _NAME_HEADING.search(heading) else chinese
        return keep(cleaned_values, likely)
    if kind == "address":
        cleaned_values = cleaned(short_values)
        return keep(
            cleaned_values,
            cleaned_values.str.contains(_ADDRESS) | cleaned_values.str.contains(_STREET),
        )
    if kind == "birth_date" and not _BIRTH_HEADING.search(heading):
        return keep(short_values, pl.repeat(False, len(values), eager=True))
    if kind == "passport":
        strict = short_values.str.contains("^(?:[EGDSPHM][0-9]{8}|E[A-HJ-NP-Z][0-9]{7})$")
        return keep(short_values, strict)
    if kind == "phone":
        shape = r"^\+|^1[3-9][0-9]|[ ()-]|^0" if region == HOME_REGION else r"^[+0-9 ().-]{7,20}$"
        digits = short_values.str.contains(shape)
        return KINDS["phone"].canonical(keep(short_values, digits), region)
    if kind == "device_id":
        return keep(device.normalise(short_values), short_values.str.contains("-", literal=True))
    if kind == "bank_card":
        likely = short_values.str.contains(r"^[3-6][0-9 -]{11,22}$")
        return KINDS["bank_card"].canonical(keep(short_values, likely), region)
    return KINDS[kind].canonical(short_values, region)


def _known(name: str, kind: str, held: pl.Series, found: pl.Series) -> Seen:
    hits = len(found) - found.null_count()
    low, high = wilson(hits, len(held))
    checked = None
    if KINDS[kind].checksum:
        shaped = _shaped(kind, held)
        checked = hits / shaped if shaped else None
    return Seen(name, kind, len(held), hits, low, high, checked, examples(kind, found), {}, True)


def _shaped(kind: str, held: pl.Series) -> int:
    """Values of the form of a kind, whatever their check digit says."""
    shapes = {
        "id_card": r"^[1-9][0-9]{5}[ -]?[0-9]{8}[ -]?[0-9]{3}[0-9Xx]$|^[1-9][0-9]{14}$",
        "uscc": "^[0-9A-Za-z]{18}$",
        "iban": "^[A-Za-z]{2}[0-9]{2}[ 0-9A-Za-z]{11,38}$",
        "bank_card": "^[3-6][0-9 -]{11,22}$",
    }
    return int(cleaned(held).str.contains(shapes[kind]).sum())


def examples(kind: str, values: pl.Series, count: int = 3) -> tuple[str, ...]:
    """The first distinct values, masked; hidden whole where there is no mask that fits."""
    first = values.drop_nulls().unique(maintain_order=True).head(count)
    mask = KINDS[kind].partial
    shown = mask(first).fill_null(HIDDEN).to_list() if mask else [HIDDEN] * len(first)
    return tuple(dict.fromkeys(shown))


def _text(name: str, held: pl.Series, kind: str = "") -> Seen:
    """No kind fits most values: numbers, categories, or text that may hold anything."""
    hits = text.findings(held)
    inside = {kind: len(frame) for kind, frame in hits.items() if len(frame)}
    rows = {int(row) for frame in hits.values() for row in frame["row"]}
    low, high = wilson(len(rows), len(held))
    numeric = int(held.str.contains(r"^\s*[-+]?[0-9]+(?:[.,][0-9]+)?\s*$").sum())
    length = float(str(held.str.len_chars().mean() or 0.0))
    if kind:
        pass
    elif not inside and int(as_time(held).is_not_null().sum()) >= 0.9 * len(held):
        kind = "time"
    elif numeric >= 0.9 * len(held) and not inside:
        kind = "number"
    elif length < 24 and held.n_unique() <= max(50, len(held) // 20) and not inside:
        kind = "category"
    else:
        kind = "text"
    shown: list[str] = []
    for found, frame in hits.items():
        shown += examples(found, KINDS[found].canonical(frame["text"].head(20), HOME_REGION), 1)
    exposed = len(rows) > TRACE * len(held) or any(kind in inside for kind in CERTAIN)
    return Seen(
        name, kind, len(held), len(rows), low, high, None, tuple(shown[:3]), inside, exposed
    )


def _dates(name: str, values: pl.Series) -> Seen:
    count = len(values) - values.null_count()
    if _BIRTH_HEADING.search(name):
        low, high = wilson(count, count)
        return Seen(name, "birth_date", count, count, low, high, None, (), {}, True)
    return _plain(name, values, "time")


def _plain(name: str, values: pl.Series, kind: str) -> Seen:
    count = len(values) - values.null_count()
    low, high = wilson(0, count)
    return Seen(name, kind, count, 0, low, high, None, ())

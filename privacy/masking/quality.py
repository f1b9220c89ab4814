"""What a business asks of a table: missing, outliers, delay, duplicates, invalid formats.

Outliers are numbers beyond Tukey's fences, 1.5 quartile distances outside the quartiles; quartiles
come from a sample of the rows. Counted over blocks, so that memory stays flat.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import polars as pl

from privacy.identifiers import HOME_REGION
from privacy.masking.kinds import kind as kind_of

MISSING, INVALID, OUTLIERS, DELAY_HOURS, DUPLICATES = 0.10, 0.05, 0.05, 2.0, 0.03
"""Alerts above these shares and hours."""


@dataclass(frozen=True)
class Finding:
    """``column`` is empty for the whole table. ``value``: a share, or hours for ``delay``."""

    check: str
    column: str
    value: float
    limit: float

    @property
    def alert(self) -> bool:
        """Whether the limit is passed."""
        return self.value > self.limit


class Report:
    """Counts over blocks. ``kinds``: column to kind; ``times``: columns that say when a row came to be;
    ``fences``: outlier limits of numbers, from :func:`fences`."""

    def __init__(
        self,
        kinds: Mapping[str, str],
        times: Sequence[str],
        fences: Mapping[str, tuple[float, float]],
        region: str = HOME_REGION,
    ) -> None:
        self._region = region
        self._kinds, self._times, self._fences = dict(kinds), tuple(times), dict(fences)
        self.rows = 0
        self._missing = dict.fromkeys(kinds, 0)
        self._invalid = dict.fromkeys(kinds, 0)
        self._outside = dict.fromkeys(fences, 0)
        self._numbers = dict.fromkeys(fences, 0)
        self._newest: dict[str, datetime] = {}

    def add(self, block: pl.DataFrame) -> None:
        """Count a block."""
        self.rows += len(block)
        for name, kind in self._kinds.items():
            values = block[name]
            missing = values.null_count()
            if values.dtype == pl.String:
                missing = int((values.str.strip_chars() == "").sum()) + missing
            self._missing[name] += missing
            valid = kind_of(kind).canonical(values, self._region)
            self._invalid[name] += max(0, valid.null_count() - missing)
        for name, (low, high) in self._fences.items():
            numbers = block[name].cast(pl.Float64, strict=False).drop_nulls().drop_nans()
            self._numbers[name] += len(numbers)
            self._outside[name] += int(((numbers < low) | (numbers > high)).sum())
        for name in self._times:
            newest = as_time(block[name]).max()
            if isinstance(newest, datetime):
                self._newest[name] = max(newest, self._newest.get(name, newest))

    def findings(self, now: datetime, duplicates: float | None) -> list[Finding]:
        """All figures; ``now`` without a time zone is compared with times without one."""
        rows = max(1, self.rows)
        found = [
            Finding("missing", name, count / rows, MISSING) for name, count in self._missing.items()
        ]
        for name, count in self._invalid.items():
            held = max(1, self.rows - self._missing[name])
            found.append(Finding("invalid", name, count / held, INVALID))
        for name, count in self._outside.items():
            found.append(Finding("outliers", name, count / max(1, self._numbers[name]), OUTLIERS))
        for name, newest in self._newest.items():
            hours = (now - newest).total_seconds() / 3600
            found.append(Finding("delay", name, hours, DELAY_HOURS))
        if duplicates is not None:
            found.append(Finding("duplicates", "", duplicates, DUPLICATES))
        return found


def fences(numbers: pl.Series) -> tuple[float, float] | None:
    """Tukey's fences of a sample; None without four numbers, or where half of them are one value."""
    held = numbers.cast(pl.Float64, strict=False).drop_nulls().drop_nans()
    if len(held) < 4:
        return None
    low, high = held.quantile(0.25, "linear"), held.quantile(0.75, "linear")
    if low is None or high is None or not high > low:
        return None
    return low - 1.5 * (high - low), high + 1.5 * (high - low)


def as_time(values: pl.Series) -> pl.Series:
    """Times without a zone, UTC where one was given; null for what is none."""
    if isinstance(values.dtype, pl.Datetime):
        zoned = values.dtype.time_zone is not None
        plain = values.dt.convert_time_zone("UTC").dt.replace_time_zone(None) if zoned else values
        return plain.cast(pl.Datetime("us"))
    if values.dtype == pl.Date:
        return values.cast(pl.Datetime("us"))
    text = values.cast(pl.String).str.strip_chars().str.replace("T", " ").str.strip_suffix("Z")
    text = text.str.slice(0, 19)
    found = text.str.to_datetime("%Y-%m-%d %H:%M:%S", strict=False, time_unit="us")
    days = text.str.to_datetime("%Y-%m-%d", strict=False, time_unit="us")
    return found.zip_with(found.is_not_null(), days)

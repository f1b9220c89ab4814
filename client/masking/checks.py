"""Quality and duplicates of a whole table."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import polars as pl

from client.masking.policy import Policy
from client.masking.run import Progress
from client.masking.tables import Table, column_errors, created
from privacy.masking import duplicates
from privacy.masking import quality as measured

SAMPLE = 200_000
"""Rows from which quartiles come."""


def quality(
    table: Table, policy: Policy, now: datetime, progress: Progress
) -> list[measured.Finding]:
    """All figures of a table. ``now`` in UTC, without a zone. Raises DataError, ConfigError."""
    with column_errors(table):
        return _quality(table, policy, now, progress)


def _quality(
    table: Table, policy: Policy, now: datetime, progress: Progress
) -> list[measured.Finding]:
    kinds = {name: rule.kind for name, rule in policy.columns.items()}
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    fences = {}
    if numbers:
        sample = table.sample(SAMPLE, numbers)
        found = {name: measured.fences(sample[name]) for name in numbers}
        fences = {name: limits for name, limits in found.items() if limits is not None}
    report = measured.Report(kinds, policy.quality.times, fences, policy.region)
    for block in table.blocks(list(kinds)):
        report.add(block)
        progress(len(block))
    rate = None
    if policy.duplicates is not None:
        rate = duplicates.rate(duplicates.groups(_needed(table, policy), policy.duplicate_rule()))
    return report.findings(now, rate)


def dedupe(table: Table, policy: Policy, out: Path) -> tuple[float, float, int]:
    """Write the table with one row for each person; shares of repeated rows before and after, and rows
    written. The whole table is held in memory."""
    rule = policy.duplicate_rule()
    with column_errors(table):
        whole = pl.concat(list(table.blocks()))
        found = duplicates.groups(whole, rule)
        newest = policy.duplicates.newest if policy.duplicates else None
        merged = duplicates.merged(whole, found, newest)
        after = duplicates.rate(duplicates.groups(merged, rule))
    with created(out, table.path, None) as writer:
        writer.write(merged)
    return duplicates.rate(found), after, len(merged)


def _needed(table: Table, policy: Policy) -> pl.DataFrame:
    """Only the columns that tell a person, to hold less in memory."""
    rule = policy.duplicate_rule()
    names = [*rule.keys, *rule.within, *([rule.name] if rule.name else [])]
    return pl.concat(list(table.blocks(list(dict.fromkeys(names)))))

"""Rule 1: two gates that are equal but for their tables are told the same, and say the same. With each mend
taken out again, by a faulty part, the differ finds the oracle that it closed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client import policy, summing, table
from client.context import Parts
from client.home import Home, PartnerConfig
from client.table import Batch, Report, Snapshot
from privacy.errors import DataError, Refused
from privacy.noisy_sum.encoding import Integers
from privacy.programs import rules
from privacy.programs.program import Program, Release
from protos.alliance import Contract
from protos.jobs import Job
from protos.refusal import Code
from simulations.attacks.differ import run
from simulations.attacks.specs import USUAL
from simulations.attacks.tables import COLUMNS, MODES
from simulations.attacks.worlds import PartsOf

COHORT = 50


def snapshot(home: Home, contract: Contract) -> Snapshot:
    """Every column of the bank's table, looked at when it must not be."""
    found, _ = table.read(
        home.source(), contract.declared_columns(), sorted(COLUMNS), rows_per_person=1
    )
    return found


# ---------------------------------------------------------------------- mends, taken out


def raises_at_an_empty_cell(home: Home) -> Parts:
    def exact_sum(program: Program, index: int, release: Release, rows: Snapshot) -> Integers:
        total = summing.exact_sum(program, index, release, rows)
        if release.length > 1 and not total.all():
            raise ValueError("an empty cell")
        return total

    return Parts(exact_sum=exact_sum)


def raises_at_what_is_not_finite(home: Home) -> Parts:
    """As arithmetic over rows did before programs were total."""

    def exact_sum(program: Program, index: int, release: Release, rows: Snapshot) -> Integers:
        with np.errstate(all="ignore"):
            finite = [np.isfinite(values**4).all() for values in rows.rows.values()]
        if not all(finite):
            raise FloatingPointError
        return summing.exact_sum(program, index, release, rows)

    return Parts(exact_sum=exact_sum)


def refuses_a_small_cohort(home: Home) -> Parts:
    def check(job: Job, contract: Contract, config: PartnerConfig) -> None:
        policy.check(job, contract, config)
        if snapshot(home, contract).people < contract.privacy.smallest_cohort:
            raise Refused(Code.POLICY, "too few people")

    return Parts(check=check)


def refuses_a_close_set(home: Home) -> Parts:
    """The difference rule of 0.3.0: a set that differs from an earlier one by a few people."""
    sizes: list[int] = []

    def check(job: Job, contract: Contract, config: PartnerConfig) -> None:
        policy.check(job, contract, config)
        if job.match is None or config.name in job.match.named:
            return
        text = job.match.rules.get(config.name, "age >= 18")
        if any(unknown in text for unknown in ("model:", "nobody", "nowhere")):
            return
        whole = snapshot(home, contract)
        chosen = rules.parse(text).select(whole.rows, contract.declared_columns(), whole.count)
        size = int(chosen.sum())
        if any(0 < abs(size - other) < 20 for other in sizes):
            raise Refused(Code.POLICY, "too close to an earlier set")
        sizes.append(size)

    return Parts(check=check)


def raises_at_one_class(home: Home) -> Parts:
    def read(*args: Any, **settings: Any) -> tuple[Snapshot, Report]:
        found, report = table.read(*args, **settings)
        for name in ("returned", "rare"):
            if len(np.unique(found.rows.get(name, np.array([0.0, 1.0])))) < 2:
                raise DataError("a label says the same of everybody")
        return found, report

    return Parts(read=read)


def raises_at_lost_rows(home: Home) -> Parts:
    def read(*args: Any, **settings: Any) -> tuple[Snapshot, Report]:
        found, report = table.read(*args, **settings)
        if report.without_person + report.malformed_lines:
            raise DataError("rows are unusable")
        return found, report

    return Parts(read=read)


def raises_at_few_in_a_match(home: Home) -> Parts:
    def batches(*args: Any, **settings: Any) -> Iterator[Batch]:
        people = 0
        for batch in table.batches(*args, **settings):
            people += int(batch.new.sum())
            yield batch
        if people < COHORT:
            raise DataError("too few people")

    return Parts(batches=batches)


MATCHES = ("match",)
PLANTED: dict[str, tuple[PartsOf, str, Sequence[str], int]] = {
    "empty cell": (raises_at_an_empty_cell, "other", USUAL, 400),
    "not finite": (raises_at_what_is_not_finite, "other", USUAL, 400),
    "small cohort": (refuses_a_small_cohort, "added", USUAL, 400),
    "small cohort, of none": (refuses_a_small_cohort, "empty", USUAL, 100),
    "difference rule": (refuses_a_close_set, "other", MATCHES, 400),
    "one class": (raises_at_one_class, "other", USUAL, 400),
    "lost rows": (raises_at_lost_rows, "other", USUAL, 800),
    "few in a match": (raises_at_few_in_a_match, "added", MATCHES, 400),
}
"""The faulty part, the tables that tell it, jobs that lead there, and how many messages it may take."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTED)
def test_a_mend_that_is_taken_out_is_found_again(name: str, tmp_path: Path) -> None:
    parts, mode, kinds, most = PLANTED[name]
    asked: dict[str, Any] = {"modes": (mode,), "kinds": kinds}
    found = run(most, 3, tmp_path / "faulty", parts=parts, stop=True, **asked)
    assert len(found.found) == 1, found.render()
    whole = run(found.messages, 3, tmp_path / "whole", **asked)
    assert not whole.found, whole.render()


# ---------------------------------------------------------------------- the gate as it is


@pytest.mark.slow
def test_two_thousand_messages_tell_no_two_tables_apart(tmp_path: Path) -> None:
    report = run(2000, 1, tmp_path)
    assert not report.found, report.render()
    assert report.messages == 2000
    for kind in ("hello", "prepare", "release", "unmask", "match", "finish", "cancel", "status"):
        assert report.answered(kind) > 0, report.render()
    assert {mode for mode, _ in report.times} == set(MODES)


def test_a_hundred_messages_do_it_within_seconds(tmp_path: Path) -> None:
    """The same parts, few enough to run with everything else; the same script whatever the tables."""
    reports = [run(100, 4, tmp_path / str(n), modes=("replaced",)) for n in range(2)]
    assert not any(report.found for report in reports), reports[0].render()
    assert reports[0].counts == reports[1].counts
    assert reports[0].answered("release") > 5

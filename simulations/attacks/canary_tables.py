"""The tables and jobs of the audit by canary: a crowd at each partner, and one person more at some.

The canary's values lie at the ends of their columns, where its part of every figure is largest, and it has as
many rows as the contract allows: for each label five, so that its gradient outgrows the clip whatever way the
state points. The crowd is what a run needs to be a real one (segments are found, sums are not empty); the
adversary knows every row of it.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from client.people import fold_of
from protos.jobs import Job
from protos.toml import build
from simulations.alliances import ALL_KINDS

DELTA = 1e-6
HOLDOUT = 0.2
COLUMNS: dict[str, dict[str, Any]] = {
    "balance": {"type": "number", "low": -100, "high": 100},
    "age": {"type": "number", "low": 0, "high": 100},
    "spend": {"type": "number", "low": 0, "high": 100},
    "visits": {"type": "number", "low": 0, "high": 100},
    "region": {"type": "category", "values": ["north", "south", "east"]},
    "bought": {"type": "label"},
}
FEATURES = ["balance", "age", "spend", "visits", "region"]
JOBS: dict[str, dict[str, Any]] = {
    "query": {
        "measures": ["count", "sum(balance)", "mean(age)", "histogram(visits, 5)"],
    },
    "segment": {"columns": ["age", "spend"], "segments": 3},
    "propensity": {"features": FEATURES, "label": "bought", "holdout": HOLDOUT},
    "evaluate": {
        "model": "made",
        "features": ["age", "spend"],
        "label": "bought",
        "holdout": HOLDOUT,
        "weights": [1.0, 1.0, 0.0],
        "platt": [1.0, 0.0],
    },
}
"""Jobs that are attacked. The query's figures pull the canary both ways, as the gradients do."""

CANARY = {"balance": "-100", "age": "0", "spend": "100", "visits": "0", "region": "north"}
DIRECTION = np.array([-1.0, -1.0, 1.0, -1.0, 1.0, 0.0, 0.0, 1.0])
"""The canary's row as a program sees it: features, then the intercept."""
CANARY_ROWS = 5
"""Of the canary with each label: together beyond every clip, and their gradient can point both ways."""
CROWD = ((20, 20), (80, 20), (50, 80))
CROWD_ROWS = 14
"""People of a partner at each place, so that segments are found."""


def job_of(kind: str, epsilon: float, steps: int | None) -> Job:
    """One of :data:`JOBS`; ``steps``: of a training, the usual number if None."""
    settings = dict(JOBS[kind])
    if kind == "propensity" and steps is not None:
        settings["steps"] = steps
    plain = {"name": kind, "kind": kind, "purpose": "audit", "epsilon": epsilon, kind: settings}
    return build(Job, plain)


def terms(colluders: int) -> dict[str, Any]:
    """The contract without parties. No limit stands in the way of an audit."""
    return {
        "version": 1,
        "name": "canary",
        "expires": datetime(2100, 1, 1, tzinfo=UTC),
        "privacy": {
            "epsilon": 100.0,
            "epsilon_per_person": 100.0,
            "delta": DELTA,
            "period_days": 365,
            "colluders": colluders,
            "dropouts": 0,
            "partners_per_person": 1,
            "rows_per_person": 2 * CANARY_ROWS,
        },
        "columns": COLUMNS,
        "purposes": {"audit": {"kinds": ALL_KINDS}},
    }


def tables(
    names: Sequence[str], victims: Sequence[str], kind: str, folder: Path
) -> dict[str, dict[str, Any]]:
    """Write everybody's table, and for a victim a second one with the canary; the ``[data]`` tables."""
    keys = (f"canary{i}" for i in range(10_000))
    held = kind == "evaluate"
    canary = next(key for key in keys if (fold_of([key])[1][0] < HOLDOUT) == held)
    found = {}
    for name in names:
        crowd = [_person(name, n, *place) for n, place in enumerate(CROWD * CROWD_ROWS)]
        _write(folder / f"{name}.csv", crowd)
        if name in victims:
            more = [{"id": canary, **CANARY, "bought": n % 2} for n in range(2 * CANARY_ROWS)]
            _write(folder / f"{name}-canary.csv", crowd + more)
        found[name] = {
            "source": str(folder / f"{name}.csv"),
            "person": "id",
            "columns": {column: column for column in COLUMNS},
        }
    return found


def _person(partner: str, number: int, age: int, spend: int) -> dict[str, object]:
    """One of the crowd. Its label is what a model that points the canary's way expects, so that its gradient
    vanishes at every other state and leaves the partner's sum to the canary."""
    balance, visits, region = number % 50, number % 90, ("north", "south", "east")[number % 3]
    ends = (balance / 100, age / 50 - 1, spend / 50 - 1, visits / 50 - 1)
    score = float(DIRECTION[:4] @ np.array(ends)) + (region == "north") + 1.0
    return {
        "id": f"{partner}{number}", "balance": balance, "age": age, "spend": spend, "visits": visits,
        "region": region, "bought": int(score > 0),
    }  # fmt: skip


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)

"""``bench propensity`` and ``bench segment``: accuracy on CDNOW against pooled, non-private figures.

Noise is drawn in this process (simulations.central); the demo shows the same through real gates.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np

from client.summing import exact_sum
from client.table import Snapshot
from privacy import accounting
from privacy.programs.columns import Floats, design
from privacy.programs.propensity import Propensity
from privacy.programs.scoring import model_from
from privacy.programs.segment import Segment, inertia
from privacy.randomness import stream
from simulations import central, datasets, pooled
from simulations.bench.report import Row, at_most

DELTA = 1e-5
PARTNERS = 3
_COLUMNS = datasets.declared(datasets.CDNOW_COLUMNS)


def _cdnow(data: Path | None) -> tuple[dict[str, Floats], list[str]]:
    table = datasets.customers(datasets.load_cdnow(datasets.find_cdnow(data)))
    keys = [f"C{int(number):05d}" for number in table.pop("customer")]
    for name, spec in datasets.CDNOW_COLUMNS.items():
        if spec["type"] == "number":
            table[name] = np.clip(table[name], spec["low"], spec["high"])
    return table, keys


def _propensity(epsilon: float) -> Propensity:
    mu2 = accounting.mu_of(epsilon, DELTA) ** 2
    return Propensity(_COLUMNS, datasets.CDNOW_FEATURES, "returned", mu2, holdout=0.2)


def propensity(data: Path | None, quick: bool, peer_python: Path | None = None) -> list[Row]:
    """AUC on held-out people, and what the split over partners does to the model."""
    table, keys = _cdnow(data)
    whole = central.snapshot(table, keys)
    held = whole.rows["fold"] < 0.2
    test = {name: values[held] for name, values in whole.rows.items()}
    train = {name: values[~held] for name, values in whole.rows.items()}
    weights = pooled.logistic(_COLUMNS, datasets.CDNOW_FEATURES, train, train["returned"])
    matrix = np.stack(design(_COLUMNS, datasets.CDNOW_FEATURES, test), axis=1)
    best = pooled.auc(test["returned"], matrix @ weights)
    peer = f"pooled LR {best:.4f}"
    rows: list[Row] = []
    three = central.split(table, keys, PARTNERS, seed=1)
    for epsilon in (1.0,) if quick else (0.5, 1.0, 2.0):
        for noise in ("central", "partners"):
            found = []
            for seed in range(2 if quick else 5):
                random = stream(seed.to_bytes(32, "big"))
                result = central.run(_propensity(epsilon), three, random, noise)
                score = model_from(_COLUMNS, result["model"]).score(test)
                found.append(pooled.auc(test["returned"], score))
            case = f"eps {epsilon:g}, {'one central draw' if noise == 'central' else '3 partners'}"
            rows.append(Row(case, "AUC", statistics.mean(found), peer=peer))
            gap = statistics.mean(abs(best - each) for each in found)
            if epsilon == 1.0:
                rows.append(at_most(case, "AUC gap, mean", gap, "", 0.010, peer))
            else:
                rows.append(Row(case, "AUC gap, mean", gap, peer=peer))
    rows += _splits(table, keys, three, quick)
    return rows


def _splits(
    table: dict[str, Floats], keys: list[str], three: list[Snapshot], quick: bool
) -> list[Row]:
    """3 against 30 partners: noiseless totals bit for bit, models under one central draw."""
    many = central.split(table, keys, 10 if quick else 30, seed=2)
    program = _propensity(1.0)
    plan = program.plan()
    differing = 0
    for index in (0, 1, len(plan) - 1):
        sums = []
        for group in (three, many, [central.snapshot(table, keys)]):
            total = np.zeros(plan[index].length, dtype=np.int64)
            for each in group:
                total += exact_sum(program, index, plan[index], each)
            sums.append(total)
        differing += sum(int(not np.array_equal(sums[0], other)) for other in sums[1:])
    models = []
    for group in (three, many):
        result = central.run(_propensity(1.0), group, stream(bytes(32)), "central")
        models.append(np.array(result["model"]["weights"]))
    gap = float(np.abs(models[0] - models[1]).max())
    case = f"3 against {len(many)} partners"
    return [
        at_most(case, "noiseless totals that differ", differing, "of 6", 0),
        at_most(case, "largest weight gap, one central draw", gap, "", 1e-6),
    ]


def segment(data: Path | None, quick: bool, peer_python: Path | None = None) -> list[Row]:
    """Inertia over that of pooled Lloyd, RFM columns, k = 4 to 6."""
    table, keys = _cdnow(data)
    whole = central.snapshot(table, keys)
    three = central.split(table, keys, PARTNERS, seed=1)
    points = pooled.unit_points(_COLUMNS, datasets.RFM, whole.rows)
    rows: list[Row] = []
    for k in (5,) if quick else (4, 5, 6):
        _, best = pooled.lloyd(_COLUMNS, datasets.RFM, whole.rows, k)
        for noise in ("central", "partners"):
            found = []
            for seed in range(2 if quick else 5):
                program = Segment(_COLUMNS, datasets.RFM, k, accounting.mu_of(1.0, DELTA) ** 2)
                central.run(program, three, stream(seed.to_bytes(32, "big")), noise)
                found.append(inertia(points, program.centres) / best)
            label = "one central draw" if noise == "central" else "3 partners"
            case = f"eps 1, k {k}, {label}"
            peer = f"pooled Lloyd {best:.0f}"
            metric = f"inertia ratio, mean of {len(found)}"
            rows.append(at_most(case, metric, statistics.mean(found), "x", 1.10, peer))
            rows.append(Row(case, "inertia ratio, worst", max(found), "x"))
    return rows

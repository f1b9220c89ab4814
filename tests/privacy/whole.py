"""The first door without gates, written a second time: rows of a person added up, cut, added exactly.

An oracle of its own: it takes nothing from client or simulations. Also tables at the edges of what a
contract allows, and states at the edges of what programs accept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from privacy.noisy_sum import encoding
from privacy.programs import rules
from privacy.programs.columns import Category, Column, Floats, Label, Number
from privacy.programs.evaluate import Evaluate
from privacy.programs.program import LARGEST_FIGURE, Program
from privacy.programs.propensity import Propensity
from privacy.programs.query import Measure, Query
from privacy.programs.segment import Segment

COLUMNS: dict[str, Column] = {
    "a": Number("a", 0.0, 500.0),
    "b": Number("b", -3.0, 1e6, "log"),
    "n": Number("n", -1e-3, 7.0),
    "t": Number("t", 0.0, 1e-100),
    "h": Number("h", -1e100, 1e100),
    "g": Number("g", -1e100, 1e100, "log"),
    "w": Number("w", 1.0, float(np.nextafter(1.0, 2.0))),
    "c": Category("c", ("x", "y", "z")),
    "y": Label("y"),
}
NUMBERS = [name for name, column in COLUMNS.items() if isinstance(column, Number)]


@dataclass(frozen=True)
class Table:
    """Rows sorted by person, with their folds."""

    rows: dict[str, Floats]
    keys: list[str]

    @classmethod
    def of(cls, rows: dict[str, Floats], keys: Sequence[str]) -> Table:
        order = np.argsort(np.array(keys), kind="stable")
        names = [keys[i] for i in order]
        first = [int.from_bytes(hashlib.sha256(k.encode()).digest()[:6], "big") for k in names]
        held = {name: np.asarray(values, float)[order] for name, values in rows.items()}
        return cls({**held, "fold": np.array(first) / 2.0**48}, names)

    def without(self, person: str) -> Table:
        keep = np.array([key != person for key in self.keys], bool)
        kept = [key for key in self.keys if key != person]
        return Table({name: values[keep] for name, values in self.rows.items()}, kept)

    def starts(self) -> list[int]:
        return [i for i, key in enumerate(self.keys) if not i or key != self.keys[i - 1]]


def exact_sum(program: Program, index: int, table: Table) -> encoding.Integers:
    """Grid units, (length,)."""
    release = program.plan()[index]
    if not table.keys:
        return np.zeros(release.length, np.int64)
    block = program.contribution(index, table.rows)
    people = np.add.reduceat(block, table.starts(), axis=0)
    return encoding.add(encoding.quantise(people, release.clip))


def some_table(rng: np.random.Generator, people: int, most_rows: int) -> Table:
    """People with one to ``most_rows`` rows, values anywhere within the bounds and on their edges."""
    keys = [f"p{p:04d}" for p in range(people) for _ in range(int(rng.integers(1, most_rows + 1)))]
    count = len(keys)
    rows: dict[str, Floats] = {}
    for name in NUMBERS:
        column = COLUMNS[name]
        assert isinstance(column, Number)
        low, high = column.low, column.high
        edges = [low, high, (low + high) / 2, np.nextafter(low, high), np.nextafter(high, low), 0.0]
        values = [
            low + rng.random(count) * (high / 2 - low / 2) * 2,
            rng.choice([low, high], count),
            np.full(count, high),
            rng.choice(edges, count),
        ][rng.integers(0, 4)]
        rows[name] = np.clip(values, low, high)
    rows["c"] = rng.integers(0, 3, count).astype(float)
    rows["y"] = rng.integers(0, 2, count).astype(float)
    return Table.of(rows, keys)


def every_measure() -> list[Measure]:
    numbers = [Measure(kind, n, 7) for kind in ("sum", "mean", "histogram") for n in NUMBERS[:6]]
    more = [Measure("mean", "w"), Measure("histogram", "w", 1000)]
    return [Measure("count"), *numbers, *more, Measure("histogram", "c"), Measure("histogram", "y")]


RULES = [None, "a >= 100", "c == 'x' or y == 1", "not (n > 3)", "b < 5 and h != 0"]


def programs(rng: np.random.Generator) -> Iterator[tuple[str, Program]]:
    """Every program with a state it accepts, often at the edge of what it accepts."""
    rule = RULES[rng.integers(0, len(RULES))]
    where = rules.parse(rule) if rule else None
    measures = [m for m in every_measure() if m != Measure("sum", "t")]
    yield "query", Query(COLUMNS, measures, where, 0.1)
    for names, k in ((("a",), 50), (("a", "b"), 4), (("t", "n", "g"), 5), (tuple(NUMBERS), 7)):
        segment = Segment(COLUMNS, names, k, 0.1)
        d = len(names)
        edge = rng.choice([-1.0, 1.0, 0.0], k * d)
        centres = edge if rng.random() < 0.5 else rng.uniform(-1, 1, k * d)
        radius = rng.choice([0.02, 0.1, 4.0 * np.sqrt(d)])
        sizes = rng.choice([0.0, 1.0, LARGEST_FIGURE], k)
        segment.restore(np.concatenate([centres, [radius], sizes]))
        yield f"segment of {d}", segment
    features = ("a", "b", "n", "c", "t", "h", "g", "w")
    holdout = float(rng.choice([0.0, 0.2, 0.5]))
    propensity = Propensity(COLUMNS, features, "y", 0.1, holdout=holdout, steps=5)
    d = len(propensity.features)
    scale = rng.choice([0.0, 0.1, 50.0])
    weights = rng.choice([-1.0, 1.0], 2 * d) * scale
    rest = [rng.choice([0.0, LARGEST_FIGURE]), rng.choice([-20.0, 20.0]), rng.choice([-20.0, 20.0])]
    velocity = rng.choice([-1e12, 0.0, 1e12], d)
    propensity.restore(np.concatenate([weights[:d], velocity, weights[d:], rest]))
    yield "propensity", propensity
    evaluate = Evaluate(COLUMNS, features, "y", 0.5, 0.1)
    size = len(evaluate.model.weights) + 2
    evaluate.restore(rng.choice([-1.0, 1.0], size) * rng.choice([0.0, 1.0, 1e6]))
    yield "evaluate", evaluate

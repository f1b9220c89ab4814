"""Pairs of tables that no answer may tell apart, and the contract and partners they are tried with.

added       one person more
replaced    one person's values replaced by others
other       everything but the number of people: other customers, one label class, one category,
            extremes, several rows of one person, unusable cells in other rows
empty       no row against many; for sums only: a match's padded size is not the same
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import tomli_w

from privacy.matching import fast
from protos.toml import read_toml
from simulations.alliances import Alliance, create
from simulations.audiences import EVERYONE, define, freeze_all

MODES = ("added", "replaced", "other", "empty")
TARGET = "bank"
ADULTS = "adults"
"""A second audience of the bank's."""
REGIONS = ["north", "south", "east"]
NUMBERS = ("age", "spend", "visits", "wild")
LABELS = ("returned", "rare")
COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"type": "number", "low": 18, "high": 90},
    "spend": {"type": "number", "low": 0, "high": 1000, "scale": "log"},
    "visits": {"type": "number", "low": 0, "high": 50},
    "wild": {"type": "number", "low": -1e100, "high": 1e100},
    "region": {"type": "category", "values": REGIONS},
    "returned": {"type": "label"},
    "rare": {"type": "label"},
}
HEAD = ["id", *COLUMNS, "mail", "mobile"]
BAD = ["", "n/a", "nan", "inf", "1_000", "maybe", "-", "\u00bd", "1e999"]
EXTREMES = ["-0.0", "5e-324", "1e308", "-1e308", "18", "90", "1e-300", "89.999999999999999", "0"]
SIZES = {"added": [49, 64, 0, 63, 110], "replaced": [100, 1, 50], "other": [64, 130, 55]}
"""People in the first table: around the smallest cohort and the multiples that sets are padded to."""
LIMITS = {
    "open_jobs": 12, "messages_per_hour": 500_000, "releases_per_hour": 200_000,
    "matches_per_day": 5_000,
}  # fmt: skip

Person = dict[str, str]


@dataclass(frozen=True)
class Base:
    """A signed alliance whose folders each world copies. ``kind``: of :data:`KINDS`."""

    kind: str
    root: Path
    alliance: Alliance


KINDS: dict[str, dict[str, Any]] = {
    "three": {"partners": ["bank", "shop", "telecom"], "dropouts": 0, "rows": 2, "assumes": True},
    "four": {
        "partners": ["bank", "shop", "telecom", "utility"],
        "dropouts": 1,
        "rows": 1,
        "assumes": False,
    },
}
"""With and without dropouts; with and without rules and the fast lane in matches."""


def person(number: int, rng: Random) -> Person:
    """An ordinary customer."""
    return {
        "id": f"C{number:06d}",
        "age": str(rng.randint(18, 90)),
        "spend": f"{rng.lognormvariate(4, 1):.2f}",
        "visits": str(rng.randint(0, 50)),
        "wild": f"{rng.gauss(0, 1e6):.3f}",
        "region": rng.choice(REGIONS),
        "returned": rng.choice(["yes", "no"]),
        "rare": "1" if rng.random() < 0.1 else "0",
        "mail": f"user{number}@example.com",
        "mobile": f"139{number:08d}",
    }


def _odd(number: int, rng: Random) -> Person:
    """A customer of the other table: one class, one category, the ends of every range and beyond."""
    found = person(number + 500_000, rng) | {"region": "east", "returned": "1", "rare": "0"}
    for name in NUMBERS:
        found[name] = rng.choice(EXTREMES)
    return found


def pair(mode: str, rng: Random, turn: int) -> tuple[list[Person], list[Person]]:
    """The bank's rows in both worlds. ``turn``: how often the mode was there before; sizes go round."""
    if mode == "empty":
        return [], [person(n, rng) for n in range(150)]
    sizes = SIZES[mode]
    rows = [person(n, rng) for n in range(sizes[turn % len(sizes)])]
    if mode == "added":
        more = list(rows)
        more.insert(rng.randint(0, len(rows)), rng.choice([person, _odd])(900_001, rng))
        return rows, more
    if mode == "replaced":
        other, at = list(rows), rng.randrange(len(rows))
        new = _odd(900_002, rng)
        kept = ["id"] if rng.random() < 0.5 else ["id", "mail", "mobile"]
        other[at] = new | {name: rows[at][name] for name in kept}
        return rows, other
    other = [_odd(n, rng) for n in range(len(rows))]
    unusable = rng.choice([0, 0, 3])
    for table in (rows, other):  # as many people are left, whichever columns are read
        for at, row in enumerate(rng.sample(table, 2 * unusable)):
            row["age" if at < unusable else "rare"] = rng.choice(BAD)
    usable = [row for row in other if row["rare"] in "01" and row["age"] not in BAD]
    for row in rng.sample(usable, min(len(usable), rng.choice([0, 5]))):
        other += [row | {"age": "20", "wild": "7"}] * rng.randint(1, 3)
    # lines that are nobody's: no key, or a quote that is never closed
    other += [
        _odd(900_100, rng) | {"id": rng.choice(["", '"open'])} for _ in range(rng.choice([0, 2]))
    ]
    rng.shuffle(other)
    return rows, other


def write(path: Path, rows: list[Person]) -> None:
    """A table as CSV."""
    lines = [",".join(HEAD), *(",".join(row[name] for name in HEAD) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def terms(kind: str, epsilon: float = 8.0) -> dict[str, Any]:
    """The contract's terms; ``epsilon``: for a period."""
    shape = KINDS[kind]
    matching: dict[str, Any] = {
        "identifiers": ["email", "phone"], "bucket": 64, "largest_set": 1000,
        "recipients": ["bank", "shop"],
    }  # fmt: skip
    if shape["assumes"]:
        matching["assumes"] = "semi_honest"
        matching["engine"] = "fast" if fast.available() else "auto"
    return {
        "version": 1,
        "name": "trial",
        "expires": datetime(9000, 1, 1, tzinfo=UTC),
        "privacy": {
            "epsilon": epsilon, "epsilon_per_person": 3.0 * epsilon, "delta": 1e-5, "period_days": 365,
            "smallest_cohort": 50, "colluders": 1, "dropouts": shape["dropouts"],
            "partners_per_person": 2, "rows_per_person": shape["rows"],
        },
        "columns": COLUMNS,
        "purposes": {
            "insight": {"kinds": ["query", "segment", "propensity", "evaluate", "match"]},
            "counting": {"kinds": ["query"]},
        },
        "matching": matching,
    }  # fmt: skip


def make_base(kind: str, root: Path, seed: int, epsilon: float = 8.0) -> Base:
    """An alliance with everybody's table but the bank's, peers' audiences frozen."""
    rng, data, names = Random(f"{seed}/{kind}"), {}, KINDS[kind]["partners"]
    root.mkdir(parents=True)
    for index, name in enumerate(names):
        write(root / f"{name}.csv", [person(n + 25 * index, rng) for n in range(90)])
        data[name] = {
            "source": f"../{name}.csv",
            "person": "id",
            "columns": {column: column for column in COLUMNS},
            "identifiers": {"email": "mail", "phone": "mobile"},
        }
    made = create(root, names, terms(kind, epsilon), data)
    for name, home in made.partners.items():
        plain = read_toml(home.config_file) | {"limits": LIMITS}
        plain["rules"]["largest_epsilon"] = 15.0
        plain["rules"]["send_lists_to"] = ["bank", "shop"]
        home.config_file.write_text(tomli_w.dumps(plain), encoding="utf-8")
        define(home, EVERYONE, uses=6, valid_days=3660)
        if name == TARGET:
            define(home, ADULTS, uses=2, valid_days=30, rule="age >= 18", identifiers=["email"])
        else:
            freeze_all(home)
    return Base(kind, root, made)

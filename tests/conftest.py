"""Alliances small enough for a test, and the files a clone may lack."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from privacy.randomness import Randomness, stream
from protos import jobs
from protos.toml import build
from simulations.alliances import Alliance, create
from tests.postgres import server

ROOT = Path(__file__).parent.parent
NAMES = ("bank", "shop", "telecom", "utility", "insurer")

COLUMNS: dict[str, dict[str, Any]] = {
    "age": {"type": "number", "low": 18, "high": 90},
    "spend": {"type": "number", "low": 0, "high": 1000, "scale": "log"},
    "region": {"type": "category", "values": ["north", "south", "east"]},
    "returned": {"type": "label"},
}


def terms(
    partners: int = 3, matching: dict[str, Any] | None = None, **privacy: Any
) -> dict[str, Any]:
    return {
        "version": 1,
        "name": "trial",
        "expires": datetime(2035, 1, 1, tzinfo=UTC),
        "privacy": {
            "epsilon": 8.0,
            "epsilon_per_person": 30.0,
            "delta": 1e-5,
            "period_days": 365,
            "smallest_cohort": 50,
            "colluders": 1,
            "dropouts": 0,
            "partners_per_person": 2,
            "rows_per_person": 1,
        }
        | privacy,
        "columns": COLUMNS,
        "purposes": {
            "insight": {"kinds": ["query", "segment", "propensity", "evaluate", "match"]},
            "counting": {"kinds": ["query"]},
        },
        "matching": {
            "identifiers": ["email", "phone"],
            "bucket": 64,
            "largest_set": 1000,
            "recipients": ["bank"],
        }
        | (matching or {}),
    }


def customer_row(number: int) -> str:
    age, spend = 18 + number * 7 % 72, number * 13 % 1000
    region = ("north", "south", "east")[number % 3]
    returned = int((number * 31 % 100) < age)
    return f"C{number:05d},{age},{spend},{region},{returned},user{number}@example.com,1391234{number:04d}"


HEAD = "id,age,spend,region,returned,mail,mobile"


def write_csv(path: Path, numbers: range) -> None:
    path.write_text("\n".join([HEAD, *map(customer_row, numbers)]) + "\n")


def data_settings(path: Path) -> dict[str, Any]:
    return {
        "source": str(path),
        "person": "id",
        "columns": {name: name for name in COLUMNS},
        "identifiers": {"email": "mail", "phone": "mobile"},
    }


@pytest.fixture
def make_alliance(tmp_path: Path) -> Callable[..., Alliance]:
    """``make_alliance(partners=3, colluders=1, dropouts=0)``: 300 customers each, 100 shared."""

    def make(
        partners: int = 3,
        ports: tuple[int, int, int] = (9, 9, 9),
        folder: str = "",
        **privacy: Any,
    ) -> Alliance:
        names, data, root = NAMES[:partners], {}, tmp_path / folder
        root.mkdir(exist_ok=True)
        for index, name in enumerate(names):
            path = root / f"{name}.csv"
            write_csv(path, range(200 * index, 200 * index + 300))
            data[name] = data_settings(path)
        return create(root, names, terms(partners, **privacy), data, ports=ports)

    return make


@pytest.fixture
def randomness() -> Randomness:
    return stream(bytes(range(32)))


def job(**settings: Any) -> jobs.Job:
    return build(jobs.Job, {"purpose": "insight", **settings})


QUERY: dict[str, Any] = {
    "name": "ask",
    "kind": "query",
    "epsilon": 1.0,
    "query": {"measures": ["count", "mean(age)", "sum(spend)", "histogram(region)"]},
}
PROPENSITY: dict[str, Any] = {
    "name": "propensity",
    "kind": "propensity",
    "epsilon": 1.0,
    "propensity": {"features": ["age", "spend", "region"], "label": "returned", "steps": 8},
}
SEGMENT: dict[str, Any] = {
    "name": "segment",
    "kind": "segment",
    "epsilon": 1.0,
    "segment": {"columns": ["age", "spend"], "segments": 3},
}


def shared(*parts: str) -> Path:
    """A file beside the checkout, or a skip that names it."""
    base = Path(os.environ.get("TALLYSTICK_SHARED", str(ROOT.parent / "shared")))
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(
            f"{'/'.join(parts)} is not here; set TALLYSTICK_SHARED to the folder that holds it"
        )
    return path


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with server() as location:
        yield location

"""What a benchmark prints: a table for people, one JSON object for machines."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from protos.console import table

SHOWN = (
    "flwr",
    "numpy",
    "cryptography",
    "grpcio",
    "duckdb",
    "rbcl",
    "llvmlite",
    "numba",
    "polars",
    "polars-hash",
    "pyarrow",
    "phonenumbers",
)


@dataclass(frozen=True)
class Row:
    """One figure. ``goal``: such as "<= 0.3"; ``met``: None where there is no goal; ``peer``: what
    the same run measured of a peer, empty if nothing."""

    case: str
    metric: str
    value: float
    unit: str = ""
    goal: str = ""
    met: bool | None = None
    peer: str = ""


def at_most(case: str, metric: str, value: float, unit: str, goal: float, peer: str = "") -> Row:
    """A figure that should not exceed ``goal``."""
    return Row(case, metric, value, unit, f"<= {goal:g}", value <= goal, peer)


def at_least(case: str, metric: str, value: float, unit: str, goal: float, peer: str = "") -> Row:
    """A figure that should reach ``goal``."""
    return Row(case, metric, value, unit, f">= {goal:g}", value >= goal, peer)


def machine() -> str:
    """Processor, cores, kernel."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x for x in info.read_text().splitlines() if x.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    return f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """Python and the packages that matter."""
    found = {"python": platform.python_version()}
    for name in SHOWN:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def render(bench: str, rows: Sequence[Row], as_json: bool) -> str:
    """The report's text."""
    if as_json:
        return json.dumps(
            {
                "bench": bench,
                "machine": machine(),
                "versions": versions(),
                "rows": [asdict(row) for row in rows],
            },
            indent=2,
        )
    mark = {None: "", True: "yes", False: "NO"}
    shown: list[list[object]] = [
        [r.case, r.metric, f"{r.value:.4g}", r.unit, r.goal, mark[r.met], r.peer] for r in rows
    ]
    head = ["case", "metric", "value", "unit", "goal", "met", "peer"]
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{table(head, shown)}\n\n{machine()}; {packages}"

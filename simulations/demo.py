"""``tallystick-lab demo``: three partner organisations and a coordinator, for real, on loopback.

Real: the processes, TLS, keys, gates, ledgers, noise, and the purchase histories (CDNOW). Simulated:
how customers are split over the partners, and their identifiers.
"""

from __future__ import annotations

import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from privacy.identifiers import normalised
from privacy.programs.columns import Floats, design
from privacy.programs.scoring import model_from
from privacy.programs.segment import inertia
from protos import console, jobs
from protos.toml import build
from server.store import JobRow
from simulations import datasets, people, pooled
from simulations.alliances import ALL_KINDS, Alliance, create
from simulations.live import Live, free_ports, memory_all

PARTNERS = ("bank", "shop", "telecom")
OVERLAP = 0.25
SEGMENTS = 5

TERMS: dict[str, Any] = {
    "version": 1,
    "name": "demo",
    "expires": datetime(2035, 1, 1, tzinfo=UTC),
    "privacy": {
        "epsilon": 4.0,
        "epsilon_per_person": 10.0,
        "delta": 1e-5,
        "period_days": 365,
        "smallest_cohort": 50,
        "colluders": 1,
        "dropouts": 0,
        "partners_per_person": 2,
        "rows_per_person": 1,
    },
    "columns": datasets.CDNOW_COLUMNS,
    "purposes": {"insight": {"kinds": ALL_KINDS}},
    "matching": {
        "identifiers": ["email", "phone"],
        "bucket": 4096,
        "largest_set": 100_000,
        "assumes": "semi_honest",
    },
}

JOBS: tuple[dict[str, Any], ...] = (
    {
        "name": "spend",
        "kind": "query",
        "epsilon": 0.5,
        "query": {"measures": ["count", "mean(monetary)", "histogram(recency, 5)"]},
    },
    {
        "name": "segment",
        "kind": "segment",
        "epsilon": 1.0,
        "segment": {"columns": list(datasets.RFM), "segments": SEGMENTS},
    },
    {
        "name": "propensity",
        "kind": "propensity",
        "epsilon": 1.0,
        "propensity": {"features": list(datasets.CDNOW_FEATURES), "label": "returned"},
    },
    {
        "name": "quality",
        "kind": "evaluate",
        "epsilon": 0.5,
        "evaluate": {"model": "propensity"},
    },
    {
        "name": "audience",
        "kind": "match",
        "epsilon": 1.0,
        "match": {
            "identifier": "email",
            "parties": ["shop", "bank"],
            "rules": {"shop": "model:segment <= 2", "bank": "model:propensity >= 0.3"},
            "result": "size",
        },
    },
)


@dataclass(frozen=True)
class Line:
    """One row of the closing table."""

    job: str
    found: str
    pooled: str
    epsilon: float
    epsilon_person: float
    rounds: int
    seconds: float
    bytes: int


Tables = dict[str, dict[str, Floats]]


def make_tables(data: Path | None, names: Sequence[str] = PARTNERS) -> Tables:
    """Each partner's customers: features from its own purchases, ``customer`` as the key."""
    purchases = datasets.load_cdnow(datasets.find_cdnow(data))
    split = datasets.overlapping_split(purchases, names, OVERLAP, seed=7)
    return {name: datasets.customers(part) for name, part in split.items()}


def write_tables(tables: Tables, root: Path) -> dict[str, dict[str, Any]]:
    """CSV for the first partner, Parquet for the second, a DuckDB file for the third."""
    import duckdb

    settings: dict[str, dict[str, Any]] = {}
    for index, (name, table) in enumerate(tables.items()):
        folder = root / name
        folder.mkdir()
        numbers = [int(n) for n in table["customer"]]
        emails = people.dirty_emails(numbers, seed=index)
        phones = people.dirty_phones(numbers, seed=index + 10)
        csv = folder / "customers.csv"
        names = list(datasets.CDNOW_COLUMNS)
        with csv.open("w", encoding="utf-8") as target:
            target.write(",".join(["id", *names, "mail", "mobile"]) + "\n")
            for i, number in enumerate(numbers):
                cells = [f"{table[column][i]:g}" for column in names]
                target.write(",".join([f"C{number:05d}", *cells, emails[i], phones[i]]) + "\n")
        data: dict[str, Any] = {
            "source": "customers.csv",
            "person": "id",
            "columns": {column: column for column in names},
            "identifiers": {"email": "mail", "phone": "mobile"},
        }
        read = f"SELECT * FROM read_csv('{csv}', all_varchar=true)"
        if index == 1:
            duckdb.execute(f"COPY ({read}) TO '{folder / 'customers.parquet'}' (FORMAT parquet)")
            data["source"] = "customers.parquet"
        elif index == 2:
            with duckdb.connect(str(folder / "warehouse.duckdb")) as db:
                db.execute(f"CREATE TABLE customers AS {read}")
            data |= {"source": "warehouse.duckdb", "table": "customers"}
        if index in (1, 2):
            csv.unlink()
        settings[name] = data
    return settings


def pool(tables: Tables) -> dict[str, Floats]:
    """Everybody's rows in one table, clipped to the contract's bounds, with folds: the lab only."""
    from client.people import fold_of

    names = [*datasets.CDNOW_COLUMNS, "customer"]
    rows = {n: np.concatenate([table[n] for table in tables.values()]) for n in names}
    for name, spec in datasets.CDNOW_COLUMNS.items():
        if spec["type"] == "number":
            rows[name] = np.clip(rows[name], spec["low"], spec["high"])
    rows["fold"] = fold_of([f"C{int(number):05d}" for number in rows["customer"]])[1]
    return rows


def true_audience(tables: Tables, models: dict[str, dict[str, Any]]) -> int:
    """Exact size of the joint audience under the released models: the lab only."""
    columns = datasets.declared(datasets.CDNOW_COLUMNS)
    found: dict[str, set[str]] = {}
    for index, (name, table) in enumerate(tables.items()):
        if name not in ("shop", "bank"):
            continue
        rows = {k: v for k, v in table.items() if k != "customer"}
        kind = "segment" if name == "shop" else "propensity"
        score = model_from(columns, models[kind]).score(rows)
        chosen = score <= 2 if name == "shop" else score >= 0.3
        numbers = [int(n) for n in table["customer"]]
        emails = normalised("email", pl.Series(people.dirty_emails(numbers, seed=index))).to_list()
        found[name] = {e for e, c in zip(emails, chosen, strict=True) if c and e is not None}
    return len(found["shop"] & found["bank"])


class Compare:
    """Turns results into lines, each beside its pooled figure."""

    def __init__(self, tables: Tables, alliance: Alliance) -> None:
        self.tables, self.contract = tables, alliance.contract
        self.rows = pool(tables)
        self.columns = datasets.declared(datasets.CDNOW_COLUMNS)
        self.models: dict[str, dict[str, Any]] = {}

    def line(self, row: JobRow) -> Line:
        """One line of the closing table."""
        job, result = row.job(), row.result
        if "model" in result:
            self.models[job.kind] = result["model"]
        found, other = getattr(self, f"_{job.kind}")(result)
        return Line(
            f"{job.kind} {job.name}" if job.kind != job.name else job.kind,
            found,
            other,
            job.epsilon,
            round(self.contract.per_person(job.mu2(self.contract)), 2),
            int(row.stats["rounds"]),
            round(row.updated - row.created, 1),
            int(row.stats["bytes"]),
        )

    def _query(self, result: dict[str, Any]) -> tuple[str, str]:
        count, mean = result["count"], result["mean(monetary)"]
        money = self.rows["monetary"]
        return (
            f"{count['value']:.0f} customers, spend {mean['value']:.1f} ± {mean['deviation']:.1f}",
            f"{len(money)} customers, spend {money.mean():.1f}",
        )

    def _segment(self, result: dict[str, Any]) -> tuple[str, str]:
        points = pooled.unit_points(self.columns, datasets.RFM, self.rows)
        ours = inertia(points, np.array(result["model"]["centres"]))
        _, best = pooled.lloyd(self.columns, datasets.RFM, self.rows, SEGMENTS)
        return (
            f"{SEGMENTS} segments, inertia {ours:.0f}",
            f"inertia {best:.0f} ({ours / best:.3f} x)",
        )

    def _held(self) -> tuple[Any, Floats, Floats]:
        held = self.rows["fold"] < 0.2
        rows = {name: values[held] for name, values in self.rows.items()}
        train = {name: values[~held] for name, values in self.rows.items()}
        weights = pooled.logistic(self.columns, datasets.CDNOW_FEATURES, train, train["returned"])
        return rows, rows["returned"], weights

    def _propensity(self, result: dict[str, Any]) -> tuple[str, str]:
        rows, label, weights = self._held()
        ours = pooled.auc(label, model_from(self.columns, result["model"]).score(rows))
        x = np.stack(design(self.columns, datasets.CDNOW_FEATURES, rows), axis=1)
        theirs = pooled.auc(label, x @ weights)
        return f"held-out AUC {ours:.4f}", f"AUC {theirs:.4f} ({ours - theirs:+.4f})"

    def _evaluate(self, result: dict[str, Any]) -> tuple[str, str]:
        rows, label, _ = self._held()
        exact = pooled.auc(label, model_from(self.columns, self.models["propensity"]).score(rows))
        return (
            f"AUC {result['auc']:.3f} ± {result['auc_deviation']:.3f} from noisy sums",
            f"AUC {exact:.4f}",
        )

    def _match(self, result: dict[str, Any]) -> tuple[str, str]:
        exact = true_audience(self.tables, self.models)
        return (
            f"{result['size']:.0f} ± {result['deviation']:.0f} in both audiences",
            f"{exact} in both",
        )


@contextmanager
def folder_for_a_run(keep: bool) -> Iterator[Path]:
    """A folder for the demo, removed afterwards."""
    root = Path(tempfile.mkdtemp(prefix="tallystick-"))
    try:
        yield root
    finally:
        if not keep:
            shutil.rmtree(root, ignore_errors=True)


def run(
    data: Path | None = None,
    *,
    keep: bool = False,
    tell: Callable[[str], None] = lambda text: None,
    watch: Callable[[JobRow], None] = lambda row: None,
) -> dict[str, Any]:
    """The whole demo; what ``--json`` prints."""
    started = time.monotonic()
    with _interruptible(), folder_for_a_run(keep) as root:
        tell("reading purchase histories, splitting them over three partners")
        tables = make_tables(data)
        settings = write_tables(tables, root)
        tell("keys, certificates, invitations, a contract signed by all three")
        link, exchange, internal = free_ports(3)
        alliance = create(root, PARTNERS, TERMS, settings, ports=(link, exchange, internal))
        compare = Compare(tables, alliance)
        peak = 0.0
        lines: list[Line] = []
        with Live(alliance) as live:
            tell("starting the coordinator and three partners")
            live.ready()
            for plain in JOBS:
                job = build(jobs.Job, {"purpose": "insight", **plain})
                tell(f"running {job.kind} {job.name}")
                row = live.run(job, watch=watch)
                lines.append(compare.line(row))
                peak = max(peak, memory_all())
        tell("stopped; checking ledgers and journals")
        return {
            "partners": {name: len(table["customer"]) for name, table in tables.items()},
            "jobs": [asdict(line) for line in lines],
            "ledgers": _ledgers(alliance),
            "memory_mb": round(peak),
            "seconds": round(time.monotonic() - started, 1),
            "kept": str(root) if keep else "",
        }


def _ledgers(alliance: Alliance) -> dict[str, dict[str, float]]:
    from client.freezing import owner
    from client.journal import verify

    found = {}
    for name, home in alliance.partners.items():
        with owner(home) as at:
            standing = at.ledger.standing()
            checked = verify(at.store, at.identity.public_key().public_bytes_raw())
        found[name] = {
            "epsilon": round(standing.epsilon, 3),
            "epsilon_person": round(standing.person, 3),
            "journal_entries": checked.entries,
        }
    return found


def render(outcome: dict[str, Any]) -> str:
    """The closing table."""
    head = [
        "job",
        "result",
        "pooled, not private",
        "eps/partner",
        "eps/person",
        "rounds",
        "s",
        "bytes",
    ]
    rows = [list(line.values()) for line in outcome["jobs"]]
    lines = [console.table(head, rows), ""]
    ledger_rows: list[list[object]] = [
        [name, outcome["partners"][name], each["epsilon"], each["epsilon_person"],
         each["journal_entries"]]
        for name, each in outcome["ledgers"].items()
    ]  # fmt: skip
    names = ["partner", "customers", "eps spent", "eps/person", "journal entries, intact"]
    lines += [console.table(names, ledger_rows), ""]
    lines.append(
        f"{outcome['seconds']:.0f} s in all, {outcome['memory_mb']} MB at most in all processes; "
        "purchases: CDNOW; split and identifiers: simulated"
    )
    return "\n".join(lines)


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM ends the demo like Ctrl-C, so that nothing is left running."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def main(data: Path | None, as_json: bool, keep: bool) -> None:
    """Run and print; progress goes to standard error."""
    if as_json:
        print(json.dumps(run(data, keep=keep), indent=2))
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    shown = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        console=Console(stderr=True),
    )  # fmt: skip
    with shown as progress:
        task = progress.add_task("starting", total=None)

        def tell(text: str) -> None:
            progress.update(task, description=text)
            if not progress.console.is_terminal:
                print(text, file=sys.stderr)

        def watch(row: JobRow) -> None:
            if row.planned:
                progress.update(
                    task,
                    description=f"{row.job().kind} {row.name}: {row.done}/{row.planned} releases",
                )

        outcome = run(data, keep=keep, tell=tell, watch=watch)
    print(render(outcome))
    if outcome["kept"]:
        print(f"everything is kept in {outcome['kept']}")

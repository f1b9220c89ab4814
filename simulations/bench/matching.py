"""``bench match``: two parties and the relay, each a process of its own, over TLS.

Each party reads a Parquet file of hashed identifiers, or for a list the audience that it froze of it,
matches, and writes the matched rows. Measured:
CPU seconds of both parties and the relay from the moment a party begins to connect to the moment its rows
are written (programs loaded and kernels compiled before, and reported apart), bytes sealed by both
parties for each item of the larger set, and the parties' greatest resident memory. The job, the gate's
ledger and Flower are not part of it. In the same run, where ``--peer-python`` names an environment that
holds them, openmined-psi and SecretFlow's spu.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.home import Home
from privacy.errors import RoundFailed
from privacy.matching import ristretto
from protos import jobs
from protos.toml import build
from simulations import live
from simulations.alliances import create
from simulations.audiences import EVERYONE, freeze_all
from simulations.bench.party import NAMES
from simulations.bench.report import Row, at_least, at_most

PURPOSE = "measure"
SECONDS = 560.0


@dataclass
class Outcome:
    """Of both parties together; ``cpu`` has the relay's in it. ``matched``: rows written."""

    cpu: float
    wall: float
    per_item: float
    memory: float
    matched: int
    engine: str
    prepare: float = 0.0


def match(data: Path | None, quick: bool, peer_python: Path | None = None) -> list[Row]:
    """The table of ``bench match``."""
    del data
    n = 20_000 if quick else 1_000_000
    size = _short(n)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = _tables(folder, n, n)
        peers = _peers(peer_python, folder, n)
        found = run(folder / "a", tables, n, "list")
        vectorised = found.engine == "curve25519"
        goals = (30.0, 75.0, 200.0) if vectorised else (None, None, None)
        rows += _rows(f"{size} list, {found.engine}", found, goals, peers.get("ecdh", ""))
        found = run(folder / "f", tables, n, "list", engine_name="fast")
        rows += _rows(f"{size} list, fast lane", found, (3.0, 105.0, None), peers.get("fast", ""))
        counted = run(folder / "c", tables, n, "size")
        rows += _rows(f"{size} size, {counted.engine}", counted)
        summed = run(folder / "s", tables, n, "sum")
        more = summed.cpu - counted.cpu
        rows += _rows(f"{size} sum, {summed.engine}", summed)
        rows.append(at_most(f"{size} sum", "CPU above size", more, "s", 1.0))
        rows += _scaling(20_000)
        small = max(100, n // 100)
        mixed = _tables(folder / "mixed", small, n)
        rows += _cached(folder / "u", mixed, small, n)
        if not quick:
            rows += _large(folder)
    return rows


def _large(folder: Path) -> list[Row]:
    n = 10_000_000
    tables = _tables(folder / "large", n, n)
    found = run(folder / "l", tables, n, "list")
    return [
        Row("10M list", "CPU, both parties and relay", found.cpu, "s"),
        Row("10M list", "wall", found.wall, "s"),
        Row("10M list", "bytes an item", found.per_item, "B"),
        at_most("10M list", "memory of a party", found.memory, "MB", 1000),
        Row("10M list", "rows matched", found.matched, f"of {n // 2}"),
    ]


def _rows(
    case: str,
    found: Outcome,
    goals: tuple[float | None, float | None, float | None] = (None, None, None),
    peer: str = "",
) -> list[Row]:
    """``goals``: CPU seconds, bytes an item, megabytes."""
    cpu, per_item, memory = goals

    def row(metric: str, value: float, unit: str, goal: float | None, other: str = "") -> Row:
        if goal is None:
            return Row(case, metric, value, unit, peer=other)
        return at_most(case, metric, value, unit, goal, other)

    return [
        row("CPU, both parties and relay", found.cpu, "s", cpu, peer),
        row("wall", found.wall, "s", None),
        row("bytes an item", found.per_item, "B", per_item),
        row("memory of a party", found.memory, "MB", memory),
        row("rows matched", found.matched, "", None),
    ]


def _cached(folder: Path, tables: list[Path], small: int, n: int) -> list[Row]:
    offline = run(folder, tables, n, "cache")
    online = run(folder, tables, n, "list", cache="cache")
    total = (offline.per_item + online.per_item) * n / 1e6
    case = f"{_short(small)} against {_short(n)}"
    return [
        at_most(case, "offline CPU", offline.cpu, "s", 15),
        at_most(case, "online, wall", online.wall, "s", 0.5),
        Row(case, "online CPU", online.cpu, "s"),
        at_most(case, "sent in all", total, "MB", 6),
        Row(case, "rows matched", online.matched, ""),
    ]


def _scaling(points: int) -> list[Row]:
    """libsodium's engine in one thread and on all cores, in turn; the best of each."""
    core = ristretto.Ristretto255()
    labels = np.frombuffer(os.urandom(32 * points), np.uint8).reshape(-1, 32)
    elements, key = core.encode(bytes(16), labels), core.new_key(os.urandom)
    taken: dict[int, list[float]] = {ristretto.STEP: [], points: []}
    usual = ristretto.STEP
    try:
        for _ in range(8):
            for step, times in taken.items():
                ristretto.STEP = step
                before = time.perf_counter()
                core.multiply(key, elements)
                times.append(time.perf_counter() - before)
    finally:
        ristretto.STEP = usual
    speed = min(taken[points]) / min(taken[usual])
    case = f"ristretto255, {os.cpu_count()} cores"
    return [at_least(case, "speed-up over one thread", speed, "x", 1.8)]


# ---------------------------------------------------------------------- real processes


def run(
    folder: Path,
    tables: list[Path],
    n: int,
    result: str,
    *,
    engine_name: str = "auto",
    cache: str | None = None,
) -> Outcome:
    """One match between two party processes through a relay process. Raises RoundFailed."""
    if not (folder / "alliance").exists():
        (folder / "alliance").mkdir(parents=True)
        ports = live.free_ports(3)
        create(
            folder / "alliance", NAMES, _terms(n, engine_name),
            {name: _settings(path) for name, path in zip(NAMES, tables, strict=True)},
            ports=(ports[0], ports[1], ports[2]),
        )  # fmt: skip
    wanted = _job(result, cache)
    if not wanted.match or not wanted.match.is_noisy:  # a list's audience is frozen long before
        for name in NAMES:
            _frozen(folder / "alliance" / name)
    (folder / "job").write_bytes(wanted.canonical())
    salt = os.urandom(16)
    code = "from simulations.bench import party;party.main()"
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def start(*arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(folder), salt.hex(), *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip

    children = [start("relay"), *(start(name) for name in NAMES)]
    try:
        for child in children:
            _line(child)  # loaded, compiled, warm
        before = time.perf_counter()
        for child in children:
            _tell(child, "go")
        parties = [json.loads(_line(child)) for child in children[1:]]
        wall = time.perf_counter() - before
        _tell(children[0], "stop")
        relay = json.loads(_line(children[0]))
    finally:
        for child in children:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe:
                    pipe.close()
    return Outcome(
        cpu=sum(p["cpu"] for p in parties) + relay["cpu"],
        wall=wall,
        per_item=sum(p["bytes"] for p in parties) / n,
        memory=max(p["memory"] for p in parties),
        matched=max(p["matched"] for p in parties),
        engine=parties[0]["engine"],
        prepare=max(p["prepare"] for p in parties),
    )


def _line(child: subprocess.Popen[str]) -> str:
    line = child.stdout.readline() if child.stdout else ""
    if not line:
        raise RoundFailed("bench match: a process ended early; its error is above")
    return line


def _tell(child: subprocess.Popen[str], word: str) -> None:
    if child.stdin:
        child.stdin.write(word + "\n")
        child.stdin.flush()


def _terms(n: int, engine_name: str) -> dict[str, Any]:
    from simulations import demo

    return {
        **demo.TERMS,
        "columns": {"spend": {"type": "number", "low": 0, "high": 1000},
                    "other": {"type": "number", "low": 0, "high": 1}},
        "purposes": {PURPOSE: {"kinds": ["match"]}},
        "matching": {"identifiers": ["hashed"], "bucket": 1000, "largest_set": max(n, 1000),
                     "recipients": NAMES, "engine": engine_name, "assumes": "semi_honest"},
    }  # fmt: skip


def _frozen(root: Path) -> None:
    home = Home(root)
    if not home.config().audiences:
        freeze_all(home)


def _settings(path: Path) -> dict[str, Any]:
    return {"source": str(path), "person": "person", "columns": {"spend": "spend"},
            "identifiers": {"hashed": "digest"}}  # fmt: skip


def _job(result: str, cache: str | None) -> jobs.Job:
    table: dict[str, Any] = {"identifier": "hashed", "parties": NAMES, "result": result}
    if result == "sum":
        table["value"] = "spend"
    if cache:
        table["cache"] = cache
    noisy = result in ("size", "sum")
    if not noisy:
        entering = NAMES[1:] if result == "cache" else NAMES[:1] if cache else NAMES
        table["audiences"] = dict.fromkeys(entering, EVERYONE)
    return build(
        jobs.Job,
        {"name": "online" if cache else result, "kind": "match", "purpose": PURPOSE,
         "epsilon": 1.0 if noisy else 0.0, "match": table},
    )  # fmt: skip


def _tables(folder: Path, left: int, right: int) -> list[Path]:
    """Parquet files with half of the smaller set in both."""
    import duckdb

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, count, first in (("left", left, 0), ("right", right, left - min(left, right) // 2)):
        path = folder / f"{name}.parquet"
        with duckdb.connect(config={"memory_limit": "2GB"}) as db:
            db.execute(
                "COPY (SELECT printf('P%09d', i) AS person, sha256('user' || i) AS digest,"
                f" CAST(i % 1000 AS DOUBLE) AS spend FROM range({first}, {first + count}) t(i))"
                f" TO '{path}' (FORMAT parquet)"
            )
        paths.append(path)
    return paths


def _short(n: int) -> str:
    return f"{n // 10**6}M" if n >= 10**6 else f"{n // 1000}k" if n >= 1000 else str(n)


# ---------------------------------------------------------------------- peers


PEERS = {
    "openmined": ("ecdh", 10),
    "spu-ecdh": ("ecdh", 1),
    "spu-elligator": ("ecdh", 10),
    "spu-kkrt": ("fast", 1),
    "spu-rr22": ("fast", 1),
}
"""Which of our rows each peer stands beside, and by how much smaller the sets are that it gets: what
takes minutes at a tenth is not worth the wait."""


def _peers(python: Path | None, folder: Path, n: int) -> dict[str, str]:
    """What the peers that are installed need for sets like ours; nothing without them."""
    found: dict[str, str] = {}
    if python is None:
        return found
    script = Path(__file__).with_name("peers.py")
    for name, (beside, smaller) in PEERS.items():
        files = _digests(folder, n // smaller)
        done = subprocess.run(
            [str(python), str(script), name, *map(str, files)],
            check=False, capture_output=True, text=True, timeout=SECONDS,
        )  # fmt: skip
        lines = [x for x in done.stdout.splitlines() if x.startswith((name, "openmined-psi"))]
        text = lines[-1] if lines else f"{name}: not measured"
        if smaller > 1 and lines:
            text = f"at 1/{smaller} of the size: {text}"
        found[beside] = f"{found[beside]}; {text}" if beside in found else text
    return found


def _digests(folder: Path, n: int) -> list[Path]:
    """CSV files of digests, half of each in both."""
    import duckdb

    paths = [folder / f"{side}-{n}.csv" for side in ("left", "right")]
    for path, first in zip(paths, (0, n // 2), strict=True):
        if not path.exists():
            with duckdb.connect() as db:
                db.execute(
                    f"COPY (SELECT sha256('user' || i) AS digest FROM range({first}, {first + n})"
                    f" t(i)) TO '{path}' (HEADER)"
                )
    return paths

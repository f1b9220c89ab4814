"""``bench link``: an alliance of three on loopback, and an attack on the coordinator's ports.

1,000 idle and 1,000 half-open connections on the link and 1,100 idle ones on the exchange, opened again
whenever they are dropped, and 100 bodies of the largest size: without a key, then with a partner's node key.
The attack is a process of its own on the same machine, of the lowest priority, as an attacker has processors
of his own; what it got done is in the table.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from privacy.errors import RoundFailed
from protos import jobs
from protos.supervise import python
from protos.toml import build
from server.guard import largest_answer
from simulations import demo, live
from simulations.alliances import create
from simulations.bench.report import Row, at_most

IDLE, HALF_OPEN, ON_EXCHANGE, BODIES = 1000, 1000, 1100, 100
LARGEST_MB, SLOWEST = 300.0, 2.0
SETTLE = 8.0
EPSILON = 90.0
"""For all jobs of the run together."""


@dataclass(frozen=True)
class Measured:
    """Some jobs: the median of their rounds, seconds, and what the processes took until then, MB."""

    median: float
    link: float
    private: float
    exchange: float


def link(data: Path | None, quick: bool, peer_python: Path | None = None) -> list[Row]:
    """The table of ``bench link``."""
    with demo.folder_for_a_run(keep=False) as root:
        terms = {**demo.TERMS, "privacy": {**demo.TERMS["privacy"], "epsilon": EPSILON,
                                           "epsilon_per_person": EPSILON}}  # fmt: skip
        ports = live.free_ports(3)
        alliance = create(
            root, demo.PARTNERS, terms, demo.write_tables(demo.make_tables(data), root),
            ports=(ports[0], ports[1], ports[2]),
        )  # fmt: skip
        with live.Live(alliance) as running:
            running.ready()
            _measure(running, quick)  # connections and caches are there
            found = [("no attack", _measure(running, quick))]
            size = largest_answer(len(demo.PARTNERS))
            node = alliance.partners["telecom"]
            bodies: dict[str, Any] = {"port": ports[0], "bodies": BODIES, "size": size}
            key = {"key": str((node.keys / "node.key").resolve()),
                   "node": int((node.state / "node.id").read_text())}  # fmt: skip
            held = [{"port": ports[0], "idle": IDLE, "half_open": HALF_OPEN},
                    {"port": ports[1], "idle": ON_EXCHANGE}]  # fmt: skip
            sent: list[Row] = []
            for case, floods in (
                ("idle and half-open", [held]),
                (f"and {BODIES} bodies without a key", [held, [bodies]]),
                (f"and {BODIES} bodies with a partner's key", [held, [{**bodies, **key}]]),
                (f"only {BODIES} bodies with a partner's key", [[{**bodies, **key}]]),
            ):
                counts: dict[str, int] = {}
                with contextlib.ExitStack() as attacks:
                    for flood in floods:
                        attacks.enter_context(_attacked(flood, counts))
                    found.append((case, _measure(running, quick)))
                sent += [Row(case, f"attack: {what}", n) for what, n in sorted(counts.items())]
    plain = found[0][1].median
    rows = [Row("no attack", "message round, median", plain, "s")]
    for case, measured in found[1:]:
        rows += [
            Row(case, "message round, median", measured.median, "s"),
            at_most(case, "of the time without", measured.median / plain, "x", SLOWEST),
        ]
    rows += [at_most(case, "link, most resident", m.link, "MB", LARGEST_MB) for case, m in found]
    rows += [Row(case, "link, private now", m.private, "MB") for case, m in found]
    rows += [Row(case, "exchange, most resident", m.exchange, "MB") for case, m in found]
    return [*rows, *sent]


def _measure(running: live.Live, quick: bool) -> Measured:
    job = build(jobs.Job, {"purpose": "insight", **demo.JOBS[0 if quick else 1]})
    rounds = [s for _ in range(1 if quick else 3) for s in running.run(job).stats["round_seconds"]]
    link_process, exchange = (
        _process(running, of) for of in ("server.link serve", "server.exchange")
    )
    return Measured(
        statistics.median(rounds),
        _memory(link_process, "VmHWM"),
        _memory(link_process, "RssAnon"),
        _memory(exchange, "VmHWM"),
    )


def _process(running: live.Live, what: str) -> int:
    coordinator = running.coordinator.process
    for process in live.tree(coordinator.pid) if coordinator else []:
        with contextlib.suppress(OSError):
            command = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if what in command:
                return process
    raise RoundFailed(f"{what} does not run")


def _memory(process: int, what: str) -> float:
    text = Path(f"/proc/{process}/status").read_text()
    return int(text.split(f"{what}:")[1].split()[0]) / 1000


@contextlib.contextmanager
def _attacked(floods: list[dict[str, Any]], counts: dict[str, int]) -> Iterator[None]:
    """While the floods last; ``counts``: connections opened, answers to bodies. Raises RoundFailed if they
    did not last."""
    given = json.dumps([{"host": "127.0.0.1", **flood} for flood in floods])
    with subprocess.Popen(
        python("simulations.bench.flood", given), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as attack:
        try:
            time.sleep(SETTLE)
            yield
            if attack.poll() is not None:
                raise RoundFailed("the attack ended by itself")
        finally:
            out, _ = attack.communicate(timeout=60)
        for flood in json.loads(out or b"[]"):
            for what, number in flood.items():
                counts[what] = counts.get(what, 0) + number

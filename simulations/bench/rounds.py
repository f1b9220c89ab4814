"""``bench rounds``: seconds of a message round and a masked release, memory at rest.

A real alliance of three on loopback, TLS and node authentication on. In the same run, for
comparison, stock Flower: SuperLink and three SuperNodes with a process for each message.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from privacy.errors import RoundFailed
from protos import jobs
from protos.supervise import Child
from protos.toml import build
from simulations import demo, live
from simulations.alliances import create
from simulations.bench.report import Row, at_most

SETTLE = 5.0
STOCK_APP = {
    "pyproject.toml": """\
[project]
name = "stock"
version = "0.1.0"
license = "Apache-2.0"
dependencies = []
[tool.flwr.app]
publisher = "bench"
fab-include = ["*.py"]
[tool.flwr.app.components]
serverapp = "stock_app:server_app"
clientapp = "stock_app:client_app"
[tool.flwr.app.config]
rounds = 3
out = ""
""",
    "stock_app.py": """\
import json, time
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp
client_app = ClientApp()
server_app = ServerApp()
@client_app.query()
def query(message, context):
    return Message(RecordDict({"r": ConfigRecord({"x": b"1"})}), reply_to=message)
@server_app.main()
def main(grid, context):
    while len(list(grid.get_node_ids())) < 3:
        time.sleep(0.2)
    taken = []
    for i in range(int(context.run_config["rounds"])):
        start, content = time.time(), RecordDict({"r": ConfigRecord({"x": b"1" * i})})
        ids = set(grid.push_messages([Message(content, n, "query") for n in grid.get_node_ids()]))
        while ids:
            for reply in grid.pull_messages(list(ids)):
                ids.discard(reply.metadata.reply_to_message_id)
            time.sleep(0.05)
        taken.append(time.time() - start)
    open(context.run_config["out"], "w").write(json.dumps(taken))
""",
}


def rounds(data: Path | None, quick: bool, peer_python: Path | None = None) -> list[Row]:
    """The table of ``bench rounds``."""
    peer = "" if quick else f"stock Flower {_stock(peer_python):.2f} s"
    with demo.folder_for_a_run(keep=False) as root:
        tables = demo.make_tables(data)
        ports = live.free_ports(3)
        alliance = create(
            root, demo.PARTNERS, demo.TERMS, demo.write_tables(tables, root),
            ports=(ports[0], ports[1], ports[2]),
        )  # fmt: skip
        with live.Live(alliance) as running:
            running.ready()
            time.sleep(SETTLE)
            partner = max(
                live.memory(c.process.pid) for c in running.partners.values() if c.process
            )
            coordinator = live.memory(running.coordinator.process.pid) if (
                running.coordinator.process
            ) else 0.0  # fmt: skip
            job = build(jobs.Job, {"purpose": "insight", **demo.JOBS[2]})
            if quick:
                job = build(jobs.Job, {"purpose": "insight", **demo.JOBS[1]})
            row = running.run(job)
            after = max(live.memory(c.process.pid) for c in running.partners.values() if c.process)
    taken = row.stats["round_seconds"]
    # hello and prepare first, finish last; what is between are releases, one round each at d = 0
    releases = taken[2:-1]
    return [
        at_most(
            "3 partners, TLS", "message round, median", statistics.median(taken), "s", 0.3, peer
        ),
        Row("3 partners, TLS", "message round, least", min(taken), "s"),
        at_most(
            "3 partners, TLS", "masked release, median", statistics.median(releases), "s", 0.6, peer
        ),
        at_most("at rest", "memory of a partner", partner, "MB", 250),
        Row("after a job", "memory of a partner", after, "MB"),
        at_most("at rest", "memory of the coordinator", coordinator, "MB", 300),
    ]


def _stock(python: Path | None) -> float:
    """Median seconds of a message round of stock Flower, three SuperNodes, no TLS."""
    ports = live.free_ports(4)
    programs = (python or Path(sys.executable)).absolute().parent
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        app = root / "stock"
        app.mkdir()
        for file, text in STOCK_APP.items():
            (app / file).write_text(text)
        home = root / "flwr"
        home.mkdir()
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{ports[0]}"\n'
            "insecure = true\n"
        )
        environment = {
            "FLWR_HOME": str(home),
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PATH": f"{programs}:{os.environ.get('PATH', '')}",
        }
        address = f"127.0.0.1:{ports[0]}"
        link = Child(
            "link",
            [str(programs / "flower-superlink"), "--insecure", "--host", "127.0.0.1", "--port",
             str(ports[0]), "--disable-runtime-dependency-installation"],
            root / "link.log", environment,
        )  # fmt: skip
        nodes = [
            Child(
                f"node{i}",
                [str(programs / "flower-supernode"), "--insecure", "--superlink", address,
                 "--host", "127.0.0.1", "--port", str(ports[i + 1])],
                root / f"node{i}.log", environment,
            )
            for i in range(3)
        ]  # fmt: skip
        try:
            link.start()
            time.sleep(4.0)
            for node in nodes:
                node.start()
            out = root / "rounds.json"
            done = subprocess.run(
                [str(programs / "flwr"), "run", str(app), "bench", "-c", f'out="{out}"'],
                env={**os.environ, **environment},
                check=False,
                capture_output=True,
                text=True,
                timeout=60,
            )
            if done.returncode:
                raise RoundFailed(f"stock Flower did not start: {done.stderr[-500:]}")
            deadline = time.monotonic() + 150
            while not out.exists() and time.monotonic() < deadline:
                time.sleep(0.5)
            with contextlib.suppress(OSError, ValueError):
                return float(statistics.median(json.loads(out.read_text())))
            return float("nan")
        finally:
            for child in [*nodes, link]:
                child.stop()

"""The same programs and gates under Flower's own simulation engine (Ray), by ``flwr run``.

Each partition is a partner; its gate's state is on disk, in the folder of an alliance that exists
before the run. Simulated: the network and the nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from client.gate import Delivery, Gate
from client.home import Home as PartnerHome
from privacy.errors import RoundFailed
from protos import jobs
from server.app import FIELD, RECORD, GridTransport
from server.home import Home
from server.rounds import Rounds
from server.tasks.noisy_sum import Memory, NoisySumDrive
from simulations.live import free_ports

APP_FOLDER = Path(__file__).parent / "flower_app"
client_app, server_app = ClientApp(), ServerApp()
_gates: dict[str, Gate] = {}


@client_app.query("tallystick")  # type: ignore[untyped-decorator]
def query(message: Message, context: Context) -> Message:
    """One envelope to this partition's gate; an empty one asks which partition this is."""
    record = message.content[RECORD]
    envelope = record.get(FIELD) if isinstance(record, ConfigRecord) else b""
    partition = int(str(context.node_config["partition-id"]))
    if not isinstance(envelope, bytes) or not envelope:
        reply = str(partition).encode()
    else:
        folder = Path(str(context.run_config["folder"]))
        name = partners(folder)[partition]
        if name not in _gates:
            _gates[name] = Gate(
                PartnerHome(folder / name), randomness=os.urandom, clock=time.time, patience=60.0
            )
        delivery = Delivery(
            message.metadata.run_id, message.metadata.message_id, message.metadata.dst_node_id
        )
        reply = _gates[name].handle(envelope, delivery)
    return Message(RecordDict({RECORD: ConfigRecord({FIELD: reply})}), reply_to=message)


@server_app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Drive one job over noisy sums; write its result where the run's configuration says."""
    folder = Path(str(context.run_config["folder"]))
    home = Home(folder / "coordinator")
    contract = home.contract()
    job = jobs.load(Path(str(context.run_config["job"])))
    names = partners(folder)
    while len(list(grid.get_node_ids())) < len(names):
        time.sleep(0.1)
    ids = list(grid.get_node_ids())
    asked = GridTransport(grid, context.run_id, lambda: {str(i): i for i in ids})
    answers = asked.exchange({str(i): b"" for i in ids}, 120.0)
    nodes = {names[int(answer.reply)]: answer.node for answer in answers.values()}
    salt = os.urandom(16)
    job_id = jobs.job_id(contract.digest(), job.canonical(), salt)
    transport = GridTransport(grid, context.run_id, lambda: nodes)
    rounds = Rounds(transport, contract, home.identity(), job_id, randomness=os.urandom)
    drive = NoisySumDrive(rounds, job, salt, Memory())
    result = drive.run()
    drive.finish(jobs.model_bytes(result.get("model")))
    Path(str(context.run_config["out"])).write_text(json.dumps(result))


def partners(folder: Path) -> list[str]:
    """Names of the partners of an alliance in a folder, in the contract's order."""
    return [party.name for party in Home(folder / "coordinator").contract().parties]


def run(folder: Path, job: Path, patience: float = 240.0) -> dict[str, Any]:
    """``flwr run`` with Flower's local simulation; its SuperLink is stopped afterwards.

    Raises RoundFailed with the end of Flower's output.
    """
    count = len(partners(folder))
    work = folder / "flower"
    work.mkdir(exist_ok=True)
    (work / "config.toml").write_text(
        '[superlink]\ndefault = "simulation"\n[superlink.simulation]\naddress = ":local:"\n'
        f"options.num-supernodes = {count}\n"
        "options.backend.client-resources.num-cpus = 1\n"
    )
    out = work / "result.json"
    settings = f'folder="{folder}" job="{job.resolve()}" out="{out}"'
    environment = {
        **os.environ,
        "FLWR_HOME": str(work),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(free_ports(1)[0]),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_DISABLE_IMPORT_WARNING": "1",
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    flwr = str(Path(sys.executable).parent / "flwr")
    try:
        done = subprocess.run(
            [flwr, "run", str(APP_FOLDER), "simulation", "-c", settings, "--stream"],
            env=environment, capture_output=True, text=True, timeout=patience, check=False,
        )  # fmt: skip
        deadline = time.monotonic() + 10.0
        while not out.exists() and time.monotonic() < deadline and done.returncode == 0:
            time.sleep(0.2)
    finally:
        stop_all(work)
    if not out.exists():
        raise RoundFailed(f"flwr run gave no result: {(done.stdout + done.stderr)[-1500:]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def stop_all(work: Path) -> None:
    """End every process that Flower started for ``work``, its local SuperLink first (Linux)."""
    mark = f"FLWR_HOME={work}".encode()
    for number in (signal.SIGTERM, signal.SIGKILL):
        ours = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                with contextlib.suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        ours.append(int(entry.name))
        for process in ours:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        if not ours:
            return
        time.sleep(3.0)

"""One process of ``bench match``: a party, or the relay. Told what to do through its standard input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import sys
from functools import partial
from pathlib import Path

from client.context import Context
from client.exchange import open_stream
from client.freezing import owner
from client.home import Home
from client.tasks.match import MatchTask
from privacy.matching import engine, fast
from protos import addresses, jobs

NAMES = ["left", "right"]


def main() -> None:
    """Arguments: the run's folder, the job's salt, and a party's name or ``relay``."""
    folder, salt, role = Path(sys.argv[1]), bytes.fromhex(sys.argv[2]), sys.argv[3]
    if role == "relay":
        relay(folder / "alliance")
    else:
        party(folder, salt, role)


def relay(root: Path) -> None:
    """The coordinator's exchange, alone."""
    from server.exchange import Exchange, serve
    from server.home import Home as CoordinatorHome

    server = serve(CoordinatorHome(root / "coordinator"), Exchange(lambda _: tuple(NAMES)))
    _say("ready")
    sys.stdin.readline()
    before = usage()[0]
    sys.stdin.readline()
    _say(json.dumps({"cpu": usage()[0] - before}))
    server.stop(0.2).wait(2)


def party(folder: Path, salt: bytes, name: str) -> None:
    """Read, match, write the rows: what a gate's match does, and no more."""
    home = Home(folder / "alliance" / name)
    spec = (folder / "job").read_bytes()
    with owner(home) as context:
        job_id = addresses.job_id(jobs.job_id(context.digest, spec, salt))
        task = MatchTask(
            context, job_id, jobs.from_canonical(spec), partial(open_stream, home)
        )  # fmt: skip
        _match(home, context, task)
    sys.stdin.readline()


def _match(home: Home, context: Context, task: MatchTask) -> None:
    prepare = _warm(task.uses_fast_lane)
    _say("ready")
    sys.stdin.readline()
    before = usage()[0]
    reply = task.run()
    cpu, memory = usage()
    job_id = task.id
    sent = context.store.rows(
        "SELECT SUM(size) FROM journal WHERE kind = 'match' AND job = ?", job_id
    )
    files = list(home.audiences.glob(f"*{job_id[:8]}.csv"))
    matched = sum(file.read_bytes().count(b"\n") - 1 for file in files)
    if reply.figures:
        matched = round(reply.figures[0].value)
    _say(
        json.dumps(
            {"cpu": cpu - before, "memory": memory, "bytes": sent[0][0], "matched": matched,
             "engine": reply.engine, "prepare": prepare}
        )
    )  # fmt: skip


def usage() -> tuple[float, float]:
    """CPU seconds and greatest resident memory, MB, of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    # ru_maxrss begins with what the parent had: a process that is started by a large one looks large.
    peak = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    return used.ru_utime + used.ru_stime, int(
        peak.group(1)
    ) / 1024 if peak else used.ru_maxrss / 1024


def _warm(fast_lane: bool) -> float:
    """Compile and load what the match will use; CPU seconds it took."""
    import duckdb
    import numpy as np

    before = usage()[0]
    duckdb.connect().execute("SELECT 1").fetchnumpy()
    labels = np.frombuffer(
        b"".join(hashlib.sha256(bytes([i])).digest() for i in range(64)), np.uint8
    ).reshape(-1, 32)
    if fast_lane:
        fast.warm()
    else:
        core = engine.engine(engine.available()[0])
        core.tokens(core.multiply(core.new_key(os.urandom), core.encode(bytes(16), labels)))
    return usage()[0] - before


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

"""Flower's ServerApp: the one place that knows Grid.

Takes the job's id from the run's configuration, drives it, keeps totals and result in the store.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from privacy.errors import RoundFailed, TallystickError
from privacy.programs.columns import Floats
from protos import jobs, wire
from server.display import shown
from server.home import Home
from server.rounds import Delivered, Rounds
from server.store import JobRow, Store
from server.tasks.match import MatchDrive
from server.tasks.noisy_sum import NoisySumDrive

MESSAGE_TYPE = "query.tallystick"
RECORD, FIELD = "tallystick", "envelope"
POLL = 0.05
"""Seconds between looks for replies; faster polling makes the link slower."""
FIRST_LOOK = 0.1
"""Seconds before the first look: no node answers sooner, and the link has the nodes to serve."""
LOOK_FOR_NODES = 1.0

app = ServerApp()


class GridTransport:
    """Envelopes as Flower messages. ``nodes`` gives node ids by partner, and is asked again when
    one is missing."""

    def __init__(self, grid: Grid, run: int, nodes: Callable[[], dict[str, int]]) -> None:
        self._grid, self._run, self._look = grid, run, nodes
        self._nodes: dict[str, int] = {}

    def _find(self, names: Sequence[str]) -> dict[str, int]:
        if any(name not in self._nodes for name in names):
            self._nodes = dict(self._look())
        return {name: self._nodes[name] for name in names if name in self._nodes}

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        """Push to the nodes that are there, pull until all replied or ``timeout``."""
        nodes = self._find(list(envelopes))
        if not nodes:
            time.sleep(min(LOOK_FOR_NODES, timeout))
            return {}
        names = list(nodes)
        messages = [
            Message(
                RecordDict({RECORD: ConfigRecord({FIELD: envelopes[name]})}),
                dst_node_id=nodes[name],
                message_type=MESSAGE_TYPE,
                ttl=timeout + 60.0,
            )
            for name in names
        ]
        pushed = list(self._grid.push_messages(messages))
        waiting = {i: name for i, name in zip(pushed, names, strict=True) if i}
        answers: dict[str, Delivered] = {}
        deadline = time.monotonic() + timeout
        time.sleep(FIRST_LOOK)
        while waiting and time.monotonic() < deadline:
            for reply in self._grid.pull_messages(list(waiting)):
                question = reply.metadata.reply_to_message_id
                name = waiting.pop(question, None)
                data = _envelope_of(reply)
                if name is None or data is None:
                    self._nodes.pop(name or "", None)  # an error: the node may have a new id
                    continue
                answers[name] = Delivered(data, self._run, question, nodes[name])
            if waiting:
                time.sleep(POLL)
        for name in waiting.values():
            self._nodes.pop(name, None)
        return answers


def _envelope_of(reply: Message) -> bytes | None:
    if reply.has_error() or RECORD not in reply.content:
        return None
    record = reply.content[RECORD]
    data = record.get(FIELD) if isinstance(record, ConfigRecord) else None
    return data if isinstance(data, bytes) else None


class StoreCheckpoint:
    """Totals in the coordinator's store."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store, self._job = store, job_id

    def totals(self) -> Sequence[tuple[int, Floats, float]]:
        return self._store.totals(self._job)

    def keep(self, index: int, total: Floats, deviation: float) -> None:
        self._store.keep_total(self._job, index, total, deviation)


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Entry point of a Flower run."""
    home = Home(Path(str(context.run_config["home"])))
    store = Store(home.database, time.time)
    try:

        def registered() -> dict[str, int]:
            # The link registered the contract's keys under the contract's names itself.
            return {node.name: node.node_id for node in grid.get_nodes()}

        transport = GridTransport(grid, context.run_id, registered)
        drive(home, store, transport, str(context.run_config["job"]))
    finally:
        store.close()


def drive(home: Home, store: Store, transport: Any, job_id: str) -> None:
    """Run a stored job to its end, or fail it with a reason; other errors pass through."""
    row = store.job(job_id)
    contract = home.contract()
    rounds = Rounds(transport, contract, home.identity(), row.id, randomness=os.urandom)
    started = time.monotonic()
    try:
        result = _run(store, rounds, row)
    except TallystickError as error:
        _keep_traffic(store, rounds, row.id, started)
        store.end(row.id, "failed", {}, str(error))
        return
    _keep_traffic(store, rounds, row.id, started)
    store.end(row.id, "done", result)


def _run(store: Store, rounds: Rounds, row: JobRow) -> dict[str, Any]:
    job = row.job()
    heads = store.heads()
    signed: list[wire.Signed]
    if job.match:
        store.start(row.id, 0)

        def note_match(party: str, done: int, total: int) -> None:
            if party == receiver:
                store.progress(row.id, done, total)
            if store.job(row.id).state == "cancelled":
                request = wire.Request(cancel=wire.Cancel())
                rounds.ask(dict.fromkeys(job.participants(rounds.contract), request))
                raise RoundFailed("cancelled")

        receiver = job.match.parties[0]
        match = MatchDrive(rounds, job, row.salt, heads=heads, progress=note_match)
        result = match.run()
        signed = match.finish()
    else:

        def note(done: int) -> None:
            store.progress(row.id, done)
            if store.job(row.id).state == "cancelled":
                request = wire.Request(cancel=wire.Cancel())
                rounds.ask(dict.fromkeys(job.participants(rounds.contract), request))
                raise RoundFailed("cancelled")

        sums = NoisySumDrive(
            rounds,
            job,
            row.salt,
            StoreCheckpoint(store, row.id),
            heads=heads,
            progress=note,
        )
        store.start(row.id, len(sums.plan))
        result = shown(job, sums.run(), rounds.contract.privacy.smallest_cohort)
        model = result.get("model")
        signed = sums.finish(jobs.model_bytes(model))
        if model:
            store.keep_model(job.name.replace("-", "_"), row.id, row.spec, model)
    for head in signed:
        store.keep_head(head)
    return result


def _keep_traffic(store: Store, rounds: Rounds, job_id: str, started: float) -> None:
    traffic = rounds.traffic
    store.add_stats(
        job_id,
        {
            "rounds": traffic.rounds,
            "bytes": traffic.bytes_in + traffic.bytes_out,
            "forged": traffic.forged,
            "seconds": time.monotonic() - started,
            "round_seconds": [round(seconds, 4) for seconds in traffic.seconds],
        },
    )

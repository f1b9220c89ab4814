"""Flower's ServerApp: the one place that knows Grid.

Takes the job's id from the run's configuration, drives it, keeps totals and result in the store. Whatever
goes wrong in a job ends that job, with the name of the partner whose reply was being dealt with, and this
process ends well: the next job's turn. Only where the link itself is gone the process ends with an error, and
a new one goes on from the last release.
"""

from __future__ import annotations

import contextlib
import logging
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
from protos.logs import places
from server import heads
from server.display import shown
from server.home import Home
from server.rounds import Delivered, LinkLost, PartnerFailed, Rounds
from server.store import JobRow, Store
from server.tasks.match import MatchDrive
from server.tasks.noisy_sum import NoisySumDrive
from server.witnesses import Witnesses

MESSAGE_TYPE = "query.tallystick"
RECORD, FIELD = "tallystick", "envelope"
POLL = 0.05
"""Seconds between looks for replies; faster polling makes the link slower."""
FIRST_LOOK = 0.1
"""Seconds before the first look: no node answers sooner, and the link has the nodes to serve."""
LOOK_FOR_NODES = 1.0
LEAST_TTL = 10.0
"""Seconds for which the link takes an answer at least: a node reckons by its own clock."""

log = logging.getLogger("tallystick.job")
app = ServerApp()


class GridTransport:
    """Envelopes as Flower messages. ``nodes`` gives node ids by partner, and is asked again when
    one is missing.

    Replies are pulled together until one cannot be read: from then on one by one, so that it is known whose
    it is. What was pulled along with it is lost, and asked for again.
    """

    def __init__(self, grid: Grid, run: int, nodes: Callable[[], dict[str, int]]) -> None:
        self._grid, self._run, self._look = grid, run, nodes
        self._nodes: dict[str, int] = {}
        self._one_by_one = False

    def _find(self, names: Sequence[str]) -> dict[str, int]:
        if any(name not in self._nodes for name in names):
            self._nodes = dict(self._look())
        return {name: self._nodes[name] for name in names if name in self._nodes}

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        """Push to the nodes that are there, pull until all replied or ``timeout``. Raises PartnerFailed for a
        reply that Flower cannot read, LinkLost."""
        try:
            return self._exchange(envelopes, timeout)
        except PartnerFailed:
            raise
        except Exception as error:
            raise LinkLost(f"the link failed: {places(error)}") from error

    def _exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
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
                ttl=max(timeout + 1.0, LEAST_TTL),  # what comes later would wait for nobody
            )
            for name in names
        ]
        pushed = list(self._grid.push_messages(messages))
        waiting = {i: name for i, name in zip(pushed, names, strict=True) if i}
        answers: dict[str, Delivered] = {}
        deadline = time.monotonic() + timeout
        time.sleep(FIRST_LOOK)
        while waiting and time.monotonic() < deadline:
            replies = self._pull(waiting)
            if replies is None:
                return answers
            for reply in replies:
                question = reply.metadata.reply_to_message_id
                name = waiting.pop(question, None)
                if name is None:
                    continue
                data = _envelope_of(name, reply)
                if data is None:
                    self._nodes.pop(name, None)  # an error: the node may have a new id
                    continue
                answers[name] = Delivered(data, self._run, question, nodes[name])
            if waiting:
                time.sleep(POLL)
        for name in waiting.values():
            self._nodes.pop(name, None)
        return answers

    def _pull(self, waiting: Mapping[str, str]) -> list[Message] | None:
        """What has come, None where a reply could not be read and it is not known whose: ask again."""
        if not self._one_by_one:
            try:
                return list(self._grid.pull_messages(list(waiting)))
            except Exception as error:
                self._look()  # raises where it is the link that does not answer
                log.warning("a reply cannot be read: %s", places(error))
                self._one_by_one = True
                return None
        found: list[Message] = []
        for question, name in waiting.items():
            try:
                found += self._grid.pull_messages([question])
            except Exception as error:
                self._look()
                raise _unreadable(name, places(error)) from error
        return found


def _envelope_of(name: str, reply: Message) -> bytes | None:
    """The one field of the one record, None for Flower's own error: its node is gone."""
    if reply.has_error():
        return None
    try:
        (record,) = reply.content.items()
        ((field, data),) = record[1].items()
        if (record[0], field) == (RECORD, FIELD) and isinstance(data, bytes):
            return data
    except Exception as error:
        raise _unreadable(name, places(error)) from error
    raise _unreadable(name, "it holds something else than one envelope")


def _unreadable(name: str, why: str) -> PartnerFailed:
    return PartnerFailed(
        name, f"a reply of {name} is no message that its node makes: {why}. Which node does it run?"
    )


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
    """Run a stored job to its end, or fail it with a reason. Raises LinkLost, and what the store raises."""
    row = store.job(job_id)
    try:
        contract, key = home.contract(), home.identity()
    except (
        TallystickError
    ) as error:  # it has expired, say: the jobs behind this one must be told so too
        store.end(row.id, "failed", {}, str(error))
        return

    def rounds_of(job: str) -> Rounds:
        return Rounds(transport, contract, key, job, randomness=os.urandom)

    for over, names in store.untold():
        rounds_of(over).tell(names, wire.Request(cancel=wire.Cancel()))
        store.told(over)
    run = _Run(home, store, rounds_of(row.id), row)
    started = time.monotonic()
    try:
        result = run.result()
        _keep_traffic(run, started)
        store.end(row.id, "done", result)
        return
    except LinkLost:
        raise
    except TallystickError as error:
        reason, hopeless = str(error), run.is_hopeless(error)
    except Exception as error:  # its own text may quote what a partner sent
        reason, hopeless = f"the coordinator could not go on: {places(error)}", False
        log.error("job %s: %s", row.id[:8], reason)
    store.end(row.id, "failed", {}, reason)
    _keep_traffic(run, started)
    if hopeless:  # or it would stay open at every gate, which has room for a few
        with contextlib.suppress(LinkLost):
            run.rounds.tell(run.names, wire.Request(cancel=wire.Cancel()))


class _Run:
    """A stored job on its way. ``notes``: for its figures; ``names``: who takes part."""

    def __init__(self, home: Home, store: Store, rounds: Rounds, row: JobRow) -> None:
        self.home, self.store, self.rounds, self.row = home, store, rounds, row
        self.notes: list[str] = []
        self.names: tuple[str, ...] = ()
        self._drive: MatchDrive | NoisySumDrive | None = None

    def is_hopeless(self, error: TallystickError) -> bool:
        """Whether a partner ended the job in a way that asking again cannot mend: before anything was charged
        a new job is as good, and what it has answered once it would answer again."""
        charged = self._drive is not None and self._drive.charged
        return isinstance(error, PartnerFailed) and (not charged or not error.code)

    def result(self) -> dict[str, Any]:
        """What the job found. Raises RoundFailed."""
        store, row, contract = self.store, self.row, self.rounds.contract
        job = row.job()
        self.names = job.participants(contract)
        brought = [signed for _, signed in heads.held(store, contract).values()]
        witnesses = Witnesses(self.home, contract, self.notes)
        if job.match:
            store.start(row.id, 0)
            match = MatchDrive(
                self.rounds, job, row.salt, heads=brought, witnesses=witnesses,
                progress=self._note_match,
            )  # fmt: skip
            self._drive = match
            result = match.run()
            signed = match.finish()
        else:
            sums = NoisySumDrive(
                self.rounds, job, row.salt, StoreCheckpoint(store, row.id), heads=brought,
                witnesses=witnesses, progress=self._note,
            )  # fmt: skip
            self._drive = sums
            store.start(row.id, len(sums.plan))
            result = shown(job, sums.run(), contract.privacy.smallest_cohort)
            model = result.get("model")
            signed = sums.finish(jobs.model_bytes(model))
            if model:
                store.keep_model(job.name.replace("-", "_"), row.id, row.spec, model)
        self.notes += self._drive.notes
        self.notes += heads.keep(store, contract, {each.party: each for each in signed})
        return result

    def _note(self, done: int) -> None:
        self.store.progress(self.row.id, done)
        self._stop_if_cancelled()

    def _note_match(self, party: str, done: int, total: int) -> None:
        if party == self.names[0] and total:
            self.store.progress(self.row.id, done, total)
        self._stop_if_cancelled()

    def _stop_if_cancelled(self) -> None:
        if self.store.job(self.row.id).state == "cancelled":
            request = wire.Request(cancel=wire.Cancel())
            self.rounds.ask(dict.fromkeys(self.names, request))
            raise RoundFailed("cancelled")


def _keep_traffic(run: _Run, started: float) -> None:
    traffic = run.rounds.traffic
    run.store.add_stats(
        run.row.id,
        {
            "rounds": traffic.rounds,
            "bytes": traffic.bytes_in + traffic.bytes_out,
            "forged": traffic.forged,
            "seconds": time.monotonic() - started,
            "round_seconds": [round(seconds, 4) for seconds in traffic.seconds],
        }
        | ({"notes": run.notes} if run.notes else {}),
    )

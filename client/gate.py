"""The gate: the one way in and out of a partner.

    envelope --> signature, contract, addressee, expiry, nonce      (_open)
             --> contract's rules, then the partner's stricter ones (policy)
             --> task: noisy sum or match; ledger charged with it   (tasks)
             --> journal, header bound to run, message and node     (_seal)

Whatever goes wrong inside leaves as a refusal code and nothing more. The gate holds no socket of
its own; ``client.service`` serves :meth:`Gate.handle` on a Unix socket.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from datetime import UTC, datetime

from client import policy
from client.home import Home, write_private
from client.journal import Journal
from client.ledger import Ledger
from client.sets import EarlierSets
from client.store import Store
from client.table import Report, Snapshot, read
from client.tasks.match import MatchTask, Opener
from client.tasks.noisy_sum import Context, NoisySumTask
from privacy.errors import (
    ConfigError,
    DataError,
    LedgerExhausted,
    ParameterError,
    PrivacyError,
    ProtocolError,
    Refused,
    WireError,
)
from privacy.programs.scoring import Model, model_from
from privacy.randomness import Randomness
from protos import jobs, wire
from protos.alliance import Contract
from protos.refusal import Code

log = logging.getLogger("tallystick.gate")

PATIENCE = 3.0
"""Seconds a handler waits for work before it answers "working"; the coordinator asks again."""
NONCE_BYTES = 16
MOST_RUNNING = 64
"""Answers kept for a coordinator that never asks again, before they are thrown away."""


@dataclass(frozen=True)
class Delivery:
    """How a message came: Flower's run, message and node; all zero in the lab."""

    run: int = 0
    message: str = ""
    node: int = 0


class Gate:
    """One partner's gate. ``clock`` gives seconds since the epoch; ``open_stream`` the exchange."""

    def __init__(
        self,
        home: Home,
        *,
        randomness: Randomness,
        clock: Callable[[], float],
        open_stream: Opener | None = None,
        patience: float = PATIENCE,
    ) -> None:
        home.prepare()
        self.home, self.config = home, home.config()
        self.name = self.config.name
        self.clock, self.patience = clock, patience
        self.contract: Contract = home.contract(self._now)
        self.digest = self.contract.digest()
        self.coordinator = self.contract.coordinator_identity()
        self.identity = home.identity()
        if self.identity.public_key().public_bytes_raw() != self.contract.identity_of(self.name):
            raise ConfigError("keys/identity.key", "is not the key that the contract names")
        self.store = Store(home.database, home.storage_key(), randomness)
        self.ledger = Ledger(self.store, self.contract, clock)
        self.journal = Journal(self.store, self.identity, clock)
        self.context = Context(
            self.name,
            self.contract,
            self.digest,
            self.identity,
            self.store,
            self.ledger,
            randomness,
        )
        self._open_stream = open_stream
        self._lock, self._registry = threading.Lock(), threading.Lock()
        self._workers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="gate")
        self._running: dict[str, Future[wire.ReplyBody]] = {}
        self._snapshots: dict[str, Snapshot] = {}
        self._tasks: dict[str, NoisySumTask] = {}
        self._matches: dict[str, MatchTask] = {}
        self.sets = EarlierSets(self.store, home.sets, home.storage_key())

    def close(self) -> None:
        """Stop accepting work and close the database; matches stay to be resumed."""
        for task in list(self._matches.values()):
            task.stop()
        self._workers.shutdown(wait=True, cancel_futures=True)
        self.store.close()

    # ------------------------------------------------------------------ in

    def handle(self, envelope: bytes, delivery: Delivery) -> bytes:
        """One envelope in, one signed reply out; never raises."""
        job = ""
        try:
            request = self._open(envelope)
            job = request.job
            body = self._serve(request)
        except Refused as refused:
            log.warning("job %s refused: %s", job[:8], refused)
            body = _refusal(refused.code)
        except LedgerExhausted as exhausted:
            log.warning("job %s refused: %s", job[:8], exhausted)
            body = _refusal(Code.LEDGER)
        except Exception as error:
            log.error("job %s failed: %s", job[:8], type(error).__name__)
            body = _refusal(Code.INTERNAL)
        return self._seal(job, body, delivery)

    def _open(self, envelope: bytes) -> wire.Request:
        try:
            request = wire.open_request(envelope, self.coordinator)
        except WireError as error:
            raise Refused(Code.MALFORMED, str(error)) from None
        except ProtocolError:
            raise Refused(Code.BAD_SIGNATURE) from None
        if request.contract != self.digest:
            raise Refused(Code.WRONG_CONTRACT)
        if request.partner != self.name:
            raise Refused(Code.NOT_ADDRESSED)
        now = self.clock()
        if not now < request.expires <= now + 86_400 or self._now() >= self.contract.expires:
            raise Refused(Code.EXPIRED)
        if len(request.nonce) != NONCE_BYTES:
            raise Refused(Code.MALFORMED, "nonce")
        with self.store.transaction():
            if self.store.row("SELECT 1 FROM nonces WHERE nonce = ?", request.nonce):
                raise Refused(Code.REPLAYED)
            self.store.execute("DELETE FROM nonces WHERE expires < ?", now)
            self.store.execute(
                "INSERT INTO nonces VALUES (?, ?)", request.nonce, float(request.expires)
            )
        return request

    def _serve(self, request: wire.Request) -> wire.ReplyBody:
        kind = request.WhichOneof("body")
        if kind is None:
            raise Refused(Code.MALFORMED, "no body")
        if kind == "match":
            kind = "status"  # a match is started by the first and polled by every later request
        question = wire.Request()
        question.CopyFrom(request)
        question.expires, question.nonce = 0, b""
        key = hashlib.sha256(wire.serialise(question)).hexdigest()
        return self._patiently(request.job if kind == "status" else key, kind, request)

    def _patiently(self, key: str, kind: str, request: wire.Request) -> wire.ReplyBody:
        """Start work once, wait a little, answer "working"; the same question finds it again."""
        with self._registry:
            future = self._running.get(key)
            if future is None:
                if len(self._running) >= MOST_RUNNING:
                    self._running = {k: f for k, f in self._running.items() if not f.done()}
                future = self._running[key] = self._workers.submit(self._work, kind, request)
        try:
            return future.result(timeout=self.patience)
        except NotYet:
            if not future.done():
                return wire.ReplyBody(working=self._progress(request.job))
            return future.result()
        finally:
            if future.done():
                with self._registry:
                    self._running.pop(key, None)

    def _progress(self, job_id: str) -> wire.Working:
        task = self._matches.get(job_id)
        if task is None:
            return wire.Working()
        return wire.Working(done=task.progress.done, total=task.progress.total)

    def _work(self, kind: str, request: wire.Request) -> wire.ReplyBody:
        if kind == "status":
            return self._match(request.job)  # minutes; beside everything else
        with self._lock:
            if kind == "hello":
                return self._hello(request)
            if kind == "prepare":
                task = self._task(request.job)
                prepared = task.prepare(request.prepare)  # refuses another cohort than before
                task.keep_sealing_keys(request.prepare)
                return wire.ReplyBody(prepared=prepared)
            if kind == "release":
                return self._release(request)
            if kind == "unmask":
                return wire.ReplyBody(unmask=self._task(request.job).unmask(request.unmask))
            if kind == "finish":
                return self._finish(request)
            return self._cancel(request)

    # ------------------------------------------------------------------ control messages

    def _hello(self, request: wire.Request) -> wire.ReplyBody:
        """Check the job against contract and policy, snapshot the rows, open it."""
        spec, salt = request.hello.spec, request.hello.salt
        if request.job != jobs.job_id(self.digest, spec, salt) or len(salt) != 16:
            raise Refused(Code.MALFORMED, "job id")
        self._check_heads(request.hello)
        known = self.store.row("SELECT state FROM jobs WHERE id = ?", request.job)
        if known is None:
            try:
                job = jobs.from_canonical(spec)
            except ConfigError as error:
                raise Refused(Code.MALFORMED, str(error)) from None
            policy.check(job, self.contract, self.config)
            self.ledger.require(job.mu2(self.contract))
            if job.match:
                report = self._audience(request.job, job)
            else:
                snapshot, report = self._snapshot(job)
                sealed = self.store.seal(f"snapshot {request.job}", snapshot.to_bytes())
                write_private(self.home.snapshots / request.job, sealed)
            self.store.execute(
                "INSERT INTO jobs VALUES (?, ?, ?, 'open', ?)",
                request.job,
                spec,
                self.clock(),
                report.to_json(),
            )
        job = self._job(request.job)
        if job.match:
            return wire.ReplyBody(hello=self._head())
        return wire.ReplyBody(hello=self._task(request.job).hello())

    def _snapshot(self, job: jobs.Job) -> tuple[Snapshot, Report]:
        """Rows of the job. Too few people or an unreadable table: one code for both."""
        try:
            snapshot, report = read(
                self.home.source(),
                self.contract.declared_columns(),
                sorted(job.columns()),
                rows_per_person=self.contract.privacy.rows_per_person,
            )
        except (DataError, ConfigError) as error:
            raise Refused(Code.UNAVAILABLE, str(error)) from None
        if report.people < self.contract.privacy.smallest_cohort:
            raise Refused(Code.UNAVAILABLE, "fewer people than the contract's smallest cohort")
        return snapshot, report

    def _audience(self, job_id: str, job: jobs.Job) -> Report:
        """The audience of a match, read into its folder."""
        report = Report()
        try:
            self._match_task(job_id, job).prepare(self.home.source(), self._models(), report)
        except (DataError, ConfigError) as error:
            raise Refused(Code.UNAVAILABLE, str(error)) from None
        return report

    def _match_task(self, job_id: str, job: jobs.Job) -> MatchTask:
        if self._open_stream is None:
            raise Refused(Code.POLICY, "no exchange here")
        if job_id not in self._matches:
            folders = (self.home.matches, self.home.audiences, self.home.caches)
            self._matches[job_id] = MatchTask(
                self.context, self.journal, job_id, job, self._open_stream, folders, self.sets
            )
        return self._matches[job_id]

    def _release(self, request: wire.Request) -> wire.ReplyBody:
        task, snapshot = self._task(request.job), self._rows(request.job)
        try:
            return wire.ReplyBody(masked=task.release(request.release, snapshot))
        except (ParameterError, DataError) as error:
            raise Refused(Code.PLAN, str(error)) from None

    def _match(self, job_id: str) -> wire.ReplyBody:
        job = self._job(job_id)
        if job.match is None:
            raise Refused(Code.POLICY, "not a match")
        return wire.ReplyBody(match=self._match_task(job_id, job).run())

    def _finish(self, request: wire.Request) -> wire.ReplyBody:
        """Take the model, erase keys, shares, replies and snapshot, sign the journal's head."""
        found = self.store.row("SELECT spec, state FROM jobs WHERE id = ?", request.job)
        if found is None:
            raise Refused(Code.UNKNOWN_JOB)
        job = jobs.from_canonical(found[0])
        with self.store.transaction():
            if request.finish.model and found[1] == "open":
                self._keep_model(job, request.finish.model)
            self._close_job(request.job, "done")
        return wire.ReplyBody(finish=wire.FinishReply(head=self._head()))

    def _cancel(self, request: wire.Request) -> wire.ReplyBody:
        self._close_job(request.job, "cancelled")
        return wire.ReplyBody(finish=wire.FinishReply(head=self._head()))

    def _close_job(self, job_id: str, state: str) -> None:
        with self.store.transaction():
            self.store.execute(
                "UPDATE jobs SET state = ? WHERE id = ? AND state = 'open'", state, job_id
            )
            self.store.erase(job_id)
        self._snapshots.pop(job_id, None)
        self._tasks.pop(job_id, None)
        match = self._matches.pop(job_id, None)
        if match is not None:
            match.erase()
        shutil.rmtree(self.home.matches / job_id, ignore_errors=True)
        (self.home.snapshots / job_id).unlink(missing_ok=True)

    # ------------------------------------------------------------------ models

    def _keep_model(self, job: jobs.Job, data: bytes) -> None:
        """Store a released model under the job's name, if it is what the job said it would be."""
        if len(data) > 1 << 20:
            raise Refused(Code.MALFORMED, "model too large")
        try:
            plain = json.loads(data)
            model_from(self.contract.declared_columns(), plain)
            wanted = job.propensity.features if job.propensity else (
                job.segment.columns if job.segment else ()
            )  # fmt: skip
            if plain["kind"] != job.kind or tuple(plain["columns"]) != tuple(wanted):
                raise Refused(Code.PLAN, "model is not the job's")
        except (ValueError, KeyError, TypeError, PrivacyError):
            raise Refused(Code.MALFORMED, "model") from None
        name = job.name.replace("-", "_")
        self.store.execute(
            "INSERT OR REPLACE INTO models VALUES (?, ?, ?, ?)",
            name,
            self.clock(),
            hashlib.sha256(data).digest(),
            self.store.seal(f"model {name}", data),
        )

    def _models(self) -> dict[str, Model]:
        columns = self.contract.declared_columns()
        return {
            name: model_from(columns, json.loads(self.store.unseal(f"model {name}", sealed)))
            for name, sealed in self.store.rows("SELECT name, sealed FROM models")
        }

    # ------------------------------------------------------------------ state of a job

    def _job(self, job_id: str) -> jobs.Job:
        found = self.store.row("SELECT spec, state FROM jobs WHERE id = ?", job_id)
        if found is None:
            raise Refused(Code.UNKNOWN_JOB)
        if found[1] != "open":
            raise Refused(Code.JOB_CLOSED)
        return jobs.from_canonical(found[0])

    def _task(self, job_id: str) -> NoisySumTask:
        job = self._job(job_id)
        if job.match:
            raise Refused(Code.POLICY, "a match is not a noisy sum")
        if job_id not in self._tasks:
            self._tasks = {job_id: NoisySumTask(self.context, job_id, job)}
        return self._tasks[job_id]

    def _rows(self, job_id: str) -> Snapshot:
        if job_id not in self._snapshots:
            try:
                sealed = (self.home.snapshots / job_id).read_bytes()
            except OSError:
                raise Refused(Code.UNKNOWN_JOB, "the job's snapshot is gone") from None
            data = self.store.unseal(f"snapshot {job_id}", sealed)
            self._snapshots = {job_id: Snapshot.from_bytes(data)}
        return self._snapshots[job_id]

    # ------------------------------------------------------------------ ledger heads

    def _head(self) -> wire.Signed:
        sequence, digest = self.journal.head()
        head = wire.JournalHead(contract=self.digest, sequence=sequence, digest=digest)
        return wire.state(self.identity, self.name, head)

    def _check_heads(self, hello: wire.Hello) -> None:
        """A peer, or this partner, whose signed head is ahead of what it holds was rolled back."""
        for signed in hello.heads:
            try:
                public = self.contract.identity_of(signed.party)
                head = wire.read_statement(wire.JournalHead, signed, public)
            except (ConfigError, ProtocolError, WireError):
                raise Refused(Code.PROTOCOL, "a ledger head's signature does not fit") from None
            if head.contract != self.digest:
                continue
            if signed.party == self.name:
                if self.journal.at(head.sequence) != head.digest:
                    raise Refused(Code.ROLLED_BACK, "this partner's own journal was rolled back")
                continue
            seen = self.store.row(
                "SELECT sequence, digest FROM heads WHERE party = ?", signed.party
            )
            if seen and (
                head.sequence < seen[0]
                or (head.sequence == seen[0] and head.digest != bytes(seen[1]))
            ):
                raise Refused(Code.ROLLED_BACK, f"the journal of {signed.party} was rolled back")
            self.store.execute(
                "INSERT OR REPLACE INTO heads VALUES (?, ?, ?)",
                signed.party,
                head.sequence,
                head.digest,
            )

    # ------------------------------------------------------------------ out

    def _seal(self, job: str, body: wire.ReplyBody, delivery: Delivery) -> bytes:
        """Journal, then sign. A reply that cannot be journalled leaves as a bare refusal."""
        data = wire.serialise(body)
        kind = body.WhichOneof("body") or "empty"
        try:
            self.journal.record(kind, job, data, self.contract.coordinator.name)
        except Refused as refused:
            log.error("reply not journalled: %s", refused)
            data = wire.serialise(_refusal(Code.STORAGE))
        header = wire.ReplyHeader(
            contract=self.digest,
            job=job,
            partner=self.name,
            run=delivery.run,
            message=delivery.message,
            node=delivery.node,
        )
        return wire.seal_reply(self.identity, header, data)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


def _refusal(code: str) -> wire.ReplyBody:
    return wire.ReplyBody(refusal=wire.Refusal(code=str(code)))

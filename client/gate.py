"""The gate: the one way in and out of a partner.

    envelope --> signature, contract, addressee, expiry, nonce            (_open)
             --> limits, contract's rules, then the partner's stricter ones    (limits, policy)
             --> door: noisy sum or match; charge, then rows, then the reply   (tasks)
             --> journal, header bound to run, message and node            (_seal)

Whatever goes wrong inside leaves as a refusal code and nothing more; why is for the owner
(:mod:`client.refusals`). A refusal follows from public facts: contract, policy, envelope, statements of
peers, state, ledger. After a charge there is the answer or ``failed``. Names from outside are parsed before
anything else sees them: a job is 32 hexadecimal digits. The gate holds no socket of its own;
``client.service`` serves :meth:`Gate.handle` on a Unix socket.

Not handled: who may reach the socket (the folder's mode), and how long an answer takes (docs/security.md).
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import dataclass
from datetime import UTC, datetime

from client import frozen, marks
from client.callhead import CallHeads
from client.context import Context, Parts
from client.heads import Heads
from client.home import Home
from client.journal import Charge, Journal
from client.ledger import Ledger
from client.limits import Bounds
from client.models import Models
from client.outcomes import agreed_by, outcome_of
from client.refusals import Refusals
from client.snapshots import Rows, Snapshots
from client.store import Store
from client.tasks.match import MatchTask
from client.tasks.noisy_sum import NoisySumTask
from client.tasks.session import Opener
from privacy.errors import (
    ConfigError,
    LedgerExhausted,
    ProtocolError,
    Refused,
    TallystickError,
    WireError,
)
from privacy.randomness import Randomness
from protos import jobs, wire
from protos.addresses import JobId, job_id
from protos.alliance import Contract
from protos.refusal import Code

log = logging.getLogger("tallystick.gate")

PATIENCE = 3.0
"""Seconds a handler waits for work before it answers "working"; the coordinator asks again."""
NONCE_BYTES = 16
LONGEST_LIFE = 3600
"""Seconds an envelope may be valid."""
MOST_NONCES = 200_000
LARGEST_SPEC = 1 << 20
LARGEST_KEPT = 4096
"""Bytes of a specification that are kept once the job is over."""
MOST_RUNNING = 64
"""Answers kept for a coordinator that never asks again, before they are thrown away."""
HOUR = 3600.0


@dataclass(frozen=True)
class Delivery:
    """How a message came: Flower's run, message and node; all zero in the lab."""

    run: int = 0
    message: str = ""
    node: int = 0


class Unsigned(Refused):
    """What the coordinator did not sign: counted, never journalled."""


class Gate:
    """One partner's gate. ``clock`` gives seconds since the epoch; ``open_stream`` the exchange.

    ``parts``: what looks at rows, for tests that pass in a faulty one; ``store``: the class of the database.
    """

    def __init__(
        self,
        home: Home,
        *,
        randomness: Randomness,
        clock: Callable[[], float],
        open_stream: Opener | None = None,
        patience: float = PATIENCE,
        parts: Parts | None = None,
        store: Callable[..., Store] = Store,
        monotonic: Callable[[], float] = time.monotonic,
        cpu: Callable[[], float] = time.thread_time,
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
        self.parts = parts or Parts()
        self.store = store(home.database, home.storage_key(), randomness)
        self.journal = Journal(self.store, self.identity, clock)
        self.heads = Heads(self.store, self.journal, self.contract, self.name, self.identity, clock)
        self.ledger = Ledger(self.store, self.journal, self.contract, self.heads.confirmed, clock)
        self.models = Models(self.store, self.contract)
        self.refusals = Refusals(self.store, clock)
        self.bounds = Bounds(self.config.limits, monotonic, cpu)
        self.snapshots = Snapshots(
            home, self.store, self.contract, randomness, self.parts.read,
            self.config.limits.state_bytes,
        )  # fmt: skip
        self.context = Context(
            self.name, home, self.config, self.contract, self.digest, self.identity, self.store,
            self.journal, self.ledger, self.heads, self.models, randomness, self.parts,
        )  # fmt: skip
        self.calls = CallHeads(self.store, self.journal, self.contract, clock)
        self._open_stream = open_stream
        self._lock, self._registry = threading.Lock(), threading.Lock()
        self._workers = ThreadPoolExecutor(max_workers=2, thread_name_prefix="gate")
        # A match may wait ten minutes for a peer that never comes: sums do not wait behind it.
        self._matchers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="match")
        self._running: dict[str, Future[wire.ReplyBody]] = {}
        self._tasks: dict[str, NoisySumTask] = {}
        self._matches: dict[str, MatchTask] = {}
        self._abandon_if_restored()
        self._sweep()

    def close(self) -> None:
        """Stop accepting work and close the database; matches stay to be resumed."""
        for task in list(self._matches.values()):
            task.stop()
        for pool in (self._matchers, self._workers):
            pool.shutdown(wait=True, cancel_futures=True)
        self.refusals.flush()
        self.store.close()

    # ------------------------------------------------------------------ in

    def handle(self, envelope: bytes, delivery: Delivery) -> bytes:
        """One envelope in, one signed reply out; never raises."""
        job, kind, signed = "", "", True
        try:
            started = self.bounds.started()
            request = wire.Request()
            try:
                request = self._authentic(envelope)
                job, kind = job_id(request.job), request.WhichOneof("body") or ""
                self._open(request)
            finally:
                self.bounds.worked(started)
            body = self._serve(request, JobId(job), kind)
        except Unsigned as refused:
            body, signed = _refusal(refused.code), False
            self.refusals.note_unsigned(refused.code, refused.detail)
        except Refused as refused:
            body = self._refused(refused.code, kind, job, refused.detail)
        except WireError as error:
            body = self._refused(Code.MALFORMED, kind, job, str(error))
        except LedgerExhausted as exhausted:
            body = self._refused(Code.LEDGER, kind, job, str(exhausted))
        except (
            TallystickError
        ) as error:  # BrokenJournal, and whatever else is wrong with what is kept
            body = self._refused(Code.STORAGE, kind, job, str(error))
        except Exception as error:
            body = self._refused(Code.INTERNAL, kind, job, type(error).__name__)
        return self._seal(job, body, delivery, signed=signed)

    def _refused(self, code: str, kind: str, job: str, reason: str) -> wire.ReplyBody:
        log.warning("job %s, %s refused: %s: %s", job[:8], kind or "message", code, reason)
        try:
            self.refusals.note(code, kind, reason, job)
            if code == Code.ROLLED_BACK:
                self._sweep()  # jobs that were open are over
        except TallystickError as error:
            log.error("refusal not written down: %s", error)
        return _refusal(code)

    def _authentic(self, envelope: bytes) -> wire.Request:
        """A request that the contract's coordinator signed. Raises Unsigned, WireError."""
        try:
            return wire.open_request(envelope, self.coordinator)
        except WireError as error:
            raise Unsigned(Code.MALFORMED, str(error)) from None
        except ProtocolError:
            raise Unsigned(Code.BAD_SIGNATURE, "not signed by the contract's coordinator") from None

    def _open(self, request: wire.Request) -> None:
        """Rate, contract, addressee, expiry and nonce. Raises Refused."""
        self.bounds.message()
        if request.contract != self.digest:
            raise Refused(Code.WRONG_CONTRACT, "the coordinator holds another contract")
        if request.partner != self.name:
            raise Refused(Code.NOT_ADDRESSED, "meant for another partner")
        now = self.clock()
        if self._now() >= self.contract.expires:
            raise Refused(Code.EXPIRED, f"the contract expired on {self.contract.expires:%Y-%m-%d}")
        if not now < request.expires <= now + LONGEST_LIFE:
            hours = (request.expires - now) / HOUR
            raise Refused(
                Code.EXPIRED,
                f"the envelope expires {hours:+.0f} h from now by this machine's clock",
            )
        if len(request.nonce) != NONCE_BYTES:
            raise Refused(Code.MALFORMED, "nonce")
        with self.store.transaction():
            if self.store.row("SELECT 1 FROM nonces WHERE nonce = ?", request.nonce):
                raise Refused(Code.REPLAYED, "this envelope was answered before")
            self.store.execute("DELETE FROM nonces WHERE expires < ?", now)
            held = self.store.row("SELECT COUNT(*) FROM nonces")
            if held is not None and held[0] >= MOST_NONCES:
                raise Refused(Code.BUSY, "too many messages are under way")
            self.store.execute(
                "INSERT INTO nonces VALUES (?, ?)", request.nonce, float(request.expires)
            )
            self.store.execute(
                "UPDATE jobs SET touched = ? WHERE id = ? AND state = 'open'", now, request.job
            )

    def _serve(self, request: wire.Request, job: JobId, kind: str) -> wire.ReplyBody:
        if kind == "status":
            self._job(job)
            return wire.ReplyBody(working=self._progress(job))
        if kind == "match":
            self._job(job)  # before a worker is taken
            return self._patiently(job, kind, request, job)
        if not kind:
            raise Refused(Code.MALFORMED, "no body")
        question = wire.Request()
        question.CopyFrom(request)
        question.expires, question.nonce = 0, b""
        key = hashlib.sha256(wire.serialise(question)).hexdigest()
        return self._patiently(key, kind, request, job)

    def _patiently(self, key: str, kind: str, request: wire.Request, job: JobId) -> wire.ReplyBody:
        """Start work once, wait a little, answer "working"; the same question finds it again."""
        with self._registry:
            future = self._running.get(key)
            if future is None:
                if len(self._running) >= MOST_RUNNING:
                    self._running = {k: f for k, f in self._running.items() if not f.done()}
                if len(self._running) >= MOST_RUNNING:
                    raise Refused(Code.BUSY, "too many questions are being worked on")
                pool = self._matchers if kind == "match" else self._workers
                future = self._running[key] = pool.submit(self._work, kind, request, job)
        try:
            return future.result(timeout=self.patience)
        except NotYet:
            if not future.done():
                return wire.ReplyBody(working=self._progress(job))
            return future.result()
        finally:
            if future.done():
                with self._registry:
                    self._running.pop(key, None)

    def _progress(self, job: JobId) -> wire.Working:
        task = self._matches.get(job)
        if task is None:
            return wire.Working()
        return wire.Working(done=task.progress.done, total=task.progress.total)

    def _work(self, kind: str, request: wire.Request, job: JobId) -> wire.ReplyBody:
        if kind == "match":
            return self._match(job)  # minutes; beside everything else
        with self._lock:
            if kind == "release":
                return self._release(request, job)
            started = self.bounds.started()
            try:
                return self._uncharged(kind, request, job)
            finally:
                self.bounds.worked(started)

    def _uncharged(self, kind: str, request: wire.Request, job: JobId) -> wire.ReplyBody:
        """Messages that cost nothing."""
        if kind == "hello":
            return self._hello(request, job)
        if kind == "prepare":
            return wire.ReplyBody(prepared=self._task(job).prepare(request.prepare))
        if kind == "unmask":
            return wire.ReplyBody(unmask=self._task(job).unmask(request.unmask))
        if kind == "finish":
            return self._finish(request.finish, job)
        return self._cancel(job)

    # ------------------------------------------------------------------ control messages

    def _hello(self, request: wire.Request, job_id: JobId) -> wire.ReplyBody:
        """Check the job against contract, policy, ledger and limits, and open it. No row is read."""
        spec, salt = request.hello.spec, request.hello.salt
        if len(spec) > LARGEST_SPEC:
            raise Refused(Code.MALFORMED, "the specification is too large")
        if job_id != jobs.job_id(self.digest, spec, salt) or len(salt) != 16:
            raise Refused(Code.MALFORMED, "the job's id does not belong to its specification")
        self.heads.note(request.hello.heads)
        if self.store.row("SELECT 1 FROM jobs WHERE id = ?", job_id) is not None:
            calls = self.calls.held()  # a job brings one head of the call log, when it is opened
        else:
            try:
                job = jobs.from_canonical(spec)
            except ConfigError as error:
                raise Refused(Code.MALFORMED, str(error)) from None
            self._check(job)
            self._expire_idle()
            found = self.store.row("SELECT COUNT(*) FROM jobs WHERE state = 'open'")
            if found is not None and found[0] >= self.config.limits.open_jobs:
                raise Refused(Code.BUSY, "partner.toml: limits.open_jobs is reached")
            self.bounds.job()
            now = self.clock()
            with self.store.transaction():
                calls = self.calls.take(request.hello.calls, job_id)
                self.store.execute(
                    "INSERT INTO jobs VALUES (?, ?, ?, ?, 'open', NULL, NULL)",
                    job_id, spec, now, now,
                )  # fmt: skip
                self.store.put_secret(job_id, "spec", self._bound(spec))
        job = self._job(job_id)
        if job.match:
            return wire.ReplyBody(hello=self._own_once(job_id, calls))
        return wire.ReplyBody(hello=self._task(job_id).hello(calls))

    def _own_once(self, job_id: JobId, calls: wire.Signed | None) -> wire.Signed:
        """This gate's head as it was when the job was opened: asked again, it is the same bytes."""
        stored = self.store.reply(job_id, "hello", b"")
        if stored is not None:
            return wire.parse(wire.Signed, stored)
        head = self.heads.own(calls=calls)
        self.store.put_reply(job_id, "hello", b"", wire.serialise(head))
        return head

    def _check(self, job: jobs.Job) -> None:
        """All that can be judged before anything is charged. Raises Refused, LedgerExhausted."""
        self.parts.check(job, self.contract, self.config)
        if self.config.data is None:
            raise Refused(Code.UNAVAILABLE, "partner.toml: [data] is missing")
        for column in sorted(job.columns()):
            if column not in self.config.data.columns:
                raise Refused(Code.UNAVAILABLE, f"partner.toml: data.columns lacks {column}")
        if job.match:
            if self._open_stream is None:
                raise Refused(Code.POLICY, "no exchange here")
            frozen.check(self.context, job)
        price = self._price(job)
        self.ledger.require(price.mu2, price.delta)

    def _price(self, job: jobs.Job) -> Charge:
        """What a job may charge in all."""
        mu2 = job.mu2(self.contract)
        if job.match is None:
            return Charge("plan", mu2, 0.0)
        price = job.match.price(self.contract, mu2) if mu2 else []
        return Charge("match", sum(p[1] for p in price), sum(p[2] for p in price))

    def _expire_idle(self) -> None:
        """Jobs that nobody asked about for long are closed."""
        before = self.clock() - self.config.limits.idle_hours * HOUR
        for (identity,) in self.store.rows(
            "SELECT id FROM jobs WHERE state = 'open' AND touched < ?", before
        ):
            if identity not in self._running:
                log.info("job %s expired: nobody asked for it", identity[:8])
                self._close_job(JobId(identity), "expired")

    def _match(self, job_id: JobId) -> wire.ReplyBody:
        job = self._job(job_id)
        if job.match is None:
            raise Refused(Code.POLICY, "not a match")
        if self._open_stream is None:
            raise Refused(Code.POLICY, "no exchange here")
        if self.store.row("SELECT 1 FROM replies WHERE job = ? AND step = 'match'", job_id) is None:
            self.parts.check(job, self.contract, self.home.config())  # as the rules are now
        with self._registry:
            if job_id not in self._matches:
                self.bounds.match()
                self._open_match(job_id, job)
                self._matches[job_id] = MatchTask(self.context, job_id, job, self._open_stream)
            task = self._matches[job_id]
        return wire.ReplyBody(match=task.run())

    def _open_match(self, job_id: JobId, job: jobs.Job) -> None:
        """In the journal with its price before the first handshake: the head in that says so."""
        if job.match is None or self.journal.is_open(job_id):
            return
        self.journal.open(job_id, bytes.fromhex(job_id), self._price(job))
        self._mark()

    def _release(self, request: wire.Request, job_id: JobId) -> wire.ReplyBody:
        started = self.bounds.started()
        try:
            task, job = self._task(job_id), self._job(job_id)
            return wire.ReplyBody(
                masked=task.release(
                    request.release,
                    lambda: self._rows(job_id, job),
                    self.bounds.release,
                )
            )
        except Refused as refused:
            if refused.code != Code.FAILED:  # nothing was charged: this was work before consent
                self.bounds.worked(started)
            raise

    def _rows(self, job_id: JobId, job: jobs.Job) -> Rows:
        """After a charge: first mark how far the journal is, then read."""
        self._mark()
        return self.snapshots.rows(job_id, job, self.clock())

    def _mark(self) -> None:
        """Write the journal's head down outside the database, so that a database that was put back is seen
        at start by this gate itself."""
        marks.put(self.home, self.store, self.journal)

    def _abandon_if_restored(self) -> None:
        """Open jobs of a database that is behind the mark are over: what they answered since is forgotten,
        and answering again would be a second draw for one charge. The peers find the missing charges."""
        if not marks.is_behind(self.home, self.store, self.journal):
            return
        log.warning("the database is older than this gate's mark: open jobs are over")
        with self.store.transaction():
            for (job,) in self.store.rows("SELECT id FROM jobs WHERE state = 'open'"):
                self.journal.close(job, "abandoned")
            self.store.execute("UPDATE jobs SET state = 'abandoned' WHERE state = 'open'")

    def _finish(self, finish: wire.Finish, job_id: JobId) -> wire.ReplyBody:
        """Take the model, erase keys, shares, replies and snapshot, sign the journal's head."""
        found = self.store.row("SELECT spec, state, outcome FROM jobs WHERE id = ?", job_id)
        if found is None:
            raise Refused(Code.UNKNOWN_JOB, "this job was never opened here")
        if found[1] not in ("open", "done"):
            raise Refused(Code.JOB_CLOSED, f"the job is {found[1]}")
        outcome = bytes(found[2] or b"")
        if found[1] == "open":
            job = self._job(job_id)
            if finish.model:
                task = self._task(job_id)
                outcome = outcome_of(task, job, finish, self.contract)
                agreed = agreed_by(self.heads, task, job_id, finish, outcome)
                if not agreed:  # say what was found, if this gate can tell; ask again with T heads
                    head = self.heads.own(job_id, outcome) if outcome else None
                    return wire.ReplyBody(finish=wire.FinishReply(head=head))
                outcome = agreed
            with self.store.transaction():
                if finish.model:
                    self.models.keep(job.name, job_id, finish.model, self.clock())
                    self.journal.record("model kept", job_id, finish.model, self.name)
                self.store.execute("UPDATE jobs SET outcome = ? WHERE id = ?", outcome, job_id)
                self._close_rows(job_id, "done")
            self._close_files(job_id)
        return wire.ReplyBody(finish=wire.FinishReply(head=self.heads.own(job_id, outcome)))

    def _cancel(self, job_id: JobId) -> wire.ReplyBody:
        found = self.store.row("SELECT state FROM jobs WHERE id = ?", job_id)
        if found is None:
            raise Refused(Code.UNKNOWN_JOB, "this job was never opened here")
        if found[0] != "cancelled":
            self._job(job_id)
            self._close_job(job_id, "cancelled")
        return wire.ReplyBody(finish=wire.FinishReply(head=self.heads.own(job_id)))

    # ------------------------------------------------------------------ state of a job

    def _job(self, job_id: JobId) -> jobs.Job:
        found = self.store.row("SELECT spec, state FROM jobs WHERE id = ?", job_id)
        if found is None:
            raise Refused(Code.UNKNOWN_JOB, "this job was never opened here")
        if found[1] != "open":
            raise Refused(Code.JOB_CLOSED, f"the job is {found[1]}")
        if self.store.secret(job_id, "spec") != self._bound(found[0]):
            raise Refused(
                Code.STORAGE, "the job is not the one that was opened, or of another contract"
            )
        return jobs.from_canonical(found[0])

    def _bound(self, spec: bytes) -> bytes:
        """What a job is opened as: its specification under this contract."""
        return hashlib.sha256(self.digest + spec).digest()

    def _task(self, job_id: JobId) -> NoisySumTask:
        job = self._job(job_id)
        if job.match:
            raise Refused(Code.POLICY, "a match is not a noisy sum")
        if job_id not in self._tasks:
            self.parts.check(
                job, self.contract, self.config
            )  # rules may have changed since it was opened
            self._tasks = {job_id: NoisySumTask(self.context, job_id, job)}
        return self._tasks[job_id]

    def _close_job(self, job_id: JobId, state: str) -> None:
        with self.store.transaction():
            self._close_rows(job_id, state)
        self._close_files(job_id)

    def _close_rows(self, job_id: JobId, state: str) -> None:
        self.store.execute(
            "UPDATE jobs SET state = ?, spec = CASE WHEN length(spec) > ? THEN x'' ELSE spec END"
            " WHERE id = ? AND state = 'open'",
            state, LARGEST_KEPT, job_id,
        )  # fmt: skip
        self.store.erase(job_id)
        self.journal.close(job_id, state)

    def _close_files(self, job_id: JobId) -> None:
        """What lies outside the database: the key first, so that nothing can be opened any more."""
        self.store.jobkeys.wipe(job_id)
        self._tasks.pop(job_id, None)
        match = self._matches.pop(job_id, None)
        if match is not None:
            match.erase()
        shutil.rmtree(self.home.matches / job_id, ignore_errors=True)
        self.snapshots.drop_unused()
        self.store.checkpoint()

    def _sweep(self) -> None:
        """Everything that belongs to no open job goes: what a killed process left, or a restored backup."""
        kept = {row[0] for row in self.store.rows("SELECT id FROM jobs WHERE state = 'open'")}
        with self.store.transaction():
            for table in ("secrets", "replies", "releases"):
                self.store.execute(
                    f"DELETE FROM {table} WHERE job NOT IN (SELECT id FROM jobs WHERE state = 'open')"
                )
        self.snapshots.sweep()
        snapshots = {row[0] for row in self.store.rows("SELECT id FROM snapshots")}
        self.store.jobkeys.sweep(lambda name: name in kept or name in snapshots)
        for folder in self.home.matches.iterdir():
            if folder.name not in kept:
                shutil.rmtree(folder, ignore_errors=True)
        self._tasks = {k: v for k, v in self._tasks.items() if k in kept}
        self.store.checkpoint()

    # ------------------------------------------------------------------ out

    def _seal(self, job: str, body: wire.ReplyBody, delivery: Delivery, *, signed: bool) -> bytes:
        """Journal, then sign. A reply that cannot be journalled leaves as a bare refusal.

        Refusals and "working" say nothing that was not public, and are counted elsewhere: no entries.
        """
        data = wire.serialise(body)
        kind = body.WhichOneof("body") or "empty"
        if signed and kind not in ("refusal", "working"):
            try:
                self.journal.record_once(kind, job, data, self.contract.coordinator.name)
            except TallystickError as refused:
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

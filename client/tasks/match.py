"""The second door, the partner's half: a blinded match with one or more other partners.

    1. public facts: policy, audience, cache, ledger             a refusal that costs nothing
    2. handshakes with all peers, journal heads compared         a peer that never comes costs nothing
    3. one transaction: charge, or count the disclosure and a use of the audience; journal
    4. read the audience into the match's own encrypted folder   the first look at a row
    5. openings: padded sizes, commitments to the sets           then the protocol (client.tasks.matching)

Until 3 no row is looked at; from 3 on the answer is the match's or ``failed``, which is the table, the
disk or the memory and never a row's value; where a *peer* deviates it is ``protocol``. A gate that was
killed at any point goes on at the same point: what it needs for that (a sealed seed, logs of what was dealt
with, digests of every frame) lies encrypted in ``state/matches/JOB`` and goes when the match ends, whatever
way.

Not handled: a peer that stops after its own charge has cost this side its charge; how long a step takes.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable

from client import frozen
from client.audience import Audience, Wanted
from client.channel import MatchChannel
from client.context import Context
from client.frozen import Epoch
from client.journal import Charge
from client.spill import DiskSpool
from client.stream import PeerGaveUp, StreamLost
from client.table import Report
from client.tasks import caches, matching, rings
from client.tasks.session import Opener, Session
from client.tasks.stages import Match, Progress
from privacy.errors import LedgerExhausted, ProtocolError, Refused, TallystickError
from privacy.matching.terms import Secrets
from protos import wire
from protos.addresses import JobId
from protos.jobs import Job
from protos.refusal import Code

log = logging.getLogger("tallystick.match")

PATIENCE = 600.0
"""Seconds without a connection before a match is left for the coordinator to resume."""
FAREWELL = 30.0
"""The same once this side has all it needs and only the peer might not."""
NOTICE = 10.0
"""Seconds to tell a peer that the match failed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0
PUBLIC = frozenset(
    {Code.PROTOCOL, Code.ROLLED_BACK, Code.CLOCK, Code.UNAVAILABLE, Code.POLICY, Code.JOB_CLOSED}
)
"""Codes that follow from public facts, before and after the charge."""


class MatchTask:
    """One match at one partner. ``pause`` and ``monotonic`` are the clock it waits by."""

    def __init__(
        self,
        context: Context,
        job_id: JobId,
        job: Job,
        open_stream: Opener,
        *,
        pause: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if job.match is None or context.contract.matching is None:
            raise Refused(Code.POLICY, "not a match")
        self.at, self.id = context, job_id
        self.job, self.spec, self.rules = job, job.match, context.contract.matching
        self.progress, self.stopping = Progress(), threading.Event()
        self._folder = context.home.matches / job_id
        self._pause, self._monotonic = pause, monotonic
        self._peers = [name for name in self.spec.parties if name != context.me]
        self._session = Session(context, job_id, self._peers, open_stream, monotonic)

    def run(self) -> wire.MatchReply:
        """Match, or go on matching. A stored answer, or how the match ended, is given again.

        Refused(UNAVAILABLE) where the peer did not come: the match can be resumed. After any other
        Refused it is over: PROTOCOL where a cryptographic check failed, FAILED for what is left after the
        charge; before it ROLLED_BACK, CLOCK, LEDGER.
        """
        stored = self.at.store.reply(self.id, "match", b"")
        if stored is not None:
            return wire.parse(wire.MatchReply, stored)
        failed = self.at.store.secret(self.id, "match failed")
        if failed is not None:
            raise Refused(Code(failed.decode()), "the match is over; start it as a new job")
        if not self._started():
            frozen.check(self.at, self.job)
        with self._spool() as spool:
            try:
                reply = self._until_done(spool)
            except StreamLost:
                raise Refused(Code.UNAVAILABLE, "no peer; the match can be resumed") from None
            except Exception as error:  # from here on there is one code for whatever it was
                code, reason = self._code(error), _reason(error)
                with contextlib.suppress(Refused):  # the job may be over already
                    self.at.store.put_secret(self.id, "match failed", code.encode())
                spool.destroy()
                raise Refused(code, reason) from None
            self.at.store.put_reply(self.id, "match", b"", wire.serialise(reply))
            spool.destroy()
        return reply

    def _code(self, error: Exception) -> Code:
        if isinstance(error, LedgerExhausted):
            return Code.LEDGER
        if isinstance(error, ProtocolError):
            return Code.PROTOCOL
        if isinstance(error, Refused) and error.code in PUBLIC:
            return Code(error.code)
        if self._started():
            return Code.FAILED
        return Code.STORAGE if isinstance(error, TallystickError) else Code.INTERNAL

    # ------------------------------------------------------------------ charge, then rows

    def _started(self) -> bool:
        return self.at.store.secret(self.id, "match started") is not None

    def _start(self) -> None:
        """Once, all or nothing: charge, count what is disclosed and a use of the audience, journal."""
        if self._started():
            return
        with self.at.store.transaction():
            epoch = frozen.use(self.at, self.spec)
            name, number = (epoch.audience, epoch.number) if epoch else ("", 0)
            cache = caches.find(self.at, self.spec).job if self.spec.cache is not None else ""
            started = json.dumps([name, number, cache]).encode()
            self.at.store.put_secret(self.id, "match started", started)
            price = self.spec.price(self.at.contract, self.job.mu2(self.at.contract))
            if price:
                self.at.ledger.charge(self.id, [Charge(*charge) for charge in price])
            for peer in self._peers:
                self.at.journal.record("match opened", self.id, b"", peer)
            cached = self.spec.parties[:1] if self.spec.result == "cache" else ()
            for recipient in self.spec.recipients or cached:
                self._disclose(recipient, name, number)

    def _disclose(self, recipient: str, audience: str, epoch: int) -> None:
        kind = f"match {self.spec.result}"
        self.at.journal.record(f"{kind} for {self.job.purpose}", self.id, b"", recipient)
        self.at.store.execute(
            "INSERT INTO disclosures (time, job, kind, recipient, purpose, audience, epoch)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            self.at.ledger.now(), self.id, kind, recipient, self.job.purpose, audience, epoch,
        )  # fmt: skip

    def _decided(self) -> tuple[str, int, str]:
        """Audience, epoch and cache's job that the charge was for: everything later goes by them."""
        started = self.at.store.secret(self.id, "match started")
        if started is None:  # what is missing never means everybody
            raise Refused(Code.JOB_CLOSED, "the match was closed while it ran")
        name, number, cache = json.loads(started)
        return str(name), int(number), str(cache)

    def _epoch(self) -> Epoch | None:
        """The epoch that the charge was for, whichever is the newest by now."""
        name, number, _ = self._decided()
        if not name:
            return None
        found = frozen.epoch(self.at.store, name, number)
        if found is None:
            raise Refused(Code.STORAGE, "the epoch of this match is gone")
        return found

    @property
    def _enters(self) -> bool:
        return self.at.me in self.spec.entering

    def _read(self, spool: DiskSpool) -> None:
        """The audience into the match's folder, unless it is there from before a break."""
        audience = Audience(spool, self.spec.identifiers)
        if not self._enters or audience.complete():
            return
        audience.clear()
        epoch = self._epoch()
        if epoch is None and not self.spec.is_noisy:
            raise Refused(Code.STORAGE, "an exact result without a frozen audience")
        if not frozen.reads_table(self.spec, self.at.me, epoch) and epoch is not None:
            with frozen.opened(self.at, epoch) as kept:
                audience.copy(kept, one_each=self.spec.is_noisy)
            return
        members = frozen.members(self.at, epoch) if epoch is not None else None
        wanted = Wanted.of(self.spec, self.at.me, self.at.contract, self.at.models, members)
        audience.write(self.at.home.source(), wanted, Report(), self.at.parts.batches)

    # ------------------------------------------------------------------ the match

    def _until_done(self, spool: DiskSpool) -> wire.MatchReply:
        reply = self._known()
        patience = FAREWELL if reply is not None else PATIENCE  # for a peer that may need it still
        deadline, pause = self._monotonic() + patience, FIRST_PAUSE
        while True:
            try:
                with self._session.watching():
                    self._session.connect(spool, deadline)
                    deadline, pause = self._monotonic() + PATIENCE, FIRST_PAUSE
                    self.at.heads.take(self._session.heads(), self.id)
                    self._start()
                    self._read(spool)
                    reply = self._match(spool)  # again after a break: the peer may need it
                    self.at.store.put_secret(self.id, "match reply", wire.serialise(reply))
                deadline = self._monotonic() + FAREWELL
                self._session.farewell()
                return reply
            except StreamLost:
                log.info("job %s: connection lost, trying again", self.id[:8])
            except PeerGaveUp:
                raise
            except Exception:
                log.debug("job %s: the match is over", self.id[:8], exc_info=True)
                self._session.disconnect()
                self._session.tell_that_it_is_over(NOTICE)
                raise
            finally:
                self._session.disconnect()
            if self.stopping.is_set() or self._monotonic() > deadline:
                if reply is not None:
                    return reply  # all that could be missing is the peer's goodbye
                raise StreamLost
            self._pause(pause * (0.5 + self.at.randomness(1)[0] / 256))  # not all in step
            pause = min(2 * pause, LONGEST_PAUSE)

    def _known(self) -> wire.MatchReply | None:
        """The answer, where all that was missing when this gate stopped is the peer's goodbye."""
        found = self.at.store.secret(self.id, "match reply")
        return None if found is None else wire.parse(wire.MatchReply, found)

    def _match(self, spool: DiskSpool) -> wire.MatchReply:
        match = self._terms(spool)
        if self.spec.is_ring:
            return rings.ring(match, self._session.channels)
        channel = self._session.channels[self._peers[0]]
        if self.spec.result == "cache":
            return self._cache(match, channel)
        if self.spec.cache is not None:
            return self._from_cache(match, channel)
        return matching.pair(match, channel)

    def _terms(self, spool: DiskSpool) -> Match:
        secrets = self._secrets()
        audience = Audience(spool, self.spec.identifiers)
        salt = secrets.bytes_for("commitment")
        return Match(
            spec=self.spec,
            contract=self.at.contract,
            me=self.at.me,
            job=self.id,
            name=self.job.name,
            mu2=self.job.mu2(self.at.contract),
            seed=self._seed(),
            secrets=secrets,
            spool=spool,
            audience=audience,
            audiences=self.at.home.audiences,
            as_is=self.at.config.results.as_is,
            progress=self.progress,
            fast_lane=self.uses_fast_lane,
            commitment=audience.commitment(salt) if self._enters else b"",
            pin=lambda peer, commitment: self._pin_commitment(spool, peer, commitment),
        )

    @property
    def uses_fast_lane(self) -> bool:
        """Whether the contract chose the fast lane and this match is one it can do."""
        return self.spec.uses_fast_lane(self.at.contract)

    def _pin_commitment(self, spool: DiskSpool, peer: str, commitment: bytes) -> None:
        """The peer's set cannot change in a match; journalled for an audit."""
        held = spool.log(f"commitment {peer}")
        if len(held):
            if held.read(0) != commitment:
                raise ProtocolError("a peer's commitment changed within a match")
            return
        if commitment:
            self.at.journal.record_digest("match set of peer", self.id, 0, commitment, peer)
        held.append(commitment)

    # ------------------------------------------------------------------ caches

    def _cache(self, match: Match, channel: MatchChannel) -> wire.MatchReply:
        """Get or give a set's tokens for later lists; kept for the contract's period."""
        receives, epoch = self.spec.parties[0] == self.at.me, self._epoch()
        if receives:
            key = match.secrets.bytes_for("cache")
            with DiskSpool(self.at.home.caches / self.id, key, self.at.randomness) as kept:
                made = caches.make_cache(match, channel, kept)
        else:
            made = caches.make_cache(match, channel, match.spool)
        name, number = (epoch.audience, epoch.number) if epoch else ("", 0)
        kept_as = caches.Kept(made, self.id, receives, name, number)
        caches.keep(self.at, self.job.name, self._peers[0], kept_as)
        caches.prune(self.at)
        return wire.MatchReply(is_receiver=receives, engine=made.engine)

    def _from_cache(self, match: Match, channel: MatchChannel) -> wire.MatchReply:
        found = caches.find(self.at, self.spec, self._decided()[2])
        if found.receives:
            folder = self.at.home.caches / found.job
            with DiskSpool(folder, found.cache.secret, self.at.randomness) as kept:
                return caches.list_from_cache(match, channel, found.cache, kept)

        def note(asked: int) -> None:
            caches.count(self.at, self.id, found.job, asked, self.rules.largest_set)

        return caches.answer_from_cache(match, channel, found.cache, note)

    # ------------------------------------------------------------------ state

    def _seed(self) -> bytes:
        with self.at.store.transaction():
            seed = self.at.store.secret(self.id, "match seed")
            if seed is None:
                seed = self.at.randomness(32)
                self.at.store.put_secret(self.id, "match seed", seed)
            return seed

    def _secrets(self) -> Secrets:
        return Secrets(self._seed(), bytes.fromhex(self.id))

    def _spool(self) -> DiskSpool:
        return DiskSpool(self._folder, self._secrets().bytes_for("spool"), self.at.randomness)

    def stop(self) -> None:
        """Leave the match as it is, to be resumed; for a gate that is closing."""
        self.stopping.set()
        self._session.abort()

    def erase(self) -> None:
        """Remove what the match kept on disk."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)


def _reason(error: Exception) -> str:
    """For the owner's log: what is raised on purpose says what it was, and no row's value."""
    if isinstance(error, ProtocolError):
        return error.why or "a cryptographic check failed"
    if isinstance(error, Refused):
        return error.detail
    return str(error) if isinstance(error, TallystickError) else type(error).__name__

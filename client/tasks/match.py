"""The second door, the partner's half: a blinded match with one or more other partners.

The charge, or the disclosure, is in the ledger before the first byte leaves. What a match needs to go on
after a break (a sealed seed, logs of what was dealt with, digests of every frame) lies encrypted in
``state/matches/JOB`` and goes when the match ends, whatever way.
"""

from __future__ import annotations

import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from client.audience import Audience, Wanted
from client.channel import DONE, MatchChannel, Pins
from client.journal import Journal
from client.ledger import Charge
from client.sets import DAY, EarlierSets
from client.spill import DiskSpool
from client.stream import PeerGaveUp, SealedStream, Stream, StreamLost
from client.table import Report, Source
from client.tasks import caches, matching, rings
from client.tasks.noisy_sum import Context
from client.tasks.stages import Match, Progress
from privacy.errors import ParameterError, ProtocolError, Refused
from privacy.matching import fast
from privacy.matching.terms import Secrets
from privacy.programs.scoring import Model
from protos import wire
from protos.jobs import Job
from protos.refusal import Code

log = logging.getLogger("tallystick.match")

Opener = Callable[[str, str], Stream]
"""Opens a job's stream to a peer at the exchange."""
PATIENCE = 600.0
"""Seconds without a connection before a match is left for the coordinator to resume."""
FAREWELL = 30.0
"""The same once this side has all it needs and only the peer might not."""
WATCH = 0.2
"""Seconds between looks at the connections of more than two parties."""
NOTICE = 10.0
"""Seconds to tell a peer that the match failed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0


class MatchTask:
    """One match at one partner. ``pause`` and ``monotonic`` are the clock it waits by."""

    def __init__(
        self,
        context: Context,
        journal: Journal,
        job_id: str,
        job: Job,
        open_stream: Opener,
        folders: tuple[Path, Path, Path],
        sets: EarlierSets,
        *,
        pause: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if job.match is None or context.contract.matching is None:
            raise Refused(Code.POLICY, "not a match")
        self.at, self.journal, self.id = context, journal, job_id
        self.job, self.spec, self.rules = job, job.match, context.contract.matching
        self.progress, self.stopping = Progress(), threading.Event()
        self._open, self._sets = open_stream, sets
        matches, self._audiences, self._caches = folders
        self._folder = matches / job_id
        self._pause, self._monotonic = pause, monotonic
        self._peers = [name for name in self.spec.parties if name != context.me]
        self._channels: dict[str, MatchChannel] = {}
        self._opened: dict[str, Stream] = {}
        self._commitment = b""

    # ------------------------------------------------------------------ at the start of the job

    def prepare(self, source: Source, models: Mapping[str, Model], report: Report) -> None:
        """Read the audience into the match's folder. Raises Refused or DataError, leaving nothing."""
        if self.uses_fast_lane and not fast.available():
            raise Refused(Code.UNAVAILABLE, "engine fast needs the extra: tallystick[fast]")
        if self.spec.cache is not None:
            self._kept_cache()  # refuse early
        self.at.store.put_secret(self.id, "match seed", self.at.randomness(32))
        with self._spool() as spool:
            try:
                if self.needs_audience:
                    self._read(spool, source, models, report)
            except BaseException:
                spool.destroy()
                raise

    def _read(
        self, spool: DiskSpool, source: Source, models: Mapping[str, Model], report: Report
    ) -> None:
        wanted = Wanted.of(self.spec, self.at.me, self.at.contract, models)
        audience = Audience(spool, self.spec.identifiers)
        audience.write(source, wanted, report, self._folder / "reading")
        if report.people < self.at.contract.privacy.smallest_cohort:
            raise Refused(Code.UNAVAILABLE, "fewer people than the contract's smallest cohort")
        self._check_sets(spool)

    @property
    def needs_audience(self) -> bool:
        """Whether this partner enters a set now; a sender whose set is cached does not."""
        return self.spec.cache is None or self.spec.parties[0] == self.at.me

    @property
    def uses_fast_lane(self) -> bool:
        """Whether the contract chose the fast lane and this match is one it can do."""
        plain = self.spec.result == "list" and not self.spec.is_ring and self.spec.cache is None
        return self.rules.engine == "fast" and plain

    def _check_sets(self, spool: DiskSpool) -> None:
        """The cap and the difference rule, for each kind of identifier."""
        privacy = self.at.contract.privacy
        since = self.at.ledger.now() - privacy.period_days * DAY
        audience = Audience(spool, self.spec.identifiers)
        for kind in self.spec.identifiers:
            parts = [self._sets.tags(found) for found, _ in audience.records(kind)]
            tags = np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))
            tags = tags[np.diff(tags, prepend=np.uint64(0)) != 0]
            if len(tags) > self.rules.largest_set:
                raise Refused(Code.UNAVAILABLE, "the set is larger than the contract allows")
            self._sets.check(kind, tags, privacy.smallest_cohort, since)
            spool.log(f"tags {kind}").append(tags.tobytes())

    def _keep_sets(self, spool: DiskSpool) -> None:
        """Remember the sets that :meth:`_check_sets` let through."""
        now, days = self.at.ledger.now(), self.at.contract.privacy.period_days
        for kind in self.spec.identifiers:
            tags = np.frombuffer(spool.log(f"tags {kind}").read(0), np.uint64)
            self._sets.keep(self.id, kind, tags, now, days)
            spool.discard(f"tags {kind}")

    # ------------------------------------------------------------------ the match

    def run(self) -> wire.MatchReply:
        """Match, or go on matching. A stored answer is given again.

        Refused(PROTOCOL) where a cryptographic check failed: the match is over. Refused(UNAVAILABLE)
        where the peer did not come: the match can be resumed.
        """
        stored = self.at.store.reply(self.id, "match", b"")
        if stored is not None:
            return wire.parse(wire.MatchReply, stored)
        if self.at.store.secret(self.id, "match failed") is not None:
            raise Refused(Code.JOB_CLOSED, "the match failed; start it as a new job")
        with self._spool() as spool:
            self._start(spool)
            try:
                reply = self._until_done(spool)
            except StreamLost:
                raise Refused(Code.UNAVAILABLE, "no peer; the match can be resumed") from None
            except (ProtocolError, ParameterError, Refused) as error:
                self.at.store.put_secret(self.id, "match failed", b"failed")
                spool.destroy()
                if isinstance(error, Refused):
                    raise
                raise Refused(Code.PROTOCOL, type(error).__name__) from None
            self.at.store.put_reply(self.id, "match", b"", wire.serialise(reply))
            spool.destroy()
        return reply

    def _start(self, spool: DiskSpool) -> None:
        """Once: charge or count what is disclosed, remember the set, write the journal."""
        if self.at.store.secret(self.id, "match started") is not None:
            return
        with self.at.store.transaction():
            self.at.store.put_secret(self.id, "match started", b"started")
            for peer in self._peers:
                self.journal.record("match opened", self.id, b"", peer)
            price = self.spec.price(self.at.contract, self.job.mu2(self.at.contract))
            if price:
                self.at.ledger.charge(self.id, [Charge(*charge) for charge in price])
            for recipient in self.spec.recipients:
                self._disclose(recipient)
            if self.needs_audience:
                self._keep_sets(spool)

    def _disclose(self, recipient: str) -> None:
        kind = f"match {self.spec.result}"
        self.journal.record(f"{kind} for {self.job.purpose}", self.id, b"", recipient)
        self.at.store.execute(
            "INSERT INTO disclosures (time, job, kind, recipient, purpose) VALUES (?, ?, ?, ?, ?)",
            self.at.ledger.now(),
            self.id,
            kind,
            recipient,
            self.job.purpose,
        )

    def _until_done(self, spool: DiskSpool) -> wire.MatchReply:
        reply: wire.MatchReply | None = None
        deadline, pause = self._monotonic() + PATIENCE, FIRST_PAUSE
        while True:
            try:
                with self._watching():
                    self._connect(spool, deadline)
                    deadline, pause = self._monotonic() + PATIENCE, FIRST_PAUSE
                    reply = self._match(spool)  # again after a break: the peer may need it
                deadline = self._monotonic() + FAREWELL
                self._farewell()
                return reply
            except StreamLost:
                log.info("job %s: connection lost, trying again", self.id[:8])
            except PeerGaveUp:
                raise
            except (ProtocolError, ParameterError, Refused):
                log.debug("job %s: the match is over", self.id[:8], exc_info=True)
                self._disconnect()
                self._tell_that_it_is_over()
                raise
            finally:
                self._disconnect()
            if self.stopping.is_set() or self._monotonic() > deadline:
                if reply is not None:
                    return reply  # all that could be missing is the peer's goodbye
                raise StreamLost
            self._pause(pause * (0.5 + self.at.randomness(1)[0] / 256))  # not all in step
            pause = min(2 * pause, LONGEST_PAUSE)

    def _match(self, spool: DiskSpool) -> wire.MatchReply:
        secrets = self._secrets()
        match = Match(
            spec=self.spec,
            contract=self.at.contract,
            me=self.at.me,
            job=self.id,
            name=self.job.name,
            mu2=self.job.mu2(self.at.contract),
            seed=self._seed(),
            secrets=secrets,
            spool=spool,
            audience=Audience(spool, self.spec.identifiers),
            audiences=self._audiences,
            progress=self.progress,
            fast_lane=self.uses_fast_lane,
        )
        if self.spec.is_ring:
            return rings.ring(match, self._channels)
        channel = self._channels[self._peers[0]]
        if self.spec.result == "cache":
            return self._cache(match, channel)
        if self.spec.cache is not None:
            return self._from_cache(match, channel)
        return matching.pair(match, channel)

    # ------------------------------------------------------------------ caches

    def _cache(self, match: Match, channel: MatchChannel) -> wire.MatchReply:
        """Get or give a set's tokens for later lists; kept for the contract's period."""
        receives = self.spec.parties[0] == self.at.me
        if receives:
            key = self._secrets().bytes_for("cache")
            with DiskSpool(self._caches / self.id, key, self.at.randomness) as kept:
                made = caches.make_cache(match, channel, kept)
        else:
            made = caches.make_cache(match, channel, match.spool)
        sealed = self.at.store.seal(f"cache {self.id}", json.dumps(made.plain()).encode())
        self.at.store.execute(
            "INSERT OR REPLACE INTO caches VALUES (?, ?, ?, ?, ?, 0, ?)",
            self._peers[0], self.job.name, int(receives), self.id, self.at.ledger.now(), sealed,
        )  # fmt: skip
        return wire.MatchReply(is_receiver=receives, engine=made.engine)

    def _kept_cache(self) -> tuple[caches.Cache, str]:
        """The cache a list names, and the job that made it. Refused(UNAVAILABLE) if it is gone."""
        receives = self.spec.parties[0] == self.at.me
        since = self.at.ledger.now() - self.at.contract.privacy.period_days * DAY
        found = self.at.store.row(
            "SELECT job, sealed FROM caches WHERE peer = ? AND name = ? AND receives = ?"
            " AND time > ?",
            self._peers[0], self.spec.cache, int(receives), since,
        )  # fmt: skip
        if found is None:
            raise Refused(Code.UNAVAILABLE, f"no cache {self.spec.cache} with {self._peers[0]}")
        plain = json.loads(self.at.store.unseal(f"cache {found[0]}", found[1]))
        cache = caches.Cache.of(plain)
        if cache.identifier not in self.spec.identifiers:
            raise Refused(Code.UNAVAILABLE, f"cache {self.spec.cache} holds {cache.identifier}")
        return cache, found[0]

    def _from_cache(self, match: Match, channel: MatchChannel) -> wire.MatchReply:
        cache, made_by = self._kept_cache()
        if self.spec.parties[0] == self.at.me:
            folder = self._caches / made_by
            with DiskSpool(folder, cache.secret, self.at.randomness) as kept:
                return caches.list_from_cache(match, channel, cache, kept)

        def count(asked: int) -> None:
            """A cache answers for no more elements, over all jobs, than one set may have."""
            with self.at.store.transaction():
                found = self.at.store.row("SELECT asked FROM caches WHERE job = ?", made_by)
                if found is None or found[0] + asked > self.rules.largest_set:
                    raise Refused(Code.UNAVAILABLE, "the cache has answered what it may")
                self.at.store.execute(
                    "UPDATE caches SET asked = asked + ? WHERE job = ?", asked, made_by
                )

        return caches.answer_from_cache(match, channel, cache, count)

    # ------------------------------------------------------------------ connections

    def _connect(self, spool: DiskSpool, deadline: float) -> None:
        """Shake hands with all peers. Raises StreamLost if one does not come by ``deadline``."""
        if self.needs_audience and not self._commitment:
            audience = Audience(spool, self.spec.identifiers)
            self._commitment = audience.commitment(self._secrets().bytes_for("commitment"))
        commitment = self._commitment
        with ThreadPoolExecutor(len(self._peers), thread_name_prefix="shake") as pool:
            # all at once: each party waits for all others, in whatever order they come back
            waiting = {
                peer: pool.submit(self._shake_hands, peer, deadline, commitment)
                for peer in self._peers
            }
            first = wait(waiting.values(), return_when=FIRST_EXCEPTION)
            if first.not_done:
                for stream in list(self._opened.values()):
                    stream.abort()
        failures = [e for e in (f.exception() for f in waiting.values()) if e is not None]
        for peer, future in waiting.items():
            if future.exception() is None:
                self._channels[peer] = MatchChannel(future.result(), Pins(spool, peer))
        if failures:
            raise next((e for e in failures if not isinstance(e, StreamLost)), failures[0])
        for peer, channel in self._channels.items():
            self._pin_commitment(spool, peer, channel.commitment)

    @contextmanager
    def _watching(self) -> Iterator[None]:
        """Cut all connections when one of several is gone: a party that waits for the second would
        otherwise not see that the third has left, nor the second that waits for the third."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH):
                streams = list(self._opened.values())
                if any(stream.lost() for stream in streams):
                    for stream in streams:
                        stream.abort()
                    return

        self._opened.clear()
        thread = threading.Thread(target=watch, name="watch", daemon=True)
        if len(self._peers) > 1:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.ident is not None:
                thread.join()

    def _shake_hands(
        self, peer: str, deadline: float, commitment: bytes = b"", *, over: bool = False
    ) -> SealedStream:
        stream = self._opened[peer] = self._open(self.id, peer)
        timer = threading.Timer(max(0.5, deadline - self._monotonic()), stream.abort)
        timer.daemon = True
        timer.start()
        try:
            return SealedStream(
                stream,
                contract=self.at.contract,
                job=self.id,
                me=self.at.me,
                peer=peer,
                identity=self.at.identity,
                randomness=self.at.randomness,
                commitment=commitment,
                over=over,
            )
        except BaseException:
            stream.abort()
            raise
        finally:
            timer.cancel()

    def _tell_that_it_is_over(self) -> None:
        """A peer that finds its connection cut connects again: let it hear why, if it does so soon."""
        for peer in self._peers:
            try:
                self._shake_hands(peer, self._monotonic() + NOTICE, over=True).close()
            except ProtocolError:
                continue

    def _pin_commitment(self, spool: DiskSpool, peer: str, commitment: bytes) -> None:
        """The peer's set cannot change in a match; journalled for an audit."""
        if len(commitment) not in (0, 32):
            raise ProtocolError
        held = spool.log(f"commitment {peer}")
        if len(held):
            if held.read(0) != commitment:
                raise ProtocolError
            return
        held.append(commitment)
        self.journal.record_digest("match set of peer", self.id, 0, commitment or bytes(32), peer)

    def _farewell(self) -> None:
        """Both sides have all they need before either goes."""
        for channel in self._channels.values():
            channel.send(DONE, 0, b"")
        for channel in self._channels.values():
            kind, _, _ = channel.receive()
            if kind != DONE:
                raise ProtocolError
        for channel in self._channels.values():
            channel.close()

    def _disconnect(self) -> None:
        channels, self._channels = self._channels, {}
        for peer, channel in channels.items():
            channel.abort()
            self.journal.record_digest(
                "match", self.id, channel.bytes_sent, channel.sent_digest(), peer
            )

    def stop(self) -> None:
        """Leave the match as it is, to be resumed; for a gate that is closing."""
        self.stopping.set()
        for stream in list(self._opened.values()):
            stream.abort()

    # ------------------------------------------------------------------ state

    def _seed(self) -> bytes:
        seed = self.at.store.secret(self.id, "match seed")
        if seed is None:
            raise Refused(Code.UNKNOWN_JOB, "the match's seed is gone")
        return seed

    def _secrets(self) -> Secrets:
        return Secrets(self._seed(), bytes.fromhex(self.id))

    def _spool(self) -> DiskSpool:
        return DiskSpool(self._folder, self._secrets().bytes_for("spool"), self.at.randomness)

    def erase(self) -> None:
        """Remove what the match kept on disk."""
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

"""The second door, the partner's half: a blinded match with one other partner.

The charge, or the disclosure, is in the ledger before the first byte leaves. The keys live in this
object and die with it; a match that breaks is a new job, with a new charge.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.home import write_private
from client.journal import Journal
from client.ledger import Charge
from client.stream import SealedStream, Stream
from client.table import Snapshot
from client.tasks.noisy_sum import Context
from privacy.errors import ParameterError, ProtocolError, Refused, TallystickError
from privacy.identifiers import hashed
from privacy.matching.protocol import Receiver, Sender, Terms
from privacy.matching.size import SizeNoise
from privacy.programs import rules
from privacy.programs.scoring import Model
from protos import wire
from protos.alliance import Contract
from protos.jobs import Job, MatchJob
from protos.refusal import Code

Opener = Callable[[str], Stream]
"""Opens a job's stream at the exchange."""

FIRST, SECOND, THIRD = 1, 2, 3


class MatchTask:
    """One match at one partner."""

    def __init__(
        self, context: Context, journal: Journal, job_id: str, job: Job, open_stream: Opener
    ) -> None:
        if job.match is None or context.contract.matching is None:
            raise Refused(Code.POLICY, "not a match")
        self.at, self.journal, self.id = context, journal, job_id
        self.job, self.spec, self.matching = job, job.match, context.contract.matching
        self._open = open_stream
        self.receives = self.spec.parties[0] == context.me
        self.peer = self.spec.parties[1 if self.receives else 0]
        is_size = self.spec.result == "size"
        self.noise = SizeNoise.for_mu2(job.mu2(context.contract)) if is_size else None
        self.terms = Terms(
            bytes.fromhex(job_id), self.matching.bucket, self.matching.largest_set, self.noise
        )

    @staticmethod
    def columns(
        spec: MatchJob, me: str, contract: Contract, models: Mapping[str, Model]
    ) -> set[str]:
        """Columns this partner's rule needs, directly or through a model.

        Raises Refused(POLICY) for a name that is neither a column nor a model here.
        """
        text = spec.rules.get(me)
        needed: set[str] = set()
        for name in rules.parse(text).names if text else ():
            if name in models:
                needed |= set(models[name].names)
            elif name in contract.columns:
                needed.add(name)
            else:
                raise Refused(Code.POLICY, f"rule: {name} is neither a column nor a model here")
        return needed

    def audience(
        self, snapshot: Snapshot, models: Mapping[str, Model]
    ) -> tuple[list[bytes], list[list[str]]]:
        """Distinct hashed identifiers that the rule selects, and the keys behind each.

        For a noisy size each person enters one identifier at most: the sensitivity is one.
        """
        text = self.spec.rules.get(self.at.me)
        chosen: NDArray[np.bool_] = np.ones(snapshot.count, dtype=np.bool_)
        if text:
            rows = dict(snapshot.rows)
            rule = rules.parse(text)
            for name in rule.names & set(models):
                rows[name] = models[name].score(rows)
            chosen = rule.select(rows, self.at.contract.declared_columns(), snapshot.count)
        texts = snapshot.identifiers[self.spec.identifier]
        owners: dict[bytes, list[str]] = {}
        picked = np.flatnonzero(chosen)
        digests = hashed(self.spec.identifier, [str(texts[i]) for i in picked])
        entered: set[str] = set()
        for i, digest in zip(picked, digests, strict=True):
            key = str(snapshot.key[i])
            if digest is None or (self.noise and key in entered):
                continue
            entered.add(key)
            owners.setdefault(digest, []).append(key)
        return list(owners), list(owners.values())

    def run(
        self, snapshot: Snapshot, models: Mapping[str, Model], audiences: Path
    ) -> wire.MatchReply:
        """Match. A stored answer is given again; a match that broke stays broken."""
        stored = self.at.store.reply(self.id, "match", b"")
        if stored is not None:
            return wire.parse(wire.MatchReply, stored)
        items, keys = self.audience(snapshot, models)
        try:
            self.terms.padded(len(items))
        except ParameterError as error:
            raise Refused(Code.UNAVAILABLE, str(error)) from None
        self._charge()
        stream: SealedStream | None = None
        try:
            stream = SealedStream(
                self._open(self.id),
                contract=self.at.contract,
                job=self.id,
                me=self.at.me,
                peer=self.peer,
                identity=self.at.identity,
                randomness=self.at.randomness,
            )
            reply = (
                self._receive(stream, items, keys, audiences)
                if self.receives
                else self._send(stream, items)
            )
        except (ProtocolError, ParameterError) as error:
            raise Refused(Code.PROTOCOL, type(error).__name__) from None
        finally:
            if stream is not None:
                with contextlib.suppress(TallystickError):
                    stream.close()
                self.journal.record_digest(
                    "match", self.id, stream.bytes_sent, stream.sent_digest.digest(), self.peer
                )
        self.at.store.put_reply(self.id, "match", b"", wire.serialise(reply))
        return reply

    def _charge(self) -> None:
        """Once per job, journalled with it: a second start of a broken match is refused."""
        with self.at.store.transaction():
            if self.at.store.secret(self.id, "match started") is not None:
                raise Refused(Code.JOB_CLOSED, "the match broke; start it as a new job")
            self.at.store.put_secret(self.id, "match started", b"started")
            self.journal.record("match opened", self.id, b"", self.peer)
            if self.noise:
                self.at.ledger.charge(
                    self.id, [Charge("match size", self.noise.mu2, self.noise.delta)]
                )
            else:
                self.at.store.execute(
                    "INSERT INTO disclosures (time, job, kind, recipient, purpose)"
                    " VALUES (?, ?, 'match list', ?, ?)",
                    self.at.ledger.now(),
                    self.id,
                    self.spec.parties[0],
                    self.job.purpose,
                )

    def _receive(
        self, stream: SealedStream, items: list[bytes], keys: list[list[str]], audiences: Path
    ) -> wire.MatchReply:
        side = Receiver(self.terms, items, self.at.randomness)
        stream.send_points(FIRST, side.first())
        most = self.terms.padded(self.terms.largest_set)
        side.take_second(stream.receive_points(SECOND, most))
        matched = side.take_third(stream.receive_points(THIRD, most))
        if self.noise:
            size = side.size(matched)
            deviation = self.noise.deviation * 2.0**0.5
            return wire.MatchReply(
                is_receiver=True, has_size=True, size=float(size), deviation=deviation
            )
        found = sorted(key for i in side.matched_items(matched) for key in keys[i])
        lines = "".join(f"{_csv(key)}\n" for key in ["person", *found])
        write_private(audiences / f"{self.job.name}-{self.id[:8]}.csv", lines.encode())
        return wire.MatchReply(is_receiver=True)

    def _send(self, stream: SealedStream, items: list[bytes]) -> wire.MatchReply:
        side = Sender(self.terms, items, self.at.randomness)
        most = self.terms.padded(self.terms.largest_set)
        stream.send_points(SECOND, side.second(stream.receive_points(FIRST, most)))
        stream.send_points(THIRD, side.third())
        return wire.MatchReply(is_receiver=False)


def _csv(text: str) -> str:
    if any(c in text for c in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text

"""Partners as the coordinator sees them, without a table or a database: right answers, at once.

What they state, sign, mask and share is what a gate would, over totals that are small noise; so the
coordinator's half runs to its end unless somebody bends something.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import ProtocolError
from privacy.noisy_sum import encoding, masks, rounds
from privacy.programs.program import Release, plan_digest, state_digest
from privacy.randomness import stream
from protos import jobs, wire
from protos.alliance import Contract
from server.tasks.figures import Expected, expected

ENGINE = "curve25519"


@dataclass(frozen=True)
class Read:
    """What follows from a specification, the same for all: it is read once."""

    job: jobs.Job
    plan: tuple[Release, ...]
    figures: Mapping[str, Expected]

    @classmethod
    def of(cls, spec: bytes, contract: Contract) -> Read:
        """Raises ConfigError, ParameterError, RoundFailed."""
        job = jobs.from_canonical(spec)
        plan = () if job.match else tuple(job.program(contract).plan())
        return cls(job, plan, expected(job, contract))


Reader = Callable[[bytes], Read]


@dataclass
class Asked:
    """What a partner remembers of one job."""

    read: Read
    id: str
    hellos: list[wire.Signed] = field(default_factory=list)
    prepared: list[wire.Signed] = field(default_factory=list)
    shares: list[wire.Share] = field(default_factory=list)
    answered: dict[int, tuple[bytes, bytes]] = field(default_factory=dict)


class Stub:
    """One partner. ``key``: its identity; ``read``: a specification's job and plan."""

    def __init__(
        self, name: str, key: Ed25519PrivateKey, contract: Contract, now: float, read: Reader
    ) -> None:
        self.name, self.key, self._now, self._read = name, key, int(now), read
        self._digest, self._roster = contract.digest(), contract.roster()
        self._asked: Asked | None = None
        self._sequence = 1

    def answer(self, request: wire.Request) -> wire.ReplyBody:
        """To what the coordinator asks, in the order of a job."""
        kind = request.WhichOneof("body")
        if kind == "hello":
            return self._hello(request)
        asked = self._asked
        if asked is None or asked.id != request.job:
            return wire.ReplyBody(refusal=wire.Refusal(code="unknown_job"))
        if kind == "prepare":
            return self._prepare(asked, request.prepare)
        if kind == "release":
            return self._release(asked, request.release)
        if kind == "unmask":
            return self._unmask(asked, request.unmask)
        if kind == "match":
            return wire.ReplyBody(match=self._match(asked))
        self._sequence += 1
        outcome = hashlib.sha256(request.finish.model).digest() * 2 if request.finish.model else b""
        return wire.ReplyBody(finish=wire.FinishReply(head=self.head(asked.id, outcome)))

    def head(self, job: str = "", outcome: bytes = b"") -> wire.Signed:
        """The journal's head."""
        said = wire.JournalHead(
            contract=self._digest, sequence=self._sequence, digest=self._bytes("head"), time=self._now,
            mu2=0.5, delta=1e-9, job=job, outcome=outcome,
        )  # fmt: skip
        return wire.state(self.key, self.name, said)

    def _bytes(self, what: str) -> bytes:
        return hashlib.sha256(f"{self.name} {what}".encode()).digest()

    def _keys(self, asked: Asked, index: int) -> rounds.ReleaseKeys:
        return rounds.ReleaseKeys(
            self._bytes(f"mask {asked.id} {index}"), self._bytes(f"seed {asked.id} {index}")
        )

    def _hello(self, request: wire.Request) -> wire.ReplyBody:
        read = self._read(request.hello.spec)
        self._asked = Asked(read, request.job)
        if read.job.match:
            return wire.ReplyBody(hello=self.head())
        said = wire.SealingKey(
            contract=self._digest, job=request.job, plan=plan_digest(read.plan),
            key=masks.public_key(self._bytes(f"sealing {request.job}")), heads=[self.head()],
        )  # fmt: skip
        return wire.ReplyBody(hello=wire.state(self.key, self.name, said))

    def _prepare(self, asked: Asked, request: wire.Prepare) -> wire.ReplyBody:
        asked.hellos, shares = list(request.hellos), list[wire.Share]()
        if self._roster.dropouts:
            for index in range(len(asked.read.plan)):
                sealed = rounds.share_keys(
                    self._keys(asked, index), roster=self._roster, me=self.name, job=asked.id,
                    release=index, sealing_key=self._bytes(f"sealing {asked.id}"),
                    sealing_keys=self._sealing(asked),
                    randomness=stream(self._bytes(f"split {asked.id} {index}")),
                )  # fmt: skip
                shares += [
                    wire.Share(sender=self.name, receiver=peer, index=index, sealed=data)
                    for peer, data in sealed.items()
                ]
        digests = [
            wire.digest_shares(s for s in shares if s.receiver == peer)
            for peer in self._roster.parties
        ]
        said = wire.Prepared(
            contract=self._digest, job=asked.id, plan=plan_digest(asked.read.plan),
            roster=wire.digest_statements(asked.hellos),
            mask_keys=[masks.public_key(self._keys(asked, i).mask) for i in range(len(asked.read.plan))],
            shares=digests if self._roster.dropouts else [], head=self.head(),
        )  # fmt: skip
        statement = wire.state(self.key, self.name, said)
        return wire.ReplyBody(prepared=wire.PreparedReply(statement=statement, shares=shares))

    def _sealing(self, asked: Asked) -> Mapping[str, bytes]:
        """Keys that are none are replaced by our own: the job goes on."""
        own = masks.public_key(self._bytes(f"sealing {asked.id}"))
        found = dict.fromkeys(self._roster.parties, own)
        for signed in asked.hellos:
            key = wire.parse(wire.SealingKey, signed.body).key
            if len(key) == 32 and any(key):
                found[signed.party] = key
        return found

    def _release(self, asked: Asked, request: wire.Release) -> wire.ReplyBody:
        asked.prepared = list(request.prepared) or asked.prepared
        asked.shares = list(request.shares) or asked.shares
        transcript = wire.digest_statements(asked.prepared)
        values = np.frombuffer(request.state, "<f8").astype(np.float64)
        state = state_digest(values)
        reply = wire.MaskedReply()
        for index in request.indexes:
            length = asked.read.plan[index].length
            noise = np.frombuffer(self._bytes(f"noise {index}") * (length // 16 + 1), "<i2")[
                :length
            ]
            keys = {
                s.party: wire.parse(wire.Prepared, s.body).mask_keys[index] for s in asked.prepared
            }
            vector = rounds.masked(
                np.zeros(length, np.int64), noise.astype(np.int64), roster=self._roster, me=self.name,
                keys=self._keys(asked, index), mask_keys=keys, transcript=transcript, release=index,
                state=state,
            )  # fmt: skip
            data = encoding.ring_bytes(vector)
            said = wire.MaskedDigest(
                contract=self._digest, job=asked.id, index=index, transcript=transcript, state=state,
                vector=hashlib.sha256(data).digest(),
            )  # fmt: skip
            asked.answered[index] = transcript, state
            digest = wire.state(self.key, self.name, said)
            reply.vectors.append(wire.MaskedVector(index=index, vector=data, digest=digest))
        return wire.ReplyBody(masked=reply)

    def _unmask(self, asked: Asked, request: wire.Unmask) -> wire.ReplyBody:
        transcript, state = asked.answered[request.index]
        present = [p for p in self._roster.parties if p in {s.party for s in request.masked}]
        if len(present) < len(self._roster.parties) and not request.locks:
            lock = wire.Lock(
                contract=self._digest, job=asked.id, index=request.index, transcript=transcript,
                state=state, present=present,
            )  # fmt: skip
            return wire.ReplyBody(
                unmask=wire.UnmaskReply(lock=wire.state(self.key, self.name, lock))
            )
        reply, sealing = wire.UnmaskReply(), self._sealing(asked)
        for share in asked.shares:
            ours = share.index == request.index and share.receiver == self.name
            if not ours or share.sender not in sealing:
                continue
            try:
                plain = masks.open_share(
                    self._bytes(f"sealing {asked.id}"), sealing[share.sender],
                    context=rounds.share_context(asked.id, share.index, share.sender, self.name),
                    sealed=share.sealed,
                )  # fmt: skip
            except ProtocolError:  # a share that somebody bent: as a gate does
                continue
            gone = share.sender not in present
            part = plain[:66] if gone else plain[66:]
            reply.opened.append(wire.OpenedShare(party=share.sender, of_mask=gone, share=part))
        return wire.ReplyBody(unmask=reply)

    def _match(self, asked: Asked) -> wire.MatchReply:
        spec = asked.read.job.match
        receives = spec is not None and spec.parties[0] == self.name
        reply = wire.MatchReply(is_receiver=receives, engine=ENGINE)
        for name, wanted in asked.read.figures.items() if receives else ():
            value = min(max(7.0, wanted.low), wanted.high)
            reply.figures.append(wire.Figure(name=name, value=value, deviation=wanted.deviation))
        return reply

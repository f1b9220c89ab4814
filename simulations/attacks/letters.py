"""Messages of an attacker who holds the coordinator's key and every other partner's identity key.

A step says what is sent and how it is bent; here it becomes an envelope with one world's own statements.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.gate import Gate
from privacy.errors import TallystickError
from privacy.noisy_sum import masks, rounds
from privacy.programs.program import Release, plan_digest
from privacy.randomness import stream
from protos import jobs, wire
from protos.matches import MatchJob
from simulations.alliances import Alliance
from simulations.attacks.scripts import Step
from simulations.attacks.tables import TARGET

SHARED = 3
"""Releases of a job whose shares are real; the others' are rubbish of the same length."""


@dataclass
class Known:
    """What the attacker holds of one job. ``hello``, ``prepared``, ``masked``: the bank's statements;
    ``hellos``: what it prepared for, ``sent``: what it was last asked to; ``keys``, ``shares``: what comes
    with a release; ``invited``: whose gates opened the match."""

    spec: bytes
    salt: bytes
    id: str
    job: jobs.Job | None = None
    plan: tuple[Release, ...] = ()
    hello: wire.Signed | None = None
    prepared: wire.PreparedReply | None = None
    masked: dict[int, wire.MaskedVector] = field(default_factory=dict)
    sent: list[wire.Signed] = field(default_factory=list)
    hellos: list[wire.Signed] = field(default_factory=list)
    keys: list[wire.Signed] = field(default_factory=list)
    shares: list[wire.Share] = field(default_factory=list)
    invited: set[str] = field(default_factory=set)

    @property
    def match(self) -> MatchJob | None:
        """Of a match: its table."""
        return self.job.match if self.job else None


class Letters:
    """Writes envelopes to the bank of one world."""

    def __init__(
        self, alliance: Alliance, gates: Mapping[str, Gate], clock: Callable[[], float], seed: bytes
    ) -> None:
        self._contract, self._gates, self._clock, self._seed = (
            alliance.contract, gates, clock, seed,
        )  # fmt: skip
        self._key = alliance.coordinator.identity()
        self._digest = self._contract.digest()
        self._peers = {n: g.identity for n, g in gates.items() if n != TARGET}
        self._jobs: dict[int, Known] = {}
        self._last = b""

    def known(self, slot: int) -> Known:
        """The job of a slot; an empty one if there is none."""
        return self._jobs.get(slot) or Known(b"", b"", "0" * 32)

    def plain(self, to: str, job: str, what: str, **body: Any) -> bytes:
        """An honest envelope."""
        return wire.seal_request(self._key, self._request(to, job, what, **body))

    def _request(self, to: str, job: str, what: str, **body: Any) -> wire.Request:
        return wire.Request(
            contract=self._digest, job=job, partner=to, expires=int(self._clock()) + 900,
            nonce=self._bytes(f"nonce {job} {what}")[:16], **body,
        )  # fmt: skip

    def _bytes(self, what: str) -> bytes:
        return hashlib.sha256(self._seed + what.encode()).digest()

    # ------------------------------------------------------------------ envelopes

    def envelope(self, step: Step) -> bytes:
        """The message of a step."""
        if step.kind == "hello" and step.slot not in self._jobs:
            self._open(step)
        known = self.known(step.slot)
        body: dict[str, Any] = {step.kind: getattr(self, step.kind)(known, step)}
        made = self._sealed(known, step, body)
        self._last = made
        return made

    def _sealed(self, known: Known, step: Step, body: dict[str, Any]) -> bytes:
        if step.seal == "replayed" and self._last:
            return self._last
        job = {"path": "../../keys", "other job": "f" * 32, "digits": "A" * 32}.get(
            step.seal, known.id
        )
        if step.seal == "empty":
            body = {}
        request = self._request(TARGET, job, str(step.number), **body)
        if step.seal == "contract":
            request.contract = bytes(32)
        elif step.seal == "partner":
            request.partner = "shop"
        elif step.seal == "late":
            request.expires = int(self._clock())
        elif step.seal == "early":
            request.expires = int(self._clock()) + 10_000
        elif step.seal == "nonce":
            request.nonce = b"short"
        key = self._peers["shop"] if step.seal == "unsigned" else self._key
        made = bytearray(wire.seal_request(key, request))
        if step.seal == "mutated":
            made[step.number * 7919 % len(made)] ^= 1 << step.number % 8
        elif step.seal == "cut":
            del made[len(made) // 2 :]
        return bytes(made)

    def _open(self, step: Step) -> None:
        salt = self._bytes(f"salt {step.slot}")[:16]
        known = Known(step.spec, salt, jobs.job_id(self._digest, step.spec, salt))
        try:
            known.job = jobs.from_canonical(step.spec)
            if not known.job.match:
                known.plan = tuple(known.job.program(self._contract).plan())
        except TallystickError:
            pass
        self._jobs[step.slot] = known

    def note(self, step: Step, known: Known, body: wire.ReplyBody) -> None:
        """Keep what the bank stated."""
        if body.HasField("hello") and not known.match:
            known.hello = body.hello
        if body.HasField("prepared"):
            known.prepared, known.keys = body.prepared, []
            known.hellos = known.sent or known.hellos
        for vector in body.masked.vectors:
            known.masked[vector.index] = vector

    # ------------------------------------------------------------------ bodies

    def hello(self, known: Known, step: Step | None = None) -> wire.Hello:
        """A job's specification, perhaps with heads."""
        heads, twist = [], step.twist if step else ""
        if twist == "heads":
            heads = [gate.heads.own() for name, gate in self._gates.items() if name != TARGET]
        elif twist == "rubbish":
            heads = [wire.Signed(party="shop", body=b"x", signature=bytes(64))]
        salt = b"short" if twist == "salt" else known.salt
        spec = known.spec + b" " if twist == "spelling" else known.spec
        return wire.Hello(spec=spec, salt=salt, heads=heads)

    def prepare(self, known: Known, step: Step) -> wire.Prepare:
        """Sealing keys of everybody."""
        if not known.hellos or step.twist:
            hellos = [self._peer_hello(name, known, step.twist) for name in self._peers]
            if known.hello:
                hellos.append(known.hello)
            if step.twist == "leave out":
                hellos.pop(0)
            elif step.twist == "twice":
                hellos.append(hellos[0])
            elif step.twist == "stranger":
                hellos[0].party = "nobody"
            known.sent = hellos
            return wire.Prepare(hellos=hellos)
        return wire.Prepare(hellos=known.hellos)

    def _peer_hello(self, name: str, known: Known, twist: str) -> wire.Signed:
        heads = self._gates[name].heads.held()
        if twist == "behind" or twist == "clocks":
            said = wire.parse(wire.JournalHead, heads[-1].body)
            if twist == "clocks":
                said.time += 3 * 86_400
            else:
                said.sequence, said.digest, said.time = 0, bytes(32), said.time + 1
            heads[-1] = wire.state(self._peers[name], name, said)
        key = bytes(32) if twist == "low order" else masks.public_key(self._private(known, name))
        plan = bytes(32) if twist == "plan" else plan_digest(known.plan)
        message = wire.SealingKey(
            contract=self._digest, job=known.id, plan=plan, key=key, heads=heads
        )
        return wire.state(self._peers[name], name, message)

    def _private(self, known: Known, name: str) -> bytes:
        return self._bytes(f"sealing {known.id} {name}")

    def release(self, known: Known, step: Step) -> wire.Release:
        """Some releases under a state."""
        if not known.keys:
            self._prepare_peers(known)
        keys, shares = list(known.keys), list(known.shares)
        if step.twist in ("low order", "other cohort", "few keys"):
            keys[0] = self._peer_keys(next(iter(self._peers)), known, step.twist)
        elif step.twist == "leave out" and keys:
            keys.pop()
        elif step.twist == "no shares":
            shares = []
        elif step.twist == "bare":
            keys, shares = [], []
        return wire.Release(
            indexes=list(step.indexes), state=step.state, prepared=keys, shares=shares
        )

    def _prepare_peers(self, known: Known) -> None:
        known.shares = []
        known.keys = [self._peer_keys(name, known) for name in self._peers]
        if known.prepared:
            known.keys.append(known.prepared.statement)
            known.shares += [s for s in known.prepared.shares if s.receiver == TARGET]

    def _peer_keys(self, name: str, known: Known, twist: str = "") -> wire.Signed:
        private = self._bytes(f"mask {known.id} {name} {twist}")
        public = bytes(32) if twist == "low order" else masks.public_key(private)
        count = max(0, len(known.plan) - (twist == "few keys"))
        own = self._shares(name, private, known)
        if not twist:
            known.shares += own
        roster = self._contract.roster()
        digest = wire.digest_shares(own)
        message = wire.Prepared(
            contract=self._digest, job=known.id, plan=plan_digest(known.plan),
            roster=wire.digest_statements(known.hellos), mask_keys=[public] * count,
            shares=[digest] * len(roster.parties) if roster.dropouts else [],
            head=self._gates[name].heads.own(),
        )  # fmt: skip
        return wire.state(self._peers[name], name, message)

    def _shares(self, name: str, private: bytes, known: Known) -> list[wire.Share]:
        """A peer's sealed shares for the bank, where dropouts are tolerated."""
        roster, made = self._contract.roster(), []
        if not roster.dropouts or known.hello is None:
            return []
        theirs = wire.parse(wire.SealingKey, known.hello.body).key
        sealed = b""
        for index in range(len(known.plan)):
            if index < SHARED:
                sealed = rounds.share_keys(
                    rounds.ReleaseKeys(private, self._bytes(f"seed {known.id} {name}")),
                    roster=roster, me=name, job=known.id, release=index,
                    sealing_key=self._private(known, name),
                    sealing_keys=dict.fromkeys(roster.parties, theirs),
                    randomness=stream(self._bytes(f"split {known.id} {name} {index}")),
                )[TARGET]  # fmt: skip
            made.append(wire.Share(sender=name, receiver=TARGET, index=index, sealed=sealed))
        return made

    def unmask(self, known: Known, step: Step) -> wire.Unmask:
        """Who answered, and perhaps locks."""
        index = step.indexes[0] if step.indexes else 0
        found = known.masked.get(index)
        said = wire.parse(wire.MaskedDigest, found.digest.body) if found else wire.MaskedDigest()
        present = [TARGET, *self._peers]
        if step.twist in ("one left out", "locked"):
            present.pop()
        elif step.twist == "few":
            present = present[:1]
        masked, locks = [found.digest] if found else [], []
        for name in present[1:]:
            said.vector = self._bytes(f"vector {name}")
            masked.append(wire.state(self._peers[name], name, said))
        if step.twist == "locked":
            order = [name for name in self._contract.roster().parties if name in present]
            lock = wire.Lock(
                contract=said.contract, job=said.job, index=said.index,
                transcript=said.transcript, state=said.state, present=order,
            )  # fmt: skip
            locks = [wire.state(self._signer(name), name, lock) for name in present]
        return wire.Unmask(index=index, masked=masked, locks=locks)

    def _signer(self, name: str) -> Ed25519PrivateKey:
        return self._gates[name].identity

    def finish(self, known: Known, step: Step) -> wire.Finish:
        """The end of a job, perhaps with a model and what it was made from."""
        totals = [
            wire.Total(index=i, total=total, answered=len(self._gates))
            for i, total in enumerate(step.totals)
        ]
        heads = []
        if step.twist == "heads":
            outcome = self._bytes("outcome") + hashlib.sha256(step.model).digest()
            heads = [g.heads.own(known.id, outcome) for n, g in self._gates.items() if n != TARGET]
        return wire.Finish(model=step.model, totals=totals, heads=heads)

    def match(self, known: Known, step: Step) -> wire.Match:
        """Go on with a match."""
        return wire.Match()

    def status(self, known: Known, step: Step) -> wire.Status:
        """How far is it?"""
        return wire.Status()

    def cancel(self, known: Known, step: Step) -> wire.Cancel:
        """Never mind."""
        return wire.Cancel()

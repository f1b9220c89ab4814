"""A hostile coordinator: the alliance's own key, any message in any order, and nothing else."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from client.gate import Delivery, Gate
from privacy.errors import RoundFailed
from protos import jobs, wire
from protos.toml import build
from simulations.alliances import Alliance


def job(**settings: Any) -> jobs.Job:
    """A job as a file of its settings says."""
    return build(jobs.Job, {"purpose": "insight", **settings})


def count(**settings: Any) -> jobs.Job:
    """The smallest query there is."""
    plain = {"name": "ask", "kind": "query", "epsilon": 0.5, "query": {"measures": ["count"]}}
    return job(**{**plain, **settings})


@dataclass
class Opened:
    """A job that every gate has prepared."""

    job: jobs.Job
    id: str
    salt: bytes
    hellos: list[wire.Signed] = field(default_factory=list)
    prepared: list[wire.Signed] = field(default_factory=list)
    shares: list[wire.Share] = field(default_factory=list)


class Hostile:
    """``clock``: what it writes into envelopes."""

    def __init__(
        self,
        alliance: Alliance,
        gates: Mapping[str, Gate],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.alliance, self.gates, self.clock = alliance, gates, clock
        self.contract, self.key = alliance.contract, alliance.coordinator.identity()
        self.digest = self.contract.digest()

    def request(self, to: str, job_id: str, **body: Any) -> wire.Request:
        return wire.Request(
            contract=self.digest, job=job_id, partner=to, expires=int(self.clock()) + 900,
            nonce=os.urandom(16), **body,
        )  # fmt: skip

    def envelope(self, to: str, job_id: str, **body: Any) -> bytes:
        return wire.seal_request(self.key, self.request(to, job_id, **body))

    def raw(self, to: str, envelope: bytes) -> wire.Reply:
        return wire.parse(wire.Reply, self.gates[to].handle(envelope, Delivery()))

    def send(self, to: str, job_id: str, **body: Any) -> wire.ReplyBody:
        return wire.parse(wire.ReplyBody, self.raw(to, self.envelope(to, job_id, **body)).body)

    def code(self, to: str, job_id: str, **body: Any) -> str:
        """The refusal's code, or the kind of answer."""
        reply = self.send(to, job_id, **body)
        return reply.refusal.code if reply.HasField("refusal") else reply.WhichOneof("body") or ""

    def new(self, wanted: jobs.Job) -> Opened:
        salt = os.urandom(16)
        return Opened(wanted, jobs.job_id(self.digest, wanted.canonical(), salt), salt)

    def hello(self, to: str, opened: Opened, heads: Iterable[wire.Signed] = ()) -> wire.ReplyBody:
        spec = opened.job.canonical()
        hello = wire.Hello(spec=spec, salt=opened.salt, heads=list(heads))
        return self.send(to, opened.id, hello=hello)

    def open(self, wanted: jobs.Job) -> Opened:
        """Hello and prepare with every gate."""
        opened = self.new(wanted)
        for name in self.gates:
            reply = self.hello(name, opened)
            _must(reply, "hello")
            opened.hellos.append(reply.hello)
        for name in self.gates:
            reply = self.send(name, opened.id, prepare=wire.Prepare(hellos=opened.hellos))
            _must(reply, "prepared")
            opened.prepared.append(reply.prepared.statement)
            opened.shares.extend(reply.prepared.shares)
        return opened

    def release(
        self, to: str, opened: Opened, indexes: list[int], state: bytes = b""
    ) -> wire.ReplyBody:
        release = wire.Release(indexes=indexes, state=state, prepared=opened.prepared)
        release.shares.extend(s for s in opened.shares if s.receiver == to)
        return self.send(to, opened.id, release=release)

    def spent(self, of: str) -> float:
        return self.gates[of].ledger.standing().epsilon

    def charged(self, of: str) -> int:
        return self.gates[of].ledger.standing().releases


def _must(reply: wire.ReplyBody, kind: str) -> None:
    if not reply.HasField(kind):
        raise RoundFailed(f"no {kind}: {reply.refusal.code or reply.WhichOneof('body')}")

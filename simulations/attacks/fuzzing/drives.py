"""The coordinator's half against one partner whose replies are bent and signed with its own key.

A job runs as it does in production (:func:`server.app.drive`, with the coordinator's database), over a
transport in which all but one of the partners are right (:mod:`simulations.attacks.fuzzing.stubs`). The
pause before somebody is asked again is taken out. A job ends done, or failed with a reason that says what is
wrong and does not blame an honest partner; nothing is raised, and no figure is other than finite.

Not handled: the link below the transport, and who never answers (patience is ten minutes).
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from random import Random

from google.protobuf.message import Message

from privacy.errors import TallystickError, WireError
from protos import jobs, wire
from protos.toml import canonical
from server import rounds
from server.app import drive
from server.home import Home
from server.rounds import Delivered
from server.store import Store
from simulations.attacks.fuzzing.mutate import Mutator, raw
from simulations.attacks.fuzzing.stubs import Read, Stub
from simulations.attacks.fuzzing.target import Came, size_of
from simulations.attacks.fuzzing.watch import unplanned
from simulations.attacks.specs import USUAL, any_job
from simulations.attacks.tables import Base

EVIL = "shop"
LARGEST_RESULT, LONGEST_REASON = 1 << 20, 2000
LATEST_ENTRY = 1 << 62
JOB, SLACK = 200_000, 4 << 20
"""Bytes of disk that a job explains at the coordinator: specification, totals, a model, its result."""
FEW_STEPS = 20
"""Releases of a plan at most: a long one is the same code again."""


class DriveTarget:
    """Jobs of the coordinator of ``base``, one after another, in a store of its own."""

    def __init__(self, base: Base, folder: Path, rng: Random) -> None:
        self.last, self._base, self._folder, self._rng = b"", base, folder, rng
        self._contract, self._number = base.alliance.contract, 0
        self._home = Home(folder / "coordinator")
        shutil.copytree(base.alliance.coordinator.root, self._home.root)
        self._store = Store(self._home.database, time.time)
        self._before = size_of(folder)
        self._pause, rounds.PAUSE = rounds.PAUSE, 0.0
        now = time.time()
        self._of = lru_cache(4)(lambda spec: Read.of(spec, self._contract))
        self._stubs = {
            name: Stub(name, home.identity(), self._contract, now, self._of)
            for name, home in base.alliance.partners.items()
        }
        self._transport = _Transport(self._stubs, self._contract.coordinator_identity(), rng)

    def close(self) -> None:
        rounds.PAUSE = self._pause
        self._store.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def one(self) -> Came:
        self._number += 1
        row = self._submitted()
        self._transport.restart()
        try:
            drive(self._home, self._store, self._transport, row)
        finally:
            self.last = self._transport.said
        ended = self._store.job(row)
        reached = self._transport.bent > 0
        return Came(ended.state, reached, reached, self._wrong(row))

    def _submitted(self) -> str:
        """A job that the contract allows, queued."""
        while True:
            plain, salt = any_job(self._rng, self._contract, [], USUAL), self._rng.randbytes(16)
            spec = canonical(plain)
            try:
                job = jobs.from_canonical(spec)
                job.check(self._contract)
                if len(self._of(spec).plan) > FEW_STEPS:
                    continue
            except TallystickError:
                continue
            job_id = jobs.job_id(self._contract.digest(), spec, salt)
            self._store.add(job_id, job, salt)
            return job_id

    def _wrong(self, job_id: str) -> str:
        ended = self._store.job(job_id)
        if ended.state not in ("done", "failed"):
            return f"the job is left {ended.state}"
        if len(json.dumps(ended.result, allow_nan=False)) > LARGEST_RESULT:
            return "a result of over 1 MiB"
        if ended.state == "failed" and not 0 < len(ended.reason) <= LONGEST_REASON:
            return f"a reason of {len(ended.reason)} characters"
        if unplanned(ended.reason):
            return f"the last net caught it: {ended.reason}"
        blamed = [name for name in self._stubs if name != EVIL and name in ended.reason.split()]
        if blamed and EVIL not in ended.reason:
            return f"blames an honest partner: {ended.reason}"
        for signed in self._store.heads():
            said = wire.read_statement(
                wire.JournalHead, signed, self._contract.identity_of(signed.party)
            )
            if said.sequence > LATEST_ENTRY:
                return "a head that no journal reaches is kept"
        return ""

    def left(self) -> str:
        grown = size_of(self._folder) - self._before
        if grown <= SLACK + JOB * self._number:
            return ""
        return f"{grown} bytes more for {self._number} jobs"


class _Transport:
    """Calls the stubs, and bends what one of them says."""

    def __init__(self, stubs: Mapping[str, Stub], coordinator: bytes, rng: Random) -> None:
        self._stubs, self._coordinator, self._rng = stubs, coordinator, rng
        self._mutator = Mutator(rng, self._sign)
        self._messages = self._asked = self.bent = 0
        self._which: set[int] = set()
        self.said = b""

    def restart(self) -> None:
        """Before a job: which of the evil partner's replies are bent."""
        rng = self._rng
        self._asked = self.bent = 0
        self._which = {rng.choice([0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 3, 4, 5, 7]) for _ in "ab"}

    def _sign(self, party: str, message: Message) -> wire.Signed | None:
        if self._rng.random() < 0.03:  # in another's name, with its own key
            return wire.state(self._stubs[EVIL].key, party, message)
        return wire.state(self._stubs[EVIL].key, EVIL, message) if party == EVIL else None

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        """Replies of all: see :class:`server.rounds.Transport`."""
        found = {}
        for node, (name, envelope) in enumerate(envelopes.items()):
            self._messages += 1
            request = wire.open_request(envelope, self._coordinator)
            body = self._stubs[name].answer(request)
            header = wire.ReplyHeader(
                contract=request.contract, job=request.job, partner=name, run=1,
                message=f"m{self._messages}", node=node,
            )  # fmt: skip
            reply = b""
            if name == EVIL:
                self._asked += 1
                if self._asked - 1 in self._which:
                    self.bent += 1
                    reply = self._bend(body, header)
            key = self._stubs[name].key
            reply = reply or wire.seal_reply(key, header, wire.serialise(body))
            found[name] = Delivered(reply, 1, f"m{self._messages}", node)
        return found

    def _bend(self, body: wire.ReplyBody, header: wire.ReplyHeader) -> bytes:
        rng, chance, key = self._rng, self._rng.random(), self._stubs[EVIL].key
        self._mutator.remember(body)
        kind = body.WhichOneof("body") or ""
        if chance < 0.05:
            data = raw(rng, wire.serialise(body))
        elif chance < 0.07:
            self._mutator.bend(header)
            data = wire.serialise(body)
        else:
            if chance < 0.10:
                body.working.done = rng.choice([0, 1, 2**40, 2**64 - 1])
                body.working.total = rng.choice([0, 1, 2**40, 2**64 - 1])
            elif chance < 0.13:
                body.refusal.code = rng.choice(["policy", "clock", "\x1b[2J", "x" * 70_000, ""])
            elif kind == "masked" and chance < 0.5:
                self._vectors(body.masked)
            else:
                self._mutator.bend(getattr(body, kind) if kind and rng.random() < 0.9 else body)
            data = wire.serialise(body)
        made = wire.seal_reply(key, header, data)
        self.said = raw(rng, made) if chance > 0.98 else made
        return self.said

    def _vectors(self, masked: wire.MaskedReply) -> None:
        """Other vectors under digests that fit them."""
        rng = self._rng
        for vector in masked.vectors:
            if rng.random() < 0.5:
                vector.vector = rng.choice([b"", bytes(8), b"\xff" * 8]) or vector.vector[:-8]
            else:
                vector.vector = self._mutator.data(vector.vector)
            try:
                said = wire.parse(wire.MaskedDigest, vector.digest.body)
            except WireError:
                continue
            said.vector = hashlib.sha256(vector.vector).digest()
            vector.digest.CopyFrom(wire.state(self._stubs[EVIL].key, EVIL, said))

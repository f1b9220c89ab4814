"""A gate alone against the coordinator's key and every other partner's: the differ's script, bent.

Each input is a message of :class:`simulations.attacks.scripts.Script`, bent field by field and signed again,
or bent as bytes, before or after the signature. About every second one is followed by the honest message,
which is not counted: otherwise no job would get far. In matches the peers make everything up
(:mod:`simulations.attacks.fuzzing.peers`).

Not handled: who else is on the machine; what a *true* statement of a colluder leads to (the world is
made anew once its heads are such that nothing is answered any more).
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path
from random import Random

from google.protobuf.message import Message

from client import freezing
from client.gate import Delivery, Gate
from client.home import Home
from privacy.errors import TallystickError, WireError
from protos import identity, jobs, wire
from protos.refusal import Code
from protos.toml import canonical
from simulations.attacks.fuzzing import texts
from simulations.attacks.fuzzing.mutate import Mutator, raw
from simulations.attacks.fuzzing.peers import Once
from simulations.attacks.fuzzing.target import Came, size_of
from simulations.attacks.letters import Letters
from simulations.attacks.scripts import Script, Step
from simulations.attacks.specs import USUAL
from simulations.attacks.tables import ADULTS, TARGET, Base, person, write
from simulations.attacks.worlds import Clock, Draws
from simulations.audiences import EVERYONE

BEFORE_DOORS = frozenset(
    {Code.BAD_SIGNATURE, Code.WRONG_CONTRACT, Code.NOT_ADDRESSED, Code.EXPIRED, Code.REPLAYED}
)
WRONG = frozenset({Code.INTERNAL, Code.FAILED, Code.STORAGE})
"""Codes that no message may lead to: they are for disks, memory and tables that went away."""
POISONED = frozenset({Code.ROLLED_BACK, Code.CLOCK})
LATER = 1 << 30
"""Added to the number of a step: for the nonce of one more message."""
MOST_POISONED = 4
"""Honest messages in a row that a colluder's own statements have made impossible."""
NEARLY_SPENT = 0.85
PERIOD = 400 * 86_400.0
RENEWED_AFTER = 50
PATIENCE = 20.0
PEOPLE = 70
ENTRY, JOB, MESSAGE, SLACK = 3_000, 40_000, 300, 4 << 20
"""Bytes of disk that an entry of the journal, an open job, and a message (its nonce, a refusal) explain."""
KEPT_FREE = 600_000
"""Bytes an open job may hold: its plan's keys and answers."""


class GateTarget:
    """One gate, opened in a copy of ``base``."""

    def __init__(self, base: Base, folder: Path, rng: Random) -> None:
        self.last, self._base, self._folder, self._rng = b"", base, folder, rng
        self._contract, self._worlds = base.alliance.contract, 0
        self._coordinator = base.alliance.coordinator.identity()
        self._open()

    def _open(self) -> None:
        """A world of its own."""
        self._worlds += 1
        root = self._folder / f"world {self._worlds}"
        shutil.copytree(self._base.root, root)
        rows = Random("rows")
        write(root / f"{TARGET}.csv", [person(n, rows) for n in range(PEOPLE)])
        seed = f"{self._rng.random()}"
        self.clock = Clock(float(int(time.time())))
        homes = {name: Home(root / name) for name in self._base.alliance.partners}
        self._draws = Draws(seed.encode(), TARGET)
        with freezing.owner(homes[TARGET], self._draws, self.clock) as owner:
            for name in (EVERYONE, ADULTS):
                freezing.freeze(owner, name, lambda _: True)
        self._gates: dict[str, Gate] = {}
        streams = Once(seed, self._gates, self._state)
        for name, home in homes.items():
            self._gates[name] = Gate(
                home, randomness=self._draws if name == TARGET else Draws(seed.encode(), name),
                clock=self.clock, patience=PATIENCE, monotonic=self.clock, cpu=lambda: 0.0,
                open_stream=lambda job, peer: streams(TARGET, job, peer),
            )  # fmt: skip
        self.gate = self._gates[TARGET]
        self._mutator = Mutator(self._rng, self._state)
        self._letters = Letters(self._base.alliance, self._gates, self.clock, seed.encode())
        self._script = Script(seed, self._contract, 0, USUAL)
        self._public = self._contract.identity_of(TARGET)
        self._sent = self._poisoned = self._script_slot = 0
        self._before, self._entries = size_of(self.gate.home.state), self._journal()

    def close(self) -> None:
        for gate in self._gates.values():
            gate.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _renew(self) -> None:
        for gate in self._gates.values():
            gate.close()
        shutil.rmtree(self._folder / f"world {self._worlds}", ignore_errors=True)
        self._open()

    def _state(self, party: str, message: Message) -> wire.Signed | None:
        if party == self._contract.coordinator.name:
            return wire.state(self._coordinator, party, message)
        if party == TARGET or party not in self._gates:
            return None
        return wire.state(self._gates[party].identity, party, message)

    # ------------------------------------------------------------------ inputs

    def one(self) -> Came:
        if self._poisoned >= MOST_POISONED:
            self._renew()
        step, rng = self._script.next(), self._rng
        self._draws.restart(step.number)
        self._script_slot = step.slot
        envelope = self._letters.envelope(step)
        data, signed = self._bent(envelope, step)
        if rng.random() < 0.35:  # before: so that it is old, or at another state
            self._honest(envelope, step)
        came = self._give(data, signed)
        if came.word == "hello" and rng.random() < 0.9:
            self._forget(data)
        if came.word == "masked" and self._contract.privacy.dropouts:
            self._unmask(envelope, step)
        if rng.random() < 0.3:
            self._honest(envelope, step)
        self.clock.now += 1.0
        if step.number % RENEWED_AFTER == 0 and self._spent() > NEARLY_SPENT:
            self.clock.now += PERIOD
        return came

    def _bent(self, envelope: bytes, step: Step) -> tuple[bytes, bool]:
        """The message to send, and whether the coordinator's key signed it."""
        rng, chance = self._rng, self._rng.random()
        if step.seal in ("unsigned", "mutated", "cut"):
            return envelope, False
        if chance < 0.05:
            return raw(rng, envelope), False
        try:
            request = wire.open_request(envelope, self._contract.coordinator_identity())
        except TallystickError:
            return envelope, False
        if chance < 0.09:
            body = raw(rng, wire.serialise(request))
            signature = identity.sign(self._coordinator, identity.ENVELOPE, body)
            return wire.serialise(wire.Envelope(request=body, signature=signature)), True
        kind = request.WhichOneof("body")
        if kind and chance < 0.94:
            body_message = getattr(request, kind)
            self._mutator.remember(body_message)
            if kind == "release" and request.release.shares and rng.random() < 0.3:
                self._fit_shares(request.release)
            elif not self._bend_what_is_asked(request):
                self._mutator.bend(body_message)
        else:
            self._mutator.bend(request)
        request.nonce = request.nonce[:8] + rng.randbytes(8) if request.nonce else b""
        return wire.seal_request(self._coordinator, request), True

    def _bend_what_is_asked(self, request: wire.Request) -> bool:
        """A specification or a model, as JSON. The coordinator may ask for any job, so the id fits again."""
        rng, kind = self._rng, request.WhichOneof("body")
        if kind == "hello":
            hello, is_spec = request.hello, rng.random() < 0.7
            if is_spec:
                hello.spec = self._json(hello.spec)
            else:
                self._mutator.bend(hello)
            if rng.random() < 0.95:
                request.job = jobs.job_id(request.contract, hello.spec, hello.salt)
            return True
        if kind == "finish" and request.finish.model and rng.random() < 0.5:
            request.finish.model = self._json(request.finish.model)
            return True
        return False

    def _fit_shares(self, release: wire.Release) -> None:
        """Bent shares that colluders have signed for what they are."""
        rng, own = self._rng, self._contract.roster().parties.index(TARGET)
        colluders = [share for share in release.shares if share.sender != TARGET]
        for share in rng.sample(colluders, min(len(colluders), rng.choice([1, 1, 2]))):
            if rng.random() < 0.4:
                share.sender = rng.choice(["nobody", "shop", ""])
            else:
                self._mutator.bend(share)
        for signed in release.prepared:
            try:
                said = wire.parse(wire.Prepared, signed.body)
            except WireError:
                continue
            given = [s for s in release.shares if (s.sender, s.receiver) == (signed.party, TARGET)]
            if own < len(said.shares):
                said.shares[own] = wire.digest_shares(given)
                signed.CopyFrom(self._state(signed.party, said) or signed)

    def _json(self, data: bytes) -> bytes:
        rng = self._rng
        try:
            return canonical(texts.bent(rng, json.loads(data)))
        except (ValueError, TypeError, RecursionError):  # what JSON cannot hold, or what was none
            return raw(rng, data)

    def _give(self, data: bytes, signed: bool) -> Came:
        self.last, self._sent = data, self._sent + 1
        word, wrong = self._look(self.gate.handle(data, Delivery()), data if signed else b"")
        inside = signed and word not in BEFORE_DOORS and self._addressed(data)
        return Came(word, signed, inside, wrong)

    def _addressed(self, data: bytes) -> bool:
        """Whether the envelope's own fields let it in: the rest is for a door to judge."""
        try:
            request = wire.open_request(data, self._contract.coordinator_identity())
        except TallystickError:
            return False
        return (
            len(request.job) == 32 and len(request.nonce) == 16 and bool(request.WhichOneof("body"))
        )

    def _unmask(self, envelope: bytes, step: Step) -> None:
        """After a bent release that was answered: what was kept of it shows only now."""
        self._honest(envelope, step)
        ask = replace(step, number=step.number + LATER, kind="unmask", twist="", state=b"")
        self._honest(self._letters.envelope(ask), ask)

    def _forget(self, data: bytes) -> None:
        """Cancel a job that the script does not know: there may be few at once."""
        job = wire.open_request(data, self._contract.coordinator_identity()).job
        if job != self._letters.known(self._script_slot).id:
            cancel = self._letters.plain(TARGET, job, f"forget {self._sent}", cancel=wire.Cancel())
            self._look(self.gate.handle(cancel, Delivery()), b"")

    def _honest(self, envelope: bytes, step: Step) -> None:
        """The message as the script has it, so that the job goes on."""
        reply = self.gate.handle(envelope, Delivery())
        self._sent += 1
        word, wrong = self._look(reply, b"")
        if wrong:
            self.last = envelope
            raise AssertionError(f"an honest message: {wrong}")
        self._poisoned = self._poisoned + 1 if word in POISONED else 0
        body = wire.parse(wire.ReplyBody, wire.parse(wire.Reply, reply).body)
        self._letters.note(step, self._letters.known(step.slot), body)
        self._script.note(step, word)

    def _look(self, reply: bytes, data: bytes) -> tuple[str, str]:
        """The code or the kind of a reply, and what is wrong with it: it must be signed by this gate, and
        bound to its contract."""
        try:
            sealed = wire.parse(wire.Reply, reply)
            header = wire.parse(wire.ReplyHeader, sealed.header)
            expected = wire.ReplyHeader(
                contract=self._contract.digest(), job=header.job, partner=TARGET
            )
            body = wire.open_any_reply(reply, self._public, expected).body
        except TallystickError as error:
            return "", f"its reply: {type(error).__name__} {error}"
        kind = body.WhichOneof("body") or ""
        if kind != "refusal":
            return kind, "" if kind else "an empty reply"
        code = body.refusal.code
        return code, f"the gate says {code}" if code in WRONG else ""

    # ------------------------------------------------------------------ what is left

    def _spent(self) -> float:
        standing = self.gate.ledger.standing()
        return max(
            standing.epsilon / standing.epsilon_limit, standing.person / standing.person_limit
        )

    def _journal(self) -> int:
        return self.gate.journal.head()[0]

    def left(self) -> str:
        self.gate.store.checkpoint()
        jobs = self.gate.store.row("SELECT COUNT(*), SUM(state = 'open') FROM jobs") or (0, 0)
        grown = size_of(self.gate.home.state) - self._before
        entries = self._journal() - self._entries
        allowed = (
            SLACK + ENTRY * entries + JOB * int(jobs[0]) + KEPT_FREE * int(jobs[1] or 0)
            + MESSAGE * self._sent
        )  # fmt: skip
        if grown <= allowed:
            return ""
        return f"{grown} bytes more for {entries} entries, {jobs[0]} jobs, {self._sent} messages"

"""One of two worlds: real gates over one version of the bank's table, and whoever speaks to them.

The coordinator's key and the other partners' identity keys are the attacker's here. In noisy sums the other
partners are written by hand with the heads of their real gates; in matches their gates take part.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from client import freezing
from client.context import Parts
from client.gate import Delivery, Gate
from client.home import Home
from client.stream import Stream
from privacy.errors import ConfigError
from privacy.randomness import stream
from protos import wire
from simulations.attacks.letters import Known, Letters
from simulations.attacks.scripts import Step
from simulations.attacks.tables import TARGET, Base, Person, write
from simulations.room import Pipes

PartsOf = Callable[[Home], Parts]
"""Parts of the gate whose folder is given: faulty ones look at its table."""
PATIENCE = 120.0
ALONE = 2.0
"""Seconds that a party of a match waits for one that will not come, before the match is cancelled."""
DAY = 86_400.0


class Clock:
    """What all gates of a world take for the time. Moved by hand."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Draws:
    """Reproducible bytes that start anew with each message, so that what one message took, and it may be
    more in one world than in the other, shifts nothing in the next."""

    def __init__(self, seed: bytes, name: str) -> None:
        self._seed, self._name, self._lock = seed, name.encode(), threading.Lock()
        self.restart(0)

    def restart(self, number: int) -> None:
        """Go to the bytes of message ``number``."""
        key = hashlib.sha256(self._seed + number.to_bytes(8, "big") + self._name).digest()
        with self._lock:
            self._source = stream(key)

    def __call__(self, size: int) -> bytes:
        with self._lock:
            return self._source(size)


Frames = dict[tuple[str, str], list[tuple[str, int]]]
"""By sender and receiver: each frame's kind, where it can be seen, and length."""


class Tap:
    """Pipes whose frames are written down."""

    def __init__(self) -> None:
        self._pipes, self.frames = Pipes(), Frames()

    def open(self, me: str, job: str, peer: str) -> Stream:
        """An end that is listened to."""
        log = self.frames.setdefault((me, peer), [])
        return _Tapped(self._pipes.open(me, job, peer), log)


class _Tapped:
    def __init__(self, inner: Stream, log: list[tuple[str, int]]) -> None:
        self._inner, self._log, self._kind = inner, log, "handshake"

    def send(self, frame: bytes) -> None:
        self._log.append((self._kind, len(frame)))
        self._kind = "sealed"
        self._inner.send(frame)

    def receive(self) -> bytes:
        return self._inner.receive()

    def close(self) -> None:
        self._inner.close()

    def abort(self) -> None:
        self._inner.abort()

    def lost(self) -> bool:
        return self._inner.lost()


@dataclass(frozen=True)
class Answer:
    """What was seen of one reply. ``word``: its code or its kind; ``shape``: names and lengths of what
    is in it; ``length``: of the whole, doubles that are exactly 0 counted."""

    word: str
    length: int
    shape: tuple[Any, ...]

    @property
    def answered(self) -> bool:
        """Whether it is no refusal."""
        return self.shape != ("refusal",)


@dataclass
class Seen:
    """What one message led to: replies by partner, frames, seconds until the bank's reply."""

    replies: dict[str, Answer] = field(default_factory=dict)
    frames: Frames = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def bank(self) -> Answer:
        """The attacked gate's reply."""
        return self.replies[TARGET]


_PIN = re.compile(' [0-9a-f]{16}(?=")')
"""What a charge is for: a digest over statements, which are other bytes in each world."""
Entry = tuple[str, str, int, str, str]
"""An entry of the journal: kind, job, size, recipient, and its body if that is public."""


class World:
    """Gates of ``base`` in a copy of its folder, with ``rows`` as the bank's table. ``audiences``: those
    that the bank freezes first; ConfigError for one that it cannot."""

    def __init__(
        self, base: Base, folder: Path, rows: list[Person], seed: bytes, clock: Clock,
        parts: PartsOf | None, audiences: Sequence[str],
    ) -> None:  # fmt: skip
        shutil.copytree(base.root, folder)
        write(folder / f"{TARGET}.csv", rows)
        self.folder, self.clock, self._tap = folder, clock, Tap()
        homes = {name: Home(folder / name) for name in base.alliance.partners}
        self._draws = {name: Draws(seed, name) for name in homes}
        with freezing.owner(homes[TARGET], self._draws[TARGET], clock) as owner:
            for name in audiences:
                freezing.freeze(owner, name, lambda _: True)
        self.gates: dict[str, Gate] = {}
        for name, home in homes.items():
            self.gates[name] = Gate(
                home,
                randomness=self._draws[name],
                clock=clock,
                open_stream=partial(self._tap.open, name),
                patience=PATIENCE,
                parts=parts(home) if parts and name == TARGET else None,
                monotonic=clock,
                cpu=lambda: 0.0,  # so that no limit depends on how busy this machine is
            )
        self.letters = Letters(base.alliance, self.gates, clock, seed)
        self._pool = ThreadPoolExecutor(len(self.gates), thread_name_prefix="world")
        self._read = 0

    def close(self) -> None:
        """Close the gates and remove the folder."""
        self._pool.shutdown()
        for gate in self.gates.values():
            gate.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    # ------------------------------------------------------------------ sending

    def send(self, step: Step) -> Seen:
        """Write the message of a step with this world's statements, send it, look at what comes."""
        for draws in self._draws.values():
            draws.restart(step.number)
        known = self.letters.known(step.slot)
        together = step.kind == "match" and not step.seal and self._waits(known)
        if together and not self._invited(known):
            step, together = replace(step, kind="status"), False  # it would wait for ten minutes
        seen, envelope = Seen(), self.letters.envelope(step)
        known = self.letters.known(step.slot)
        if together:
            self._match(step, known, envelope, seen)
        else:
            started = time.perf_counter()
            reply = self.gates[TARGET].handle(envelope, Delivery())
            seen.seconds = time.perf_counter() - started
            seen.replies[TARGET] = self._look(TARGET, reply, step, known)
        return seen

    def _waits(self, known: Known) -> bool:
        """Whether the bank would wait for the others of a match."""
        found = self.gates[TARGET].store.row("SELECT state FROM jobs WHERE id = ?", known.id)
        return found is not None and found[0] == "open" and known.match is not None

    def _invited(self, known: Known) -> bool:
        """Whether all others agree to come."""
        parties = known.match.parties if known.match else ()
        for name in parties:
            if name != TARGET and name not in known.invited:
                body = self.letters.hello(known)
                body.heads.extend(g.heads.own() for n, g in self.gates.items() if n != name)
                reply = self.gates[name].handle(
                    self.letters.plain(name, known.id, f"invite {name}", hello=body), Delivery()
                )
                if _body(reply).HasField("hello"):
                    known.invited.add(name)
        return set(parties) <= {TARGET, *known.invited}

    def _match(self, step: Step, known: Known, envelope: bytes, seen: Seen) -> None:
        names = known.match.parties if known.match else ()
        self._tap.frames = seen.frames
        letters = {name: self.letters.plain(name, known.id, f"{step.number}", match=wire.Match())
                   for name in names}  # fmt: skip
        letters[TARGET] = envelope
        running: dict[str, Future[bytes]] = {}
        started = time.perf_counter()
        for name in names:
            running[name] = self._pool.submit(self.gates[name].handle, letters[name], Delivery())
        while True:
            done, left = wait(running.values(), timeout=ALONE if seen.replies else PATIENCE / 8)
            for name, future in running.items():
                if future in done and name not in seen.replies:
                    seen.replies[name] = self._look(name, future.result(), step, known)
            if not left:
                break
            for name in names:  # nobody else comes: the coordinator gives up
                if running[name] in left:
                    stop = self.letters.plain(
                        name, known.id, f"{step.number} stop", cancel=wire.Cancel()
                    )
                    self.gates[name].handle(stop, Delivery())
        seen.seconds = time.perf_counter() - started

    def _look(self, name: str, reply: bytes, step: Step, known: Known) -> Answer:
        body = _body(reply)
        if name == TARGET:
            self.letters.note(step, known, body)
        kind = body.WhichOneof("body") or "empty"
        zeros = sum(9 * ((f.value == 0.0) + (f.deviation == 0.0)) for f in body.match.figures)
        return Answer(
            body.refusal.code if kind == "refusal" else kind, len(reply) + zeros, _shape(body)
        )

    # ------------------------------------------------------------------ what is left behind

    def entries(self) -> list[Entry]:
        """The bank's journal since it was last asked for."""
        rows = self.gates[TARGET].store.rows(
            "SELECT sequence, kind, job, size, recipient, body FROM journal WHERE sequence > ?"
            " ORDER BY sequence",
            self._read,
        )
        if rows:
            self._read = int(rows[-1][0])
        return [
            (
                kind,
                job,
                size,
                recipient,
                _PIN.sub(" #", bytes(body).decode()) if kind == "charge" else "",
            )
            for _, kind, job, size, recipient, body in rows
        ]

    def files(self) -> Counter[tuple[str, int]]:
        """Folder and length of every file under the bank's ``state`` after a checkpoint. Of files that are
        the owner's alone, results and frozen audiences, only that they are there."""
        self.gates[TARGET].store.checkpoint()
        state, found = self.gates[TARGET].home.state, Counter[tuple[str, int]]()
        for path in state.rglob("*"):
            if path.is_file():
                top = path.relative_to(state).parts[0]
                own = top in ("audiences", "frozen", "caches", "matches")
                found[top, -1 if own else path.stat().st_size] += 1
        return found

    def later(self, days: float) -> None:
        """Let all clocks go on."""
        self.clock.now += days * DAY

    def spent(self) -> float:
        """Share of the contract's epsilon that is used up at the bank."""
        standing = self.gates[TARGET].ledger.standing()
        return max(
            standing.epsilon / standing.epsilon_limit, standing.person / standing.person_limit
        )


def frozen_in_both(
    base: Base, folder: Path, tables: Sequence[list[Person]], seed: bytes, now: float,
    parts: PartsOf | None, audiences: Sequence[str],
) -> tuple[World, World]:  # fmt: skip
    """Two worlds. An audience that one of them cannot freeze is frozen in neither: that is its owner's own
    act, and who asks sees whether it was done."""
    made: list[World] = []
    for number, rows in enumerate(tables):
        try:
            world = World(base, folder / str(number), rows, seed, Clock(now), parts, audiences)
        except ConfigError:
            for world in made:
                world.close()
            shutil.rmtree(folder, ignore_errors=True)
            return frozen_in_both(base, folder, tables, seed, now, parts, audiences[:-1])
        made.append(world)
    return made[0], made[1]


def _body(reply: bytes) -> wire.ReplyBody:
    return wire.parse(wire.ReplyBody, wire.parse(wire.Reply, reply).body)


def _shape(body: wire.ReplyBody) -> tuple[Any, ...]:
    kind = body.WhichOneof("body")
    if kind == "masked":
        return tuple((v.index, len(v.vector)) for v in body.masked.vectors)
    if kind == "match":
        return (body.match.is_receiver, body.match.engine, *(f.name for f in body.match.figures))
    if kind == "unmask":
        return tuple((s.party, s.of_mask, len(s.share)) for s in body.unmask.opened)
    return (str(kind),)

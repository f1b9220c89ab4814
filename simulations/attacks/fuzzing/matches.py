"""Matches between real gates, through a relay that holds everybody's identity keys and bends frames.

Each gate has a valid handshake and valid seals with whom it takes for its peer; behind them the frames are
the honest peer's, but for a few: other bytes, points, kinds, numbers, sizes, said twice or not at all. So a
bent frame reaches the protocol at any depth. All parties are under attack at once.

Not handled: a peer that waits (the relay ends what stands still), and what an honest transcript gives away.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from google.protobuf.message import Message

from client import freezing
from client.gate import Delivery, Gate
from client.home import Home
from client.journal import Charge
from client.stream import StreamLost
from client.tasks.match import MatchTask
from privacy.errors import ProtocolError, Refused, TallystickError
from protos import jobs, wire
from protos.addresses import JobId
from protos.toml import canonical
from simulations.attacks.fuzzing.gates import NEARLY_SPENT, PERIOD, WRONG
from simulations.attacks.fuzzing.mutate import Mutator
from simulations.attacks.fuzzing.peers import End
from simulations.attacks.fuzzing.relay import Bends, Pair, Side
from simulations.attacks.fuzzing.target import Came, size_of
from simulations.attacks.specs import any_job
from simulations.attacks.tables import TARGET, Base, person, write
from simulations.attacks.worlds import Clock, Draws
from simulations.audiences import EVERYONE, define, freeze_all

HANGS = 60.0
ENTRY, MATCH, SLACK = 3_000, 60_000, 4 << 20
"""Bytes of disk that an entry of the journal and a match (its list, a cache) explain at all parties."""


class MatchTarget:
    """Matches of all kinds in a copy of ``base``, one after another."""

    def __init__(self, base: Base, folder: Path, rng: Random) -> None:
        self.last, self._base, self._rng, self._folder = b"", base, rng, folder
        self._number, self._seed = 0, f"{rng.random()}"
        shutil.copytree(base.root, folder / "world")
        rows = Random("rows")
        write(folder / "world" / f"{TARGET}.csv", [person(n, rows) for n in range(60)])
        self.clock = Clock(float(int(time.time())))
        self.gates: dict[str, Gate] = {}
        for name in base.alliance.partners:
            home = Home(folder / "world" / name)
            define(home, EVERYONE, uses=1000, valid_days=3660)
            text = home.config_file.read_text(encoding="utf-8")
            limit = "[limits]\nexact_disclosures = 1000000\n"
            home.config_file.write_text(text.replace("[limits]\n", limit), encoding="utf-8")
            draws = Draws(self._seed.encode(), name)
            if name == TARGET:
                freeze_all(home, draws)
            else:
                with freezing.owner(home, draws, self.clock) as owner:
                    freezing.freeze(owner, EVERYONE, lambda _: True)
            self.gates[name] = Gate(
                home, randomness=draws, clock=self.clock, monotonic=self.clock, cpu=lambda: 0.0,
                open_stream=lambda job, peer: self._nobody(),
            )  # fmt: skip
        self._key = base.alliance.coordinator.identity()
        self._pool = ThreadPoolExecutor(len(self.gates), thread_name_prefix="fuzz")
        self._before, self._entries = self._size(), self._journal()

    def _nobody(self) -> Side:
        raise StreamLost

    def close(self) -> None:
        self._pool.shutdown()
        for gate in self.gates.values():
            gate.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------------ one match

    def one(self) -> Came:
        self._number += 1
        if self._number % 3 == 0 and self._spent() > NEARLY_SPENT:
            self.clock.now += PERIOD
        self.clock.now += 1.0
        for gate in self.gates.values():
            gate.refusals.flush()
        job, job_id = self._agreed()
        if job is None:
            return Came("refused")
        parties = job.match.parties if job.match else ()
        relay = _Relay(self, parties, f"{self._seed}/{self._number}")
        running: dict[str, Future[str]] = {}
        for name in parties:
            task = MatchTask(
                self.gates[name].context, job_id, job, partial(relay.open, name),
                pause=lambda seconds: None,
            )  # fmt: skip
            running[name] = self._pool.submit(_ended, task)
        late = wait(running.values(), timeout=HANGS).not_done
        relay.cut()
        if late:
            wait(late, timeout=HANGS)
            return Came("hangs", wrong="a match stands still")
        words = {name: future.result() for name, future in running.items()}
        self.last = relay.told()
        for name in running:
            self._ask(name, job_id, cancel=wire.Cancel())
        wrong = "; ".join(f"{name} says {word}" for name, word in words.items() if word in WRONG)
        word = max(words.values(), key=lambda each: (each != "match", each))
        return Came(word, signed=True, reached=relay.is_deep, wrong=wrong)

    def _agreed(self) -> tuple[jobs.Job | None, JobId]:
        """The next match that all its parties take."""
        for attempt in range(20):
            plain = any_job(self._rng, self._base.alliance.contract, [], ("match",))
            spec, salt = canonical(plain), f"{self._number:08} {attempt:07}".encode()
            digest = self._base.alliance.contract.digest()
            job_id = JobId(jobs.job_id(digest, spec, salt))
            try:
                job = jobs.from_canonical(spec)
                job.check(self._base.alliance.contract)
            except TallystickError:
                continue
            parties = job.match.parties if job.match else ()
            hello = wire.Hello(spec=spec, salt=salt)
            if all(self._ask(name, job_id, hello=hello).HasField("hello") for name in parties):
                for name in parties:
                    self._opened(self.gates[name], job_id, job)
                return job, job_id
            for name in parties:
                self._ask(name, job_id, cancel=wire.Cancel())
        return None, JobId("")

    def _opened(self, gate: Gate, job_id: JobId, job: jobs.Job) -> None:
        """As the gate does it before the first handshake."""
        mu2 = job.mu2(gate.contract)
        price = job.match.price(gate.contract, mu2) if job.match and mu2 else []
        charge = Charge("match", sum(p[1] for p in price), sum(p[2] for p in price))
        gate.journal.open(job_id, bytes.fromhex(job_id), charge)

    def _ask(self, name: str, job_id: str, **body: Any) -> wire.ReplyBody:
        request = wire.Request(
            contract=self._base.alliance.contract.digest(), job=job_id, partner=name,
            expires=int(self.clock()) + 900, nonce=self._rng.randbytes(16), **body,
        )  # fmt: skip
        reply = self.gates[name].handle(wire.seal_request(self._key, request), Delivery())
        return wire.parse(wire.ReplyBody, wire.parse(wire.Reply, reply).body)

    def sign(self, party: str, message: Message) -> wire.Signed | None:
        """The relay has every key; whom a frame is for never gets one in its own name."""
        gate = self.gates.get(party)
        return wire.state(gate.identity, party, message) if gate else None

    # ------------------------------------------------------------------ what is left

    def _spent(self) -> float:
        return max(
            max(found.epsilon / found.epsilon_limit, found.person / found.person_limit)
            for found in (gate.ledger.standing() for gate in self.gates.values())
        )

    def _size(self) -> int:
        return sum(size_of(gate.home.state) for gate in self.gates.values())

    def _journal(self) -> int:
        return sum(gate.journal.head()[0] for gate in self.gates.values())

    def left(self) -> str:
        for gate in self.gates.values():
            gate.store.checkpoint()
            waiting = [path for path in gate.home.matches.iterdir() if any(path.iterdir())]
            if waiting:
                return f"{len(waiting)} folders of matches that are over"
        grown, entries = self._size() - self._before, self._journal() - self._entries
        if grown <= SLACK + ENTRY * entries + MATCH * self._number:
            return ""
        return f"{grown} bytes more for {entries} entries and {self._number} matches"


class _Relay:
    """All connections of one match; who comes back finds a handshake that does not fit. One of the parties
    deviates: what it sends is bent, to everybody or to one."""

    def __init__(self, target: MatchTarget, parties: Sequence[str], seed: str) -> None:
        self._target, self._seed = target, seed
        self._evil = Random(f"{seed}/evil").choice(parties)
        self._lock = threading.Lock()
        self._pairs: dict[frozenset[str], Pair] = {}
        self._came: set[tuple[str, str]] = set()
        self._bends: list[Bends] = []
        self._bent_handshake = False

    def open(self, me: str, job: str, peer: str) -> Side:
        """A gate's stream to a peer."""
        with self._lock:
            if (me, peer) in self._came:
                raise ProtocolError("a second handshake that does not fit")
            self._came.add((me, peer))
            both = frozenset((me, peer))
            if both not in self._pairs:
                self._pairs[both] = Pair({name: self._bend(name, both) for name in sorted(both)})
            rng = Random(f"{self._seed}/{me}/{peer}/handshake")
            end = End(self._target.gates[peer], peer, me, job, rng.randbytes(32))
            if rng.random() < 0.04:
                self._bent_handshake = True
                Mutator(rng, self._target.sign).bend(end.said)
            return self._pairs[both].join(me, end)

    def _bend(self, me: str, both: frozenset[str]) -> Bends:
        rng = Random(f"{self._seed}/{sorted(both)}/{me}")
        most = rng.choice([1, 1, 2, 3]) if me == self._evil else 0
        self._bends.append(Bends(rng, self._target.sign, most))
        return self._bends[-1]

    def cut(self) -> None:
        """End what is still open."""
        for pair in self._pairs.values():
            pair.cut()

    @property
    def is_deep(self) -> bool:
        """Whether any bent frame was carried behind good handshakes."""
        return any(bends.bent for bends in self._bends)

    def told(self) -> bytes:
        """For a kept input: the seed that all bends of the match follow from."""
        return self._seed.encode()


def _ended(task: MatchTask) -> str:
    """How a match ended at one party."""
    try:
        task.run()
    except Refused as refused:
        return str(refused.code)
    return "match"

"""A relay between two gates that holds both identity keys: it opens every frame, bends some, and seals them.

Each gate shakes hands with the relay and takes it for its peer. What is bent is behind good handshakes and
seals, so only the protocol can find it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from random import Random

from client.channel import DONE, OPENING, STAGE
from client.stream import StreamLost
from privacy.errors import TallystickError
from protos import wire
from simulations.attacks.fuzzing.mutate import POINTS, Mutator, Signer, raw
from simulations.attacks.fuzzing.peers import KINDS, SIZES, End

STILL = 1.5
"""Seconds without a frame after which a connection ends."""


class Side:
    """The stream of one gate to the relay."""

    def __init__(self, pair: Pair, end: End) -> None:
        self.pair, self.end = pair, end
        self.inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self.shaken = False
        self.waiting: list[bytes] = []
        self.inbox.put(wire.serialise(end.handshake()))

    def send(self, frame: bytes) -> None:
        self.pair.carry(self, frame)

    def receive(self) -> bytes:
        try:
            frame = self.inbox.get(timeout=STILL)
        except queue.Empty:
            self.abort()
            raise StreamLost from None
        if frame is None:
            raise StreamLost
        return frame

    def close(self) -> None:
        self.pair.end(self)

    def abort(self) -> None:
        self.pair.cut()

    def lost(self) -> bool:
        return self.pair.is_cut.is_set()


class Pair:
    """Two sides, and how what goes from one to the other is bent: ``bend`` gives the frames to send on."""

    def __init__(self, bends: Mapping[str, Callable[[wire.MatchFrame], list[bytes]]]) -> None:
        self._bends, self._lock, self.is_cut = bends, threading.Lock(), threading.Event()
        self.sides: dict[str, Side] = {}
        self._early: dict[str, list[bytes]] = {}

    def carry(self, side: Side, frame: bytes) -> None:
        """A frame from a gate: its handshake first, then what goes on to the other."""
        if self.is_cut.is_set():
            raise StreamLost
        with self._lock:
            try:
                if not side.shaken:
                    side.end.heard(frame)
                    side.shaken = True
                    parts, side.waiting = side.waiting, []
                    for part in parts:
                        side.inbox.put(side.end.seal(part))
                    return
                me, peer = side.end.peer, side.end.me
                parts = self._bends[me](side.end.open(frame))
            except TallystickError:  # a bent key gives no secret
                self._cut()
                return
            other = self.sides.get(peer)
            if other is None or not other.shaken:
                early = self._early.setdefault(peer, []) if other is None else other.waiting
                early.extend(parts)
                return
            for part in parts:
                other.inbox.put(other.end.seal(part))

    def join(self, name: str, end: End) -> Side:
        """The side of a gate that comes."""
        with self._lock:
            side = self.sides[name] = Side(self, end)
            side.waiting = self._early.pop(name, [])
            return side

    def end(self, side: Side) -> None:
        """Nothing more comes from this side."""
        with self._lock:
            for other in self.sides.values():
                if other is not side:
                    other.inbox.put(None)

    def cut(self) -> None:
        """Both sides find the connection gone."""
        with self._lock:
            self._cut()

    def _cut(self) -> None:
        self.is_cut.set()
        for side in self.sides.values():
            side.inbox.put(None)


class Bends:
    """Which frames of one direction are bent, and how."""

    def __init__(self, rng: Random, sign: Signer, most: int) -> None:
        self.mutator, self._rng, self._at, self.bent = Mutator(rng, sign), rng, 0, 0
        self._which = {rng.choice([0, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 7]) for _ in range(most)}
        self._seen: list[wire.MatchFrame] = []

    def __call__(self, frame: wire.MatchFrame) -> list[bytes]:
        """The frames that are sent on in place of one."""
        self._seen.append(frame)
        self._at += 1
        if self._at - 1 not in self._which:
            return [wire.serialise(frame)]
        self.bent += 1
        if frame.kind % STAGE == OPENING and self._rng.random() < 0.8:
            return [wire.serialise(self._opening(frame))]
        return self._any(frame)

    def _opening(self, frame: wire.MatchFrame) -> wire.MatchFrame:
        said, rng = wire.parse(wire.MatchOpening, frame.data), self._rng
        if rng.random() < 0.3:
            said.items = rng.choice(SIZES)
        if rng.random() < 0.2:
            kind = rng.choice([*KINDS, 0, 127, 2**32 - 1])
            said.held.append(
                wire.Held(kind=kind, frames=rng.choice([0, 1, 2**40]), chain=bytes(32))
            )
        if rng.random() < 0.6:
            self.mutator.bend(said)
        return wire.MatchFrame(kind=frame.kind, index=frame.index, data=wire.serialise(said))

    def _any(self, frame: wire.MatchFrame) -> list[bytes]:
        rng, made, chance = self._rng, wire.MatchFrame(), self._rng.random()
        made.CopyFrom(frame)
        if chance < 0.25 and len(made.data) >= 32:  # one element of many
            data, at = bytearray(made.data), 32 * rng.randrange(len(made.data) // 32)
            data[at : at + 32] = rng.choice([*POINTS, rng.randbytes(32), data[:32]])
            made.data = bytes(data)
        elif chance < 0.45:
            made.data = self.mutator.data(made.data)
        elif chance < 0.57:
            made.kind = rng.choice(
                [*KINDS, made.kind + STAGE, made.kind + 1, OPENING, DONE, 2**32 - 1]
            )
        elif chance < 0.65:
            made.index = rng.choice([0, made.index + 1, 2**32, 2**64 - 1])
        elif chance < 0.75:
            return [wire.serialise(part) for part in (made, rng.choice([made, *self._seen]))]
        elif chance < 0.77:
            return []
        elif chance < 0.82:
            return [self.mutator.data(wire.serialise(made))]
        elif chance < 0.88:
            return [raw(rng, wire.serialise(made))]
        else:
            self.mutator.bend(made)
        return [wire.serialise(made)]

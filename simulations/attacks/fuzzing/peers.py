"""A deviating partner in a match: a valid handshake and valid seals around whatever it likes to say."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from random import Random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from client.channel import DONE, OPENING, STAGE
from client.gate import Gate
from client.stream import StreamLost
from privacy.errors import ProtocolError, WireError
from privacy.noisy_sum.masks import agree, derive, public_key
from protos import wire
from simulations.attacks.fuzzing.mutate import Mutator, Signer

SIZES = (0, 1, 63, 64, 65, 128, 192, 1024, 1_000_000, 2**31, 2**63, 2**64 - 1)
KINDS = (1, 2, 3, 4, 5, 6)
LAST = 30
"""Frames after which a peer that makes its frames up says goodbye."""


class End:
    """The attacker's end of a sealed stream, in the name of ``me`` to the gate of ``peer``."""

    def __init__(self, gate: Gate, me: str, peer: str, job: str, private: bytes) -> None:
        """``gate``: of ``me``, whose identity key and journal heads are the attacker's."""
        self._gate, self.me, self.peer, self._private = gate, me, peer, private
        self.said = wire.Handshake(
            contract=gate.contract.digest(), job=job, sender=me, receiver=peer,
            key=public_key(private), heads=gate.heads.held(of=[me, peer]),
        )  # fmt: skip
        self._sent = self._got = 0
        self._ciphers: tuple[ChaCha20Poly1305, ChaCha20Poly1305] | None = None

    def handshake(self) -> wire.Signed:
        """What is sent first, as it is said by then."""
        self._mine = wire.state(self._gate.identity, self.me, self.said)
        return self._mine

    def heard(self, frame: bytes) -> None:
        """The other's handshake: keys for both ways, as :mod:`client.stream` makes them."""
        theirs = wire.parse(wire.Signed, frame)
        shake = wire.parse(wire.Handshake, theirs.body)
        secret = agree(self._private, shake.key)
        salt = wire.digest_statements([self._mine, theirs])
        out, into = (
            ChaCha20Poly1305(derive(secret, salt, b"tallystick/v1/match from " + name.encode()))
            for name in (self.me, self.peer)
        )
        self._ciphers = out, into

    def seal(self, plain: bytes) -> bytes:
        """The next frame to send. Raises StreamLost before the keys are known."""
        if self._ciphers is None:
            raise StreamLost
        self._sent += 1
        return self._ciphers[0].encrypt((self._sent - 1).to_bytes(12, "big"), plain, b"")

    def open(self, frame: bytes) -> wire.MatchFrame:
        """A frame that came. Raises StreamLost for one that does not open."""
        if self._ciphers is None:
            raise StreamLost
        self._got += 1
        try:
            plain = self._ciphers[1].decrypt((self._got - 1).to_bytes(12, "big"), frame, b"")
            return wire.parse(wire.MatchFrame, plain)
        except (InvalidTag, WireError):
            raise StreamLost from None


class Inventor:
    """A stream whose other end makes everything up at once, and never waits: for a gate alone."""

    def __init__(self, end: End, mutator: Mutator) -> None:
        self._end, self._mutator, self._rng = end, mutator, mutator.rng
        self._lock = threading.Lock()
        self._heard: list[wire.MatchFrame] = []
        self._next: dict[int, int] = {}
        self._first, self._shaken, self._frames, self._cut = True, False, 0, False
        self.honest = self._rng.random() < 0.8
        """Whether the handshake is."""
        if not self.honest:
            mutator.bend(end.said)

    def send(self, frame: bytes) -> None:
        with self._lock:
            if self._cut:
                raise StreamLost
            try:
                if self._first:
                    self._first = False
                    self._shake = frame
                else:
                    self._heard.append(self._end.open(frame))
            except (ProtocolError, WireError):
                self._cut = True

    def receive(self) -> bytes:
        with self._lock:
            if self._cut:
                raise ProtocolError("the script is over")
            if not self._shaken:
                self._shaken = True
                made = wire.serialise(self._end.handshake())
                try:
                    self._end.heard(self._shake)
                except ProtocolError:
                    self._cut = True
                return made
            self._frames += 1
            frame = self._opening() if self._frames == 1 else self._any()
            data = wire.serialise(frame)
            if self._rng.random() < 0.03:
                data = self._mutator.data(data)
            return self._end.seal(data)

    def _opening(self) -> wire.MatchFrame:
        """The padded size of the other side, and its engines, or something else."""
        rng, said = self._rng, wire.MatchOpening()
        if self._heard:
            said.MergeFromString(self._heard[0].data)
        if not said.commitment or rng.random() < 0.1:
            said.commitment = rng.randbytes(32)
        if rng.random() < 0.3:
            said.items = rng.choice(SIZES)
        if rng.random() < 0.3:
            self._mutator.bend(said)
        if rng.random() < 0.1:
            said.held.append(wire.Held(kind=rng.choice(KINDS), frames=rng.choice([0, 1, 2**40])))
        return wire.MatchFrame(kind=OPENING, data=wire.serialise(said))

    def _any(self) -> wire.MatchFrame:
        """Most often what the gate itself sent, under this kind or another."""
        rng, chance = self._rng, self._rng.random()
        held = [frame for frame in self._heard if frame.kind % STAGE not in (OPENING, DONE)]
        if self._frames > LAST or chance < 0.03:
            return wire.MatchFrame(kind=DONE)
        made = wire.MatchFrame(kind=rng.choice(KINDS), data=rng.randbytes(32 * 64))
        if held and chance < 0.9:
            made.CopyFrom(rng.choice(held))
        if rng.random() < 0.3:
            made.kind = rng.choice(KINDS)
        made.index = self._next.get(made.kind, 0)
        self._next[made.kind] = made.index + 1
        if rng.random() < 0.15:
            self._mutator.bend(made)
        return made

    def close(self) -> None:
        self._cut = True

    def abort(self) -> None:
        self._cut = True

    def lost(self) -> bool:
        return self._cut


class Once:
    """Opens each stream of a job once: who comes back finds a handshake that does not fit, as a gate waits
    ten minutes for a peer that is merely away. ``seed``: of what the peers make up."""

    def __init__(self, seed: str, gates: Mapping[str, Gate], sign: Signer) -> None:
        self._seed, self._gates, self._sign = seed, gates, sign
        self._lock, self._open = threading.Lock(), set[tuple[str, str]]()
        self._count: dict[str, int] = {}

    def __call__(self, me: str, job: str, peer: str) -> Inventor:
        """The stream of ``me`` to ``peer``."""
        with self._lock:
            if (job, peer) in self._open:
                raise ProtocolError("a second handshake that does not fit")
            self._open.add((job, peer))
            number = self._count[peer] = self._count.get(peer, 0) + 1
            rng = Random(f"{self._seed}/{peer}/{number}")  # threads open in whatever order
            end = End(self._gates[peer], peer, me, job, rng.randbytes(32))
            return Inventor(end, Mutator(rng, self._sign))

"""Ask the partners, wait, ask again: one message round after another.

A partner that is silent or restarting is asked again until ``patience`` runs out; what it answered
before it gives again, byte for byte, at no charge. A refusal ends the job with the partner's name
and what to do, also where its header names the partner's own contract or no job: it is signed by the
partner and bound to the message. Any other reply that is not bound to the message it answers does not
count, nor does one that the partner's key did not sign; how many there were is said when patience ends.
An answer of another kind than was asked ends the job, with the partner's name.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import ProtocolError, RoundFailed, WireError
from privacy.randomness import Randomness
from protos import wire
from protos.alliance import Contract
from protos.refusal import ADVICE, Code

PATIENCE = 600.0
"""Seconds to wait for a partner that restarts."""
MESSAGE_LIFE = 900
"""Seconds an envelope is valid."""
PAUSE = 0.2
"""Seconds before a partner that is working or silent is asked again."""


_ANSWERS = {
    "hello": "hello",
    "prepare": "prepared",
    "release": "masked",
    "unmask": "unmask",
    "match": "match",
    "finish": "finish",
    "cancel": "finish",
}
"""The body of an answer, by that of the question."""


@dataclass(frozen=True)
class Delivered:
    """A reply and the binding that its header must show."""

    reply: bytes
    run: int
    message: str
    node: int


class Transport(Protocol):
    """Carries envelopes to gates. Missing partners are left out of the answer, never raised."""

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        """Deliver, and wait up to ``timeout`` seconds for replies."""


@dataclass
class Traffic:
    """What a job cost on the wire. ``forged``: replies that were thrown away; ``unsigned``: those of them,
    by partner, that its key did not sign."""

    rounds: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    forged: int = 0
    unsigned: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


class Rounds:
    """Signed requests of one job to the gates of one contract."""

    def __init__(
        self,
        transport: Transport,
        contract: Contract,
        key: Ed25519PrivateKey,
        job_id: str,
        *,
        randomness: Randomness,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        patience: float = PATIENCE,
    ) -> None:
        self.contract, self.job_id, self.traffic = contract, job_id, Traffic()
        self._transport, self._key = transport, key
        self._random, self._clock, self._sleep = randomness, clock, sleep
        self._patience = patience
        self._digest = contract.digest()

    def ask(
        self,
        bodies: Mapping[str, wire.Request],
        *,
        enough: int | None = None,
        grace: float | None = None,
        working: Callable[[str, wire.Working], None] | None = None,
        patience: float | None = None,
        expect: str | None = None,
    ) -> dict[str, wire.ReplyBody]:
        """One answer from each partner, of the kind that answers its question, or of kind ``expect``.

        ``working`` is told of partners that say they work on it; with ``patience`` such a partner may
        take that long. With ``enough``, after ``grace`` seconds that many will do. Raises RoundFailed
        if a partner refuses, answers with another kind, or patience runs out.
        """
        answers: dict[str, wire.ReplyBody] = {}
        started = heard = self._clock()
        unsigned = self.traffic.unsigned.copy()
        self.traffic.rounds += 1
        while True:
            waiting = [name for name in bodies if name not in answers]
            found, busy = self._once({name: bodies[name] for name in waiting}, grace, expect)
            answers |= found
            if len(answers) == len(bodies):
                break
            now = self._clock()
            if patience is not None and busy and now - started < patience:
                heard = now
            if working is not None:
                for name, state in busy.items():
                    working(name, state)
            passed = now - heard
            if enough is not None and len(answers) >= enough and passed >= (grace or 0.0):
                break
            if passed > self._patience:
                missing = sorted(set(bodies) - set(answers))
                raise RoundFailed(self._silence(missing, self.traffic.unsigned - unsigned))
            self._sleep(PAUSE)
        self.traffic.seconds.append(self._clock() - started)
        return answers

    def _silence(self, missing: Sequence[str], unsigned: Counter[str]) -> str:
        text = f"no answer from {', '.join(missing)} for {self._patience:.0f} s: "
        for name in missing:
            if unsigned[name]:
                text += (
                    f"{unsigned[name]} replies of {name} were not signed with the key that the contract "
                    "names: does it hold the same contract? "
                )
        if not all(unsigned[name] for name in missing):
            text += "is its node running? "
        return text + "The job continues with `tallystick-coordinator resume`"

    def _once(
        self, bodies: Mapping[str, wire.Request], grace: float | None, expect: str | None
    ) -> tuple[dict[str, wire.ReplyBody], dict[str, wire.Working]]:
        """Answers, and who is still working."""
        envelopes = {name: self._seal(name, body) for name, body in bodies.items()}
        self.traffic.bytes_out += sum(map(len, envelopes.values()))
        timeout = min(60.0, self._patience) if grace is None else max(grace, 1.0)
        answers: dict[str, wire.ReplyBody] = {}
        busy: dict[str, wire.Working] = {}
        for name, delivered in self._transport.exchange(envelopes, timeout).items():
            self.traffic.bytes_in += len(delivered.reply)
            opened = self._open(name, delivered)
            if opened is None:
                continue
            body = opened.body
            kind = body.WhichOneof("body")
            wanted = expect or _ANSWERS.get(bodies[name].WhichOneof("body") or "", kind)
            if kind == "working":
                busy[name] = body.working
            elif kind == "refusal":
                raise RoundFailed(self._refused(name, opened))
            elif kind is None or kind != wanted:
                raise RoundFailed(
                    f"{name} answered with {kind or 'nothing'} where {wanted or 'something'} was "
                    "asked for: do both run the same version?"
                )
            else:
                answers[name] = body
        return answers, busy

    def _seal(self, name: str, body: wire.Request) -> bytes:
        request = wire.Request()
        request.CopyFrom(body)
        request.contract, request.job, request.partner = self._digest, self.job_id, name
        request.expires = int(self._clock()) + MESSAGE_LIFE
        request.nonce = self._random(16)
        return wire.seal_request(self._key, request)

    def _refused(self, name: str, opened: wire.Opened) -> str:
        code = opened.body.refusal.code
        if not opened.same_contract:
            return f"{name} holds another contract: run `check` on both ({_advice(code)})"
        text = f"{name} refused: {_advice(code)}"
        if code in (Code.CLOCK, Code.EXPIRED):
            here = datetime.fromtimestamp(self._clock(), UTC)
            text += (
                f". Compare both clocks with UTC of a time server (`timedatectl` says whether one is "
                f"used): this coordinator's says {here:%Y-%m-%d %H:%M:%S} UTC, and a message is "
                f"valid for {MESSAGE_LIFE} s. The contract ends {self.contract.expires:%Y-%m-%d %H:%M} UTC"
            )
        return text

    def _open(self, name: str, delivered: Delivered) -> wire.Opened | None:
        expected = wire.ReplyHeader(
            contract=self._digest,
            job=self.job_id,
            partner=name,
            run=delivered.run,
            message=delivered.message,
            node=delivered.node,
        )
        try:
            return wire.open_any_reply(delivered.reply, self.contract.identity_of(name), expected)
        except wire.NotSignedError:
            self.traffic.unsigned[name] += 1
        except (ProtocolError, WireError):
            pass
        self.traffic.forged += 1
        return None


def _advice(code: str) -> str:
    try:
        return f"{code} ({ADVICE[Code(code)]})"
    except ValueError:
        return "a code this version does not know"

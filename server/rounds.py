"""Ask the partners, wait, ask again: one message round after another.

A partner that is silent or restarting is asked again until ``patience`` runs out; what it answered
before it gives again, byte for byte, at no charge. A refusal ends the job with the partner's name
and what to do, also where its header names the partner's own contract or no job: it is signed by the
partner and bound to the message. Any other reply that is not bound to the message it answers does not
count, nor does one that the partner's key did not sign; how many there were is said when patience ends.
An answer of another kind than was asked, or larger than an honest one can be, ends the job, with the
partner's name: it is measured before it is parsed. So does whatever goes wrong while a partner's reply is
being dealt with (:func:`dealing_with`); an exception's own text, which may quote it, is never shown.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import ProtocolError, RoundFailed, TallystickError, WireError
from privacy.randomness import Randomness
from protos import wire
from protos.alliance import Contract
from protos.logs import places
from protos.refusal import ADVICE, Code
from protos.statements import largest_reply, read_working

PATIENCE = 600.0
"""Seconds to wait for a partner that restarts."""
MESSAGE_LIFE = 900
"""Seconds an envelope is valid."""
FAREWELL = 5.0
"""Seconds to wait when partners are told that a job is over."""
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
_BY_PLAN = ("prepared", "masked")
"""Answers whose size follows from the job's plan: who asks says how large."""


class PartnerFailed(RoundFailed):
    """A job cannot go on because of what one partner sent; ``code``: of its refusal, if it was one."""

    def __init__(self, partner: str, text: str, code: str = "") -> None:
        self.partner, self.code = partner, code
        super().__init__(text)


class LinkLost(Exception):
    """The transport itself failed: nothing that a job or a partner did, and nothing that ends the job."""


@contextmanager
def dealing_with(name: str) -> Iterator[None]:
    """Whatever goes wrong with what ``name`` sent is a failure of the job with that name: a kind and a place
    in the code, never the text of an exception."""
    try:
        yield
    except (RoundFailed, LinkLost):
        raise
    except TallystickError as error:
        raise PartnerFailed(name, f"{name} sent what cannot be used: {error}") from None
    except Exception as error:
        raise PartnerFailed(
            name, f"a reply of {name} could not be dealt with: {places(error)}"
        ) from error


@dataclass(frozen=True)
class Delivered:
    """A reply and the binding that its header must show."""

    reply: bytes
    run: int
    message: str
    node: int


class Transport(Protocol):
    """Carries envelopes to gates. Missing partners are left out of the answer, never raised. Raises LinkLost
    where it cannot carry anything, PartnerFailed for what a partner made of its own message."""

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
        working: Callable[[Mapping[str, tuple[int, int]], Sequence[str]], None] | None = None,
        patience: float | None = None,
        expect: str | None = None,
        largest: int | None = None,
        spoilt: dict[str, PartnerFailed] | None = None,
    ) -> dict[str, wire.ReplyBody]:
        """One answer from each partner, of the kind that answers its question, or of kind ``expect``.

        ``working`` is told which partners say that they work on it, how far they are and of how much, and
        all who have not answered; with ``patience`` such a partner may take that long. With ``enough``, after
        ``grace`` seconds that many will do. ``largest``: bytes of an answer whose size follows from the plan.
        Raises PartnerFailed if a partner refuses, answers with another kind or too much, or puts that under
        its name into ``spoilt`` and goes on without it; RoundFailed when patience runs out.
        """
        answers: dict[str, wire.ReplyBody] = {}
        started = self._clock()
        heard = dict.fromkeys(bodies, started)
        unsigned = self.traffic.unsigned.copy()
        self.traffic.rounds += 1
        while True:
            waiting = [n for n in bodies if n not in answers and n not in (spoilt or ())]
            found, busy = self._once(
                {name: bodies[name] for name in waiting}, grace, expect, largest, spoilt
            )
            answers |= found
            waiting = [n for n in bodies if n not in answers and n not in (spoilt or ())]
            if not waiting:
                break
            now = self._clock()
            if patience is not None and now - started < patience:
                heard |= dict.fromkeys(busy, now)
            if working is not None:
                working(busy, waiting)
            if enough is not None and len(answers) >= enough and now - started >= (grace or 0.0):
                break
            silent = sorted(
                name for name in waiting if now - heard[name] > self._patience
            )  # fmt: skip
            if silent:  # who is heard of does not keep the others' silence going
                raise RoundFailed(self._silence(silent, busy, self.traffic.unsigned - unsigned))
            self._sleep(PAUSE)
        self.traffic.seconds.append(self._clock() - started)
        return answers

    def tell(self, names: Iterable[str], body: wire.Request, patience: float = FAREWELL) -> None:
        """Say something once, to whoever hears it; what they answer is nothing. Raises LinkLost."""
        with suppress(PartnerFailed):
            self._transport.exchange({name: self._seal(name, body) for name in names}, patience)

    def now(self) -> float:
        """This coordinator's clock, in seconds since the epoch."""
        return self._clock()

    def _silence(
        self, missing: Sequence[str], busy: Mapping[str, object], unsigned: Counter[str]
    ) -> str:
        text = f"no answer from {', '.join(missing)} for {self._patience:.0f} s: "
        slow = [name for name in missing if name in busy]
        if slow:
            text += f"{', '.join(slow)} only said to be still working. "
        for name in missing:
            if unsigned[name]:
                text += (
                    f"{unsigned[name]} replies of {name} were not signed with the key that the contract "
                    "names: does it hold the same contract? "
                )
        if not all(unsigned[name] or name in busy for name in missing):
            text += "is its node running? "
        return text + "The job continues with `tallystick-coordinator resume`"

    def _once(
        self, bodies: Mapping[str, wire.Request], grace: float | None, expect: str | None,
        largest: int | None, spoilt: dict[str, PartnerFailed] | None,
    ) -> tuple[dict[str, wire.ReplyBody], dict[str, tuple[int, int]]]:  # fmt: skip
        """Answers, and who is still working: how far, of how much."""
        envelopes = {name: self._seal(name, body) for name, body in bodies.items()}
        self.traffic.bytes_out += sum(map(len, envelopes.values()))
        timeout = min(60.0, self._patience) if grace is None else max(grace, 1.0)
        answers: dict[str, wire.ReplyBody] = {}
        busy: dict[str, tuple[int, int]] = {}
        for name, delivered in self._transport.exchange(envelopes, timeout).items():
            if name not in bodies:  # nobody asked
                self.traffic.forged += 1
                continue
            wanted = expect or _ANSWERS.get(bodies[name].WhichOneof("body") or "")
            try:
                with dealing_with(name):
                    body = self._answer(name, delivered, wanted, largest)
                    if body is not None and body.HasField("working"):
                        busy[name] = read_working(body.working)
                    elif body is not None:
                        answers[name] = body
            except PartnerFailed as failed:
                if spoilt is None:
                    raise
                spoilt[name] = failed
        return answers, busy

    def _answer(
        self, name: str, delivered: Delivered, wanted: str | None, largest: int | None
    ) -> wire.ReplyBody | None:
        """What a reply says, None where it does not count. Raises PartnerFailed, WireError."""
        self.traffic.bytes_in += len(delivered.reply)
        most = largest if largest is not None else self._largest(wanted)
        if len(delivered.reply) > most:
            raise PartnerFailed(
                name,
                f"{name} answered with {len(delivered.reply)} bytes where at most {most} were expected",
            )
        opened = self._open(name, delivered)
        if opened is None:
            return None
        kind = opened.body.WhichOneof("body")
        if kind == "refusal":
            raise PartnerFailed(name, self._refused(name, opened), _known(opened.body.refusal.code))
        if kind is None or (kind != "working" and wanted is not None and kind != wanted):
            raise PartnerFailed(
                name,
                f"{name} answered with {kind or 'nothing'} where {wanted or 'something'} was "
                "asked for: do both run the same version?",
            )
        return opened.body

    def _largest(self, kind: str | None) -> int:
        if kind is None or kind in _BY_PLAN:
            return wire.LARGEST_MESSAGE
        return largest_reply(kind, len(self.contract.parties))

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
        except wire.BadBodyError:
            raise PartnerFailed(name, f"{name} answered with what does not parse") from None
        except wire.NotSignedError:
            self.traffic.unsigned[name] += 1
        except (ProtocolError, WireError):
            pass
        self.traffic.forged += 1
        return None


def _advice(code: str) -> str:
    known = _known(code)
    return f"{known} ({ADVICE[Code(known)]})" if known else "a code this version does not know"


def _known(code: str) -> str:
    """A refusal's code, empty where it is none of ours: it is not repeated then."""
    try:
        return str(Code(code))
    except ValueError:
        return ""

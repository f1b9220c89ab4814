"""The call log's signed heads, and the partners as their witnesses.

A chain shows an edit in its middle; who holds the disk cuts its end, or computes all of it again with other
addresses. So before each job the coordinator signs how many lines the log has and what the last one is
(``CallLogHead``), and every ``hello`` carries that to all partners. A gate keeps the highest one in its
database, enters it in its own signed journal, and states in its answer the one that it held before
(:mod:`client.callhead`). What comes back is the coordinator's own signature, so no partner can invent one:

    that line, counted from the start of     nothing was lost up to there
    a chain that fits, has that digest
    anything else                            the log was cut, rewritten or restored: said in the job's figures
                                             and by ``doctor``, with the line and who holds the proof

``state/calls.heads.json`` keeps the last head that was signed and the last that each partner gave back. One
that does not fit stays, whatever fits after it. Whoever deletes that file too is found by the next answer to
a ``hello``.

*Not* handled: lines behind the last head that a partner holds; a coordinator that itself signs two logs (its
partners see the numbers go back, and say so).
"""

from __future__ import annotations

import base64
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from privacy.errors import ConfigError, ProtocolError, WireError
from protos import wire
from protos.alliance import Contract
from protos.files import write_private
from server.calls import BrokenLog, Calls
from server.home import Home

log = logging.getLogger("tallystick.calls")

FILE = "calls.heads.json"
OWN = ""
"""Under which name this coordinator's own last head is kept; no party is called so."""
MOST_LINES = 1 << 53
LARGEST_HEAD = 1024
"""Bytes of a signed head of the call log."""
LARGEST_FILE = 1 << 20
LONGEST_NAME = 64


@dataclass(frozen=True)
class Proof:
    """A head that this coordinator signed, and who holds it: a partner, or "" for itself."""

    holder: str
    line: int
    digest: str
    time: int

    def missing(self) -> str:
        """What it means that the log has no such line."""
        who = f"{self.holder} holds" if self.holder else "state/calls.heads.json holds"
        day = datetime.fromtimestamp(min(self.time, 1 << 37), UTC)
        return (
            f"the call log was cut, rewritten or restored: {who} this coordinator's signature of "
            f"{day:%Y-%m-%d %H:%M} UTC over line {self.line} ({self.digest[:16]}), which the log lacks"
        )


class Witnesses:
    """States heads of the call log, takes in what partners held. ``found``: where to say what is wrong."""

    def __init__(
        self,
        home: Home,
        contract: Contract,
        found: list[str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._home, self._contract, self._clock, self._found = home, contract, clock, found
        self._calls = Calls(home.calls)

    def state(self) -> wire.Signed | None:
        """The log's head as it is now, signed; None without a log, or of one that was edited: its lines have
        no numbers."""
        last = None
        try:
            last = self._calls.last()
        except BrokenLog as error:
            self._say(
                f"{error}: no head of it is signed any more; `doctor` says what partners hold"
            )
        except OSError as error:
            self._say(f"the call log cannot be read: {error.strerror}")
            return None
        if last is None or last.line == 0:
            self._note(OWN, None)
            return None
        head = wire.CallLogHead(
            contract=self._contract.digest(),
            lines=last.line,
            digest=bytes.fromhex(last.digest),
            time=int(self._clock()),
        )
        signed = wire.state(self._home.identity(), self._contract.coordinator.name, head)
        self._note(OWN, signed)
        return signed

    def take(self, kind: type[wire.M], statements: Mapping[str, wire.Signed]) -> None:
        """What each partner held before, as its ``hello`` states it; what we never signed is nothing.

        ``kind``: of the statements, SealingKey for sums and JournalHead for matches.
        """
        for party, statement in statements.items():
            try:
                said = wire.read_statement(kind, statement, self._contract.identity_of(party))
                signed: wire.Signed = said.calls  # type: ignore[attr-defined]
                if signed.body:
                    _proof(party, signed, self._contract)
                    self._note(party, signed)
            except (ConfigError, ProtocolError, WireError):
                continue

    def _note(self, holder: str, signed: wire.Signed | None) -> None:
        """Compare what is kept of a holder with the log, then keep what is newer.

        A file that was damaged, or a full disk, is said and ends no job.
        """
        folder = os.open(self._home.state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)  # jobs run beside each other
            if signed is not None:
                self._keep(holder, signed)
            for proof in proofs(self._home, self._contract):
                if proof.holder == holder and not self._calls.has(proof.line, proof.digest):
                    self._say(proof.missing())
        except ConfigError as error:
            self._say(str(error))
        except OSError as error:
            self._say(f"{FILE} cannot be written: {error.strerror}")
        finally:
            os.close(folder)

    def _say(self, text: str) -> None:
        if text not in self._found:
            log.error("%s", text)
            self._found.append(text)

    def _keep(self, holder: str, signed: wire.Signed) -> None:
        """Keep the highest head; one that does not fit the log stays until a higher one does not either."""
        known = {proof.holder: proof for proof in proofs(self._home, self._contract)}.get(holder)
        new = _proof(holder, signed, self._contract)
        if known is not None:
            fits = self._calls.has(new.line, new.digest)
            if self._calls.has(known.line, known.digest):
                if fits and new.line < known.line:
                    return
            elif fits or new.line <= known.line:
                return
        kept = _read(self._home)
        kept[holder] = base64.b64encode(wire.serialise(signed)).decode()
        write_private(self._home.state / FILE, json.dumps(kept, sort_keys=True).encode())


def stated_by(witnesses: Witnesses | None) -> wire.Hello:
    """The part of a ``hello`` that states the log's head; nothing where nobody keeps a log."""
    return wire.Hello(calls=witnesses.state() if witnesses else None)


def proofs(home: Home, contract: Contract) -> list[Proof]:
    """Every head that is kept, this coordinator's own first. Raises ConfigError if the file was damaged."""
    found = []
    for holder, text in sorted(_read(home).items()):
        try:
            if len(holder) > LONGEST_NAME or not holder.isprintable():
                raise ValueError
            signed = wire.parse(wire.Signed, base64.b64decode(text, validate=True), LARGEST_HEAD)
            found.append(_proof(holder, signed, contract))
        except (ValueError, TypeError, ProtocolError, WireError):
            raise ConfigError(
                str(home.state / FILE),
                "holds what this coordinator's key did not sign: it was edited, or the key was replaced; move"
                " it away once you know which",
            ) from None
    return found


def _proof(holder: str, signed: wire.Signed, contract: Contract) -> Proof:
    """A head of the call log under this coordinator's key. Of whichever contract: the log is one."""
    if signed.ByteSize() > LARGEST_HEAD or signed.party != contract.coordinator.name:
        raise WireError("call log head: not this coordinator's")
    said = wire.read_statement(wire.CallLogHead, signed, contract.coordinator_identity())
    if not 0 < said.lines <= MOST_LINES or len(said.digest) != 32:
        raise WireError("call log head: out of bounds")
    return Proof(holder, said.lines, said.digest.hex(), said.time)


def _read(home: Home) -> dict[str, str]:
    try:
        with (home.state / FILE).open("rb") as file:
            plain = json.loads(file.read(LARGEST_FILE))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError):
        plain = None
    if not isinstance(plain, dict) or not all(isinstance(text, str) for text in plain.values()):
        raise ConfigError(str(home.state / FILE), "cannot be read; it was edited or damaged")
    return plain

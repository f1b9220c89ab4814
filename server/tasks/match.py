"""The second door, the coordinator's half: opens the exchange, starts both sides, polls.

It relays a stream it cannot read and learns a noisy size, or that a list was delivered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from privacy.errors import ProtocolError, RoundFailed, WireError
from protos import wire
from protos.jobs import Job
from server.rounds import Rounds

LONGEST = 24 * 3600.0
"""Seconds a match may take while its parties say that they work on it."""


class MatchDrive:
    """One match between the parties that the job names.

    ``progress`` is told a party, the elements it has dealt with, and of how many.
    """

    def __init__(
        self,
        rounds: Rounds,
        job: Job,
        salt: bytes,
        *,
        heads: Iterable[wire.Signed] = (),
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        if job.match is None:
            raise RoundFailed("not a match")
        self.rounds, self.job, self.spec, self.salt = rounds, job, job.match, salt
        self.heads, self._progress = list(heads), progress

    def run(self) -> dict[str, Any]:
        """Figures with their deviations, or who got a list; and the engine. Raises RoundFailed."""
        hello = wire.Hello(spec=self.job.canonical(), salt=self.salt, heads=self.heads)
        self.rounds.ask(dict.fromkeys(self.spec.parties, wire.Request(hello=hello)), expect="hello")
        match = wire.Request(match=wire.Match())
        answers = self.rounds.ask(
            dict.fromkeys(self.spec.parties, match), working=self._note, patience=LONGEST,
            expect="match",
        )  # fmt: skip
        receiver = self.spec.parties[0]
        reply = answers[receiver].match
        if not reply.is_receiver:
            raise RoundFailed(f"{receiver} did not receive; it runs another version")
        if not self.spec.is_noisy:
            return {self.spec.result: list(self.spec.recipients or (receiver,)),
                    "engine": reply.engine}  # fmt: skip
        return self._figures(reply)

    def _note(self, party: str, working: wire.Working) -> None:
        if working.total:
            self._progress(party, working.done, working.total)

    def _figures(self, reply: wire.MatchReply) -> dict[str, Any]:
        """A size below zero is noise; a sum may be below zero."""
        values = {
            figure.name: {
                "value": figure.value if figure.name == "sum" else max(0.0, figure.value),
                "deviation": figure.deviation,
            }
            for figure in reply.figures
        }
        if self.spec.result == "size":
            size = values["size"]
            return {"size": size["value"], "deviation": size["deviation"], "engine": reply.engine}
        return {"figures": values, "engine": reply.engine}

    def finish(self) -> list[wire.Signed]:
        """Let all sides close the job; their signed heads."""
        request = wire.Request(finish=wire.Finish())
        answers = self.rounds.ask(dict.fromkeys(self.spec.parties, request), expect="finish")
        heads = []
        for name, answer in answers.items():
            signed = answer.finish.head
            try:
                wire.read_statement(
                    wire.JournalHead, signed, self.rounds.contract.identity_of(name)
                )
            except (ProtocolError, WireError):
                raise RoundFailed(f"the journal head of {name} is not signed by its key") from None
            heads.append(signed)
        return heads

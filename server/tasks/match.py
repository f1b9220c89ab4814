"""The second door, the coordinator's half: opens the exchange, starts both sides, polls.

It relays a stream it cannot read and learns a noisy size, or that a list was delivered.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from privacy.errors import RoundFailed
from protos import wire
from protos.jobs import Job
from server.rounds import Rounds


class MatchDrive:
    """One match between the two parties that the job names."""

    def __init__(
        self, rounds: Rounds, job: Job, salt: bytes, *, heads: Iterable[wire.Signed] = ()
    ) -> None:
        if job.match is None:
            raise RoundFailed("not a match")
        self.rounds, self.job, self.spec, self.salt = rounds, job, job.match, salt
        self.heads = list(heads)

    def run(self) -> dict[str, Any]:
        """``{"size", "deviation"}`` or ``{"list": receiver}``. Raises RoundFailed."""
        hello = wire.Hello(spec=self.job.canonical(), salt=self.salt, heads=self.heads)
        self.rounds.ask(dict.fromkeys(self.spec.parties, wire.Request(hello=hello)))
        match = wire.Request(match=wire.Match())
        answers = self.rounds.ask(dict.fromkeys(self.spec.parties, match))
        receiver = self.spec.parties[0]
        reply = answers[receiver].match
        if not reply.is_receiver:
            raise RoundFailed(f"{receiver} did not receive; it runs another version")
        if self.spec.result == "list":
            return {"list": receiver}
        return {"size": max(0.0, reply.size), "deviation": reply.deviation}

    def finish(self) -> list[wire.Signed]:
        """Let both sides close the job; their signed heads."""
        request = wire.Request(finish=wire.Finish())
        answers = self.rounds.ask(dict.fromkeys(self.spec.parties, request))
        return [answer.finish.head for answer in answers.values()]

"""The second door, the coordinator's half: opens the exchange, starts both sides, polls.

It relays a stream it cannot read and learns a noisy size, or that a list was delivered. What partners say
is read within its bounds (:mod:`protos.statements`, :mod:`server.tasks.figures`) and nothing of it is
repeated as it came.

A match in which nobody gets on is ended. Any party may be the one that the others wait for, one that has
answered here as well, since nobody else reads what it sends its peers: all are told, with how far they say to
be, and none is named as the one.

Not handled: a party that says it gets on and does not, for a day at most; what the parties' gates still hold
then: `resume` goes on, `cancel` frees them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from privacy.errors import RoundFailed
from protos import statements, wire
from protos.jobs import Job
from protos.refusal import Code
from protos.statements import JournalHead
from server.heads import ending, note
from server.rounds import PartnerFailed, Rounds, dealing_with
from server.tasks.blame import whose
from server.tasks.figures import read_engine, read_figures
from server.witnesses import Witnesses, stated_by

LONGEST = 24 * 3600.0
"""Seconds a match may take while its parties say that they work on it."""
JUDGED = (Code.PROTOCOL, Code.UNAVAILABLE, Code.ROLLED_BACK, Code.CLOCK)
"""Refusals that may be for what a peer sent, or did not send."""
STALLED = 1800.0
"""Seconds without any progress after which it is ended. A gate waits ten minutes for its peer, and reading
and sorting the largest sets, where nothing is counted, takes less than the rest."""


class MatchDrive:
    """One match between the parties that the job names.

    ``progress`` is told a party, the elements it has dealt with, and of how many. ``notes``: what went wrong
    and cost nobody the result; ``charged``: whether a partner may have been charged.
    """

    def __init__(
        self,
        rounds: Rounds,
        job: Job,
        salt: bytes,
        *,
        heads: Iterable[wire.Signed] = (),
        witnesses: Witnesses | None = None,
        progress: Callable[[str, int, int], None] = lambda *_: None,
    ) -> None:
        if job.match is None:
            raise RoundFailed("not a match")
        self.rounds, self.job, self.spec, self.salt = rounds, job, job.match, salt
        self.heads, self._witnesses, self._progress = list(heads), witnesses, progress
        self.notes: list[str] = []
        self.charged = False
        self._advanced: dict[str, tuple[float, tuple[int, int]]] = {}
        self._begun = float("inf")

    def run(self) -> dict[str, Any]:
        """Figures with their deviations, or who got a list; and the engine. Raises RoundFailed."""
        parties = self.spec.parties
        hello = wire.Hello(spec=self.job.canonical(), salt=self.salt, heads=self.heads)
        hello.MergeFrom(stated_by(self._witnesses))
        answers = self.rounds.ask(dict.fromkeys(parties, wire.Request(hello=hello)), expect="hello")
        own = {}
        for name in parties:
            with dealing_with(name):
                own[name] = statements.read_head(self.rounds.contract, name, answers[name].hello)
        if self._witnesses:
            self._witnesses.take(wire.JournalHead, {n: answers[n].hello for n in parties})
        match = wire.Request(match=wire.Match())
        self.charged = True
        try:
            answers = self.rounds.ask(
                dict.fromkeys(parties, match), working=self._note, patience=LONGEST + STALLED,
                expect="match",
            )  # fmt: skip
        except PartnerFailed as refused:
            raise self._whose(refused, own) from None
        receiver = parties[0]
        for name in parties[1:]:
            if answers[name].match.is_receiver or answers[name].match.figures:
                raise PartnerFailed(name, f"{name} says it received; it runs another version")
        reply = answers[receiver].match
        if not reply.is_receiver:
            raise PartnerFailed(receiver, f"{receiver} did not receive; it runs another version")
        with dealing_with(receiver):
            engine = read_engine(reply)
            figures = read_figures(self.job, self.rounds.contract, reply)
        if not self.spec.is_noisy:
            return {self.spec.result: list(self.spec.recipients or (receiver,)), "engine": engine}
        if self.spec.result == "size":
            size = figures["size"]
            return {"size": size["value"], "deviation": size["deviation"], "engine": engine}
        return {"figures": figures, "engine": engine}

    def _whose(self, refused: PartnerFailed, own: Mapping[str, JournalHead]) -> PartnerFailed:
        """A gate refuses for what its peers send it, too, which nobody else reads."""
        contract = self.rounds.contract
        found = whose(refused, own, self.heads, contract, self.rounds.now())
        if found is not refused or refused.code not in JUDGED:
            return found
        others = [name for name in self.spec.parties if name != refused.partner]
        text = f"{refused}; in a match a gate judges what others send it, here {', '.join(others)}"
        return PartnerFailed(refused.partner, text, refused.code)

    def _note(self, busy: Mapping[str, tuple[int, int]], waiting: Sequence[str]) -> None:
        """Raises RoundFailed where nobody got on for long."""
        now = self.rounds.now()
        self._begun = min(self._begun, now)
        for name, at in busy.items():
            if name not in self._advanced or self._advanced[name][1] != at:
                self._advanced[name] = (now, at)
            self._progress(name, *at)
        if busy and all(now - self._advanced[name][0] > STALLED for name in busy):
            raise self._over(f"no progress for {STALLED / 60:.0f} minutes", busy, waiting)
        if busy and now - self._begun > LONGEST:
            raise self._over(f"no end after {LONGEST / 3600:.0f} hours", busy, waiting)

    def _over(
        self, why: str, busy: Mapping[str, tuple[int, int]], waiting: Sequence[str]
    ) -> RoundFailed:
        told = [f"{name} at {done} of {total}" for name, (done, total) in busy.items()]
        told += [f"{name} has not answered" for name in waiting if name not in busy]
        told += [f"{name} has answered here" for name in self.spec.parties if name not in waiting]
        return RoundFailed(
            f"{why}: {', '.join(told)}; each may be waiting for another,"
            " and what they send each other nobody else reads. The job continues with"
            " `tallystick-coordinator resume`"
        )

    def finish(self) -> list[wire.Signed]:
        """Let all sides close the job; their signed heads."""
        request = wire.Request(finish=wire.Finish())
        spoilt: dict[str, PartnerFailed] = {}
        answers = self.rounds.ask(
            dict.fromkeys(self.spec.parties, request), expect="finish", spoilt=spoilt
        )
        heads, notes = ending(self.rounds.contract, self.rounds.job_id, answers)
        self.notes += notes + [note(name, str(failed)) for name, failed in spoilt.items()]
        return [signed for signed, _ in heads.values()]

"""The first door, the coordinator's half: drives a program over noisy sums.

hello, prepare, then for each stage of the plan: release, (unmask where dropouts are tolerated),
absorb, checkpoint. It holds masked vectors and totals, and nothing else of a partner.

Every statement is read here before it is passed on (:mod:`protos.statements`): what one partner makes up
must not become another's refusal. Where a gate refuses all the same because of what somebody else stated,
who stated it is named and not who refused (:mod:`server.tasks.blame`).

Not handled: a masked vector that is false, and shares that are false where no more than T are there. Nobody
can tell whose they are, so nobody is named.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from privacy import accounting
from privacy.errors import ParameterError, ProtocolError, RoundFailed
from privacy.noisy_sum import encoding
from privacy.noisy_sum import rounds as masked_rounds
from privacy.programs.columns import Floats
from privacy.programs.program import Program, plan_digest, state_digest
from protos import statements, wire
from protos.jobs import Job
from protos.statements import JournalHead, MaskedDigest, SealingKey
from server.heads import ending, note
from server.rounds import PartnerFailed, Rounds, dealing_with
from server.tasks.blame import whose
from server.witnesses import Witnesses, stated_by

GRACE = 30.0
"""Seconds to wait for everyone before going on without those the contract lets drop out."""


class Checkpoint(Protocol):
    """Where totals are kept, so that a restarted job goes on."""

    def totals(self) -> Sequence[tuple[int, Floats, float]]:
        """Totals of earlier releases: index, total, deviation."""

    def keep(self, index: int, total: Floats, deviation: float) -> None:
        """Keep one total before going on."""


class Memory:
    """A checkpoint that lasts as long as the process: for the lab."""

    def __init__(self) -> None:
        self._kept: list[tuple[int, Floats, float]] = []

    def totals(self) -> Sequence[tuple[int, Floats, float]]:
        return list(self._kept)

    def keep(self, index: int, total: Floats, deviation: float) -> None:
        self._kept.append((index, total, deviation))


class NoisySumDrive:
    """One job over noisy sums, from hello to result. ``notes``: what went wrong and cost nobody that;
    ``charged``: whether a partner may have been charged."""

    def __init__(
        self,
        rounds: Rounds,
        job: Job,
        salt: bytes,
        checkpoint: Checkpoint,
        *,
        heads: Iterable[wire.Signed] = (),
        witnesses: Witnesses | None = None,
        grace: float = GRACE,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.rounds, self.job, self.salt, self.checkpoint = rounds, job, salt, checkpoint
        self.contract = rounds.contract
        self.roster = self.contract.roster()
        self.program: Program = job.program(self.contract)
        self.plan = tuple(self.program.plan())
        self.heads, self.grace, self.progress = list(heads), grace, progress
        self._witnesses = witnesses
        self.totals: dict[int, tuple[Floats, float]] = {}
        self.notes: list[str] = []
        self.charged = False
        self._asked = statements.Asked(
            self.contract, rounds.job_id, plan_digest(self.plan), len(self.plan)
        )
        self._prepared: dict[str, wire.PreparedReply] = {}
        self._mask_keys: dict[str, tuple[bytes, ...]] = {}
        self._introduced: set[str] = set()

    def run(self) -> dict[str, Any]:
        """The program's result. Raises RoundFailed with what to do."""
        done = set()
        self.charged = bool(self.checkpoint.totals())
        for index, total, deviation in self.checkpoint.totals():
            self.program.absorb(index, total, deviation)
            self.totals[index] = (total, deviation)
            done.add(index)
        self.progress(len(done))
        if len(done) < len(self.plan):
            self._hello_and_prepare()
        for _, stage in groupby(range(len(self.plan)), key=lambda i: self.plan[i].stage):
            indexes = list(stage)
            open_indexes = [i for i in indexes if i not in done]
            if not open_indexes:
                continue
            # The whole stage is asked again after a restart: what was answered is stored.
            for index, (total, deviation) in self._release(indexes).items():
                if index in done:
                    continue
                self.checkpoint.keep(index, total, deviation)
                self.program.absorb(index, total, deviation)
                self.totals[index] = (total, deviation)
                done.add(index)
            self.progress(len(done))
        return self.program.result()

    def finish(self, model: bytes) -> list[wire.Signed]:
        """Deliver the model with the totals that it was made from, let the partners erase the job's keys;
        their signed heads.

        Each checks it and says in its head what it found; shown the heads of the others, it keeps the model.
        A partner that missed a release cannot check it itself. Raises RoundFailed, also if partners name
        different outcomes.
        """
        finish = wire.Finish(model=model)
        if model:
            finish.totals.extend(self.finish_totals())
        heads, notes, names = self._ended(finish, self.roster.parties)
        if model and heads:  # each keeps it once it sees that the others found the same
            finish.heads.extend(signed for signed, _ in heads.values())
            heads, notes, _ = self._ended(finish, names)
            self._check_outcomes({name: said.outcome for name, (_, said) in heads.items()})
        if model and len(heads) < self.roster.threshold:
            notes.append("too few partners could say what they found: they did not keep the model")
        self.notes += notes
        return [signed for signed, _ in heads.values()]

    def _ended(
        self, finish: wire.Finish, names: Sequence[str]
    ) -> tuple[dict[str, tuple[wire.Signed, JournalHead]], list[str], list[str]]:
        """The heads with which partners end the job, notes on those that are no good, and who answered.

        What a partner makes of its goodbye costs nobody the result; that it refuses the model does.
        """
        spoilt: dict[str, PartnerFailed] = {}
        request = wire.Request(finish=finish)
        answers = self._ask_all(dict.fromkeys(names, request), expect="finish", spoilt=spoilt)
        for failed in spoilt.values():
            if finish.model and failed.code:
                raise failed
        self.notes += [note(name, str(failed)) for name, failed in spoilt.items()]
        heads, notes = ending(self.contract, self.rounds.job_id, answers)
        return heads, notes, list(answers)

    def _check_outcomes(self, outcomes: Mapping[str, bytes]) -> None:
        """All were given the same totals and model: who finds something else than most is named."""
        counts = Counter(outcomes.values()).most_common()
        if len(counts) < 2:
            return
        most, number = counts[0]
        others = [name for name, outcome in outcomes.items() if outcome != most]
        if 2 * number <= len(outcomes):
            raise RoundFailed("the partners name different outcomes: one of them was shown another")
        raise PartnerFailed(
            others[0],
            f"the partners name different outcomes: {', '.join(others)} another than the rest",
        )

    def finish_totals(self) -> list[wire.Total]:
        """All totals as partners check them."""
        return [self._total(index) for index in sorted(self.totals)]

    def _total(self, index: int) -> wire.Total:
        """How many vectors are in a total follows from its deviation."""
        total, deviation = self.totals[index]
        release = self.plan[index]
        variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, self.roster.honest)
        units = deviation * encoding.SENSITIVITY / release.clip
        return wire.Total(
            index=index, total=total.astype("<f8").tobytes(), answered=round(units**2 / variance)
        )

    def _hello_and_prepare(self) -> None:
        parties, releases = self.roster.parties, len(self.plan)
        hello = wire.Hello(spec=self.job.canonical(), salt=self.salt, heads=self.heads)
        hello.MergeFrom(stated_by(self._witnesses))
        answers = self.rounds.ask(dict.fromkeys(parties, wire.Request(hello=hello)), expect="hello")
        stated: dict[str, SealingKey] = {}
        for name in parties:
            with dealing_with(name):
                stated[name] = statements.read_sealing_key(self._asked, name, answers[name].hello)
        hellos = [answers[name].hello for name in parties]
        if self._witnesses:
            self._witnesses.take(wire.SealingKey, dict(zip(parties, hellos, strict=True)))
        request = wire.Request(prepare=wire.Prepare(hellos=hellos))
        largest = statements.largest_reply("prepared", len(parties), releases=releases)
        try:
            answers = self.rounds.ask(
                dict.fromkeys(parties, request), expect="prepared", largest=largest
            )
        except PartnerFailed as refused:
            own = {name: said.own for name, said in stated.items()}
            brought = [*self.heads, *(head for said in stated.values() for head in said.heads)]
            raise whose(refused, own, brought, self.contract, self.rounds.now()) from None
        shown = wire.digest_statements(hellos)
        for name in parties:
            with dealing_with(name):
                reply = answers[name].prepared
                said = statements.read_prepared(self._asked, shown, name, reply.statement)
                statements.check_shares(self._asked, name, said, reply.shares)
            self._prepared[name], self._mask_keys[name] = reply, said.mask_keys

    def _release(self, indexes: list[int]) -> dict[int, tuple[Floats, float]]:
        state = self.program.state()
        requests = {name: self._request(name, indexes, state) for name in self.roster.parties}
        largest = statements.largest_reply(
            "masked", len(self.roster.parties), releases=len(indexes),
            words=sum(self.plan[i].length for i in indexes),
        )  # fmt: skip
        self.charged = True
        answers = self._ask_all(requests, expect="masked", largest=largest)
        self._introduced |= set(answers)
        sent: dict[str, dict[int, wire.MaskedVector]] = {}
        for name, answer in answers.items():
            vectors = answer.masked.vectors
            sent[name] = {vector.index: vector for vector in vectors}
            if len(vectors) != len(indexes) or set(sent[name]) != set(indexes):
                raise PartnerFailed(name, f"{name} answered other releases than were asked for")
        return {index: self._open(index, sent, state) for index in indexes}

    def _ask_all(
        self, requests: Mapping[str, wire.Request], *, expect: str, largest: int | None = None,
        spoilt: dict[str, PartnerFailed] | None = None,
    ) -> dict[str, wire.ReplyBody]:  # fmt: skip
        """Everyone; after a grace, without those whom the contract lets drop out."""
        if not self.roster.dropouts:
            return self.rounds.ask(requests, expect=expect, largest=largest, spoilt=spoilt)
        return self.rounds.ask(
            requests, enough=self.roster.threshold, grace=self.grace, expect=expect,
            largest=largest, spoilt=spoilt,
        )  # fmt: skip

    def _request(self, name: str, indexes: list[int], state: Floats) -> wire.Request:
        release = wire.Release(indexes=indexes, state=state.astype("<f8").tobytes())
        if name not in self._introduced:
            for reply in self._prepared.values():
                release.prepared.append(reply.statement)
                release.shares.extend(s for s in reply.shares if s.receiver == name)
        return wire.Request(release=release)

    def _open(
        self, index: int, sent: Mapping[str, Mapping[int, wire.MaskedVector]], state: Floats
    ) -> tuple[Floats, float]:
        """One total in natural units, and the deviation of the noise in it."""
        release = self.plan[index]
        transcript = wire.digest_statements(r.statement for r in self._prepared.values())
        digest = state_digest(state)
        vectors: dict[str, encoding.Ring] = {}
        digests: list[wire.Signed] = []
        for name, given in sent.items():
            vector = given[index]
            with dealing_with(name):
                said = statements.read_masked(self._asked, name, vector.digest)
            wanted = MaskedDigest(index, transcript, digest, hashlib.sha256(vector.vector).digest())
            if said != wanted:
                raise PartnerFailed(name, f"{name} answered for another cohort or state")
            try:
                vectors[name] = encoding.ring_from(vector.vector, release.length)
            except ParameterError:
                raise PartnerFailed(name, f"{name} sent a vector of another length") from None
            digests.append(vector.digest)
        of = MaskedDigest(index, transcript, digest, b"")
        opened = self._unmask(of, digests, set(vectors)) if self.roster.dropouts else None
        try:
            total = masked_rounds.unmask(
                vectors,
                roster=self.roster,
                mask_keys={name: keys[index] for name, keys in self._mask_keys.items()},
                transcript=transcript,
                release=index,
                state=digest,
                opened=opened,
            )
        except ProtocolError:
            raise RoundFailed(
                "a release could not be unmasked: a partner opened false shares, or dealt them, and nobody"
                " can tell who; start the job again"
            ) from None
        variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, self.roster.honest)
        scale = release.clip / encoding.SENSITIVITY
        deviation = float(np.sqrt(len(vectors) * variance)) * scale
        return encoding.from_ring(total, release.clip), deviation

    def _unmask(
        self, of: MaskedDigest, digests: list[wire.Signed], present: set[str]
    ) -> masked_rounds.Opened:
        """Shares of b for those present and of m for those gone (protocol, steps 8 to 10)."""
        ask = wire.Unmask(index=of.index, masked=digests)
        names = [name for name in self.roster.parties if name in present]
        answers = self._ask_present(ask, names)
        if len(present) < len(self.roster.parties):
            locks = []
            for name, answer in answers.items():
                if answer.unmask.HasField("lock"):
                    with dealing_with(name):
                        statements.check_lock(self._asked, name, answer.unmask.lock, of, names)
                    locks.append(answer.unmask.lock)
            again = wire.Unmask(index=of.index, masked=digests, locks=locks)
            answers = self._ask_present(again, names)
        seeds: dict[str, dict[int, bytes]] = {}
        keys: dict[str, dict[int, bytes]] = {}
        for name, answer in answers.items():
            with dealing_with(name):
                statements.check_opened(self.roster.parties, present, answer.unmask.opened)
            holder = self.roster.parties.index(name)
            for opened in answer.unmask.opened:
                table = keys if opened.of_mask else seeds
                table.setdefault(opened.party, {})[holder] = opened.share
        return masked_rounds.Opened(seeds, keys)

    def _ask_present(self, ask: wire.Unmask, names: list[str]) -> dict[str, wire.ReplyBody]:
        return self.rounds.ask(
            dict.fromkeys(names, wire.Request(unmask=ask)),
            enough=self.roster.threshold,
            grace=self.grace,
            expect="unmask",
        )

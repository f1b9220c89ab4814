"""The first door, the coordinator's half: drives a program over noisy sums.

hello, prepare, then for each stage of the plan: release, (unmask where dropouts are tolerated),
absorb, checkpoint. It holds masked vectors and totals, and nothing else of a partner.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import numpy as np

from privacy import accounting
from privacy.errors import ParameterError, ProtocolError, RoundFailed, WireError
from privacy.noisy_sum import encoding
from privacy.noisy_sum import rounds as masked_rounds
from privacy.programs.columns import Floats
from privacy.programs.program import Program, plan_digest, state_digest
from protos import wire
from protos.jobs import Job
from server.rounds import Rounds

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
    """One job over noisy sums, from hello to result."""

    def __init__(
        self,
        rounds: Rounds,
        job: Job,
        salt: bytes,
        checkpoint: Checkpoint,
        *,
        heads: Iterable[wire.Signed] = (),
        grace: float = GRACE,
        progress: Callable[[int], None] = lambda done: None,
    ) -> None:
        self.rounds, self.job, self.salt, self.checkpoint = rounds, job, salt, checkpoint
        self.contract = rounds.contract
        self.roster = self.contract.roster()
        self.program: Program = job.program(self.contract)
        self.plan = tuple(self.program.plan())
        self.heads, self.grace, self.progress = list(heads), grace, progress
        self.totals: dict[int, tuple[Floats, float]] = {}
        self._prepared: dict[str, wire.PreparedReply] = {}
        self._introduced: set[str] = set()

    def run(self) -> dict[str, Any]:
        """The program's result. Raises RoundFailed with what to do."""
        done = set()
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
        answers = self._ask_all(
            dict.fromkeys(self.roster.parties, wire.Request(finish=finish)), expect="finish"
        )
        heads = {name: a.finish.head for name, a in answers.items() if a.finish.HasField("head")}
        if model and heads:  # each keeps it once it sees that the others found the same
            finish.heads.extend(heads.values())
            again = self._ask_all(
                dict.fromkeys(answers, wire.Request(finish=finish)), expect="finish"
            )
            heads = {n: a.finish.head for n, a in again.items() if a.finish.HasField("head")}
        outcomes = {self._read(wire.JournalHead, n, head).outcome for n, head in heads.items()}
        if model and len(outcomes) > 1:
            raise RoundFailed("the partners name different outcomes: one of them was shown another")
        return list(heads.values())

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
        hello = wire.Hello(spec=self.job.canonical(), salt=self.salt, heads=self.heads)
        request = wire.Request(hello=hello)
        answers = self.rounds.ask(dict.fromkeys(self.roster.parties, request), expect="hello")
        hellos = [answers[name].hello for name in self.roster.parties]
        request = wire.Request(prepare=wire.Prepare(hellos=hellos))
        answers = self.rounds.ask(dict.fromkeys(self.roster.parties, request), expect="prepared")
        self._prepared = {name: answers[name].prepared for name in self.roster.parties}
        for name, reply in self._prepared.items():
            statement = self._read(wire.Prepared, name, reply.statement)
            if len(statement.mask_keys) != len(self.plan):
                raise RoundFailed(f"{name} prepared another number of releases")
            if statement.plan != plan_digest(self.plan):
                raise RoundFailed(f"{name} computed another plan: do all run the same version?")

    def _release(self, indexes: list[int]) -> dict[int, tuple[Floats, float]]:
        state = self.program.state()
        requests = {name: self._request(name, indexes, state) for name in self.roster.parties}
        answers = self._ask_all(requests, expect="masked")
        self._introduced |= set(answers)
        return {index: self._open(index, answers, state) for index in indexes}

    def _ask_all(
        self, requests: Mapping[str, wire.Request], *, expect: str
    ) -> dict[str, wire.ReplyBody]:
        """Everyone; after a grace, without those whom the contract lets drop out."""
        if not self.roster.dropouts:
            return self.rounds.ask(requests, expect=expect)
        return self.rounds.ask(
            requests, enough=self.roster.threshold, grace=self.grace, expect=expect
        )

    def _request(self, name: str, indexes: list[int], state: Floats) -> wire.Request:
        release = wire.Release(indexes=indexes, state=state.astype("<f8").tobytes())
        if name not in self._introduced:
            for reply in self._prepared.values():
                release.prepared.append(reply.statement)
                release.shares.extend(s for s in reply.shares if s.receiver == name)
        return wire.Request(release=release)

    def _open(
        self, index: int, answers: Mapping[str, wire.ReplyBody], state: Floats
    ) -> tuple[Floats, float]:
        """One total in natural units, and the deviation of the noise in it."""
        release = self.plan[index]
        transcript = wire.digest_statements(r.statement for r in self._prepared.values())
        digest = state_digest(state)
        vectors: dict[str, encoding.Ring] = {}
        digests: list[wire.Signed] = []
        for name, answer in answers.items():
            sent = {vector.index: vector for vector in answer.masked.vectors}.get(index)
            if sent is None:
                raise RoundFailed(f"{name} left out release {index}: it runs another version")
            statement = self._read(wire.MaskedDigest, name, sent.digest)
            if (
                statement.vector != hashlib.sha256(sent.vector).digest()
                or statement.transcript != transcript
                or statement.state != digest
            ):
                raise RoundFailed(f"{name} answered for another cohort or state")
            try:
                vectors[name] = encoding.ring_from(sent.vector, release.length)
            except ParameterError:
                raise RoundFailed(f"{name} sent a vector of another length") from None
            digests.append(sent.digest)
        opened = self._unmask(index, digests, set(vectors)) if self.roster.dropouts else None
        try:
            total = masked_rounds.unmask(
                vectors,
                roster=self.roster,
                mask_keys=self._mask_keys(index),
                transcript=transcript,
                release=index,
                state=digest,
                opened=opened,
            )
        except ProtocolError:
            raise RoundFailed("a release could not be unmasked; start the job again") from None
        variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, self.roster.honest)
        scale = release.clip / encoding.SENSITIVITY
        deviation = float(np.sqrt(len(vectors) * variance)) * scale
        return encoding.from_ring(total, release.clip), deviation

    def _mask_keys(self, index: int) -> dict[str, bytes]:
        return {
            name: self._read(wire.Prepared, name, reply.statement).mask_keys[index]
            for name, reply in self._prepared.items()
        }

    def _unmask(
        self, index: int, digests: list[wire.Signed], present: set[str]
    ) -> masked_rounds.Opened:
        """Shares of b for those present and of m for those gone (protocol, steps 8 to 10)."""
        ask = wire.Unmask(index=index, masked=digests)
        names = [name for name in self.roster.parties if name in present]
        answers = self._ask_present(ask, names)
        if len(present) < len(self.roster.parties):
            locks = [a.unmask.lock for a in answers.values() if a.unmask.HasField("lock")]
            again = wire.Unmask(index=index, masked=digests, locks=locks)
            answers = self._ask_present(again, names)
        seeds: dict[str, dict[int, bytes]] = {}
        keys: dict[str, dict[int, bytes]] = {}
        for name, answer in answers.items():
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

    def _read(self, kind: type[wire.M], name: str, signed: wire.Signed) -> wire.M:
        try:
            if signed.party != name:
                raise ProtocolError("a statement in another's name")
            return wire.read_statement(kind, signed, self.contract.identity_of(name))
        except (ProtocolError, WireError):
            raise RoundFailed(f"a statement of {name} is not signed by its key") from None

"""The first door, the partner's half: one masked release after another.

Steps as in the protocol (docs/protocol.md): ``hello`` gives a sealing key for the job and states the
journal heads that this gate holds, ``prepare`` compares what the others state and makes fresh keys for every
release (and shares of them where dropouts are tolerated), ``release`` gives the masked vectors, ``unmask``
shares of what the coordinator may open. Each answer is stored before it leaves and given again, byte for
byte, when the same thing is asked again.

A release: everything that can be refused is judged from the request, the contract and what is stored; one
transaction charges and pins the release to its state; then rows are read; a second one stores the answer.
From the charge on there is the noisy answer or ``failed``. Noise is drawn from a key of the job, bound to
release, cohort, state and snapshot: what a killed gate computes again is the same draw, not a second one
(docs/decisions/0011). Not handled here: who may ask what (:mod:`client.gate`), the clip
(:mod:`client.summing`)."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from google.protobuf.message import Message

from client.context import Context
from client.journal import Charge
from client.snapshots import Rows
from client.summing import exact_sum, made_up
from privacy import accounting
from privacy.errors import ParameterError, ProtocolError, Refused, TallystickError, WireError
from privacy.noisy_sum import encoding, masks, rounds
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.program import Program, Release, plan_digest, state_digest
from privacy.randomness import stream
from protos import wire
from protos.addresses import JobId
from protos.jobs import Job
from protos.refusal import Code

LARGEST_SHARE = 1024
"""Bytes of a sealed share, which has 148."""


class NoisySumTask:
    """One job at one partner. ``job_id`` names it; all state is in the store."""

    def __init__(self, context: Context, job_id: JobId, job: Job) -> None:
        self.at, self.id, self.job = context, job_id, job
        self.roster = context.contract.roster()
        self.program: Program = job.program(context.contract)
        self.plan = tuple(self.program.plan())
        self.plan_digest = plan_digest(self.plan)
        self._rehearsed: set[str] = set()
        self._made_up = made_up(context.contract.declared_columns(), job.columns())

    # ------------------------------------------------------------------ hello

    def hello(self, calls: wire.Signed | None = None) -> wire.Signed:
        """A fresh X25519 sealing key for this job and the heads that this gate holds, signed once.

        ``calls``: the head of the coordinator's call log that was held before.
        """
        stored = self.at.store.reply(self.id, "hello", b"")
        if stored is not None:
            return wire.parse(wire.Signed, stored)
        private = self.at.randomness(32)
        statement = self._state(
            wire.SealingKey(
                contract=self.at.digest,
                job=self.id,
                plan=self.plan_digest,
                key=masks.public_key(private),
                heads=self.at.heads.held(),
                calls=calls,
            )
        )
        with self.at.store.transaction():
            self.at.store.put_secret(self.id, "sealing", private)
            self.at.store.put_reply(self.id, "hello", b"", wire.serialise(statement))
        return statement

    # ------------------------------------------------------------------ prepare

    def prepare(self, request: wire.Prepare) -> wire.PreparedReply:
        """Fresh keys for every release, made once; shares of them where d > 0.

        Refused(ROLLED_BACK or CLOCK) where the heads that the others state do not fit this gate's own.
        """
        said = self._hellos(request)
        hellos = {party: message.key for party, message in said.items()}
        pin = wire.digest_statements(request.hellos)
        stored = self.at.store.reply(self.id, "prepare", pin)
        if stored is not None:
            return wire.parse(wire.PreparedReply, stored)
        self.at.heads.take({party: list(message.heads) for party, message in said.items()}, self.id)
        keys = rounds.new_keys(len(self.plan), self.at.randomness)
        shares: list[wire.Share] = []
        if self.roster.dropouts:
            sealing = self._secret("sealing")
            for index, release_keys in enumerate(keys):
                try:
                    sealed = rounds.share_keys(
                        release_keys,
                        roster=self.roster,
                        me=self.at.me,
                        job=self.id,
                        release=index,
                        sealing_key=sealing,
                        sealing_keys=hellos,
                        randomness=self.at.randomness,
                    )
                except ProtocolError:
                    raise Refused(Code.ROSTER, "a party's sealing key is not one") from None
                shares += [
                    wire.Share(sender=self.at.me, receiver=peer, index=index, sealed=data)
                    for peer, data in sealed.items()
                ]
        with self.at.store.transaction():
            # The job stands in the journal before its head is signed: a gate that is restored to before it
            # is found by everybody who saw this statement.
            prices = [self._price(release)[1] for release in self.plan]
            delta = len(prices) * accounting.DISCRETE_DELTA
            self.at.journal.open(self.id, pin, Charge("plan", math.fsum(prices), delta))
            statement = self._state(
                wire.Prepared(
                    contract=self.at.digest,
                    job=self.id,
                    plan=self.plan_digest,
                    roster=pin,
                    mask_keys=[masks.public_key(k.mask) for k in keys],
                    shares=self._share_digests(shares),
                    head=self.at.heads.own(),
                )
            )
            reply = wire.PreparedReply(statement=statement, shares=shares)
            packed = b"".join(k.mask + k.seed for k in keys)
            self.at.store.put_secret(self.id, "keys", packed)
            self.at.store.put_secret(self.id, "noise", self.at.randomness(32))
            known = {party: key.hex() for party, key in hellos.items()}
            self.at.store.put_secret(self.id, "hellos", json.dumps(known).encode())
            self.at.store.put_reply(self.id, "prepare", pin, wire.serialise(reply))
        return reply

    def _share_digests(self, shares: list[wire.Share]) -> list[bytes]:
        if not self.roster.dropouts:
            return []
        return [
            wire.digest_shares(s for s in shares if s.receiver == peer)
            for peer in self.roster.parties
        ]

    def _hellos(self, request: wire.Prepare) -> dict[str, wire.SealingKey]:
        found = self._statements(wire.SealingKey, request.hellos)
        for message in found.values():
            self._same_job(message.contract, message.job, message.plan)
        return found

    # ------------------------------------------------------------------ release

    def release(
        self, request: wire.Release, rows: Callable[[], Rows], admit: Callable[[int], None]
    ) -> wire.MaskedReply:
        """Masked vectors for a batch of releases under one state.

        ``rows`` reads the table, or finds it read; it is called once everything is charged. ``admit`` is told
        how many releases are about to be charged. Raises Refused: FAILED after the charge, anything else
        before it.
        """
        transcript = self._transcript(request)
        indexes = list(request.indexes)
        if not 0 < len(indexes) <= len(self.plan) or max(indexes) >= len(self.plan):
            raise Refused(Code.MALFORMED, "release indexes")
        if len(set(indexes)) != len(indexes):
            raise Refused(Code.MALFORMED, "a release twice")
        state = self._program_state(request.state)
        digest = state_digest(state)
        pin = transcript + digest
        for index in indexes:
            self._check_pin(index, pin, request.state)
        stored = {i: self.at.store.reply(self.id, f"release {i}", pin) for i in indexes}
        fresh = [i for i in indexes if stored[i] is None]
        if fresh:
            for index in fresh:
                self._check_mask_keys(index)
                self._rehearse(index)
            admit(len(fresh))
            self._charge(fresh, pin, request.state)
            stored |= self._answer(fresh, transcript, digest, pin, rows)
        return wire.MaskedReply(
            vectors=[wire.parse(wire.MaskedVector, stored[i] or b"") for i in indexes]
        )

    def _check_pin(self, index: int, pin: bytes, state: bytes) -> None:
        """A release belongs to one cohort and one state, for ever; so do all releases of a stage."""
        found = self.at.store.row(
            "SELECT pin FROM releases WHERE job = ? AND release = ?", self.id, index
        )
        if found is not None and bytes(found[0]) != pin:
            raise Refused(Code.STATE, f"release {index} belongs to another state or cohort")
        stage = self.plan[index].stage
        if self.at.store.secret(self.id, f"state {stage}") not in (None, state):
            raise Refused(Code.STATE, f"stage {stage} belongs to another state")

    def _check_mask_keys(self, index: int) -> None:
        """A peer's key that gives no secret is found before anything is charged or read."""
        own = self._release_keys(index)
        for peer, key in self._mask_keys(index).items():
            if peer == self.at.me:
                continue
            try:
                masks.agree(own.mask, key)
            except ProtocolError:
                raise Refused(Code.ROSTER, f"a mask key of {peer} is not one") from None

    def _rehearse(self, index: int) -> None:
        """The sum over rows that the contract makes up, once for each form of release ("gradient 7" is one
        of "gradient"): what fails there, by the job and not by a state, is refused and costs nothing. States
        are bounded by the programs themselves."""
        release = self.plan[index]
        form = release.name.rstrip("0123456789")
        if form in self._rehearsed:
            return
        try:
            exact_sum(self.program, index, release, self._made_up)
            self._rehearsed.add(form)
        except Exception as error:
            reason = str(error) if isinstance(error, TallystickError) else ""
            raise Refused(Code.PLAN, f"{type(error).__name__} {reason}".strip()) from None

    def _charge(self, indexes: list[int], pin: bytes, state: bytes) -> None:
        """The first transaction: price and pin of every release, and the state that it belongs to."""
        # Named with what it is for: should the rows that pin it be lost, another draw is another charge.
        charges = [
            Charge(
                f"{self.plan[i].name} {hashlib.sha256(pin).hexdigest()[:16]}",
                self._price(self.plan[i])[1], accounting.DISCRETE_DELTA,
            )
            for i in indexes
        ]  # fmt: skip
        with self.at.store.transaction():
            self.at.ledger.charge(self.id, charges)
            for index in indexes:
                self.at.store.execute(
                    "INSERT OR IGNORE INTO releases VALUES (?, ?, ?)", self.id, index, pin
                )
                self._check_pin(index, pin, state)  # another process may have been faster
                self.at.store.put_secret(self.id, f"state {self.plan[index].stage}", state)

    def _answer(
        self, indexes: list[int], transcript: bytes, state: bytes, pin: bytes,
        rows: Callable[[], Rows],
    ) -> dict[int, bytes]:  # fmt: skip
        """From here on there is the noisy answer, or FAILED."""
        try:
            held = rows()
            vectors = {i: self._masked(i, transcript, state, held) for i in indexes}
            with self.at.store.transaction():
                for i, data in vectors.items():
                    self.at.store.put_reply(self.id, f"release {i}", pin, data)
        except Exception as error:  # other messages than our own could quote a row
            reason = str(error) if isinstance(error, TallystickError) else ""
            reason = error.strerror or "" if isinstance(error, OSError) else reason
            raise Refused(Code.FAILED, f"{type(error).__name__} {reason}".strip()) from None
        return vectors

    def _price(self, release: Release) -> tuple[int, float]:
        """Variance of this partner's noise share in grid units, and mu^2 charged."""
        honest = self.roster.honest
        try:
            variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, honest)
        except ParameterError as error:
            raise Refused(Code.PLAN, str(error)) from None
        return variance, accounting.charge_of(encoding.SENSITIVITY, variance, honest)

    def _masked(self, index: int, transcript: bytes, state: bytes, rows: Rows) -> bytes:
        release = self.plan[index]
        variance, _ = self._price(release)
        total = self.at.parts.exact_sum(self.program, index, release, rows.snapshot)
        noise = self._noise(index, variance, transcript + state + rows.digest)
        vector = rounds.masked(
            total,
            noise,
            roster=self.roster,
            me=self.at.me,
            keys=self._release_keys(index),
            mask_keys=self._mask_keys(index),
            transcript=transcript,
            release=index,
            state=state,
        )
        data = encoding.ring_bytes(vector)
        statement = self._state(
            wire.MaskedDigest(
                contract=self.at.digest,
                job=self.id,
                index=index,
                transcript=transcript,
                state=state,
                vector=hashlib.sha256(data).digest(),
            )
        )
        return wire.serialise(wire.MaskedVector(index=index, vector=data, digest=statement))

    def _noise(self, index: int, variance: int, bound_to: bytes) -> encoding.Integers:
        """This release's draw for one cohort, state and snapshot: the same when it is computed again."""
        key = masks.derive(
            self._secret("noise"), bound_to, b"tallystick/v1/noise" + index.to_bytes(4, "big")
        )
        return discrete_gaussian(stream(key), variance, self.plan[index].length)

    # ------------------------------------------------------------------ what a model was made from

    def answered_all(self) -> bool:
        """Whether this gate answered every release of the plan."""
        found = self.at.store.row(
            "SELECT COUNT(*) FROM replies WHERE job = ? AND step LIKE 'release %'", self.id
        )
        return found is not None and int(found[0]) == len(self.plan)

    def states(self) -> Mapping[int, encoding.Floats]:
        """The state of each stage, as this gate saw it; to be asked where it answered all."""
        return {
            stage: np.frombuffer(self._secret(f"state {stage}"), dtype="<f8").astype(np.float64)
            for stage in sorted({release.stage for release in self.plan})
        }

    def deviation(self, index: int, answered: int) -> float:
        """Deviation of the noise in a total of ``answered`` vectors, in natural units."""
        release = self.plan[index]
        variance, _ = self._price(release)
        return float((answered * variance) ** 0.5) * release.clip / encoding.SENSITIVITY

    def _program_state(self, data: bytes) -> encoding.Floats:
        if len(data) % 8:
            raise Refused(Code.MALFORMED, "state")
        state = np.frombuffer(data, dtype="<f8").astype(np.float64)
        try:
            self.program.restore(state)
        except ParameterError as error:
            raise Refused(Code.PLAN, str(error)) from None
        return state

    def _transcript(self, request: wire.Release) -> bytes:
        """Check the cohort's signed keys once and keep them: tr = H(all of them)."""
        kept = self.at.store.secret(self.id, "prepared")
        if kept is None:
            found = self._statements(wire.Prepared, request.prepared)
            own = self.at.store.secret(self.id, "sealing")
            if own is None:
                raise Refused(Code.UNKNOWN_JOB, "no keys for this job")
            rosters = set()
            for message in found.values():
                self._same_job(message.contract, message.job, message.plan)
                if len(message.mask_keys) != len(self.plan):
                    raise Refused(Code.ROSTER, "wrong number of mask keys")
                rosters.add(message.roster)
            mine = wire.parse(wire.PreparedReply, self._stored_prepare())
            same = [s.body for s in request.prepared if s.party == self.at.me]
            if len(rosters) != 1 or same != [mine.statement.body]:
                raise Refused(Code.ROSTER, "the partners prepared for different cohorts")
            self._check_shares(request, found)
            self.at.heads.note((m.head for p, m in found.items() if p != self.at.me), self.id)
            shares = request.shares if self.roster.dropouts else ()
            addressed = [s for s in shares if s.receiver == self.at.me]
            keep = wire.Release(prepared=request.prepared, shares=addressed)
            kept = wire.serialise(keep)
            self.at.store.put_secret(self.id, "prepared", kept)
        statements = wire.parse(wire.Release, kept).prepared
        transcript = wire.digest_statements(statements)
        if request.prepared and wire.digest_statements(request.prepared) != transcript:
            raise Refused(Code.ROSTER, "another cohort than before")
        return transcript

    def _check_shares(self, request: wire.Release, found: dict[str, wire.Prepared]) -> None:
        """Every peer's shares for me are the ones it signed; a relay that swaps them is found."""
        own = self.roster.parties.index(self.at.me)
        if len(request.shares) > len(self.plan) * len(self.roster.parties):
            raise Refused(Code.ROSTER, "more shares than releases")
        if any(len(s.sealed) > LARGEST_SHARE for s in request.shares):
            raise Refused(Code.ROSTER, "a share of another length")
        if any(s.sender not in found for s in request.shares):
            raise Refused(Code.ROSTER, "a share by someone who is not a party")
        for party, message in found.items():
            given = [s for s in request.shares if s.sender == party and s.receiver == self.at.me]
            if self._share_digests(given)[own : own + 1] != list(message.shares)[own : own + 1]:
                raise Refused(Code.ROSTER, "shares are missing or were changed")

    def _stored_prepare(self) -> bytes:
        found = self.at.store.row(
            "SELECT pin FROM replies WHERE job = ? AND step = 'prepare'", self.id
        )
        stored = self.at.store.reply(self.id, "prepare", found[0]) if found else None
        if stored is None:
            raise Refused(Code.UNKNOWN_JOB, "not prepared")
        return stored

    def _kept(self) -> wire.Release:
        kept = self.at.store.secret(self.id, "prepared")
        if kept is None:
            raise Refused(Code.UNKNOWN_JOB, "not prepared")
        return wire.parse(wire.Release, kept)

    def _mask_keys(self, index: int) -> dict[str, bytes]:
        return {
            signed.party: wire.parse(wire.Prepared, signed.body).mask_keys[index]
            for signed in self._kept().prepared
        }

    def _release_keys(self, index: int) -> rounds.ReleaseKeys:
        packed = self._secret("keys")[64 * index : 64 * index + 64]
        return rounds.ReleaseKeys(packed[:32], packed[32:])

    # ------------------------------------------------------------------ unmask (d > 0 only)

    def unmask(self, request: wire.Unmask) -> wire.UnmaskReply:
        """Lock who answered, once and for ever; then, on T signed locks, the shares.

        With all K heard their signed digests are enough. Never both shares of one partner, never a
        second set.
        """
        if not self.roster.dropouts or request.index >= len(self.plan):
            raise Refused(Code.ROSTER, "nothing to unmask")
        index = request.index
        found = self.at.store.row(
            "SELECT pin FROM replies WHERE job = ? AND step = ?", self.id, f"release {index}"
        )
        if found is None:
            raise Refused(Code.ROSTER, "this partner has not answered the release")
        transcript, state = bytes(found[0][:32]), bytes(found[0][32:])
        present = self._present(request, index, transcript, state)
        lock = wire.Lock(
            contract=self.at.digest,
            job=self.id,
            index=index,
            transcript=transcript,
            state=state,
            present=present,
        )
        pin = hashlib.sha256(wire.serialise(lock)).digest()
        if self.at.store.reply(self.id, f"lock {index}", pin) is None:
            self.at.store.put_reply(self.id, f"lock {index}", pin, b"locked")
        if len(present) < len(self.roster.parties):
            signers = set()
            if len(request.locks) > len(self.roster.parties):
                raise Refused(Code.ROSTER, "more locks than parties")
            for signed in request.locks:
                body = self._read(wire.Lock, signed)
                if wire.serialise(body) == wire.serialise(lock) and signed.party in present:
                    signers.add(signed.party)
            if len(signers) < self.roster.threshold:
                return wire.UnmaskReply(lock=self._state(lock))
        return wire.UnmaskReply(opened=self._open_shares(index, set(present)))

    def _present(
        self, request: wire.Unmask, index: int, transcript: bytes, state: bytes
    ) -> list[str]:
        present = set()
        if len(request.masked) > len(self.roster.parties):
            raise Refused(Code.ROSTER, "more digests than parties")
        for signed in request.masked:
            message = self._read(wire.MaskedDigest, signed)
            if (
                message.contract != self.at.digest
                or message.job != self.id
                or message.index != index
                or message.transcript != transcript
                or message.state != state
            ):
                raise Refused(Code.ROSTER, "a digest belongs to something else")
            present.add(signed.party)
        if len(present) < self.roster.threshold or self.at.me not in present:
            raise Refused(Code.ROSTER, "too few answered")
        return [party for party in self.roster.parties if party in present]

    def _open_shares(self, index: int, present: set[str]) -> list[wire.OpenedShare]:
        sealing = self._secret("sealing")
        hellos = self._peer_sealing_keys()
        opened = []
        for share in self._kept().shares:
            if share.index != index:
                continue
            context = rounds.share_context(self.id, index, share.sender, self.at.me)
            try:
                plain = masks.open_share(
                    sealing, hellos[share.sender], context=context, sealed=share.sealed
                )
            except ProtocolError:
                continue  # a dealer that sealed rubbish: the others' shares may still do
            gone = share.sender not in present
            part = plain[:66] if gone else plain[66:]
            opened.append(wire.OpenedShare(party=share.sender, of_mask=gone, share=part))
        return opened

    def _peer_sealing_keys(self) -> dict[str, bytes]:
        stored = self.at.store.secret(self.id, "hellos")
        if stored is None:
            raise Refused(Code.UNKNOWN_JOB, "not prepared")
        return {k: bytes.fromhex(v) for k, v in json.loads(stored).items()}

    # ------------------------------------------------------------------ checks

    def _statements(
        self, kind: type[wire.M], statements: Sequence[wire.Signed]
    ) -> dict[str, wire.M]:
        """One valid statement from every party of the cohort, or Refused(ROSTER)."""
        if sorted(s.party for s in statements) != sorted(
            self.roster.parties
        ):  # before any signature
            raise Refused(Code.ROSTER, "not one statement from every party")
        return {signed.party: self._read(kind, signed) for signed in statements}

    def _read(self, kind: type[wire.M], signed: wire.Signed) -> wire.M:
        if signed.party not in self.roster.parties:
            raise Refused(Code.ROSTER, "a statement by someone who is not a party")
        try:
            return wire.read_statement(kind, signed, self.at.contract.identity_of(signed.party))
        except (ProtocolError, WireError):
            raise Refused(Code.ROSTER, "a statement's signature does not fit") from None

    def _same_job(self, contract: bytes, job: str, plan: bytes) -> None:
        if contract != self.at.digest or job != self.id or plan != self.plan_digest:
            raise Refused(Code.ROSTER, "a statement belongs to another job or plan")

    def _secret(self, name: str) -> bytes:
        value = self.at.store.secret(self.id, name)
        if value is None:
            raise Refused(Code.UNKNOWN_JOB, "this partner's keys for the job are gone")
        return value

    def _state(self, message: Message) -> wire.Signed:
        return wire.state(self.at.identity, self.at.me, message)

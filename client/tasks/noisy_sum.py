"""The first door, the partner's half: one masked release after another.

Steps as in the protocol (docs/protocol.md): ``hello`` gives a sealing key for the job, ``prepare``
fresh keys for every release (and shares of them where dropouts are tolerated), ``release`` the
masked vectors, ``unmask`` shares of what the coordinator may open. Each answer is stored before it
leaves and given again, byte for byte, when the same thing is asked again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from google.protobuf.message import Message

from client.ledger import Charge, Ledger
from client.store import Store
from client.table import Snapshot
from privacy import accounting
from privacy.errors import ParameterError, ProtocolError, Refused, WireError
from privacy.noisy_sum import encoding, masks, rounds
from privacy.noisy_sum.noise import discrete_gaussian
from privacy.programs.program import Program, Release, plan_digest, state_digest
from privacy.randomness import Randomness
from protos import wire
from protos.alliance import Contract
from protos.jobs import Job
from protos.refusal import Code

BLOCK_VALUES = 1 << 21
"""Numbers in one block of contributions: 16 MiB."""


@dataclass(frozen=True)
class Context:
    """What a task may use of its gate."""

    me: str
    contract: Contract
    digest: bytes
    identity: Ed25519PrivateKey
    store: Store
    ledger: Ledger
    randomness: Randomness


class NoisySumTask:
    """One job at one partner. ``job_id`` names it; all state is in the store."""

    def __init__(self, context: Context, job_id: str, job: Job) -> None:
        self.at, self.id, self.job = context, job_id, job
        self.roster = context.contract.roster()
        self.program: Program = job.program(context.contract)
        self.plan = tuple(self.program.plan())
        self.plan_digest = plan_digest(self.plan)

    # ------------------------------------------------------------------ hello

    def hello(self) -> wire.Signed:
        """A fresh X25519 sealing key for this job, signed with contract and plan."""
        private = self.at.store.secret(self.id, "sealing")
        if private is None:
            private = self.at.randomness(32)
            self.at.store.put_secret(self.id, "sealing", private)
        return self._state(
            wire.SealingKey(
                contract=self.at.digest,
                job=self.id,
                plan=self.plan_digest,
                key=masks.public_key(private),
            )
        )

    # ------------------------------------------------------------------ prepare

    def prepare(self, request: wire.Prepare) -> wire.PreparedReply:
        """Fresh keys for every release, made once; shares of them where d > 0."""
        hellos = self._sealing_keys(request)
        pin = wire.digest_statements(request.hellos)
        stored = self.at.store.reply(self.id, "prepare", pin)
        if stored is not None:
            return wire.parse(wire.PreparedReply, stored)
        keys = rounds.new_keys(len(self.plan), self.at.randomness)
        shares: list[wire.Share] = []
        if self.roster.dropouts:
            sealing = self._secret("sealing")
            for index, release_keys in enumerate(keys):
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
                shares += [
                    wire.Share(sender=self.at.me, receiver=peer, index=index, sealed=data)
                    for peer, data in sealed.items()
                ]
        statement = self._state(
            wire.Prepared(
                contract=self.at.digest,
                job=self.id,
                plan=self.plan_digest,
                roster=pin,
                mask_keys=[masks.public_key(k.mask) for k in keys],
                shares=self._share_digests(shares),
            )
        )
        reply = wire.PreparedReply(statement=statement, shares=shares)
        with self.at.store.transaction():
            packed = b"".join(k.mask + k.seed for k in keys)
            self.at.store.put_secret(self.id, "keys", packed)
            self.at.store.put_reply(self.id, "prepare", pin, wire.serialise(reply))
        return reply

    def _share_digests(self, shares: list[wire.Share]) -> list[bytes]:
        if not self.roster.dropouts:
            return []
        return [
            wire.digest_shares(s for s in shares if s.receiver == peer)
            for peer in self.roster.parties
        ]

    def _sealing_keys(self, request: wire.Prepare) -> dict[str, bytes]:
        found = self._statements(wire.SealingKey, request.hellos)
        for message in found.values():
            self._same_job(message.contract, message.job, message.plan)
        return {party: message.key for party, message in found.items()}

    # ------------------------------------------------------------------ release

    def release(self, request: wire.Release, snapshot: Snapshot) -> wire.MaskedReply:
        """Masked vectors for a batch of releases under one state: charge and answer at once."""
        transcript = self._transcript(request)
        state = self._program_state(request.state)
        indexes = list(request.indexes)
        if not indexes or len(set(indexes)) != len(indexes) or max(indexes) >= len(self.plan):
            raise Refused(Code.MALFORMED, "release indexes")
        digest = state_digest(state)
        pin = transcript + digest
        stored = {i: self.at.store.reply(self.id, f"release {i}", pin) for i in indexes}
        fresh = [i for i in indexes if stored[i] is None]
        if fresh:
            charges = [Charge(self.plan[i].name, self._price(self.plan[i])[1]) for i in fresh]
            # Say no before the work and again, bindingly, with the charge.
            self.at.ledger.require(sum(c.mu2 for c in charges))
            vectors = {i: self._masked(i, transcript, digest, snapshot) for i in fresh}
            with self.at.store.transaction():
                self.at.ledger.charge(self.id, charges)
                for i, data in vectors.items():
                    self.at.store.put_reply(self.id, f"release {i}", pin, data)
                    stored[i] = data
        return wire.MaskedReply(
            vectors=[wire.parse(wire.MaskedVector, stored[i] or b"") for i in indexes]
        )

    def _price(self, release: Release) -> tuple[int, float]:
        """Variance of this partner's noise share in grid units, and mu^2 charged."""
        honest = self.roster.honest
        try:
            variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, honest)
        except ParameterError as error:
            raise Refused(Code.PLAN, str(error)) from None
        return variance, accounting.charge_of(encoding.SENSITIVITY, variance, honest)

    def _masked(self, index: int, transcript: bytes, state: bytes, snapshot: Snapshot) -> bytes:
        release = self.plan[index]
        variance, _ = self._price(release)
        delivered = (len(self.roster.parties) * variance) ** 0.5
        encoding.check_range(self._most_people(), delivered)
        total = exact_sum(self.program, index, release, snapshot)
        noise = discrete_gaussian(self.at.randomness, variance, release.length)
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

    @staticmethod
    def _most_people() -> int:
        """A public bound for the overflow check; the true number would make a refusal an output."""
        return 1 << 40

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
            keep = wire.Release(prepared=request.prepared, shares=request.shares)
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

    def keep_sealing_keys(self, request: wire.Prepare) -> None:
        """Remember the peers' sealing keys, checked, for opening shares later."""
        keys = {party: key.hex() for party, key in self._sealing_keys(request).items()}
        self.at.store.put_secret(self.id, "hellos", json.dumps(keys).encode())

    # ------------------------------------------------------------------ checks

    def _statements(
        self, kind: type[wire.M], statements: Sequence[wire.Signed]
    ) -> dict[str, wire.M]:
        """One valid statement from every party of the cohort, or Refused(ROSTER)."""
        found = {signed.party: self._read(kind, signed) for signed in statements}
        if tuple(sorted(found)) != tuple(sorted(self.roster.parties)) or len(statements) != len(
            found
        ):
            raise Refused(Code.ROSTER, "not one statement from every party")
        return found

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


def exact_sum(
    program: Program, index: int, release: Release, snapshot: Snapshot
) -> encoding.Integers:
    """Clipped, quantised, exact sum of one release over a snapshot: the gate's own arithmetic.

    Rows of one person are added before clipping. Returns (length,) in grid units.
    """
    total = np.zeros(release.length, dtype=np.int64)
    starts = snapshot.starts()
    people = len(starts) - 1
    step = max(64, BLOCK_VALUES // release.length)
    for first in range(0, people, step):
        last = min(people, first + step)
        low, high = starts[first], starts[last]
        rows = {name: values[low:high] for name, values in snapshot.rows.items()}
        block = program.contribution(index, rows)
        if block.shape != (high - low, release.length):
            raise ParameterError("the program's contribution has a wrong shape")
        if high - low != last - first:
            block = np.add.reduceat(block, starts[first:last] - low, axis=0)
        total += encoding.add(encoding.quantise(block, release.clip))
    return total

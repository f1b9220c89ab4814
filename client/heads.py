"""Signed heads of journals: what each gate holds of every other's, and when it is.

A head says: my journal has so many entries, the last one's digest, what I charged in all, and the time.
Every gate states in its ``hello`` and in its handshakes the heads that it holds, its own among them,
under its own signature; the others compare before anything is charged. The coordinator carries the
statements and can leave none out: a step needs one of every party. Each is read within its bounds
(:mod:`protos.statements`).

    a head of ours that our journal lacks       this gate was restored: it goes on from the highest such head
    a peer's own head is behind what we hold    the peer was restored
    the time of c + 1 other partners (the other one's at K = 2)
                                                moves the ledger's period; a clock that differs by more than
                                                a day asks the operator
    a head that all others agreed to forget     nothing, whoever brings it (:mod:`protos.repairs`)

At most c partners lie, so the (c + 1)-th latest time is not after an honest partner's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.journal import Journal
from client.store import Store
from privacy.errors import Refused, WireError
from protos import statements, wire
from protos.alliance import Contract
from protos.refusal import Code

DAY = 86_400.0


@dataclass(frozen=True)
class Head:
    """A head and the statement that proves it."""

    party: str
    said: statements.JournalHead
    signed: wire.Signed


class Heads:
    """Heads of one contract's parties; one that was signed under an earlier contract counts as well, as the
    journal is one. ``clock`` gives seconds since the epoch."""

    def __init__(
        self,
        store: Store,
        journal: Journal,
        contract: Contract,
        me: str,
        identity: Ed25519PrivateKey,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._journal, self._contract = store, journal, contract
        self._me, self._identity, self._clock = me, identity, clock
        self._digest = contract.digest()
        self._proved: dict[bytes, int | None] = {}

    # ------------------------------------------------------------------ what this gate states

    def own(
        self, job: str = "", outcome: bytes = b"", calls: wire.Signed | None = None
    ) -> wire.Signed:
        """This gate's head, signed now. ``job`` and ``outcome``: of the job that it ends; ``calls``: the head
        of the coordinator's call log that was held before a match."""
        sequence, digest = self._journal.head()
        mu2, delta = self._journal.spent()
        head = wire.JournalHead(
            contract=self._digest, sequence=sequence, digest=digest, time=int(self._clock()),
            mu2=mu2, delta=delta, job=job, outcome=outcome, anchors=self._journal.anchors(),
            calls=calls,
        )  # fmt: skip
        return wire.state(self._identity, self._me, head)

    def held(self, of: Iterable[str] | None = None) -> list[wire.Signed]:
        """Every head that this gate holds, its own among them; ``of``: only of these parties."""
        wanted = {p.name for p in self._contract.parties} if of is None else set(of)
        found = [
            wire.parse(wire.Signed, bytes(signed))
            for party, signed in self._store.rows(
                "SELECT party, signed FROM heads WHERE signed IS NOT NULL ORDER BY party"
            )
            if party in wanted
        ]
        return [*(signed for signed in found if self._proof(wire.serialise(signed))), self.own()]

    # ------------------------------------------------------------------ what others state

    def read(self, signed: wire.Signed) -> Head:
        """A head whose signature, contract and bounds fit, or Refused(PROTOCOL)."""
        try:
            return Head(
                signed.party, statements.read_head(self._contract, signed.party, signed), signed
            )
        except statements.BadStatement as error:
            raise Refused(Code.PROTOCOL, str(error)) from None

    def _read_of(self, speaker: str, signed: wire.Signed) -> Head | None:
        """A head in a statement: the speaker's own must hold; one of another's earlier key is nothing."""
        if signed.party != speaker and self._proof(wire.serialise(signed)) is None:
            return None
        return self.read(signed)

    def _remembered(self, heads: Iterable[Head]) -> list[Head]:
        """Without those that the alliance agreed to forget."""
        forgotten = self._journal.repaired()
        return [h for h in heads if (h.party, h.said.sequence, h.said.digest) not in forgotten]

    def take(self, statements: Mapping[str, Sequence[wire.Signed]]) -> None:
        """Compare what the parties in ``statements`` state with what is held, then keep what is newer.

        Each must state its own head. Refused(ROLLED_BACK) for a journal that was restored, this one's or a
        peer's: this one then goes on from the highest head that a peer holds, and is charged the difference.
        Refused(CLOCK) if this clock differs by more than a day from c + 1 others of those that speak, or
        from all of them if they are fewer.
        """
        ours: list[Head] = []
        theirs: list[Head] = []
        clocks: list[int] = []
        for party, signed in statements.items():
            self._check_count(signed)
            found = [head for each in signed if (head := self._read_of(party, each)) is not None]
            if party != self._me:
                own = [head for head in found if head.party == party]
                if len(own) != 1:
                    raise Refused(Code.PROTOCOL, f"{party} does not state its own journal's head")
                clocks.append(own[0].said.time)
                for head in found:
                    if head.party == self._me:
                        ours.append(head)
                        self._note_vouched(party, head)
            theirs += [head for head in found if head.party != self._me]
        self._check_own(self._remembered(ours))
        # What somebody holds of a third is no proof of what that one says now.
        for head in self._remembered(theirs):
            self._keep(head, now=head.signed in statements.get(head.party, ()))
        self._check_clock(clocks)

    def note(self, heads: Iterable[wire.Signed]) -> None:
        """Heads that the coordinator brings along, of whatever age: newer ones are kept."""
        heads = list(heads)
        self._check_count(heads)
        found = self._remembered([self.read(each) for each in heads])
        self._check_own([head for head in found if head.party == self._me])
        for head in found:
            if head.party != self._me:
                self._keep(head, now=False)

    def _check_count(self, heads: Sequence[wire.Signed]) -> None:
        """Before a signature is looked at."""
        if len(heads) > 2 * len(self._contract.parties):
            raise Refused(Code.MALFORMED, "more heads than parties")

    def confirmed(self) -> float:
        """The latest time that c + 1 other partners' signed heads confirm (of the other one at K = 2), and
        this machine's clock does not contradict; 0 while too few have spoken."""
        times = sorted(self._times(), reverse=True)
        needed = self._needed()
        return min(float(times[needed - 1]), self._clock()) if len(times) >= needed else 0.0

    def _times(self) -> list[int]:
        """What each other partner signed: a row of the table proves nothing."""
        rows = self._store.rows("SELECT signed FROM heads WHERE signed IS NOT NULL")
        return [self._proof(bytes(data)) or 0 for (data,) in rows]

    def _proof(self, data: bytes) -> int | None:
        """The time that a stored head states, None where the party's key in this contract did not sign it: a
        head belongs to a key, and one of a key that was replaced is history."""
        if data not in self._proved:
            if len(self._proved) > 4 * len(self._contract.parties) + 100:
                self._proved.clear()
            try:
                self._proved[data] = self.read(wire.parse(wire.Signed, data)).said.time
            except (Refused, WireError):
                self._proved[data] = None
        return self._proved[data]

    def _needed(self) -> int:
        return min(self._contract.privacy.colluders + 1, len(self._contract.parties) - 1)

    def _check_own(self, ours: Sequence[Head]) -> None:
        lost = [head for head in ours if not self._journal.knows(head.said)]
        if not lost:
            return
        last = max(lost, key=lambda head: (head.said.mu2, head.said.sequence))
        if max(head.said.sequence for head in lost) > statements.LAST_FOLLOWED:
            raise Refused(
                Code.ROLLED_BACK,
                "this partner's key signed a head that its journal cannot go on from: it says an entry that"
                " no journal reaches. Find out who used the key; `heads repair` makes the others forget it",
            )
        with self._store.transaction():
            for head in sorted(lost, key=lambda head: (-head.said.mu2, -head.said.sequence)):
                if not self._journal.knows(head.said):
                    self._journal.restore(head.said, wire.serialise(head.signed))
            for (job,) in self._store.rows("SELECT id FROM jobs WHERE state = 'open'"):
                self._journal.close(job, "abandoned")
            self._store.execute("UPDATE jobs SET state = 'abandoned' WHERE state = 'open'")
        raise Refused(
            Code.ROLLED_BACK,
            f"this journal lacks entry {last.said.sequence}, which peers hold signed: it was restored from a"
            " backup. It goes on from there, charged with what that head says was spent; open jobs are over",
        )

    def _keep(self, head: Head, *, now: bool) -> None:
        """A head that its party states ``now``, signed later than the one held and behind it or beside it,
        means that its journal was restored. One that was signed earlier is merely old."""
        seen = self._store.row(
            "SELECT sequence, digest, time, signed FROM heads WHERE party = ?"
            " ORDER BY sequence DESC LIMIT 1",
            head.party,
        )
        if seen is not None and seen[3] is not None and self._proof(bytes(seen[3])) is None:
            seen = None
        said = head.said
        if seen is not None:
            sequence, digest, time = int(seen[0]), bytes(seen[1]), int(seen[2])
            behind = said.sequence < sequence
            other = said.sequence == sequence and said.digest != digest
            if now and (other or (behind and said.time > time)):
                raise Refused(
                    Code.ROLLED_BACK, f"the journal of {head.party} is not what it signed before"
                )
            if behind or other or said.time < time:
                return
        with self._store.transaction():
            self._store.execute("DELETE FROM heads WHERE party = ?", head.party)
            self._store.execute(
                "INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?)",
                said.contract, head.party, said.sequence, said.digest, said.time,
                wire.serialise(head.signed),
            )  # fmt: skip

    def _note_vouched(self, party: str, head: Head) -> None:
        if self._journal.at(head.said.sequence) == head.said.digest:
            self._store.execute(
                "INSERT INTO vouched VALUES (?, ?, ?) ON CONFLICT (party) DO UPDATE SET"
                " sequence = max(sequence, excluded.sequence), time = max(time, excluded.time)",
                party, head.said.sequence, head.said.time,
            )  # fmt: skip

    def _check_clock(self, clocks: Sequence[int]) -> None:
        if not clocks:
            return
        said = sorted(clocks, reverse=True)[min(self._needed(), len(clocks)) - 1]
        off = self._clock() - said
        if abs(off) > DAY:
            days, way = abs(off) / DAY, "ahead of" if off > 0 else "behind"
            raise Refused(
                Code.CLOCK,
                f"this machine's clock is {days:.1f} days {way} its peers': compare it with a clock you"
                " trust and set it; nothing was charged",
            )

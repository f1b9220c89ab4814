"""Signed heads of journals: what each gate holds of every other's, and when it is.

A head says: my journal has so many entries, the last one's digest, what I charged in all, and the time.
Every gate states in its ``hello`` and in its handshakes the heads that it holds, its own among them,
under its own signature; the others compare before anything is charged. The coordinator carries the
statements and can leave none out: a step needs one of every party. Each is read within its bounds
(:mod:`protos.statements`).

    a head of ours that our journal lacks       this gate was restored: it goes on from the highest such head
    a peer's own head is behind what we hold    the peer was restored, unless it may be the older statement
    the time of c + 1 other partners (the other one's at K = 2)
                                                moves the ledger's period; a clock that differs by more than
                                                a day asks the operator
    a head signed more than a day ahead of us   kept by nobody; a party that states it of itself is refused
    a head that all others agreed to forget     nothing, whoever brings it (:mod:`protos.repairs`)

At most c partners lie, so the (c + 1)-th latest time is not after an honest partner's.

Which of two heads is further on is said by the entry alone: a time is the signer's own word, and one head
that was signed with a clock set ahead would keep all later ones out and let the journal be put back behind
them. What a party stated earlier and the coordinator brings later is merely old. It is not, where the job in
which it is stated was opened here after the held head had come, or where it says itself that it is later.

Not handled: a journal that was put back and that entries which cost nothing have brought past the held head
looks further on to peers; its own gate finds that out from what peers state, if the coordinator lets it have
a statement that they made since.
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
        of the coordinator's call log that was held before a match.

        Refused(CLOCK) if this clock is more than a day behind the journal's last entry and what peers signed,
        Refused(STORAGE) for a head that everybody would refuse.
        """
        # One look: a match and the owner's commands append beside this.
        with self._store.transaction():
            sequence, digest = self._journal.head()
            mu2, delta = self._journal.spent()
            head = wire.JournalHead(
                contract=self._digest, sequence=sequence, digest=digest, time=self._time(),
                mu2=mu2, delta=delta, job=job, outcome=outcome, anchors=self._journal.anchors(),
                calls=calls,
            )  # fmt: skip
        signed = wire.state(self._identity, self._me, head)
        try:
            statements.read_head(self._contract, self._me, signed)
        except statements.BadStatement as error:
            raise Refused(Code.STORAGE, f"this journal has no head to state: {error}") from None
        return signed

    def _time(self) -> int:
        """When a head of this journal is signed: not before its last entry was written. An entry that a clock
        set ahead has dated alone stops nobody, once the clock is right again."""
        now, last = self._clock(), self._journal.last_time()
        if last - now <= DAY:
            return int(max(now, last))
        if min(last, self._said()) - now > DAY:
            raise Refused(
                Code.CLOCK,
                f"this machine's clock is {(last - now) / DAY:.1f} days behind its own journal, and what"
                " peers signed says so too: compare it with a clock you trust; nothing was charged",
            )
        return int(now)

    def held(self, of: Iterable[str] | None = None) -> list[wire.Signed]:
        """Every head that this gate holds, its own among them; ``of``: only of these parties. One that was
        signed far ahead, which earlier versions kept, is not passed on."""
        wanted = {p.name for p in self._contract.parties} if of is None else set(of)
        found = [
            wire.parse(wire.Signed, bytes(signed))
            for party, signed in self._store.rows(
                "SELECT party, signed FROM heads WHERE signed IS NOT NULL ORDER BY party"
            )
            if party in wanted
        ]
        latest = self._clock() + DAY
        proved = [(signed, self._proof(wire.serialise(signed))) for signed in found]
        return [*(signed for signed, time in proved if time and time <= latest), self.own()]

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

    def take(self, statements: Mapping[str, Sequence[wire.Signed]], job: str = "") -> None:
        """Compare what the parties in ``statements`` state in ``job`` with what is held, then keep what is
        further on.

        Each must state its own head. Refused(ROLLED_BACK) for a journal that was restored, this one's or a
        peer's: this one then goes on from the highest head that a peer holds, and is charged the difference.
        Refused(CLOCK) if this clock differs by more than a day from c + 1 others of those that speak, or
        from all of them if they are fewer, or if one of them is more than a day ahead: nothing is kept then.
        """
        ours: list[tuple[str, Head]] = []
        theirs: list[Head] = []
        clocks: list[int] = []
        stated: list[Head] = []
        for party, signed in statements.items():
            self._check_count(signed)
            found = [head for each in signed if (head := self._read_of(party, each)) is not None]
            if party != self._me:
                own = [head for head in found if head.party == party]
                if len(own) != 1:
                    raise Refused(Code.PROTOCOL, f"{party} does not state its own journal's head")
                clocks.append(own[0].said.time)
                stated += own
                ours += [(party, head) for head in found if head.party == self._me]
            theirs += [head for head in found if head.party != self._me]
        self._check_clock(clocks)
        self._check_ahead(stated)
        for party, head in ours:
            self._note_vouched(party, head)
        self._check_own(self._remembered([head for _, head in ours]))
        # What somebody holds of a third is no proof of what that one says now.
        since = self._opened(job)
        for head in self._remembered(theirs):
            self._keep(head, since if head.signed in statements.get(head.party, ()) else None)

    def note(self, heads: Iterable[wire.Signed], job: str | None = None) -> None:
        """Heads that the coordinator brings along, of whatever age: those further on are kept. ``job``: each
        party states its own in that job.

        Refused(ROLLED_BACK) as :meth:`take`; in a job also Refused(CLOCK) for one signed far ahead, which is
        left out otherwise.
        """
        heads = list(heads)
        self._check_count(heads)
        found = [self.read(each) for each in heads]
        if job is not None:
            self._check_ahead(found)
        found = self._remembered(found)
        self._check_own([head for head in found if head.party == self._me])
        since = None if job is None else self._opened(job)
        for head in found:
            if head.party != self._me:
                self._keep(head, since)

    def _check_count(self, heads: Sequence[wire.Signed]) -> None:
        """Before a signature is looked at."""
        if len(heads) > 2 * len(self._contract.parties):
            raise Refused(Code.MALFORMED, "more heads than parties")

    def confirmed(self) -> float:
        """The latest time that c + 1 other partners' signed heads confirm (of the other one at K = 2), and
        this machine's clock does not contradict; 0 while too few have spoken."""
        return min(self._said(), self._clock())

    def _said(self) -> float:
        """The (c + 1)-th latest time that other partners signed; 0 while too few have spoken."""
        times = sorted(self._times(), reverse=True)
        needed = self._needed()
        return float(times[needed - 1]) if len(times) >= needed else 0.0

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

    def _opened(self, job: str) -> float:
        """When a job was opened here; now, if it was not."""
        found = self._store.row("SELECT created FROM jobs WHERE id = ?", job)
        return self._clock() if found is None else float(found[0])

    def _keep(self, head: Head, opened: float | None) -> None:
        """Keep a head that is further on, or the same one signed later.

        ``opened``: when the job was opened here in which its party states it of itself; None for one that is
        brought along. A head that is stated so and is behind the one held, or beside it, means that the
        journal was restored; Refused(ROLLED_BACK).
        """
        said, came = head.said, self._clock()
        if said.time > came + DAY:
            return
        with self._store.transaction():
            # The column ``time`` is when a head came, by this clock. 0.4.0 kept the signer's time there: one
            # in the future says nothing of when.
            seen = self._store.row(
                "SELECT sequence, digest, time, signed FROM heads WHERE party = ?"
                " ORDER BY sequence DESC LIMIT 1",
                head.party,
            )
            signed = 0 if seen is None or seen[3] is None else self._proof(bytes(seen[3]))
            if seen is not None and signed is not None:
                behind = said.sequence < int(seen[0])
                other = said.sequence == int(seen[0]) and said.digest != bytes(seen[1])
                since = float(seen[2]) if float(seen[2]) <= came else 0.0
                later = opened is not None and (opened > since or said.time > signed)
                if opened is not None and (other or (behind and later)):
                    raise Refused(
                        Code.ROLLED_BACK,
                        f"the journal of {head.party} is not what it signed before",
                    )
                if behind or other:
                    return
                if said.sequence == int(seen[0]):
                    if said.time <= signed:
                        return
                    came = since
            self._store.execute("DELETE FROM heads WHERE party = ?", head.party)
            self._store.execute(
                "INSERT INTO heads VALUES (?, ?, ?, ?, ?, ?)",
                said.contract, head.party, said.sequence, said.digest, came,
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

    def _check_ahead(self, stated: Sequence[Head]) -> None:
        """No party's own head is signed far ahead: it would be kept by nobody, and its journal could be put
        back behind it."""
        for head in stated:
            ahead = head.said.time - self._clock()
            if ahead > DAY:
                raise Refused(
                    Code.CLOCK,
                    f"the clock of {head.party} is {ahead / DAY:.1f} days ahead of this machine's: compare"
                    " both with a clock you trust; nothing was charged",
                )

"""Overlap of three to six partners: the sizes of all cells of the Venn diagram, with noise, or which
of the first party's items are in an audience such as ``a & b - c``.

    1. every set goes around the ring of parties: each multiplies all points by its own key and sends
       them on in a new secret order, until every set carries all keys
    2. whoever was last sends the set's tokens, sorted, to the matcher, the first party
    3. the matcher counts, for each group of parties, the tokens that exactly those sets hold

(The commutative-encryption ring of Vaidya and Clifton 2005, section 3.)  For noise there are public
dummies for every cell of two or more parties. The matcher enters all of those for its own cells; the
cell's other parties enter the same z of them, drawn by the one that comes first and told to the others
only: the matcher sees size + z. It adds noise of its own before it tells anyone, since those parties
know z. Set sizes reach the matcher with their owner's noise.

Assumes semi-honest parties and a matcher that colludes with none: together with any other party it could
tell the cells' dummies apart. With ``keep order`` the matcher's own set is not reordered, so that it
learns the membership of each of its own items in every other set: a disclosure without noise.

**What one person changes.** Add person A at party p. Unless the set is at its cap, A moves one unit from the
cell of the others that have A to that cell with p (one of the two is no count if it has a single party), and
p's own size grows by one: three figures by 1, L2 sensitivity sqrt(3). At its cap the set keeps its number:
A takes the place of a person D (:meth:`privacy.matching.deck.Deck.capped`), who moves back from a cell with p
to the same one without. Cells with p and cells without p are different, so figures that two moves share
cancel rather than add up: at most four move by 1, and the own size, told as min(size, cap), does not. So
L2 sensitivity is at most 2, the sum of squares COUNTS_PER_PERSON = 4; and at most 4 of the cells' draws are
concerned, each of which costs its delta once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from privacy.errors import ProtocolError
from privacy.matching import tokens
from privacy.matching.algebra import Members
from privacy.matching.channel import Channel, Expected, alongside, chunks_of, gather, rows
from privacy.matching.deck import NO_ROW, Deck
from privacy.matching.engine import POINT_BYTES, TOKEN_BYTES, Engine
from privacy.matching.intersection import Positions
from privacy.matching.size import SizeNoise
from privacy.matching.storage import SPILL, Log, Spool, bucket_bits
from privacy.matching.terms import Secrets, Terms, chosen_dummies, dummy_labels
from privacy.randomness import stream

SEEDS, SIZE, RING, FINAL, ORDERED = 20, 21, 32, 48, 64
"""Kinds of frames; for the last three the owner's number is added."""
MOST_PARTIES = 6
COUNTS_PER_PERSON = 4
"""Square of what one person changes in all figures together: 4 where the cap makes A displace D."""

Cell = tuple[int, ...]
"""Numbers of parties, ascending."""


def cells(parties: int) -> list[Cell]:
    """Every group of two or more parties."""
    return [c for size in range(2, parties + 1) for c in combinations(range(parties), size)]


def dummy_groups(parties: int) -> int:
    """Cells that a party is in, and so groups of dummies that it may enter."""
    return (1 << (parties - 1)) - 1


@dataclass(frozen=True)
class Ring:
    """One party of the ring, number ``me``; the matcher is number 0.

    ``channels``: by party number, to all others. ``sizes``: elements each party enters, by number.
    """

    terms: Terms
    me: int
    engine: Engine
    secrets: Secrets
    deck: Deck
    spool: Spool
    channels: Mapping[int, Channel]
    sizes: Sequence[int]
    keeps_order: bool = False
    progress: Callable[[int], None] = lambda _: None

    @property
    def parties(self) -> int:
        """How many parties."""
        return len(self.sizes)

    def abort(self) -> None:
        """Make every connection fail."""
        for channel in self.channels.values():
            channel.abort()

    def add_dummies(self) -> None:
        """Enter this party's dummies; secret ones are agreed with the cell's other parties first."""
        if self.terms.noise is None:
            return
        mine = [(g, cell) for g, cell in enumerate(cells(self.parties)) if self.me in cell]
        seeds = self._seeds(mine) if self.me else {}
        for group, _ in mine:
            if self.me == 0:
                labels = dummy_labels(self.terms.session, self.terms.noise.dummies, group)
            else:
                labels = chosen_dummies(self.terms, stream(seeds[group]), group)
            self.deck.add(labels, np.full(len(labels), NO_ROW, np.int64))

    def _seeds(self, mine: list[tuple[int, Cell]]) -> dict[int, bytes]:
        """A seed for each cell: from its first party but the matcher, to the others of it."""
        leaders = {group: min(p for p in cell if p) for group, cell in mine}
        seeds = {g: self.secrets.bytes_for(f"cell/{g}") for g, p in leaders.items() if p == self.me}
        for other in range(1, self.parties):
            if other == self.me:
                continue
            shared = [(g, leaders[g]) for g, cell in mine if other in cell]
            told = b"".join(seeds[g] for g, leader in shared if leader == self.me)
            heard = [g for g, leader in shared if leader == other]
            if other > self.me:
                self.channels[other].send(SEEDS, 0, told)
            else:
                kind, index, data = self.channels[other].receive()
                if kind != SEEDS or index or len(data) != 32 * len(heard):
                    raise ProtocolError("the seeds of a cell are malformed")
                for i, group in enumerate(heard):
                    seeds[group] = data[32 * i : 32 * (i + 1)]
        return seeds

    def run(self) -> None:
        """Steps 1 and 2. The deck is closed. Leaves fully blinded sets in the matcher's logs."""
        key = self.engine.new_key(self.secrets.source(f"blind/{self.engine.name}"))
        following = self.channels[(self.me + 1) % self.parties]
        before = self.channels[(self.me - 1) % self.parties]
        for hop in range(1, self.parties):
            sent, taken = (self.me - hop + 1) % self.parties, (self.me - hop) % self.parties
            log, items = self.spool.log(f"ring {taken}"), self.sizes[taken]

            def pass_on(owner: int = sent) -> None:
                self._send(following, owner, key)

            def take(index: int, data: bytes, log: Log = log, items: int = items) -> None:
                points = rows(data, POINT_BYTES, index, items)
                log.append(self.engine.multiply(key, points).tobytes())
                self.progress(len(points))

            with alongside(self, pass_on):
                expected = Expected(len(log), chunks_of(items), take)
                gather(before, {RING + taken: expected})
        self._deliver((self.me + 1) % self.parties)

    def _send(self, channel: Channel, owner: int, key: bytes) -> None:
        """A set's points to the next party, from where that one needs them."""
        start = channel.peer_has(RING + owner)
        if owner == self.me:
            for index, labels, _ in self.deck.chunks(start):
                points = self.engine.multiply(key, self.engine.encode(self.terms.session, labels))
                channel.send(RING + owner, index, points.tobytes())
            return
        log = self.spool.log(f"ring {owner}")
        if owner == 0 and self.keeps_order:
            for index in range(start, len(log)):
                channel.send(RING + owner, index, log.read(index))
            return
        for index, points, _ in self._reordered(owner).chunks(start):
            channel.send(RING + owner, index, points.tobytes())

    def _reordered(self, owner: int) -> Deck:
        """The points of a set in a new secret order. Raises ProtocolError if one is there twice."""
        log, size = self.spool.log(f"ring {owner}"), self.sizes[owner]
        order = self.secrets.bytes_for(f"order/{owner}")[:16]
        deck = Deck(self.spool, f"reordered {owner}", order, size)
        for i in range(len(log)):
            points = np.frombuffer(log.read(i), np.uint8).reshape(-1, POINT_BYTES)
            deck.add(points, np.full(len(points), NO_ROW, np.int64))
        deck.close()
        if deck.distinct != size:
            raise ProtocolError("a point is twice in one set")
        return deck

    def _deliver(self, owner: int) -> None:
        """Tokens of the set that ends here, to the matcher; and the matcher takes all of them."""
        log, total = self._tokens(owner), self.sizes[owner]
        if self.me:
            channel = self.channels[0]
            if owner == 0 and self.keeps_order:
                for index in range(channel.peer_has(ORDERED), len(log)):
                    channel.send(ORDERED, index, log.read(index))
                return
            shelf = tokens.Shelf.of(self.spool, "sorted", log, total)
            bits, start = tokens.frame_bits(total), channel.peer_has(FINAL + owner)
            for frame, run in shelf.runs(bits):
                run.require_distinct()
                if frame >= start:
                    channel.send(FINAL + owner, frame, tokens.encode(run, frame, bits, total))
            return
        for other in (0, *range(2, self.parties)):
            self._take(other)

    def _take(self, owner: int) -> None:
        channel, size = self.channels[(owner - 1) % self.parties], self.sizes[owner]
        log = self.spool.log(f"set {owner}")
        ordered = owner == 0 and self.keeps_order
        bits = tokens.frame_bits(size)

        def take(index: int, data: bytes) -> None:
            if ordered:
                rows(data, TOKEN_BYTES, index, size)
            else:
                tokens.decode(data, index, bits, size)
            log.append(data)

        kind, total = (ORDERED, chunks_of(size)) if ordered else (FINAL + owner, 1 << bits)
        gather(channel, {kind: Expected(len(log), total, take)})

    def _tokens(self, owner: int) -> Log:
        """Tokens of a set that carries all keys, in order of arrival."""
        points, log = self.spool.log(f"ring {owner}"), self.spool.log(f"last {owner}")
        for i in range(len(log), len(points)):
            part = np.frombuffer(points.read(i), np.uint8).reshape(-1, POINT_BYTES)
            log.append(self.engine.tokens(part).tobytes())
        return log

    # ------------------------------------------------------------------ at the matcher

    def tell_size(self, noise: SizeNoise, items: int) -> None:
        """A party's own noisy size, at most the cap, to the matcher."""
        value = min(items, self.terms.largest_set) + noise.draw(self.secrets.source("own size"))
        self.channels[0].send(SIZE, 0, value.to_bytes(8, "little", signed=True))

    def hear_sizes(self, noise: SizeNoise, items: int) -> list[int]:
        """Noisy set sizes, by party; the matcher's own has ``items``, at most the cap."""
        result = [min(items, self.terms.largest_set) + noise.draw(self.secrets.source("own size"))]
        for other in range(1, self.parties):
            kind, index, data = self.channels[other].receive()
            if kind != SIZE or index or len(data) != 8:
                raise ProtocolError("a set's size is malformed")
            result.append(int.from_bytes(data, "little", signed=True))
        return result

    def _sets(self, bits: int) -> Iterator[list[tokens.Sorted]]:
        """All sets, one range of tokens after another."""
        shelves = []
        for owner in range(self.parties):
            name, size = f"venn {owner}", self.sizes[owner]
            if owner == 1:
                shelf = tokens.Shelf.of(self.spool, name, self._tokens(1), SPILL << bits)
            elif owner == 0 and self.keeps_order:
                shelf = tokens.Shelf.of(self.spool, name, self.spool.log("set 0"), SPILL << bits)
            else:
                shelf = tokens.Shelf(self.spool, name, SPILL << bits)
                log, frame_bits = self.spool.log(f"set {owner}"), tokens.frame_bits(size)
                for frame in range(1 << frame_bits):
                    run = tokens.decode(log.read(frame), frame, frame_bits, size)
                    shelf.add(run.as_bytes(), 0)
            shelves.append(shelf)
        for bucket in range(1 << bits):
            yield [shelf.read(bucket) for shelf in shelves]

    def _range_bits(self) -> int:
        return bucket_bits(max(self.sizes))

    def counts(self) -> dict[Cell, int]:
        """Exact cells of two or more parties as the matcher sees them, dummies included."""
        found = dict.fromkeys(cells(self.parties), 0)
        for sets in self._sets(self._range_bits()):
            high = np.concatenate([s.high for s in sets])
            low = np.concatenate([s.low for s in sets])
            owner = np.concatenate(
                [np.full(len(s.high), 1 << i, np.int64) for i, s in enumerate(sets)]
            )
            for s in sets:
                s.require_distinct()
            order = np.lexsort((low, high))
            high, low, owner = high[order], low[order], owner[order]
            if not len(high):
                continue
            new = np.concatenate([[True], (high[1:] != high[:-1]) | (low[1:] != low[:-1])])
            masks = np.add.reduceat(owner, np.flatnonzero(new))
            tally = np.bincount(masks, minlength=1 << self.parties)
            for cell in found:
                found[cell] += int(tally[sum(1 << p for p in cell)])
        return found

    def noisy_counts(self, noise: SizeNoise) -> dict[Cell, int]:
        """Cells with the dummies' noise and the matcher's own."""
        source = self.secrets.source("cell noise")
        return {c: n - noise.bound + noise.draw(source) for c, n in self.counts().items()}

    def members(self) -> Iterator[tuple[Positions, dict[int, Members]]]:
        """Places in the matcher's own set, with who else has each; where order was kept."""
        for sets in self._sets(self._range_bits()):
            mine = sets[0]
            mine.require_distinct()
            yield (
                mine.place.astype(np.int64),
                {i: mine.contained_in(other) for i, other in enumerate(sets) if i},
            )

"""A partner whose gate runs other code in a match: what it enters, and what it makes of the answers.

The other partner runs the product. Everything but the protocol itself (handshake, heads, charge of its own)
is as it must be, since otherwise the other side would not answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from client.channel import MatchChannel
from client.tasks import matching
from client.tasks.match import MatchTask
from client.tasks.stages import HELD, Match, Stage
from privacy.errors import ParameterError
from privacy.matching import fast, intersection, oblivious, overlap, sizes, terms, tokens, total
from privacy.matching.channel import Expected, alongside, chunks_of, gather, rows
from privacy.matching.deck import NO_ROW
from privacy.matching.engine import LABEL_BYTES, POINT_BYTES, Array
from privacy.matching.terms import Side
from privacy.noisy_sum.encoding import SENSITIVITY
from privacy.randomness import stream
from protos import wire
from protos.addresses import JobId
from simulations.attacks.hostile import Opened
from simulations.room import Room

Act = Callable[[Match, MatchChannel], wire.MatchReply]
KNOWN = 56
"""People whom the fast lane's attacker knows to be in the other set: 448 bits of a secret, 8 each."""


class _Deviating(MatchTask):
    def __init__(self, *arguments: Any, act: Act) -> None:
        super().__init__(*arguments)
        self._act = act

    def _match(self, spool: Any) -> wire.MatchReply:
        (channel,) = self._session.channels.values()
        return self._act(self._terms(spool), channel)


def deviate(room: Room, name: str, opened: Opened, act: Act) -> None:
    """Let a partner, which has answered a hello, do ``act`` in place of the match."""
    gate = room.gates[name]
    opener = gate._open_stream
    if opener is None:
        raise ParameterError("no exchange here")
    gate._matches[opened.id] = _Deviating(
        gate.context, JobId(opened.id), opened.job, opener, act=act
    )


# ---------------------------------------------------------------------- sizes


@dataclass
class WithoutDummies:
    """The receiver of a size enters random points in place of the public dummies: the sender's secret
    number of them never shows. ``size``: exact."""

    size: int = -1

    def __call__(self, match: Match, channel: MatchChannel) -> wire.MatchReply:
        noise = match.spec.size_noise(match.mu2)
        if noise is None:
            raise ParameterError("not a noisy match")
        stage = Stage(match, 0)
        agreed = match.terms(stage.session, noise)
        random = np.frombuffer(os.urandom(LABEL_BYTES * noise.dummies), np.uint8)
        deck = stage.deck(agreed, None, random.reshape(-1, LABEL_BYTES))
        opened, theirs = stage.open(channel, deck.distinct, agreed, HELD["size", True])
        side = stage.side(deck, opened, theirs, theirs)
        self.size = len(sizes.receive(side))
        return wire.MatchReply(is_receiver=True, engine=side.engine.name)


@dataclass
class OwnExponents:
    """The receiver multiplies its one item by another exponent than the dummies. ``found``: whether the
    sender has it."""

    found: bool = False

    def __call__(self, match: Match, channel: MatchChannel) -> wire.MatchReply:
        noise = match.spec.size_noise(match.mu2)
        if noise is None:
            raise ParameterError("not a noisy match")
        _, side = matching._noisy_side(match, channel, noise)
        self._receive(side)
        return wire.MatchReply(is_receiver=True, engine=side.engine.name)

    def _receive(self, side: Side) -> None:
        key, other = side.key(), side.engine.new_key(os.urandom)
        items, bits = side.deck.distinct, tokens.frame_bits(side.deck.distinct)
        theirs, answers = side.spool.log("theirs"), side.spool.log("tokens")

        def send() -> None:
            for index, labels, behind in side.deck.chunks(0):
                encoded = side.engine.encode(side.session, labels)
                points = side.engine.multiply(key, encoded)
                mine = np.flatnonzero(behind != NO_ROW)
                points[mine] = side.engine.multiply(other, np.ascontiguousarray(encoded[mine]))
                side.channel.send(intersection.BLINDED, index, points.tobytes())

        def take_points(index: int, data: bytes) -> None:
            points = rows(data, POINT_BYTES, index, side.theirs)
            theirs.append(side.engine.tokens(side.engine.multiply(other, points)).tobytes())

        def take_tokens(index: int, data: bytes) -> None:
            answers.append(data)

        with alongside(side.channel, send):
            gather(side.channel, {
                intersection.OWN: Expected(0, chunks_of(side.theirs), take_points),
                intersection.TOKENS: Expected(0, 1 << bits, take_tokens),
            })  # fmt: skip
        self.found = len(intersection.join(side, theirs, side.theirs, answers, items)) > 0


# ---------------------------------------------------------------------- sums


def beyond_bounds(match: Match, channel: MatchChannel) -> wire.MatchReply:
    """The sender of a sum gives its one person a value far above the bounds."""
    size, noise = match.spec.size_noise(match.mu2), match.spec.sum_noise(match.contract, match.mu2)
    if size is None or noise is None:
        raise ParameterError("not a sum")
    _, side = matching._noisy_side(match, channel, size)
    sizes.send(side)
    value = np.full(match.audience.people, SENSITIVITY << 24, np.int64)
    share = oblivious.CorrelatedSender(side.channel, side.secrets.source("transfer")).share(
        total.in_order(side, value)
    )
    side.channel.send(total.OPENING, 0, ((-share) % (1 << 64)).to_bytes(8, "little"))
    return wire.MatchReply(is_receiver=False, engine=side.engine.name)


# ---------------------------------------------------------------------- overlaps

HEARD: dict[tuple[bytes, int], Any] = {}
"""By a ring's session and party: what :class:`Listening` wrote down."""


class Listening(overlap.Ring):
    """A party of a ring that runs the protocol and remembers what it saw: the matcher its counts before it
    adds noise, another party how many secret dummies its seeds give."""

    def _seeds(self, mine: list[tuple[int, overlap.Cell]]) -> dict[int, bytes]:
        found = super()._seeds(mine)
        HEARD[self.terms.session, self.me] = {
            cell: len(terms.chosen_dummies(self.terms, stream(found[group]), group))
            for group, cell in mine
        }
        return found

    def counts(self) -> dict[overlap.Cell, int]:
        found = super().counts()
        HEARD[self.terms.session, self.me] = found
        return found


# ---------------------------------------------------------------------- the fast lane


@dataclass
class SecretOfSender:
    """The receiver in the fast lane spoils the codes of people whom it knows to be in the other set, one byte
    each: eight bits of the sender's secret are then one of 256 values that it can try. ``has``: the test of
    any label afterwards, without asking again."""

    known: Array
    has: Callable[[Array], Any] = field(default=lambda labels: np.zeros(len(labels), np.bool_))

    def __call__(self, match: Match, channel: MatchChannel) -> wire.MatchReply:
        stage = Stage(match, 0)
        agreed = match.terms(stage.session)
        source, size = stage.secrets.source("fast"), match.largest(agreed)
        people = np.full(len(self.known), -1, np.int64)
        own = fast.Set.of(self.known, people, bytes(16), lambda _: size, source)
        opened, theirs = stage.open(channel, len(own.labels), agreed, {})
        self._receive(opened, own, theirs, source)
        return wire.MatchReply(is_receiver=True, engine="fast")

    def _receive(self, channel: Any, own: fast.Set, theirs: int, source: Any) -> None:
        from privacy.matching import fast_kernels as kernels

        bins, width = fast.bins_for(len(own.labels)), fast.token_bytes(len(own.labels), theirs)
        salt = fast._agree(channel, source, first=True)
        digests = fast._digests(own.labels, salt)
        table, which, _ = kernels.cuckoo(kernels.positions(digests, bins), bins)
        pairs = oblivious.base_send(channel, fast.WIDTH, source)
        zero, one = ([fast._stream(pair[i]) for pair in pairs] for i in (0, 1))
        filled = np.flatnonzero(table >= 0)
        codes = np.zeros((-(-bins // 64) * 64, fast.COLUMN_WORDS), np.uint64)
        codes[filled] = fast._codes(digests[table[filled]], salt)
        of_known = fast._digests(self.known, salt)
        place = {digests[table[b]].tobytes(): b for b in filled}
        spoiled = [place[each.tobytes()] for each in of_known[:KNOWN]]
        for number, at in enumerate(spoiled):
            codes[at].view(np.uint8)[number] ^= 0xFF
        t = fast._columns(zero, len(codes))
        masked = kernels.rows_to_columns(codes) ^ t ^ fast._columns(one, len(codes))
        for frame, start in enumerate(range(0, fast.WIDTH, fast.FRAME_COLUMNS)):
            data = masked[start : start + fast.FRAME_COLUMNS].tobytes()
            channel.send(fast.MASKED, frame, data)
        values = kernels.columns_to_rows(t)
        lists = [self._list(channel, kernels, theirs, width) for _ in range(fast.HASHES)]
        secret = np.zeros(fast.COLUMN_WORDS, np.uint64)
        for number, at in enumerate(spoiled):
            tried = np.repeat(values[at : at + 1], 256, axis=0)
            tried.view(np.uint8).reshape(256, -1)[:, number] ^= np.arange(256, dtype=np.uint8)
            where, z = np.full(256, at, np.int64), np.full(256, which[at], np.uint8)
            hashed = kernels.hash_rows(tried, np.arange(256), where, z, width)
            hit = [i for i, each in enumerate(hashed) if each.tobytes() in lists[int(which[at])]]
            secret.view(np.uint8)[number] = hit[0] if len(hit) == 1 else 0
        matrix = values ^ (codes & secret)

        def has(labels: Array) -> Any:
            asked = fast._digests(labels, salt)
            own_codes, places = fast._codes(asked, salt) & secret, kernels.positions(asked, bins)
            hashed = kernels.hash_items(
                matrix, np.ascontiguousarray(places[:, 0]), own_codes, 0, width
            )
            return np.array([each.tobytes() in lists[0] for each in hashed])

        self.has = has

    def _list(self, channel: Any, kernels: Any, theirs: int, width: int) -> set[bytes]:
        found: set[bytes] = set()
        for start in range(0, theirs, fast.LIST_BYTES // 16):
            count = min(fast.LIST_BYTES // 16, theirs - start)
            _, _, data = channel.receive()
            found |= {each.tobytes() for each in kernels.widen(data, count, width)}
        return found

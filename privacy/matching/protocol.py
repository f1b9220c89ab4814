"""Two-party matching as state machines without I/O (Meadows 1986; Huberman, Franklin, Hogg 1999;
size with noise after the cardinality flow of De Cristofaro, Gasti, Tsudik 2012).

    1. R -> S:  a*H(x) for R's items, padding and dummies, in random order
    2. S -> R:  b*(a*H(x)), shuffled (size) or in R's order (list)
    3. S -> R:  b*H(y) for S's items, z of the dummies and padding, shuffled
    4. R compares a*(b*H(y)) with b*(a*H(x))

a and b are fresh in each job. R learns the size plus z, or which of its items match; S learns the
padded size of R's set only. Assumes semi-honest partners: a receiver that blinded every item with
another exponent could identify every match.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from privacy.errors import ParameterError, ProtocolError
from privacy.matching import group
from privacy.matching.size import SizeNoise
from privacy.randomness import Randomness, permutation


@dataclass(frozen=True)
class Terms:
    """What both sides agree on. ``noise`` is None for a list. Raises ParameterError if unfit."""

    session: bytes
    bucket: int
    largest_set: int
    noise: SizeNoise | None

    def __post_init__(self) -> None:
        if self.bucket < 1 or self.largest_set < 1:
            raise ParameterError("bucket and cap must be positive")

    @property
    def dummies(self) -> int:
        """Public dummies in play."""
        return self.noise.dummies if self.noise else 0

    def padded(self, items: int) -> int:
        """Elements sent for a set: the next multiple of the bucket, plus all dummies.

        Raises ParameterError if the set exceeds the cap.
        """
        if items > self.largest_set:
            raise ParameterError("the set is larger than the contract allows")
        return max(1, -(-items // self.bucket)) * self.bucket + self.dummies

    def check_padded(self, count: int) -> None:
        """ProtocolError unless ``count`` could come from :meth:`padded` of an allowed set."""
        body = count - self.dummies
        most = max(1, -(-self.largest_set // self.bucket)) * self.bucket
        if body < self.bucket or body > most or body % self.bucket:
            raise ProtocolError


class Receiver:
    """The side that learns. ``items`` are distinct hashed identifiers."""

    def __init__(self, terms: Terms, items: Sequence[bytes], randomness: Randomness) -> None:
        if len(set(items)) != len(items):
            raise ParameterError("items must be distinct")
        self._terms, self._random = terms, randomness
        self._key = group.new_scalar(randomness)
        size = terms.padded(len(items))
        points = group.hash_to_group(terms.session, items)
        points += group.dummies(terms.session, terms.dummies)
        points += group.random_points(randomness, size - len(points))
        self._order = permutation(randomness, size)
        self._items = len(items)
        self._points = [points[i] for i in self._order]
        self._twice: list[bytes] = []

    def first(self) -> list[bytes]:
        """Message 1."""
        sent, self._points = group.blind(self._key, self._points), []
        return sent

    def take_second(self, points: Sequence[bytes]) -> None:
        """Message 2. Raises ProtocolError if the count differs."""
        if len(points) != len(self._order):
            raise ProtocolError
        self._twice = [group.token(point) for point in points]

    def take_third(self, points: Sequence[bytes]) -> list[int]:
        """Message 3: indexes into message 2 that the other side has too."""
        self._terms.check_padded(len(points))
        theirs = {group.token(point) for point in group.blind(self._key, points)}
        if len(theirs) != len(points) or len(set(self._twice)) != len(self._twice):
            raise ProtocolError  # repeated elements would count one person twice
        return [i for i, mine in enumerate(self._twice) if mine in theirs]

    def size(self, matched: Sequence[int]) -> int:
        """The noisy size: z shifted back, the receiver's own noise added."""
        noise = self._terms.noise
        if noise is None:
            raise ParameterError("a list has no noisy size")
        return len(matched) - noise.bound + noise.draw(self._random)

    def matched_items(self, matched: Sequence[int]) -> list[int]:
        """Indexes into ``items`` that matched; only where message 2 kept the order."""
        if self._terms.noise is not None:
            raise ParameterError("a noisy size has no list")
        found = (int(self._order[i]) for i in matched)
        return sorted(i for i in found if i < self._items)


class Sender:
    """The side that answers."""

    def __init__(self, terms: Terms, items: Sequence[bytes], randomness: Randomness) -> None:
        if len(set(items)) != len(items):
            raise ParameterError("items must be distinct")
        self._terms, self._random = terms, randomness
        self._key = group.new_scalar(randomness)
        size = terms.padded(len(items))
        points = group.hash_to_group(terms.session, items)
        if terms.noise:
            count = terms.noise.draw_shifted(randomness)
            every = group.dummies(terms.session, terms.dummies)
            points += [every[i] for i in permutation(randomness, len(every))[:count]]
        points += group.random_points(randomness, size - len(points))
        self._points = [points[i] for i in permutation(randomness, size)]

    def second(self, points: Sequence[bytes]) -> list[bytes]:
        """Message 2 for message 1. Raises ProtocolError for a wrong size or a bad point."""
        self._terms.check_padded(len(points))
        if len(set(points)) != len(points):
            raise ProtocolError
        twice = group.blind(self._key, points)
        if self._terms.noise is None:
            return twice
        return [twice[i] for i in permutation(self._random, len(twice))]

    def third(self) -> list[bytes]:
        """Message 3."""
        sent, self._points = group.blind(self._key, self._points), []
        return sent

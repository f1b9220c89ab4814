"""One masked release, from both sides, without I/O.

The partner's side: :func:`new_keys`, :func:`share_keys`, :func:`masked`. The coordinator's side:
:func:`unmask`. Who may ask for which share, and when, is the gate's business (client.tasks).

With no dropouts tolerated (d = 0) there is nothing to recover, so no share of any key is ever made
and the self mask is left out: the total opens when all K vectors are there, and never otherwise.
That is a stricter rule than the double mask's and saves a message round (docs/decisions/0002).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from privacy.errors import ParameterError, ProtocolError
from privacy.noisy_sum import masks, shamir
from privacy.noisy_sum.encoding import Integers, Ring, to_ring
from privacy.randomness import Randomness


@dataclass(frozen=True)
class Roster:
    """The signed cohort P of a job and what it tolerates.

    ``parties`` in the contract's order. Raises ParameterError unless K > c + 2d, c >= 1, d >= 0.
    """

    parties: tuple[str, ...]
    colluders: int
    dropouts: int

    def __post_init__(self) -> None:
        check_tolerance(len(self.parties), self.colluders, self.dropouts)
        if len(set(self.parties)) != len(self.parties):
            raise ParameterError("a party is named twice")

    @property
    def honest(self) -> int:
        """K - c - d: noise shares certainly present."""
        return len(self.parties) - self.colluders - self.dropouts

    @property
    def threshold(self) -> int:
        """T = K - d: shares that open a secret, and vectors that a release needs."""
        return len(self.parties) - self.dropouts


def check_tolerance(parties: int, colluders: int, dropouts: int) -> None:
    """K > c + 2d with c >= 1, d >= 0 and K >= 2, or ParameterError."""
    if parties < 2:
        raise ParameterError("an alliance needs at least two partners")
    if colluders < 1 or dropouts < 0 or parties <= colluders + 2 * dropouts:
        raise ParameterError(
            f"{parties} partners cannot tolerate {colluders} colluders and {dropouts} dropouts: "
            "K > c + 2d must hold"
        )


@dataclass(frozen=True)
class ReleaseKeys:
    """A partner's fresh secrets for one release: mask key m and self-mask seed b, 32 bytes each."""

    mask: bytes
    seed: bytes


def new_keys(releases: int, randomness: Randomness) -> list[ReleaseKeys]:
    """Fresh, independent keys for each release."""
    return [ReleaseKeys(randomness(32), randomness(32)) for _ in range(releases)]


def share_context(job: str, release: int, sender: str, receiver: str) -> bytes:
    """Associated data of a sealed share: job, r, i, j, length-prefixed."""
    parts = [job, str(release), sender, receiver]
    return b"".join(len(p.encode()).to_bytes(2, "big") + p.encode() for p in parts)


def share_keys(
    keys: ReleaseKeys,
    *,
    roster: Roster,
    me: str,
    job: str,
    release: int,
    sealing_key: bytes,
    sealing_keys: Mapping[str, bytes],
    randomness: Randomness,
) -> dict[str, bytes]:
    """Shares of m and b for every party, T of K, sealed for the peers (own share included, sealed
    to oneself, so that every party is handled alike)."""
    size = len(roster.parties)
    of_mask = shamir.split(keys.mask, roster.threshold, size, randomness)
    of_seed = shamir.split(keys.seed, roster.threshold, size, randomness)
    return {
        peer: masks.seal_share(
            sealing_key,
            sealing_keys[peer],
            context=share_context(job, release, me, peer),
            plain=of_mask[i] + of_seed[i],
        )
        for i, peer in enumerate(roster.parties)
    }


def masked(
    total: Integers,
    noise: Integers,
    *,
    roster: Roster,
    me: str,
    keys: ReleaseKeys,
    mask_keys: Mapping[str, bytes],
    transcript: bytes,
    release: int,
    state: bytes,
) -> Ring:
    """y = x + noise + masks modulo 2^64, over the *fixed* roster. ``mask_keys``: public m_j,r."""
    length = len(total)
    result = to_ring(total) + to_ring(noise)
    if roster.dropouts:
        result = result + masks.expand(keys.seed, length)
    own = roster.parties.index(me)
    for j, peer in enumerate(roster.parties):
        if j != own:
            mask = masks.pairwise(
                keys.mask,
                mask_keys[peer],
                transcript=transcript,
                release=release,
                state=state,
                length=length,
            )
            result = result + masks.signed_pairwise(own < j, mask)
    return result


@dataclass(frozen=True)
class Opened:
    """Shares that the survivors gave: of b for those who answered, of m for those who did not.

    ``seeds[i][j]``: the share of b_i that the party with index j held; ``masks`` likewise of m_i.
    """

    seeds: Mapping[str, Mapping[int, bytes]]
    masks: Mapping[str, Mapping[int, bytes]]


def unmask(
    vectors: Mapping[str, Ring],
    *,
    roster: Roster,
    mask_keys: Mapping[str, bytes],
    transcript: bytes,
    release: int,
    state: bytes,
    opened: Opened | None = None,
) -> Ring:
    """The total of ``vectors``, noise included.

    With d = 0 all K vectors must be there. With d > 0 ``opened`` holds at least T shares of each
    needed secret; each recovered mask key is checked against its public key.
    Raises ProtocolError when something is missing or wrong.
    """
    answered = [party for party in roster.parties if party in vectors]
    if len(answered) < roster.threshold or len(answered) != len(vectors):
        raise ProtocolError("vectors are missing, or from outside the roster")
    lengths = {len(vector) for vector in vectors.values()}
    if len(lengths) != 1:
        raise ProtocolError("vectors of different lengths")
    length = lengths.pop()
    total: Ring = np.zeros(length, dtype=np.uint64)
    for party in answered:
        total = total + vectors[party]
    if not roster.dropouts:
        return total
    if opened is None:
        raise ProtocolError("no shares were opened")

    def secret(shares: Mapping[int, bytes]) -> bytes:
        if len(shares) < roster.threshold:
            raise ProtocolError("too few shares of a secret")
        return shamir.combine(shares)

    for party in answered:
        total = total - masks.expand(secret(opened.seeds.get(party, {})), length)
    for gone in [party for party in roster.parties if party not in vectors]:
        private = secret(opened.masks.get(gone, {}))
        if masks.public_key(private) != mask_keys[gone]:
            raise ProtocolError("a recovered mask key does not fit its public key")
        index = roster.parties.index(gone)
        for party in answered:
            mask = masks.pairwise(
                private,
                mask_keys[party],
                transcript=transcript,
                release=release,
                state=state,
                length=length,
            )
            # The survivor added its side of the pair; take exactly that out again.
            own = roster.parties.index(party)
            total = total - masks.signed_pairwise(own < index, mask)
    return total

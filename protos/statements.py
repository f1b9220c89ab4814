"""What a party states, checked before it is kept or passed on: the one place for both sides.

A partner signs what it likes. A head with a number that no journal reaches, a key that gives no secret, a
share of 60 MB, a statement in another's name: each is a valid signature's content, and whoever keeps it or
relays it makes an *honest* partner refuse later, in its own name. So every statement passes here first:

    whose       signed by the key that the contract names for the party that it must be from
    how large   bounded before it is parsed; a reply as a whole by what was asked for (:func:`largest_reply`)
    what for    this contract, this job, this plan, these statements of the others
    how much    every number, length and count within what an honest party can state

What comes out are frozen values, or :class:`BadStatement`, which says what is wrong and quotes nothing. An
X25519 key of low order gives every peer the same secret and would be found by the peers only; the five u
that it can have (Bernstein, "Curve25519", section 3; Cremers and Jackson 2019, table 1) are refused here.

Not handled: whether a true-looking number is true. A masked vector, a total or a head within its bounds is
believed of who signed it; what a head that is too high costs, and how it is undone: :mod:`protos.repairs`.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from privacy.errors import ConfigError, ProtocolError, WireError
from privacy.noisy_sum.shamir import SHARE_BYTES
from protos import wire
from protos.addresses import job_id
from protos.alliance import Contract

LARGEST_SEQUENCE = 1 << 62
"""A head that says more is not believed: it would leave no room for entries."""
LAST_FOLLOWED = 1 << 61
"""A journal that was restored goes on from a head up to here; behind a later one it could not go on long."""
LATEST = 1 << 40
"""A time in seconds that nobody's clock can show."""
MOST_ANCHORS = 64
LARGEST_HEAD = 8 << 10
"""Bytes of a signed head, which has at most 3,500."""
LARGEST_LOCK = 16 << 10
SEALED_BYTES = 2 * SHARE_BYTES + 16
"""A sealed share: of both keys, and a tag."""
MOST_WORK = 1 << 40
"""Elements that a match may say it has: more than any contract allows."""
SMALL = 32 << 10
"""Bytes that a reply of any kind may have: header, signatures, a lock."""
DIGEST = 32
_OUTCOMES = (0, 2 * DIGEST)
_FIGURES = 64
_P = 2**255 - 19
_LOW_ORDER = frozenset(
    int.from_bytes(bytes.fromhex(text), "little")
    for text in (
        "00" * 32,
        "01" + "00" * 31,
        "ec" + "ff" * 30 + "7f",
        "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
        "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    )
)


class BadStatement(WireError):
    """A statement that is not kept and not passed on; says why, and quotes nothing of it."""


@dataclass(frozen=True)
class Anchor:
    """An earlier entry of a journal."""

    sequence: int
    digest: bytes


@dataclass(frozen=True)
class JournalHead:
    """A head within its bounds; the fields are the message's."""

    contract: bytes
    sequence: int
    digest: bytes
    time: int
    mu2: float
    delta: float
    job: str
    outcome: bytes
    anchors: tuple[Anchor, ...]


@dataclass(frozen=True)
class SealingKey:
    """A party's key for shares, its own head, and all heads that it states."""

    key: bytes
    own: JournalHead
    heads: tuple[wire.Signed, ...]


@dataclass(frozen=True)
class Prepared:
    """A party's mask keys, digests of its shares for each party, and its head."""

    mask_keys: tuple[bytes, ...]
    shares: tuple[bytes, ...]
    head: JournalHead


@dataclass(frozen=True)
class MaskedDigest:
    """What a masked vector belongs to."""

    index: int
    transcript: bytes
    state: bytes
    vector: bytes


@dataclass(frozen=True)
class Asked:
    """What statements of one job over noisy sums must be for."""

    contract: Contract
    job: str
    plan: bytes
    releases: int


# ---------------------------------------------------------------------- heads


def read_head(contract: Contract, party: str, signed: wire.Signed) -> JournalHead:
    """The head of ``party``'s journal. Of whichever contract: the journal is one. Raises BadStatement."""
    said = _opened(wire.JournalHead, "journal head", contract, party, signed, LARGEST_HEAD)
    _need(len(said.contract) == DIGEST, "journal head: a contract's digest has 32 bytes")
    _need(said.sequence <= LARGEST_SEQUENCE, "journal head: says an entry that no journal reaches")
    _need(len(said.digest) == DIGEST, "journal head: a digest has 32 bytes")
    _need(said.time <= LATEST, "journal head: says a time that no clock shows")
    sums = (said.mu2, said.delta)
    _need(all(math.isfinite(s) and s >= 0.0 for s in sums), "journal head: says sums out of bounds")
    _need(len(said.outcome) in _OUTCOMES, "journal head: an outcome has 64 bytes")
    if said.job:
        _job(said.job)
    _need(len(said.anchors) <= MOST_ANCHORS, "journal head: has too many anchors")
    for anchor in said.anchors:
        fits = anchor.sequence < said.sequence and len(anchor.digest) == DIGEST
        _need(fits, "journal head: an anchor is not an earlier entry")
    return JournalHead(
        said.contract, said.sequence, said.digest, said.time, said.mu2, said.delta, said.job,
        said.outcome, tuple(Anchor(a.sequence, a.digest) for a in said.anchors),
    )  # fmt: skip


def is_behind(said: JournalHead, held: JournalHead) -> bool:
    """Whether a head that is stated now means that the journal was restored since it signed ``held``."""
    if said.sequence == held.sequence:
        return said.digest != held.digest
    return said.sequence < held.sequence and said.time > held.time


# ---------------------------------------------------------------------- noisy sums


def read_sealing_key(asked: Asked, party: str, signed: wire.Signed) -> SealingKey:
    """What ``party`` answers to ``hello``. Raises BadStatement."""
    parties = len(asked.contract.parties)
    said = _opened(
        wire.SealingKey, "sealing key", asked.contract, party, signed,
        largest_reply("hello", parties),
    )  # fmt: skip
    _for(asked, "sealing key", said.contract, said.job, said.plan)
    _exchange_key(said.key, "sealing key")
    _need(len(said.heads) <= 2 * parties, "sealing key: states more heads than there are parties")
    for head in said.heads:
        _need(_size(head) <= LARGEST_HEAD, "sealing key: states a head that is too large")
    own = [head for head in said.heads if head.party == party]
    _need(len(own) == 1, "sealing key: does not state its own journal's head once")
    return SealingKey(said.key, read_head(asked.contract, party, own[0]), tuple(said.heads))


def read_prepared(asked: Asked, hellos: bytes, party: str, signed: wire.Signed) -> Prepared:
    """What ``party`` states when it has prepared; ``hellos``: digest of the statements it was shown.

    Raises BadStatement.
    """
    roster, name = asked.contract.roster(), "prepared"
    largest = largest_reply("prepared", len(roster.parties), releases=asked.releases)
    said = _opened(wire.Prepared, name, asked.contract, party, signed, largest)
    _for(asked, name, said.contract, said.job, said.plan)
    _need(said.roster == hellos, f"{name}: is for other statements than it was shown")
    _need(len(said.mask_keys) == asked.releases, f"{name}: not one mask key for every release")
    for key in said.mask_keys:
        _exchange_key(key, "mask key")
    wanted = len(roster.parties) if roster.dropouts else 0
    _need(len(said.shares) == wanted, f"{name}: not one digest of shares for every party")
    _need(all(len(s) == DIGEST for s in said.shares), f"{name}: a digest has 32 bytes")
    return Prepared(
        tuple(said.mask_keys), tuple(said.shares), read_head(asked.contract, party, said.head)
    )


def check_shares(asked: Asked, party: str, said: Prepared, shares: Sequence[wire.Share]) -> None:
    """All shares that ``party`` deals, each once, of one length, as it signed them. Raises BadStatement."""
    parties = asked.contract.roster().parties if said.shares else ()
    _need(
        len(shares) == asked.releases * len(parties), "shares: not one for every party and release"
    )
    dealt: dict[str, dict[int, wire.Share]] = {name: {} for name in parties}
    for share in shares:
        fits = (
            share.sender == party
            and share.receiver in dealt
            and share.index < asked.releases
            and share.index not in dealt[share.receiver]
        )
        _need(fits, "shares: one is twice there, or for nobody")
        _need(len(share.sealed) == SEALED_BYTES, "shares: one has another length")
        dealt[share.receiver][share.index] = share
    for name, digest in zip(parties, said.shares, strict=True):
        _need(
            wire.digest_shares(dealt[name].values()) == digest, "shares: not those that it signed"
        )


def read_masked(asked: Asked, party: str, signed: wire.Signed) -> MaskedDigest:
    """What ``party`` says its masked vector belongs to. Raises BadStatement."""
    said = _opened(wire.MaskedDigest, "masked digest", asked.contract, party, signed, SMALL)
    _for(asked, "masked digest", said.contract, said.job)
    _need(said.index < asked.releases, "masked digest: of a release that is not in the plan")
    for digest in (said.transcript, said.state, said.vector):
        _need(len(digest) == DIGEST, "masked digest: a digest has 32 bytes")
    return MaskedDigest(said.index, said.transcript, said.state, said.vector)


def check_lock(
    asked: Asked, party: str, signed: wire.Signed, of: MaskedDigest, present: Sequence[str]
) -> None:
    """A lock that says what everybody's must: this release, and who answered. Raises BadStatement."""
    said = _opened(wire.Lock, "lock", asked.contract, party, signed, LARGEST_LOCK)
    _for(asked, "lock", said.contract, said.job)
    same = (said.index, said.transcript, said.state, list(said.present))
    wanted = (of.index, of.transcript, of.state, list(present))
    _need(same == wanted, "lock: of another release, or for others than answered")


def check_opened(
    parties: Collection[str], present: Collection[str], opened: Iterable[wire.OpenedShare]
) -> None:
    """Shares of b of those present and of m of those gone, one of each at most. Raises BadStatement."""
    seen: set[str] = set()
    for share in opened:
        known = share.party in parties and share.party not in seen
        _need(known, "opened shares: one is twice there, or of nobody")
        of_gone = share.party not in present
        _need(share.of_mask == of_gone, "opened shares: one is of a key that nobody asked for")
        _need(len(share.share) == SHARE_BYTES, "opened shares: one has another length")
        seen.add(share.party)


# ---------------------------------------------------------------------- matches


def read_working(working: wire.Working) -> tuple[int, int]:
    """How far a partner says that it is, and of how much. Raises BadStatement for what no match has.

    A gate may say more than all while it goes from one stage to the next: that is all of it.
    """
    _need(working.total <= MOST_WORK and working.done <= MOST_WORK, "progress: is out of bounds")
    return min(working.done, working.total), working.total


# ---------------------------------------------------------------------- sizes


def largest_reply(kind: str, parties: int, *, releases: int = 0, words: int = 0) -> int:
    """Bytes that an honest answer of a kind can have, header and signature included.

    ``releases`` and ``words``: how many are answered, or prepared, and the length of all vectors together.
    """
    more = {
        "hello": 2 * parties * LARGEST_HEAD,
        "prepared": LARGEST_HEAD + (releases + parties) * 40 + releases * parties * 320,
        "masked": 8 * words + releases * 1024,
        "unmask": parties * 256,
        "match": _FIGURES * 512,
        "finish": LARGEST_HEAD,
    }
    return min(SMALL + more.get(kind, 0), wire.LARGEST_MESSAGE)


# ---------------------------------------------------------------------- checks


def _opened(
    kind: type[wire.M], what: str, contract: Contract, party: str, signed: wire.Signed, largest: int
) -> wire.M:
    _need(signed.party == party, f"{what}: is in another's name")
    _need(len(signed.body) <= largest, f"{what}: is too large")
    try:
        return wire.read_statement(kind, signed, contract.identity_of(party))
    except (ConfigError, ProtocolError):
        raise BadStatement(f"{what}: is not signed by its key") from None
    except WireError:
        raise BadStatement(f"{what}: does not parse") from None


def _for(asked: Asked, what: str, contract: bytes, job: str, plan: bytes | None = None) -> None:
    same = contract == asked.contract.digest() and job == asked.job
    _need(same, f"{what}: is for another contract or job")
    same = plan is None or plan == asked.plan
    _need(same, f"{what}: is for another plan: do all run the same version?")


def _exchange_key(key: bytes, what: str) -> None:
    _need(len(key) == DIGEST, f"{what}: a key has 32 bytes")
    low = int.from_bytes(key, "little") % (1 << 255) % _P in _LOW_ORDER
    _need(not low, f"{what}: a key that gives no secret")


def _job(text: str) -> None:
    try:
        job_id(text)
    except WireError:
        raise BadStatement("journal head: names what is no job") from None


def _size(signed: wire.Signed) -> int:
    return len(signed.party) + len(signed.body) + len(signed.signature)


def _need(holds: bool, otherwise: str) -> None:
    if not holds:
        raise BadStatement(otherwise)

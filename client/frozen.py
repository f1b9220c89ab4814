"""Audiences that this partner defined, named and froze for an epoch: what an exact result is made of.

    [audiences.NAME] in partner.toml     who is in it, how long an epoch serves, and how often
    an epoch                             people and identifiers as they were when the owner froze them,
                                         encrypted in ``state/frozen/NAME/EPOCH``, committed to in the journal

A job names an audience and can change nothing about it, so whoever asks twice gets the same answer twice,
and a question with somebody else's predicate cannot be asked. Whether an epoch serves follows from its dates,
its count of uses and ``partner.toml``: public facts, judged when a job is opened and again with the charge.
Only the newest epoch of an audience serves; an older one does through a cache that was made of it.

An epoch whose files cannot be opened any more (a lost storage key, a lost disk) is ended by its owner: it
serves nobody, and what it was used for counts against everybody (:mod:`client.lost`).

Not handled: two epochs differ by those who came and went, and whoever gets lists from both sees who that
is. The owner is shown how many they are before freezing (:mod:`client.freezing`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from client.audience import Audience, Members, Tagger, Wanted
from client.context import Context
from client.home import AudienceRule, Home
from client.spill import DiskSpool
from client.store import Store
from client.tasks import caches
from privacy.errors import ConfigError, Refused
from privacy.matching import fast
from privacy.noisy_sum.masks import derive
from privacy.randomness import Randomness
from protos.alliance import NAME
from protos.jobs import Job
from protos.matches import MatchJob
from protos.refusal import Code

_FIELDS = "audience, epoch, time, until, people, uses, used, definition, commitment"


@dataclass(frozen=True)
class Epoch:
    """One epoch of an audience. Times in seconds since the epoch; ``uses``: exact disclosures it is for;
    ``lost``: who was in it cannot be known any more."""

    audience: str
    number: int
    time: float
    until: float
    people: int
    uses: int
    used: int
    rule: str | None
    identifiers: tuple[str, ...]
    commitment: bytes
    lost: bool = False


def check(at: Context, job: Job) -> None:
    """Whether this partner could serve a match now, by public facts. Raises Refused(POLICY, UNAVAILABLE)."""
    spec = job.match
    if spec is None:
        return
    if spec.uses_fast_lane(at.contract) and not fast.available():
        raise Refused(Code.UNAVAILABLE, "engine fast needs the extra: tallystick[fast]")
    epoch = epoch_for(at, spec)
    if reads_table(spec, at.me, epoch):
        try:
            Wanted.of(spec, at.me, at.contract, at.models).check(at.config.data)
        except ConfigError as error:
            asked = error.path == "rule" or error.path.startswith("model:")
            code = Code.POLICY if asked else Code.UNAVAILABLE
            raise Refused(code, f"partner.toml: {error}") from None


def reads_table(spec: MatchJob, me: str, epoch: Epoch | None) -> bool:
    """Whether this partner's table is read for the match: for all customers, for a rule, and for the values
    of a sum, which no epoch holds."""
    has_value = spec.value is not None and spec.parties[-1] == me
    return me in spec.entering and (epoch is None or has_value)


def epoch_for(at: Context, spec: MatchJob) -> Epoch | None:
    """The epoch that this partner's set is, or was cached of; None where the job names none.

    Raises Refused(UNAVAILABLE) if there is no such audience, or it does not serve now.
    """
    if spec.cache is not None:
        kept = caches.find(at, spec)
        if not kept.receives:
            return _serving(at, spec, kept.audience, epoch(at.store, kept.audience, kept.epoch))
    name = spec.named.get(at.me)
    if name is None:
        return None
    return _serving(at, spec, name, newest(at.store, name))


def use(at: Context, spec: MatchJob) -> Epoch | None:
    """Count one use, inside the caller's transaction, of an exact result. Raises as :func:`epoch_for`."""
    found = epoch_for(at, spec)
    if found is not None and not spec.is_noisy:
        at.store.execute(
            "UPDATE epochs SET used = used + 1 WHERE audience = ? AND epoch = ?",
            found.audience, found.number,
        )  # fmt: skip
    return found


def _serving(at: Context, spec: MatchJob, name: str, found: Epoch | None) -> Epoch:
    if found is None or name not in _defined(at.home):
        raise Refused(Code.UNAVAILABLE, "no such audience, or it was never frozen")
    if found.until <= at.ledger.now():
        raise Refused(
            Code.UNAVAILABLE, f"audience {name}: epoch {found.number} is over; freeze it again"
        )
    if not spec.is_noisy and found.used >= found.uses:
        raise Refused(Code.UNAVAILABLE, f"audience {name}: epoch {found.number} has no uses left")
    if not set(spec.identifiers) <= set(found.identifiers):
        raise Refused(Code.UNAVAILABLE, f"audience {name}: was frozen without such identifiers")
    return found


def _defined(home: Home) -> Mapping[str, AudienceRule]:
    """The audiences of ``partner.toml`` as it is now: what its owner takes out serves no more at once."""
    try:
        return home.config().audiences
    except ConfigError as error:
        raise Refused(Code.UNAVAILABLE, str(error)) from None


# ---------------------------------------------------------------------- the table of epochs


def newest(store: Store, name: str) -> Epoch | None:
    """The newest epoch of an audience."""
    row = store.row(
        f"SELECT {_FIELDS} FROM epochs WHERE audience = ? ORDER BY epoch DESC LIMIT 1", name
    )
    return _epoch(row) if row else None


def epoch(store: Store, name: str, number: int) -> Epoch | None:
    """One epoch."""
    row = store.row(f"SELECT {_FIELDS} FROM epochs WHERE audience = ? AND epoch = ?", name, number)
    return _epoch(row) if row else None


def epochs(store: Store) -> list[Epoch]:
    """All of them, by audience and number."""
    return [
        _epoch(row) for row in store.rows(f"SELECT {_FIELDS} FROM epochs ORDER BY audience, epoch")
    ]


def keep(store: Store, made: Epoch) -> None:
    """Write a new epoch down, inside the caller's transaction."""
    definition = json.dumps({"rule": made.rule, "identifiers": made.identifiers}).encode()
    store.execute(
        f"INSERT INTO epochs ({_FIELDS}) VALUES (?, ?, ?, ?, ?, ?, 0, ?, ?)",
        made.audience, made.number, made.time, made.until, made.people, made.uses, definition,
        made.commitment,
    )  # fmt: skip


def end_lost(store: Store, found: Epoch, now: float) -> None:
    """Write down that an epoch is lost, inside the caller's transaction: from now on it serves nobody."""
    definition = json.dumps({"rule": found.rule, "identifiers": found.identifiers, "lost": True})
    store.execute(
        "UPDATE epochs SET uses = used, until = MIN(until, ?), definition = ?"
        " WHERE audience = ? AND epoch = ?",
        now, definition.encode(), found.audience, found.number,
    )  # fmt: skip


def _epoch(row: tuple[Any, ...]) -> Epoch:
    audience, number, time, until, people, uses, used, definition, commitment = row
    plain = json.loads(bytes(definition))
    return Epoch(
        str(audience), int(number), float(time), float(until), int(people), int(uses), int(used),
        plain["rule"], tuple(plain["identifiers"]), bytes(commitment), bool(plain.get("lost")),
    )  # fmt: skip


# ---------------------------------------------------------------------- its files


def folder_of(home: Home, name: str, number: int) -> Path:
    """Where an epoch lies. Raises ConfigError for a name that could lead elsewhere."""
    if not NAME.fullmatch(name):
        raise ConfigError("audiences", "a name is a-z, 0-9, - and _, at most 32")
    return home.state / "frozen" / name / str(number)


def spool_of(home: Home, name: str, number: int, folder: Path, randomness: Randomness) -> DiskSpool:
    """An epoch's files in ``folder``, under a key of its own."""
    info = f"tallystick/v1/frozen/{name}/{number}".encode()
    return DiskSpool(folder, derive(home.storage_key(), b"", info), randomness)


@contextmanager
def opened(at: Context, found: Epoch) -> Iterator[Audience]:
    """The people and identifiers of an epoch. Raises Refused(STORAGE) where its files are gone."""
    folder = folder_of(at.home, found.audience, found.number)
    if not folder.is_dir():
        raise Refused(Code.STORAGE, "the files of an epoch are gone")
    with spool_of(at.home, found.audience, found.number, folder, at.randomness) as spool:
        audience = Audience(spool, found.identifiers)
        if not audience.complete():
            raise Refused(Code.STORAGE, "the files of an epoch are gone")
        yield audience


def tagger(home: Home) -> Tagger:
    """This partner's tags of people: equal for all of its audiences."""
    return Tagger(derive(home.storage_key(), b"", b"tallystick/v1/frozen tags")[:16])


def members(at: Context, found: Epoch) -> Members:
    """The people of an epoch, to be looked for in the table."""
    with opened(at, found) as audience:
        return Members(tagger(at.home), audience.tags())

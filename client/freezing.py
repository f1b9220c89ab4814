"""Freezing an audience for an epoch: the owner's own act, with everything shown that it would give away.

The table is read, whoever was in too many exact results already is left out, and the owner sees how many
people and identifiers there are, how many came and went, and from which other epochs this one differs by a
few people only. What is then confirmed is there whole, or not at all.

    exact results that a person was in     those of every epoch of the period that he is in, and those that
                                           an epoch that still serves may yet be used for
    results of an epoch that was lost      count against everybody, as nobody knows who was in it
    tags                                   64 keyed bits of each person's key, kept for the period: what
                                           differences and counts are computed from

Not handled: a key that the owner changes is another person here; so is every key after ``data.key`` changes.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import numpy as np

from client import frozen
from client.audience import Audience, Members, Tags, Wanted
from client.context import Context
from client.frozen import Epoch
from client.home import AudienceRule, Home
from client.offline import owner as owner
from client.table import Report
from privacy.errors import ConfigError, Refused, TallystickError
from privacy.matching.deck import Deck
from privacy.matching.storage import Spool
from privacy.programs import rules
from protos.alliance import Matching
from protos.files import open_private, own_folder
from protos.refusal import Code

DAY = 86_400.0
KEPT = 2
"""Newest epochs of an audience that keep their identifiers."""
FROZEN = "audience frozen"


@dataclass(frozen=True)
class Difference:
    """How many people a new epoch has that another has not, and the other way around."""

    audience: str
    epoch: int
    came: int
    gone: int


@dataclass(frozen=True)
class Found:
    """What the owner is shown. ``last``: against the audience's last epoch; ``close``: epochs from which
    this one differs by fewer people than the smallest cohort. ``identifiers``: distinct ones, by kind.
    ``lost``: epochs of the period that it could not be compared with."""

    audience: str
    epoch: int
    people: int
    left_out: int
    identifiers: dict[str, int]
    last: Difference | None
    close: tuple[Difference, ...]
    uses: int
    until: float
    limit: int
    rule: str | None
    lost: int = 0

    @property
    def changed(self) -> int:
        """People who came or went since the last epoch."""
        return self.last.came + self.last.gone if self.last else self.people

    def sentences(self) -> list[str]:
        """For the owner's terminal."""
        kinds = ", ".join(f"{count} by {kind}" for kind, count in self.identifiers.items())
        day = datetime.fromtimestamp(self.until, UTC).strftime("%Y-%m-%d")
        said = [
            f"{self.audience}, epoch {self.epoch}: {self.people} people ({kinds})",
            f"rule: {self.rule or 'every customer'}",
            f"serves until {day}, for {self.uses} exact result(s)",
        ]
        if self.left_out:
            said.append(
                f"left out: {self.left_out} people who could be in more than {self.limit} exact results"
                " of this period (limits.exact_disclosures)"
            )
        if self.last:
            said.append(
                f"since epoch {self.last.epoch}: {self.last.came} came, {self.last.gone} went"
            )
        if self.lost:
            said.append(
                f"WARNING: {self.lost} epoch(s) of this period are lost: who came or went since cannot be"
                " said, and their exact results count against everybody"
            )
        said += [
            f"WARNING: differs from {other.audience}, epoch {other.epoch}, by {other.came + other.gone}"
            " people: whoever gets lists from both learns who among theirs those few are"
            for other in self.close
        ]
        return said


@dataclass(frozen=True)
class Refreshed:
    """What became of an audience that was due. ``reason``: why its last epoch goes on serving."""

    audience: str
    frozen: bool
    reason: str


def freeze(at: Context, name: str, confirm: Callable[[Found], bool]) -> Found | None:
    """Freeze an audience of ``partner.toml`` if ``confirm``, shown what was found, says so; None if not.

    Raises ConfigError for a definition that cannot be frozen (fewer people than the contract's smallest
    cohort, more identifiers than its largest set), DataError for the table.
    """
    at = _now(at)
    rule, matching = _rule(at, name), _matching(at)
    kinds = _kinds(at, name, rule, matching)
    _check_pinned(name, rule)
    with _alone(at.home, name):
        last = frozen.newest(at.store, name)
        number = last.number + 1 if last else 1
        exposed = _exposed(at, name)
        over = _over(at, name, exposed, rule.uses)
        members = Members(frozen.tagger(at.home), without=over)
        wanted = Wanted.select(at.contract, at.models, rule.rule, kinds, members=members)
        wanted.check(at.config.data)
        folder = frozen.folder_of(at.home, name, number)
        unfinished = folder.with_name(f"{number}.new")
        for left in (folder, unfinished):
            shutil.rmtree(left, ignore_errors=True)  # of a freeze that was killed
        try:
            with frozen.spool_of(at.home, name, number, unfinished, at.randomness) as spool:
                audience = Audience(spool, kinds)
                audience.write(at.home.source(), wanted, Report(), at.parts.batches)
                found = _found(at, name, number, rule, matching, audience, spool)
                if not confirm(found):
                    return None
                salt = at.randomness(32)
                spool.log("salt").append(salt)
                commitment = audience.commitment(salt)
            unfinished.replace(folder)
            made = Epoch(
                name, number, at.ledger.now(), found.until, found.people, rule.uses, 0, rule.rule,
                kinds, commitment,
            )  # fmt: skip
            with at.store.transaction():
                # An older epoch serves no more, also not through a cache that is being made of it just now.
                at.store.execute(
                    "UPDATE epochs SET uses = used WHERE audience = ? AND NOT EXISTS (SELECT 1 FROM caches"
                    " WHERE caches.audience = epochs.audience AND caches.epoch = epochs.epoch"
                    " AND receives = 0)",
                    name,
                )
                if _exposed(at, name) != exposed:
                    raise ConfigError(
                        f"audiences.{name}", "was used while it was read; freeze it again"
                    )
                frozen.keep(at.store, made)
                at.journal.record_digest(FROZEN, "", 0, commitment, at.me)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    prune(at)
    return found


def _check_pinned(name: str, rule: AudienceRule) -> None:
    """A later model of the same name must not change who is in an audience. Raises ConfigError."""
    parsed = rules.parse(rule.rule) if rule.rule else None
    for model in sorted(parsed.models) if parsed else ():
        if "@" not in model:
            raise ConfigError(
                f"audiences.{name}.rule",
                f"{model}: name the job that made it too, {model}@JOB (`score` lists what there is), so that"
                " a later model of that name does not change who is in the audience",
            )


def due(at: Context) -> list[str]:
    """Audiences that freeze themselves and whose last epoch is older than they say. One that was never
    frozen is its owner's to begin."""
    found = []
    for name, rule in _now(at).config.audiences.items():
        last = frozen.newest(at.store, name)
        if rule.every_days and last and last.time + rule.every_days * DAY <= at.ledger.now():
            found.append(name)
    return found


def refresh(at: Context) -> list[Refreshed]:
    """Freeze what is due, as long as no more people came or went than its definition allows; where that is
    not so, or the table cannot be read, the last epoch goes on serving and the owner is to be told."""
    results, at = [], _now(at)
    for name in due(at):
        most = at.config.audiences[name].largest_change
        seen: list[Found] = []

        def confirm(found: Found, most: int = most, seen: list[Found] = seen) -> bool:
            seen.append(found)
            return found.changed <= most

        last = frozen.newest(at.store, name)
        if last is not None and last.rule != at.config.audiences[name].rule:
            results.append(Refreshed(name, False, "its rule changed: freeze it by hand once"))
            continue
        try:
            made = freeze(at, name, confirm)
        except (TallystickError, OSError) as error:
            reason = type(error).__name__ if isinstance(error, OSError) else str(error)
            results.append(Refreshed(name, False, reason))
            continue
        changed = f"{seen[0].changed} people came or went; largest_change is {most}"
        results.append(Refreshed(name, made is not None, "" if made else changed))
    return results


def prune(at: Context) -> None:
    """Erase what no rule needs any more: identifiers of all but an audience's two newest epochs, and
    everything of epochs that ended before the running period."""
    since = at.ledger.since()
    newest: dict[str, int] = {}
    for each in frozen.epochs(at.store):
        newest[each.audience] = max(newest.get(each.audience, 0), each.number)
    for each in frozen.epochs(at.store):
        folder = frozen.folder_of(at.home, each.audience, each.number)
        if each.until <= since or each.lost:
            shutil.rmtree(folder, ignore_errors=True)
        elif each.number <= newest[each.audience] - KEPT and folder.is_dir():
            with frozen.spool_of(
                at.home, each.audience, each.number, folder, at.randomness
            ) as spool:
                for log in ("people", *(f"labels {kind}" for kind in each.identifiers)):
                    spool.discard(log)


# ---------------------------------------------------------------------- what is looked at


def _now(at: Context) -> Context:
    """With ``partner.toml`` as it is now: a gate that runs for weeks read it when it started."""
    return replace(at, config=at.home.config())


def _rule(at: Context, name: str) -> AudienceRule:
    rule = at.config.audiences.get(name)
    if rule is None:
        known = ", ".join(at.config.audiences) or "none"
        raise ConfigError("audiences", f"partner.toml defines no such audience; there are: {known}")
    if rule.uses > at.config.limits.exact_disclosures:
        raise ConfigError(
            f"audiences.{name}.uses", "is above limits.exact_disclosures: nobody could be in it"
        )
    return rule


def _matching(at: Context) -> Matching:
    if at.contract.matching is None:
        raise ConfigError("matching", "the contract has no matching rules")
    return at.contract.matching


def _kinds(at: Context, name: str, rule: AudienceRule, matching: Matching) -> tuple[str, ...]:
    mapped = at.config.data.identifiers if at.config.data else {}
    for kind in rule.identifiers:
        if kind not in matching.identifiers:
            raise ConfigError(
                f"audiences.{name}.identifiers", f"the contract does not allow {kind}"
            )
    kinds = rule.identifiers or tuple(k for k in matching.identifiers if k in mapped)
    if not kinds:
        raise ConfigError("data.identifiers", "maps nothing that the contract allows")
    return kinds


def _found(
    at: Context, name: str, number: int, rule: AudienceRule, matching: Matching,
    audience: Audience, spool: Spool,
) -> Found:  # fmt: skip
    smallest = at.contract.privacy.smallest_cohort
    if audience.people < smallest:
        raise ConfigError(
            f"audiences.{name}",
            f"{audience.people} people are fewer than the contract's smallest cohort, {smallest}"
            + (f"; {audience.left_out} were left out" if audience.left_out else ""),
        )
    distinct = {kind: _distinct(at, audience, spool, kind) for kind in audience.identifiers}
    for kind, count in distinct.items():
        if count > matching.largest_set:
            raise ConfigError(
                f"audiences.{name}",
                f"{count} by {kind} are more than the contract's largest set, {matching.largest_set}",
            )
    audience.note_distinct(distinct)
    tags = audience.tags()
    spool.discard("tags")
    spool.log("tags").append(tags.tobytes())
    last, close, lost = None, [], 0
    for other in frozen.epochs(at.store):
        if other.until <= at.ledger.since():
            continue
        if other.lost:
            lost += 1
            continue
        difference = _difference(tags, _tags(at, other), other)
        if other.audience == name and other.number == number - 1:
            last = difference
        if 0 < difference.came + difference.gone < smallest:
            close.append(difference)
    until = at.ledger.now() + rule.valid_days * DAY
    return Found(
        name, number, audience.people, audience.left_out, distinct, last, tuple(close), rule.uses,
        until, at.config.limits.exact_disclosures, rule.rule, lost,
    )  # fmt: skip


def _distinct(at: Context, audience: Audience, spool: Spool, kind: str) -> int:
    deck = Deck(spool, "counting", at.randomness(16), audience.expected(kind))
    for labels, people in audience.records(kind):
        deck.add(labels, people)
    count = deck.count()
    spool.discard("counting")
    return count


def _difference(tags: Tags, theirs: Tags, other: Epoch) -> Difference:
    common = len(np.intersect1d(tags, theirs, assume_unique=True))
    return Difference(other.audience, other.number, len(tags) - common, len(theirs) - common)


def _tags(at: Context, each: Epoch) -> Tags:
    try:
        return tags_of(at, each)
    except Refused:
        raise ConfigError(
            f"audiences.{each.audience}",
            f"the files of epoch {each.number} are gone, or were sealed with another storage key. Put them"
            " back, or end what is lost with `tallystick-partner audience lost`",
        ) from None


def tags_of(at: Context, each: Epoch) -> Tags:
    """Who is in an epoch. Raises Refused(STORAGE) where that cannot be read."""
    with frozen.opened(at, each) as audience:
        tags = audience.tags()
    if len(tags) != each.people:
        raise Refused(Code.STORAGE, "the files of an epoch are not whole")
    return tags


def _exposed(at: Context, name: str) -> dict[tuple[str, int], int]:
    """How many exact results of the running period each epoch was used for, and may yet be used for once
    ``name`` has a newer epoch."""
    now, since = at.ledger.now(), at.ledger.since()
    used: dict[tuple[str, int], int] = {
        (str(audience), int(number)): int(count)
        for audience, number, count in at.store.rows(
            "SELECT audience, epoch, COUNT(DISTINCT job) FROM disclosures WHERE time > ?"
            " GROUP BY audience, epoch",
            since,
        )
    }
    cached = set(
        at.store.rows("SELECT audience, epoch FROM caches WHERE receives = 0 AND time > ?", since)
    )
    found = {}
    for each in frozen.epochs(at.store):
        if each.until <= since:
            continue
        key = (each.audience, each.number)
        last = frozen.newest(at.store, each.audience)
        serves = each.audience != name and last is not None and last.number == each.number
        pending = each.uses - each.used if each.until > now and (serves or key in cached) else 0
        found[key] = used.get(key, 0) + pending
    return found


def _over(at: Context, name: str, exposed: dict[tuple[str, int], int], uses: int) -> Tags:
    """Who would be in more exact results than the owner allows, sorted. Whoever is not known to have been in
    an epoch that was lost may have been. Raises ConfigError where that leaves nobody."""
    limit, everybody = at.config.limits.exact_disclosures, 0
    tags, counts = np.empty(0, np.uint64), np.empty(0, np.int64)
    for (audience, number), count in exposed.items():
        each = frozen.epoch(at.store, audience, number)
        if each is None or not count:
            continue
        if each.lost:
            everybody += count
            continue
        theirs = _tags(at, each)
        tags, place = np.unique(np.concatenate([tags, theirs]), return_inverse=True)
        added = np.concatenate([counts, np.full(len(theirs), count, np.int64)])
        counts = np.zeros(len(tags), np.int64)
        np.add.at(counts, place, added)
    if everybody + uses > limit:
        raise ConfigError(
            f"audiences.{name}.uses",
            f"epochs that are lost were in {everybody} exact result(s) of this period, which count against"
            f" everybody: at most {max(0, limit - everybody)} are left of limits.exact_disclosures, {limit}",
        )
    over: Tags = tags[counts + everybody + uses > limit]
    return over


@contextmanager
def _alone(home: Home, name: str) -> Iterator[None]:
    """Nobody else freezes this audience. Raises ConfigError if somebody does."""
    folder = own_folder(frozen.folder_of(home, name, 0).parent)
    with open_private(folder / "lock") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(f"audiences.{name}", "is being frozen right now") from None
        yield

"""A partner's audience for one match: hashed identifiers, and the people and values behind them.

Read once, after the charge, a batch at a time, into the match's own encrypted folder, or copied there from
an epoch that its owner froze; the match and its resumptions work on that. A person is a number here: its
place among the people selected.

What is asked of a table (:class:`Wanted`) is judged before any row is read (:meth:`Wanted.check`), so that
what may still fail when it is read is the table, the disk or the memory, and never a row's value.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client import people as persons
from client.home import Data
from client.models import Models
from client.source import Source
from client.table import Batch, Report
from privacy.errors import ConfigError, ParameterError
from privacy.identifiers import labels
from privacy.matching.deck import Rows, ranks
from privacy.matching.engine import LABEL_BYTES, Array
from privacy.matching.storage import Spool
from privacy.programs import rules
from privacy.programs.columns import Columns, Floats
from privacy.programs.rules import Rule
from privacy.programs.scoring import Model
from protos.alliance import Contract
from protos.matches import MatchJob

Tags = NDArray[np.uint64]
"""64 keyed bits of each person."""
Reader = Callable[..., Iterator[Batch]]
"""See :func:`client.table.batches`."""


@dataclass(frozen=True)
class Tagger:
    """Turns a partner's keys into tags that only it can compute. ``key``: 16 bytes."""

    key: bytes

    def tags(self, keys: Iterable[str], source: Source) -> Tags:
        """One for each key; keys of one person, however they are spelled, have one."""
        person = persons.digests(persons.canonical(list(keys), source.key))
        padded = np.zeros((len(person), LABEL_BYTES), np.uint8)
        padded[:, :16] = person.astype(">u8").view(np.uint8).reshape(-1, 16)
        return ranks(self.key, padded)


@dataclass(frozen=True)
class Members:
    """People by tag. ``only``: nobody else is read; ``without``: these are left out. Both sorted."""

    tagger: Tagger
    only: Tags | None = None
    without: Tags = field(default_factory=lambda: np.empty(0, np.uint64))


@dataclass(frozen=True)
class Wanted:
    """What is asked of a table: who, and what of them. ``one_each``: of each kind of identifier a person
    enters one at most, as a noisy count needs. ``models``: as the rule writes them."""

    columns: Columns
    rows_per_person: int
    identifiers: tuple[str, ...]
    rule: Rule | None = None
    models: Mapping[str, Model] = field(default_factory=dict)
    value: str | None = None
    one_each: bool = False
    members: Members | None = None

    @classmethod
    def of(
        cls, spec: MatchJob, me: str, contract: Contract, models: Models,
        members: Members | None = None,
    ) -> Wanted:  # fmt: skip
        """What a job asks of this partner. Raises ConfigError for a model that is not there."""
        return cls.select(
            contract, models, spec.rules.get(me), spec.identifiers, one_each=spec.is_noisy,
            value=spec.value if spec.parties[-1] == me else None, members=members,
        )  # fmt: skip

    @classmethod
    def select(
        cls, contract: Contract, models: Models, rule: str | None, identifiers: Iterable[str],
        **more: Any,
    ) -> Wanted:  # fmt: skip
        """Everybody whom ``rule`` selects. Raises ConfigError, ParameterError."""
        parsed = rules.parse(rule) if rule else None
        needed = parsed.models if parsed else frozenset()
        return cls(
            contract.declared_columns(), contract.privacy.rows_per_person, tuple(identifiers),
            parsed, {name: models.find(name).model for name in sorted(needed)}, **more,
        )  # fmt: skip

    def source_columns(self) -> list[str]:
        """Columns to read: for the rule, directly or through a model, and for the sum."""
        needed = {self.value} if self.value else set()
        needed |= self.rule.columns if self.rule else frozenset()
        for model in self.models.values():
            needed |= set(model.names)
        return sorted(needed)

    def check(self, data: Data | None) -> None:
        """All that could be wrong with it whatever the rows are. Raises ConfigError."""
        if data is None:
            raise ConfigError("data", "is missing in partner.toml")
        for name in self.source_columns():
            if name not in self.columns:
                raise ConfigError("rule", f"{name} is not a column of the contract")
            if name not in data.columns:
                raise ConfigError("data.columns", f"lacks {name}")
        for kind in self.identifiers:
            if kind not in data.identifiers:
                raise ConfigError("data.identifiers", f"lacks {kind}")
        nobody = dict.fromkeys([*self.source_columns(), *self.models], np.empty(0))
        try:
            if self.rule is not None:
                self.rule.select(nobody, self.columns, 0)
        except ParameterError as error:
            raise ConfigError("rule", str(error)) from None

    def chosen(self, batch: Batch) -> NDArray[np.bool_]:
        """Which rows of a batch the rule selects."""
        if self.rule is None:
            return np.ones(len(batch.key), np.bool_)
        rows = dict(batch.rows)
        for name, model in self.models.items():
            rows[name] = model.score(batch.rows)
        return self.rule.select(rows, self.columns, len(batch.key))


class Audience:
    """An audience on disk. ``identifiers``: kinds in the job's order."""

    def __init__(self, spool: Spool, identifiers: tuple[str, ...]) -> None:
        self._spool, self.identifiers = spool, identifiers

    def write(self, source: Source, wanted: Wanted, report: Report, read: Reader) -> None:
        """Read the table. For a noisy result each person enters one identifier at most.

        Raises DataError, and whatever the disk or the memory makes ``read`` raise.
        """
        writing = _Writing(self._spool, self.identifiers, one_each=wanted.one_each)
        for batch in read(
            source, wanted.columns, wanted.source_columns(), identifiers=self.identifiers,
            rows_per_person=wanted.rows_per_person, report=report, spool=self._spool,
        ):  # fmt: skip
            writing.add(batch, wanted, source)
        writing.end()

    def copy(self, other: Audience, *, one_each: bool) -> None:
        """Take over another audience's people and the identifiers of this one's kinds."""
        people, own = other._spool.log("people"), self._spool.log("people")
        for i in range(len(people)):
            own.append(people.read(i))
        counts = dict.fromkeys(self.identifiers, 0)
        for kind in self.identifiers:
            last, own = -1, self._spool.log(f"labels {kind}")
            for found, numbers in other.records(kind):
                if one_each and len(numbers):
                    first = np.diff(numbers, prepend=last) != 0
                    last = int(numbers[-1])
                    found, numbers = found[first], numbers[first]
                counts[kind] += len(numbers)
                own.append(numbers.tobytes() + found.tobytes())
        distinct = {kind: other.distinct(kind) for kind in self.identifiers}
        self._sum_up({"people": other.people, "labels": counts, "distinct": distinct})

    def complete(self) -> bool:
        """Whether it was read to the end."""
        return len(self._spool.log("summary")) > 0

    def clear(self) -> None:
        """Erase what a break left of it."""
        for name in ("people", "values", "tags", *(f"labels {k}" for k in self.identifiers)):
            self._spool.discard(name)

    def note_distinct(self, distinct: Mapping[str, int]) -> None:
        """Add what was counted: distinct identifiers of each kind."""
        summary = self._summary()
        self._spool.discard("summary")
        self._sum_up({**summary, "distinct": dict(distinct)})

    def _sum_up(self, summary: Mapping[str, Any]) -> None:
        self._spool.log("summary").append(json.dumps(summary).encode())

    @property
    def people(self) -> int:
        """People selected."""
        return int(self._summary()["people"])

    @property
    def left_out(self) -> int:
        """People whom the rule selects and who were left out by tag."""
        return int(self._summary().get("left_out", 0))

    def expected(self, kind: str) -> int:
        """Labels of a kind, repeated ones included."""
        return int(self._summary()["labels"][kind])

    def distinct(self, kind: str) -> int:
        """Distinct labels of a kind; known of a frozen audience."""
        return int(self._summary()["distinct"][kind])

    def _summary(self) -> dict[str, Any]:
        log = self._spool.log("summary")
        summary: dict[str, Any] = json.loads(log.read(len(log) - 1))
        return summary

    def records(
        self, kind: str, without: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Array, Rows]]:
        """Labels of a kind and the person of each; ``without``: people to leave out, by number."""
        log = self._spool.log(f"labels {kind}")
        for i in range(len(log)):
            data = log.read(i)
            count = len(data) // (8 + LABEL_BYTES)
            numbers = np.frombuffer(data, np.int64, count)
            found = np.frombuffer(data, np.uint8, offset=8 * count).reshape(count, LABEL_BYTES)
            if without is not None:
                kept = ~without[numbers]
                numbers, found = numbers[kept], found[kept]
            yield found, numbers

    def values(self) -> Floats:
        """The value of each person, its rows added up."""
        total, log = np.zeros(self.people), self._spool.log("values")
        for i in range(len(log)):
            numbers, values = np.frombuffer(log.read(i), np.float64).reshape(2, -1)
            np.add.at(total, numbers.astype(np.int64), values)
        return total

    def tags(self) -> Tags:
        """Tags of all people, sorted; of an audience that was read with :class:`Members`."""
        log = self._spool.log("tags")
        parts = [np.frombuffer(log.read(i), np.uint64) for i in range(len(log))]
        return np.sort(np.concatenate([np.empty(0, np.uint64), *parts]))

    def keys(self, chosen: NDArray[np.bool_]) -> Iterator[tuple[Rows, list[str]]]:
        """Numbers and the partner's own keys of the chosen people, in order, some at a time."""
        log, number = self._spool.log("people"), 0
        for i in range(len(log)):
            keys = json.loads(log.read(i))
            here = chosen[number : number + len(keys)]
            yield number + np.flatnonzero(here), list(itertools.compress(keys, here.tolist()))
            number += len(keys)

    def commitment(self, salt: bytes) -> bytes:
        """SHA-256 over ``salt`` and everything entered, in order: to be opened in an audit by showing
        salt and table."""
        digest = hashlib.sha256(b"tallystick/v1/set" + salt)
        for kind in self.identifiers:
            for found, _ in self.records(kind):
                digest.update(found.tobytes())
        return digest.digest()


class _Writing:
    """The state of :meth:`Audience.write` between batches: a person may go on in the next one."""

    def __init__(self, spool: Spool, identifiers: tuple[str, ...], *, one_each: bool) -> None:
        self._spool, self._one_each = spool, one_each
        self._labels, self._last = dict.fromkeys(identifiers, 0), dict.fromkeys(identifiers, -1)
        self._people, self._left_out = 0, 0
        self._of_table, self._before, self._before_out = 0, -1, -1

    def add(self, batch: Batch, wanted: Wanted, source: Source) -> None:
        """The rows of a batch that are wanted."""
        in_table = self._of_table + np.cumsum(batch.new)  # the person's place in the whole table
        self._of_table = int(in_table[-1]) if len(in_table) else self._of_table
        at = np.flatnonzero(wanted.chosen(batch))
        tags = np.empty(0, np.uint64)
        if wanted.members is not None:
            at, tags = self._members(at, in_table, batch, wanted.members, source)
        if not len(at):
            return
        fresh = np.diff(in_table[at], prepend=self._before) != 0
        numbers = self._people - 1 + np.cumsum(fresh)
        self._people, self._before = int(numbers[-1]) + 1, int(in_table[at][-1])
        keys = batch.key[at]
        self._spool.log("people").append(json.dumps(keys[fresh].tolist()).encode())
        if wanted.members is not None:
            self._spool.log("tags").append(tags[fresh].tobytes())
        if wanted.value:
            frame = np.stack([numbers.astype(np.float64), batch.rows[wanted.value][at]]).tobytes()
            self._spool.log("values").append(frame)
        for kind in self._labels:
            texts = batch.identifiers[kind][at].tolist()
            self._add_labels(kind, texts, numbers, source.region)

    def _members(
        self, at: NDArray[np.intp], in_table: NDArray[np.intp], batch: Batch, members: Members,
        source: Source,
    ) -> tuple[NDArray[np.intp], Tags]:  # fmt: skip
        """Those of the rows ``at`` who may be in, with their tags; who is left out is counted."""
        tags = members.tagger.tags(batch.key[at].tolist(), source)
        kept = np.ones(len(at), np.bool_) if members.only is None else _within(tags, members.only)
        barred = kept & _within(tags, members.without)
        out = in_table[at][barred]
        if len(out):
            self._left_out += int((np.diff(out, prepend=self._before_out) != 0).sum())
            self._before_out = int(out[-1])
        kept &= ~barred
        return at[kept], tags[kept]

    def _add_labels(self, kind: str, texts: list[str | None], numbers: Rows, region: str) -> None:
        found, at_rows = labels(kind, texts, region)
        numbered = numbers[at_rows]
        if self._one_each and len(numbered):
            first = np.diff(numbered, prepend=self._last[kind]) != 0
            self._last[kind] = int(numbered[-1])
            found, numbered = found[first], numbered[first]
        self._labels[kind] += len(numbered)
        self._spool.log(f"labels {kind}").append(numbered.tobytes() + found.tobytes())

    def end(self) -> None:
        """Everything was read: what makes the audience complete."""
        summary = {"people": self._people, "labels": self._labels, "left_out": self._left_out}
        self._spool.log("summary").append(json.dumps(summary).encode())


def _within(tags: Tags, among: Tags) -> NDArray[np.bool_]:
    """Which tags are in a sorted array."""
    if not len(among):
        return np.zeros(len(tags), np.bool_)
    place = np.minimum(np.searchsorted(among, tags), len(among) - 1)
    found: NDArray[np.bool_] = among[place] == tags
    return found

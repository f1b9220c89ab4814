"""A partner's audience for one match: hashed identifiers, and the people and values behind them.

Read once, when the job starts, a batch at a time, into the match's own encrypted folder; the match and
its resumptions work on that. A person is a number here: its place among the people selected.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.table import Batch, Report, Source, batches
from privacy.errors import Refused
from privacy.identifiers import labels
from privacy.matching.deck import Rows
from privacy.matching.engine import LABEL_BYTES, Array
from privacy.matching.storage import Spool
from privacy.programs import rules
from privacy.programs.columns import Columns, Floats
from privacy.programs.rules import Rule
from privacy.programs.scoring import Model
from protos.alliance import Contract
from protos.matches import MatchJob
from protos.refusal import Code


@dataclass(frozen=True)
class Wanted:
    """What a match asks of one partner."""

    spec: MatchJob
    me: str
    columns: Columns
    rows_per_person: int
    models: Mapping[str, Model]

    @classmethod
    def of(cls, spec: MatchJob, me: str, contract: Contract, models: Mapping[str, Model]) -> Wanted:
        """From the contract."""
        return cls(spec, me, contract.declared_columns(), contract.privacy.rows_per_person, models)

    @property
    def rule(self) -> Rule | None:
        """This partner's rule, if the job has one for it."""
        text = self.spec.rules.get(self.me)
        return rules.parse(text) if text else None

    @property
    def value(self) -> str | None:
        """The column whose sum is asked of this partner."""
        is_sender = self.spec.parties[-1] == self.me
        return self.spec.value if is_sender else None

    def source_columns(self) -> list[str]:
        """Columns to read: for the rule, directly or through a model, and for the sum.

        Raises Refused(POLICY) for a name that is neither a column nor a model here.
        """
        needed = {self.value} if self.value else set()
        for name in self.rule.names if self.rule else ():
            if name in self.models:
                needed |= set(self.models[name].names)
            elif name in self.columns:
                needed.add(name)
            else:
                raise Refused(Code.POLICY, f"rule: {name} is neither a column nor a model here")
        return sorted(needed)

    def chosen(self, batch: Batch) -> NDArray[np.bool_]:
        """Which rows of a batch the rule selects."""
        rule, rows = self.rule, dict(batch.rows)
        if rule is None:
            return np.ones(len(batch.key), np.bool_)
        for name in rule.names & set(self.models):
            rows[name] = self.models[name].score(rows)
        return rule.select(rows, self.columns, len(batch.key))


class Audience:
    """The audience of one match on disk. ``identifiers``: kinds in the job's order."""

    def __init__(self, spool: Spool, identifiers: tuple[str, ...]) -> None:
        self._spool, self.identifiers = spool, identifiers

    def write(self, source: Source, wanted: Wanted, report: Report, folder: Path) -> None:
        """Read the table. For a noisy result each person enters one identifier at most.

        Raises DataError, Refused(POLICY).
        """
        summary, last = dict.fromkeys(self.identifiers, 0), dict.fromkeys(self.identifiers, -1)
        people, of_batch = 0, 0
        before = -1
        for batch in batches(
            source,
            wanted.columns,
            wanted.source_columns(),
            identifiers=self.identifiers,
            rows_per_person=wanted.rows_per_person,
            report=report,
            folder=folder,
        ):
            in_table = of_batch + np.cumsum(batch.new)  # the person's place in the whole table
            of_batch = int(in_table[-1]) if len(in_table) else of_batch
            chosen = wanted.chosen(batch)
            picked = in_table[chosen]
            if not len(picked):
                continue
            fresh = np.diff(picked, prepend=before) != 0
            numbers = people - 1 + np.cumsum(fresh)
            people, before = int(numbers[-1]) + 1, int(picked[-1])
            keys = batch.key[chosen]
            self._spool.log("people").append(json.dumps(keys[fresh].tolist()).encode())
            if wanted.value:
                values = batch.rows[wanted.value][chosen]
                frame = np.stack([numbers.astype(np.float64), values]).tobytes()
                self._spool.log("values").append(frame)
            for kind in self.identifiers:
                found, at_rows = labels(
                    kind, batch.identifiers[kind][chosen].tolist(), source.region
                )
                numbered = numbers[at_rows]
                if wanted.spec.is_noisy and len(numbered):
                    first = np.diff(numbered, prepend=last[kind]) != 0
                    last[kind] = int(numbered[-1])
                    found, numbered = found[first], numbered[first]
                summary[kind] += len(numbered)
                self._spool.log(f"labels {kind}").append(numbered.tobytes() + found.tobytes())
        self._spool.log("summary").append(
            json.dumps({"people": people, "labels": summary}).encode()
        )

    @property
    def people(self) -> int:
        """People selected."""
        return int(self._summary()["people"])

    def expected(self, kind: str) -> int:
        """Labels of a kind, repeated ones included."""
        return int(self._summary()["labels"][kind])

    def _summary(self) -> dict[str, Any]:
        summary: dict[str, Any] = json.loads(self._spool.log("summary").read(0))
        return summary

    def records(
        self, kind: str, without: NDArray[np.bool_] | None = None
    ) -> Iterator[tuple[Array, Rows]]:
        """Labels of a kind and the person of each; ``without``: people to leave out, by number."""
        log = self._spool.log(f"labels {kind}")
        for i in range(len(log)):
            data = log.read(i)
            count = len(data) // (8 + LABEL_BYTES)
            people = np.frombuffer(data, np.int64, count)
            found = np.frombuffer(data, np.uint8, offset=8 * count).reshape(count, LABEL_BYTES)
            if without is not None:
                kept = ~without[people]
                people, found = people[kept], found[kept]
            yield found, people

    def values(self) -> Floats:
        """The value of each person, its rows added up."""
        total, log = np.zeros(self.people), self._spool.log("values")
        for i in range(len(log)):
            people, values = np.frombuffer(log.read(i), np.float64).reshape(2, -1)
            np.add.at(total, people.astype(np.int64), values)
        return total

    def keys(self, chosen: NDArray[np.bool_]) -> Iterator[tuple[Rows, list[str]]]:
        """Numbers and the partner's own keys of the chosen people, in order, some at a time."""
        log, number = self._spool.log("people"), 0
        for i in range(len(log)):
            keys = json.loads(log.read(i))
            here = chosen[number : number + len(keys)]
            yield number + np.flatnonzero(here), list(itertools.compress(keys, here.tolist()))
            number += len(keys)

    def commitment(self, salt: bytes) -> bytes:
        """SHA-256 over ``salt`` and everything entered, in the table's order: to be opened in an
        audit by showing salt and table."""
        digest = hashlib.sha256(b"tallystick/v1/set" + salt)
        for kind in self.identifiers:
            for found, _ in self.records(kind):
                digest.update(found.tobytes())
        return digest.digest()

"""The owner's check of a table, before anybody asks about it: what a gate would make of every row.

What a gate answers must not depend on rows, so whatever depends on them is told here, to the owner. The
way in which the table was read is then pinned in ``state/admitted.json``: later files must be read alike.

Nothing here leaves the partner, and no cell's value is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from client import people
from client import source as sources
from client.home import Home
from client.source import PIN, ReadAs
from client.table import Report, parts
from privacy.errors import ConfigError
from privacy.identifiers import labels
from privacy.programs.columns import Floats, Label
from protos.alliance import Contract
from protos.files import write_private

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_KEYS = {
    "exact": "as they are, byte for byte",
    "trimmed": "without surrounding blanks",
    "caseless": "without surrounding blanks, letter cases alike",
}

_MANY_LOST = 0.1
"""The share of lost rows from which the owner is asked whether that is meant."""


@dataclass(frozen=True)
class Admission:
    """What was found. ``heading``: mapped names as the source spells them, in its order.
    ``usable``: rows that can be used, before ``rows_per_person`` bounds them.
    ``identifiers``: usable rows whose identifier is usable, by kind. ``one_class``: labels that are the
    same for everybody. ``largest_set``: of the contract, where it allows matches."""

    read_as: ReadAs
    heading: tuple[str, ...]
    report: Report
    identifiers: dict[str, int]
    one_class: tuple[str, ...]
    smallest_cohort: int
    largest_set: int | None
    delta: float
    usable: int

    @property
    def is_good(self) -> bool:
        """Whether jobs can run on it."""
        return self.report.people >= self.smallest_cohort

    def short(self) -> str:
        """One line of counts."""
        counts, bad = self.report, self.report.without_person + self.report.malformed_lines
        bad += sum(counts.unusable.values())
        return (
            f"{counts.rows} rows, {counts.people} people usable, {bad} values or lines unusable, "
            f"{sum(counts.clipped.values())} values clipped to the contract's bounds"
        )

    def sentences(self) -> list[str]:
        """Everything, in sentences."""
        return [*self._how(), *self._rows(), *self._columns(), *self.warnings()]

    def warnings(self) -> list[str]:
        """What its owner should think about."""
        found, number = [], self.report.people
        if number < self.smallest_cohort:
            found.append(
                f"{number} people are fewer than the contract's smallest cohort, {self.smallest_cohort}: "
                "nobody is refused because of that, but all that others get is noise."
            )
        if self.largest_set is not None and number > self.largest_set:
            found.append(
                f"{number} people are more than the contract's largest set, {self.largest_set}: a noisy "
                "match takes that many of them, and an audience of everybody cannot be frozen."
            )
        if number and self.delta > 1 / (10 * number):
            found.append(
                f"The contract's delta, {self.delta:g}, is more than 1 in 10 times {number} people: agree "
                f"on {1 / (10 * number):.1g} or less."
            )
        lines = self.report.rows + self.report.malformed_lines
        if lines and 1 - self.usable / lines > _MANY_LOST:
            found.append(
                f"{lines - self.usable} of {lines} rows are lost: is a column mapped wrongly, or are "
                "two exports in one file?"
            )
        if self.report.open_quotes and not self.read_as.line_breaks:
            found.append(
                f"{self.report.open_quotes} lines seem to end within quotes: if cells hold line breaks, say "
                "data.line_breaks = true, or export without them. As it is, the text of such a cell can "
                "read as another customer's row."
            )
        found += [
            f"Label {name} says the same of everybody: nothing can be learnt from it."
            for name in self.one_class
        ]
        found += [
            f"Identifier {kind} is usable in no row."
            for kind, n in self.identifiers.items()
            if not n
        ]
        return found

    def _how(self) -> Iterator[str]:
        how, names = self.read_as, ", ".join(map(repr, self.heading))
        if how.format == "csv":
            breaks = "may hold line breaks" if how.line_breaks else "hold no line breaks"
            cells = _DELIMITERS.get(how.delimiter or "", "its delimiter")
            yield f"Read as CSV in UTF-8 with {cells} between cells; quoted cells {breaks}."
        else:
            yield f"Read as {how.format}."
        yield f"Mapped columns, in this order: {names}. Keys are compared {_KEYS[how.key]}."

    def _rows(self) -> Iterator[str]:
        counts = self.report
        yield f"{counts.rows} rows, of which {self.usable} are usable, of {counts.people} people."
        if counts.malformed_lines:
            shown = ", ".join(map(str, counts.malformed_at))
            yield f"{counts.malformed_lines} lines could not be read; the first are line {shown}."
        if counts.without_person:
            yield f"{counts.without_person} rows have no key."
        if counts.over_rows_per_person:
            yield f"{counts.over_rows_per_person} rows are over the contract's rows_per_person."

    def _columns(self) -> Iterator[str]:
        for name, count in self.report.unusable.items():
            yield f"Column {name}: {count} values are unusable, and their rows with them."
        for name, count in self.report.clipped.items():
            yield f"Column {name}: {count} values are clipped to the contract's bounds."
        for kind, count in self.identifiers.items():
            yield f"Identifier {kind}: usable in {count} of {self.usable} usable rows."


def look(home: Home, contract: Contract, *, with_identifiers: bool = True) -> Admission:
    """Read the table once; nothing is kept. Raises ConfigError, DataError."""
    source, columns = home.source(pinned=False), contract.declared_columns()
    unknown = sorted(set(source.columns) - set(columns))
    if unknown:
        raise ConfigError(f"data.columns.{unknown[0]}", "is not a column of the contract")
    wanted = sorted(source.columns)
    kinds = sorted(source.identifiers) if with_identifiers else []
    with sources.opened(source) as found:
        read_as, heading = sources.read_as(source, found), tuple(sources.heading(source, found))
    report, usable = Report(), 0
    identified = dict.fromkeys(kinds, 0)
    classes: dict[str, set[float]] = {n: set() for n in wanted if isinstance(columns[n], Label)}
    persons = [np.zeros((0, 2), np.uint64)]
    for part in parts(source, columns, wanted, kinds, report, keys=False):
        persons.append(part.person)
        usable += len(part.person)
        by_name: dict[str, Floats] = dict(zip(wanted, part.values, strict=True))
        for name, seen in classes.items():
            seen |= set(np.unique(by_name[name]).tolist())
        for kind, texts in zip(kinds, part.texts, strict=True):
            identified[kind] += len(labels(kind, texts, source.region)[1])
    grouping = people.grouped(np.concatenate(persons), [], [], contract.privacy.rows_per_person)
    report.people, report.over_rows_per_person = int(grouping.new.sum()), grouping.over
    return Admission(
        read_as,
        heading,
        report,
        identified,
        tuple(name for name, seen in classes.items() if len(seen) == 1),
        contract.privacy.smallest_cohort,
        contract.matching.largest_set if contract.matching else None,
        contract.privacy.delta,
        usable,
    )


def admit(home: Home, contract: Contract) -> Admission:
    """:func:`look`, and from now on the table must be read as it was read here. Raises ConfigError,
    DataError."""
    found = look(home, contract)
    home.prepare()
    write_private(home.state / PIN, found.read_as.to_json())
    return found


def pinned(home: Home) -> ReadAs | None:
    """How the table was read when it was admitted; None if it was not. Raises DataError."""
    return ReadAs.load(home.state / PIN)

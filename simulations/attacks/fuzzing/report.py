"""What came of a run of fuzzing: counts, faults, memory, and the lines that ran; for people and as JSON."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from protos.console import shown, table
from simulations.attacks.fuzzing import watch
from simulations.attacks.fuzzing.registry import TARGETS
from simulations.attacks.fuzzing.worker import Done, Fault

LARGEST_GROWTH = 50 << 20
UNTIL_WARM = 3
"""Periods of each target in a process before its growth is measured."""
SHOWN = 40
"""Kinds of faults that are printed."""


@dataclass
class Memory:
    """Of one process. ``warm``: once every target had some periods in which no lines were counted, and all
    that is loaded when it is first needed is there."""

    seen: Counter[str] = field(default_factory=Counter)
    warm: watch.Held | None = None
    most: int = 0

    def note(self, done: Done, targets: set[str]) -> None:
        """After a period."""
        if done.held is None or done.counted:
            return
        if self.warm is None:
            self.seen[done.period.target] += 1
            is_warm = all(self.seen[name] >= UNTIL_WARM for name in targets)
            self.warm = done.held if is_warm else None
        else:
            self.most = max(self.most, done.held.rss - self.warm.rss)


@dataclass
class Report:
    """What came of a run."""

    seed: int
    targets: tuple[str, ...]
    seconds: float = 0.0
    done: dict[str, Done] = field(default_factory=dict)
    periods: int = 0
    faults: list[Fault] = field(default_factory=list)
    memory: dict[int, Memory] = field(default_factory=dict)
    left: int = 0
    """Bytes that a worker left in its folder beside the alliances."""
    lines: dict[str, set[int]] = field(default_factory=lambda: defaultdict(set))
    counted: int = 0
    """Inputs during which lines were counted."""

    def add(self, done: Done, process: int) -> None:
        """A period's end."""
        whole = self.done.setdefault(done.period.target, Done(done.period))
        whole.inputs += done.inputs
        whole.signed += done.signed
        whole.reached += done.reached
        whole.both += done.both
        whole.seconds += done.seconds
        whole.words += done.words
        self.periods += 1
        self.faults += done.faults
        self.memory.setdefault(process, Memory()).note(done, set(self.targets))
        for name, lines in done.lines.items():
            self.lines[name] |= set(lines)
        self.counted += done.inputs if done.counted else 0

    @property
    def inputs(self) -> int:
        """Of all targets."""
        return sum(done.inputs for done in self.done.values())

    @property
    def at_doors(self) -> int:
        """Inputs that were validly signed and reached a door."""
        return sum(done.both for name, done in self.done.items() if TARGETS[name].door)

    @property
    def growth(self) -> int | None:
        """Bytes by which the worst process grew after it was warm; None where none ran long enough."""
        found = [each.most for each in self.memory.values() if each.warm is not None]
        return max(found) if found else None

    def judge(self) -> None:
        """What only the whole run shows."""
        if self.growth is not None and self.growth > LARGEST_GROWTH:
            self.faults.append(Fault("all", 0, 0, f"memory grew by {self.growth >> 20} MB"))
        if self.left:
            self.faults.append(Fault("all", 0, 0, f"{self.left} bytes are left on the disk"))

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "seed": self.seed, "inputs": self.inputs, "seconds": round(self.seconds, 1),
            "signed_at_a_door": self.at_doors, "growth_bytes": self.growth, "periods": self.periods,
            "targets": {
                name: {"inputs": d.inputs, "signed": d.signed, "reached": d.reached,
                       "seconds": round(d.seconds, 1), "answers": dict(d.words)}
                for name, d in self.done.items()
            },
            "coverage": {
                "inputs": self.counted,
                "files": {f: [some, many] for _, f, some, many in watch.covered(self.lines)},
            },
            "faults": [{"input": f.place, "what": f.what} for f in self.faults],
        }  # fmt: skip

    def render(self) -> str:
        """Tables for people."""
        share = self.at_doors / max(1, self.inputs)
        grown = (
            "not measured: too short" if self.growth is None else f"{self.growth / 2**20:.1f} MB"
        )
        parts = [
            f"{self.inputs} inputs in {self.periods} periods, seed {self.seed}, {self.seconds:.0f} s:"
            f" {len(self.faults)} faults. {100 * share:.1f} % were validly signed and reached a door."
            f" Growth of memory after {UNTIL_WARM} periods of each target: {grown}.",
            table(
                ["target", "inputs", "ms each", "signed", "reached", "most frequent answers"],
                [self._row(name) for name in self.targets if name in self.done],
            ),
        ]
        found = watch.covered(self.lines) if self.counted else []
        if found:
            parts.append(
                f"Lines that ran in {self.counted} of the inputs, the first period of each target in each"
                " process, imports included:"
            )
            parts.append(table(["group", "file", "lines", "of", "%"], _grouped(found)))
        alike: dict[tuple[str, str], list[Fault]] = defaultdict(list)
        for each in self.faults:
            alike[each.target, re.sub(r"\d+", "#", each.what)].append(each)
        for one, *more in list(alike.values())[:SHOWN]:
            text = f"{one.place}: {shown(one.what, 1500)}"
            parts.append(f"{text}\n  and {len(more)} more like it" if more else text)
        return "\n\n".join(parts)

    def _row(self, name: str) -> list[object]:
        done = self.done[name]
        words = ", ".join(f"{word} {many}" for word, many in done.words.most_common(7))
        each = 1e3 * done.seconds / max(1, done.inputs)
        return [name, done.inputs, f"{each:.2f}", done.signed, done.reached, words]


def _grouped(found: list[tuple[str, str, int, int]]) -> list[list[object]]:
    """Rows of files after their group's sum."""
    rows: list[list[object]] = []
    for group in watch.GROUPS:
        files = [each for each in found if each[0] == group]
        some, many = sum(each[2] for each in files), sum(each[3] for each in files)
        for name, file, a, b in [(group, "", some, many), *(("", f, a, b) for _, f, a, b in files)]:
            rows.append([name, file, a, b, f"{100 * a / max(1, b):.0f}"])
    return rows

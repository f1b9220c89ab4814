"""The differ: two gates that are equal but for their tables are told the same, and must say the same.

Rule 1 of the design, decide before you look, as a property of messages: kind, code, length and number of
what is answered, what is charged, the journal's shape and what lies on the disk are equal for any two tables
of the same padded size. Times are measured and stated, and not judged.

Lengths of a match's frames are compared where both worlds' sets have as many elements: otherwise the padded
sizes, which are drawn and charged for, may differ. Where a match fails, how often the two ends tried to tell
each other, and which of the others heard why, depends on threads: there only the bank's reply and the rest of
its journal are compared.
"""

from __future__ import annotations

import logging
import re
import shutil
import statistics
import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from protos.console import table
from simulations.attacks.scripts import Script, Step
from simulations.attacks.specs import USUAL
from simulations.attacks.tables import ADULTS, KINDS, MODES, TARGET, Base, make_base, pair
from simulations.attacks.worlds import Entry, PartsOf, Seen, frozen_in_both
from simulations.audiences import EVERYONE

MESSAGES_OF_A_WORLD = 400
FILES_EVERY = 50
"""Messages between two looks at the disk."""
NEARLY_SPENT = 0.85
LATER = 400.0
"""Days that go by where the ledger is nearly used up."""
TIMED = ("hello", "masked")
REMEMBERED = 400
BOOK, PAGES = "gate.db", 4
PEERS = {name for shape in KINDS.values() for name in shape["partners"]}
SHOWN = 40


@dataclass(frozen=True)
class Found:
    """A difference. ``script``: the messages about the job until then, the last one first."""

    number: int
    mode: str
    script: tuple[str, ...]
    what: str

    def __str__(self) -> str:
        return "\n  ".join([f"message {self.number}, {self.mode}: {self.what}", *self.script])


@dataclass
class Report:
    """What came of a run."""

    seed: int
    messages: int = 0
    worlds: int = 0
    seconds: float = 0.0
    periods: int = 0
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: list[Found] = field(default_factory=list)
    times: dict[tuple[str, str], tuple[list[float], list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )

    def answered(self, kind: str) -> int:
        """Messages of a kind that were no refusals."""
        words = {"hello", "prepared", "masked", "unmask", "match", "finish", "working"}
        return sum(n for (k, word), n in self.counts.items() if k == kind and word in words)

    def render(self) -> str:
        """Tables for people."""
        kinds = sorted({kind for kind, _ in self.counts})
        rows: list[list[object]] = []
        for kind in kinds:
            whole = sum(n for (k, _), n in self.counts.items() if k == kind)
            failed, answered = self.counts[kind, "failed"], self.answered(kind)
            codes = ", ".join(
                f"{word} {n}" for (k, word), n in sorted(self.counts.items()) if k == kind
            )
            rows.append([kind, whole, answered, whole - answered - failed, failed, codes])
        parts = [
            f"{self.messages} messages to each of two gates, {self.worlds} pairs of tables, {self.periods}"
            f" periods renewed, seed {self.seed}: {len(self.found)} differences in {self.seconds:.0f} s",
            table(["message", "sent", "answered", "refused", "failed", "answers"], rows),
            table(
                ["tables", "answer", "many", "median ms, first", "median ms, second"], self._timed()
            ),
        ]
        alike: dict[tuple[str, str], list[Found]] = defaultdict(list)
        for each in self.found:
            alike[each.mode, re.sub(r"\d+", "#", each.what)].append(each)
        for one, *more in list(alike.values())[:SHOWN]:
            parts.append(f"{one}\n  and {len(more)} more like it" if more else str(one))
        return "\n\n".join(parts)

    def _timed(self) -> list[list[object]]:
        return [
            [
                mode,
                word,
                len(a),
                f"{1e3 * statistics.median(a):.3f}",
                f"{1e3 * statistics.median(b):.3f}",
            ]
            for (mode, word), (a, b) in sorted(self.times.items())
        ]


def run(
    messages: int,
    seed: int,
    folder: Path,
    *,
    parts: PartsOf | None = None,
    modes: Sequence[str] = MODES,
    kinds: Sequence[str] = USUAL,
    seconds: float = float("inf"),
    stop: bool = False,
    say: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Send ``messages`` to both gates, new worlds now and then. ``folder``: for worlds, which are removed;
    ``kinds``: of jobs, as often as they are named; ``parts``: faulty ones; ``stop``: at the
    first difference."""
    report, started = Report(seed), time.monotonic()
    level = logging.getLogger("tallystick").level
    logging.getLogger("tallystick").setLevel(logging.CRITICAL)  # thousands of refusals
    bases: dict[str, Base] = {}
    try:
        while report.messages < messages and time.monotonic() - started < seconds:
            rng = Random(f"{seed}/{report.worlds}")
            turn, at = divmod(
                report.worlds, len(modes)
            )  # every mode with one contract, then the other
            kind, mode = sorted(KINDS)[(seed + turn) % len(KINDS)], modes[at]
            if kind not in bases:
                bases[kind] = make_base(kind, folder / kind, seed)
            left = min(messages - report.messages, MESSAGES_OF_A_WORLD)
            pairing = _Pair(bases[kind], folder / "worlds", mode, turn, kinds, report, parts, rng)
            try:
                pairing.run(left, started + seconds)
            finally:
                pairing.close()
            report.worlds += 1
            report.seconds = time.monotonic() - started
            say(report)
            if stop and report.found:
                break
    finally:
        logging.getLogger("tallystick").setLevel(level)
    report.seconds = time.monotonic() - started
    return report


class _Pair:
    """Two worlds and the script that both are told."""

    def __init__(
        self, base: Base, folder: Path, mode: str, turn: int, kinds: Sequence[str],
        report: Report,
        parts: PartsOf | None, rng: Random,
    ) -> None:  # fmt: skip
        shutil.rmtree(folder, ignore_errors=True)
        self._mode, self._report = mode, report
        own = f"{report.seed}/{report.worlds}"
        audiences = [] if mode == "empty" else [EVERYONE, ADULTS]
        self._worlds = frozen_in_both(
            base,
            folder,
            pair(mode, rng, turn),
            f"{own}".encode(),
            float(int(time.time())),
            parts,
            audiences,
        )
        if mode == "empty":
            kinds = [kind for kind in kinds if kind != "match"]
        self._script = Script(own, base.alliance.contract, report.messages, kinds)
        self._told: deque[Step] = deque(maxlen=REMEMBERED)

    def close(self) -> None:
        for world in self._worlds:
            world.close()

    def run(self, messages: int, until: float) -> None:
        """At most so many messages, until the worlds differ."""
        for world in self._worlds:
            world.entries()
        for number in range(messages):
            step = self._script.next()
            self._told.appendleft(step)
            try:
                what = self._tell(step)
            except (
                Exception
            ) as error:  # a gate never raises; a long run is not to be lost by one that does
                what = f"raised {type(error).__name__}: {error}"
            self._report.messages += 1
            if not what and number % FILES_EVERY == FILES_EVERY - 1:
                what = self._files()
                self._renew()
            if what:
                about = [str(s) for s in self._told if s.slot == step.slot]
                self._report.found.append(Found(step.number, self._mode, tuple(about), what))
                return
            if time.monotonic() > until:
                return

    def _tell(self, step: Step) -> str:
        """Send a step to both, in turn the one and the other first. What differs, if anything."""
        order = self._worlds if step.number % 2 else self._worlds[::-1]
        seen = {id(world): world.send(step) for world in order}
        first, second = (seen[id(world)] for world in self._worlds)
        for world in self._worlds:
            world.clock.now += 1.0
        kind = step.kind if not step.seal else f"{step.seal} envelope"
        if first.bank.word == "working":
            kind = "status"  # a match that nobody else would have come to
        self._report.counts[kind, first.bank.word] += 1
        self._script.note(step, first.bank.word)
        if first.bank.word in TIMED and first.bank.word == second.bank.word:
            times = self._report.times[self._mode, first.bank.word]
            times[0].append(first.seconds)
            times[1].append(second.seconds)
        entries = self._worlds[0].entries(), self._worlds[1].entries()
        return _differs(first, second, entries, same_size=self._same_size(step))

    def _same_size(self, step: Step) -> bool:
        """Whether both banks enter as many elements."""
        if step.kind != "match" or self._mode not in ("replaced", "other"):
            return step.kind != "match"
        spec = self._worlds[0].letters.known(step.slot).match
        return spec is not None and TARGET not in spec.rules

    def _files(self) -> str:
        first, second = (world.files() for world in self._worlds)
        a, b = (sum(size for top, size in each if top == BOOK) for each in (first, second))
        if (
            abs(a - b) <= PAGES * 4096
        ):  # where a page is split depends on digests, which are as if random
            for each in (first, second):
                for top, size in list(each):
                    if top == BOOK:
                        del each[top, size]
        if first == second:
            return ""
        return f"files: {dict(first - second)} against {dict(second - first)}"

    def _renew(self) -> None:
        if self._worlds[0].spent() > NEARLY_SPENT:
            self._report.periods += 1
            for world in self._worlds:
                world.later(LATER)


def _differs(
    first: Seen, second: Seen, entries: tuple[list[Entry], list[Entry]], *, same_size: bool
) -> str:
    whole = all(answer.answered for seen in (first, second) for answer in seen.replies.values())
    for name in sorted(first.replies.keys() | second.replies.keys()) if whole else [TARGET]:
        a, b = first.replies.get(name), second.replies.get(name)
        if a != b:
            return f"reply of {name}: {a} against {b}"
    if whole:
        a_frames, b_frames = _frames(first, same_size), _frames(second, same_size)
        if a_frames != b_frames:
            return f"frames: {a_frames} against {b_frames}"
    a_journal, b_journal = (_shape(found, same_size and whole) for found in entries)
    if a_journal != b_journal:
        return f"journal: {a_journal} against {b_journal}"
    return ""


def _frames(seen: Seen, same_size: bool) -> dict[tuple[str, str], list[tuple[str, int]]]:
    """In order of length: two threads of a party send at once, in whatever order they come to it."""
    return {
        ways: sorted((kind, length if same_size else 0) for kind, length in frames)
        for ways, frames in seen.frames.items()
    }


def _shape(entries: list[Entry], exact: bool) -> list[Entry]:
    """Entries; of what was sent in a match that failed, or that was of another size, not how much. A match's
    reply was looked at before: one whose figure is exactly 0 is shorter."""
    return [
        (
            kind,
            job,
            0 if kind == "match" and not (exact and recipient in PEERS) else size,
            recipient,
            body,
        )
        for kind, job, size, recipient, body in entries
    ]

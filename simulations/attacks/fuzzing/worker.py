"""Periods of targets, in this process or in one of several that are watched.

A process imports the targets only once lines are counted. It says before each input which one it is, in
memory that its parent sees: whoever dies or stands still is known.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from simulations.attacks.fuzzing import watch

if TYPE_CHECKING:
    from simulations.attacks.tables import Base

SLOWEST = 5.0
"""Seconds of this process's own time that an input may take: others use the machine as well."""
STANDS = 30.0
"""Seconds by the clock."""
MOST_FAULTS = 20
"""Faults after which a period ends: its world is not what it was."""
LARGEST_PEAK = 400 << 20
"""Bytes above what a process holds otherwise that it may need for a moment."""
MORE_FILES, MORE_THREADS = 8, 8
EPSILON = 33.0
"""Of a contract: enough for most of a period's jobs."""


@dataclass(frozen=True)
class Period:
    """Inputs of one target that follow from the seed and the period's number alone."""

    target: str
    number: int
    inputs: int


@dataclass(frozen=True)
class Fault:
    """What must not be. ``input``: its number in the period; 0: the period as a whole."""

    target: str
    period: int
    input: int
    what: str
    data: bytes = b""

    @property
    def place(self) -> str:
        """As ``--only`` takes it, with the input."""
        return f"{self.target}/{self.period}, input {self.input}"


@dataclass
class Done:
    """What came of a period."""

    period: Period
    inputs: int = 0
    signed: int = 0
    reached: int = 0
    both: int = 0
    seconds: float = 0.0
    words: Counter[str] = field(default_factory=Counter)
    faults: list[Fault] = field(default_factory=list)
    held: watch.Held | None = None
    counted: bool = False
    """Whether lines were counted: memory is judged by the others."""
    lines: dict[str, list[int]] = field(default_factory=dict)


class Worker:
    """Runs periods in ``folder``. ``seen``: three numbers that say which input it is at."""

    def __init__(self, folder: Path, seed: int, seen: Any, deadline: float) -> None:
        self._folder, self._seed, self._seen, self._deadline = folder, seed, seen, deadline
        self._bases: dict[str, Base] = {}
        self._before: watch.Held | None = None

    def base(self, number: int) -> Base:
        """Alliances with and without dropouts in turn."""
        from simulations.attacks.tables import KINDS, make_base

        kind = sorted(KINDS)[number % len(KINDS)]
        if kind not in self._bases:
            self._bases[kind] = make_base(kind, self._folder / kind, self._seed, EPSILON)
        return self._bases[kind]

    def run(self, period: Period) -> Done:
        """A period to its end, or to the deadline."""
        from simulations.attacks.fuzzing.registry import TARGETS

        done, kind = Done(period), TARGETS[period.target]
        rng, folder = Random(), self._folder / "period"
        started = time.perf_counter()
        with watch.Watch() as seen:
            rng.seed(f"{self._seed}/{period.target}/{period.number}")
            target = kind.open(self.base(period.number), folder, rng)
            try:
                for number in range(1, period.inputs + 1):
                    if time.time() > self._deadline or len(done.faults) >= MOST_FAULTS:
                        break
                    # anew, as what was drawn for the last one may depend on the lengths of keys
                    rng.seed(f"{self._seed}/{period.target}/{period.number}/{number}")
                    self._one(target, number, seen, done)
                self._fault(done, 0, target.left())
            finally:
                target.close()
            for what in seen.take():
                self._fault(done, 0, what)
        if folder.exists():
            self._fault(done, 0, "a closed world is still there")
            shutil.rmtree(folder)
        done.seconds = time.perf_counter() - started
        self._judge(done)
        return done

    def _one(self, target: Any, number: int, seen: watch.Watch, done: Done) -> None:
        if self._seen is not None:
            self._seen[1], self._seen[2] = done.period.number, number
            self._seen[3] = int(time.monotonic())
        cpu, clock = time.process_time(), time.perf_counter()
        wrong = []
        try:
            came = target.one()
            done.words[came.word] += 1
            done.signed += came.signed
            done.reached += came.reached
            done.both += came.signed and came.reached
            wrong.append(came.wrong)
        except Exception as error:
            wrong.append(watch.told(error))
        done.inputs += 1
        cpu, clock = time.process_time() - cpu, time.perf_counter() - clock
        if cpu > SLOWEST or clock > STANDS:
            wrong.append(f"took {cpu:.1f} s of work, {clock:.1f} s in all")
        for what in (*wrong, *seen.take()):
            self._fault(done, number, what, target.last)

    def _fault(self, done: Done, number: int, what: str, data: bytes = b"") -> None:
        if what:
            done.faults.append(Fault(done.period.target, done.period.number, number, what, data))

    def _judge(self, done: Done) -> None:
        """Files, threads and peaks, against what was held after the first period."""
        done.held = now = watch.held()
        if self._before is None:
            self._before = now
            return
        if now.peak > max(self._before.rss, now.rss) + LARGEST_PEAK:
            self._fault(done, 0, f"{now.peak >> 20} MB at once, {now.rss >> 20} afterwards")
        if now.files > self._before.files + MORE_FILES:
            self._fault(done, 0, f"{now.files} open files, {self._before.files} before")
        if now.threads > self._before.threads + MORE_THREADS:
            self._fault(done, 0, f"{now.threads} threads, {self._before.threads} before")


def serve(
    asked: Connection, folder: str, seed: int, seen: Any, deadline: float, names: Sequence[str],
    count: bool,
) -> None:  # fmt: skip
    """A process's loop: periods in, what came of them out; None ends it. ``names``: of the targets, in the
    order that ``seen`` numbers them; ``count``: lines, in the first period of each target."""
    lines = watch.Lines() if count else None
    worker, counted = Worker(Path(folder), seed, seen, deadline), set[str]()
    while (period := asked.recv()) is not None:
        seen[0] = names.index(period.target)
        seen[3] = int(time.monotonic())
        fresh = lines is not None and period.target not in counted
        if lines is not None and fresh:
            counted.add(period.target)
            lines.start()
        done = worker.run(period)
        if lines is not None and fresh:
            done.lines, done.counted = lines.stop(), True
        asked.send(done)

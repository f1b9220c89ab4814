"""Fuzzing: a million inputs from a seed, most of them validly signed, against everything that takes input.

    gate           a real gate; envelopes of a coordinator that holds every other partner's key
    match          real gates that match with each other; frames bent behind good handshakes
    coordinator    a job's drive; one partner's replies bent and signed with its own key
    file           contracts, jobs, models, invitations, applications, settings, certificates, approvals,
                   policies, rules, raw messages, TOML, JSON, identifiers, text for a terminal
    table          CSV, Parquet and DuckDB files of hostile shapes

A fault is any exception that is not raised on purpose, wherever it shows: raised, in a log, of a thread,
behind the codes ``internal``, ``failed`` or ``storage``; a process that dies; an input that takes over five
seconds; memory, files on disk that no journal explains, descriptors or threads that stay.

Inputs come in periods. All of a period's choices follow from the seed, the target and the period's number, so
``--only TARGET/PERIOD`` is the same period again; keys and clocks are new each time, and in matches the
threads decide who is first, so a fault may need a second try.

Why neither hypothesis nor atheris. hypothesis draws one value at a time and shrinks it, which is right for a
property of one function (it tests the parsers in tests/), and costs more than a whole message to a gate
does; a gate is a state that a sequence of messages leads to, and the differ's script already writes those.
atheris (3.0.0 has a wheel for Python 3.11: 35 MB, Apache-2.0) follows coverage over bytes, but bytes that it
bends fail the signature; it takes the process over, and instruments every import. What it would find, lines
that nothing reaches, is printed here as coverage instead, and read by a person.

Not handled: the sockets, TLS and HTTP below (tests/attacks), several coordinators, what takes hours.
"""

from __future__ import annotations

import heapq
import multiprocessing
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from pathlib import Path

from privacy.errors import ParameterError
from protos.console import shown
from simulations.attacks.fuzzing.registry import TARGETS
from simulations.attacks.fuzzing.report import SHOWN, Report
from simulations.attacks.fuzzing.worker import Done, Fault, Period, Worker, serve

STANDS = 150.0
"""Seconds without a new input after which a process is ended."""
AT_LEAST, AT_LEAST_TIMED = 20, 200
"""Periods of each target that a run is cut into, if it is not too short for that: they are interleaved, and
whenever a run ends that has a time, each target has had its share."""
SMALLEST = 20
"""Inputs of a period."""
EVERY = 15.0
"""Seconds between two words on how far a run is."""


# ---------------------------------------------------------------------- what is run


def parse_only(text: str | None) -> tuple[tuple[str, ...], int | None]:
    """Targets, and the one period of ``TARGET/PERIOD``. Raises ParameterError."""
    if not text:
        return tuple(TARGETS), None
    name, slash, number = text.partition("/")
    if name not in TARGETS or (slash and not re.fullmatch("[0-9]{1,9}", number)):
        raise ParameterError(f"--only: is one of {', '.join(TARGETS)}, or TARGET/PERIOD")
    return (name,), int(number) if slash else None


def plan(
    inputs: int, targets: tuple[str, ...], only: int | None = None, *, at_least: int = AT_LEAST
) -> Iterator[Period]:
    """Periods of all targets, interleaved so that at any time each has its share."""
    if only is not None:
        yield Period(targets[0], only, inputs)
        return
    whole = sum(TARGETS[name].weight for name in targets)
    ahead: list[tuple[float, float, str, int, int, int]] = []
    for name in targets:
        share = max(1, round(inputs * TARGETS[name].weight / whole))
        size = min(TARGETS[name].period, max(SMALLEST, -(-share // at_least)))
        heapq.heappush(ahead, (0.0, -share, name, 0, size, share))
    while ahead:
        _, order, name, number, size, share = heapq.heappop(ahead)
        first = number * size
        yield Period(name, number, min(size, share - first))
        if first + size < share:
            done = (first + size) / share
            heapq.heappush(ahead, (done, order, name, number + 1, size, share))


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for worlds, in memory where the machine has such: thousands of databases are synced."""
    in_memory = Path("/dev/shm")  # noqa: S108 - the folder in it is made anew, with a random name
    place = in_memory if in_memory.is_dir() and os.access(in_memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="tallystick-", dir=place) as folder:
        yield Path(folder)


class Steps:
    """Says now and then how far a run is, and every fault at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._told, self._last = say, 0, 0.0

    def __call__(self, report: Report) -> None:
        for fault in report.faults[self._told :][:SHOWN]:
            self._say(f"{fault.place}: {shown(fault.what, 1500)}")
        self._told = len(report.faults)
        if time.monotonic() - self._last > EVERY:
            self._last = time.monotonic()
            self._say(
                f"{report.inputs} inputs, {len(report.faults)} faults, {report.seconds:.0f} s"
            )


def run(
    inputs: int,
    seed: int,
    folder: Path,
    *,
    seconds: float = float("inf"),
    only: str | None = None,
    workers: int = 2,
    keep: Path | None = None,
    count: bool = True,
    say: Callable[[Report], None] = lambda report: None,
) -> Report:
    """Give ``inputs`` to the targets. ``folder``: for worlds, which are removed; ``workers``: processes,
    0 for none but this one, in which no lines are counted; ``keep``: where inputs at fault are written to."""
    targets, number = parse_only(only)
    report, started = Report(seed, targets), time.monotonic()
    deadline = time.time() + seconds
    at_least = AT_LEAST if seconds == float("inf") else AT_LEAST_TIMED
    periods = plan(inputs, targets, number, at_least=at_least)
    if workers:
        _processes(report, periods, folder, deadline, workers, count, say)
    else:
        own = folder / "worker 0"
        worker = Worker(own, seed, None, deadline)
        for period in periods:
            if time.time() > deadline:
                break
            report.add(worker.run(period), 0)
            say(report)
        report.left += _left(own)
        shutil.rmtree(own, ignore_errors=True)
    report.seconds = time.monotonic() - started
    report.judge()
    if keep is not None:
        _keep(keep, report.faults)
    return report


class _Process:
    """A worker in a process of its own."""

    def __init__(self, number: int, folder: Path, seed: int, deadline: float, count: bool) -> None:
        self.number, self.folder = number, folder / f"worker {number}"
        context = multiprocessing.get_context("spawn")
        self.seen = context.Array("q", 4)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=serve,
            args=(theirs, str(self.folder), seed, self.seen, deadline, list(TARGETS), count),
            daemon=True,
        )
        self.process.start()
        theirs.close()
        self.period: Period | None = None

    def give(self, period: Period) -> None:
        """Let it work on a period."""
        self.period = period
        self.seen[3] = int(time.monotonic())
        self.pipe.send(period)

    def died(self, what: str) -> Done:
        """What is known of a process that is no more."""
        self.process.kill()
        self.process.join()
        period = self.period or Period("all", 0, 0)
        fault = Fault(period.target, period.number, int(self.seen[2]), what)
        return Done(period, inputs=int(self.seen[2]), faults=[fault])

    def end(self) -> None:
        """Let it go home."""
        if self.process.is_alive():
            self.pipe.send(None)
        self.process.join(30)
        self.process.kill()
        self.pipe.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _processes(
    report: Report, periods: Iterator[Period], folder: Path, deadline: float, workers: int, count: bool,
    say: Callable[[Report], None],
) -> None:  # fmt: skip
    """Hand periods to processes until there are no more; one that dies or stands still is replaced."""
    started, made = time.monotonic(), workers
    running = [_Process(n, folder, report.seed, deadline, count) for n in range(workers)]
    try:
        for each in running:
            _next(each, periods, deadline)
        while any(each.period for each in running):
            busy = {each.pipe: each for each in running if each.period}
            wait([*busy, *(each.process.sentinel for each in running if each.period)], timeout=1.0)
            for at, each in enumerate(running):
                if each.period is None:
                    continue
                gone = _gone(each)
                if each.pipe.poll():
                    try:
                        report.add(each.pipe.recv(), each.number)
                    except (EOFError, OSError):
                        each.process.join(5)
                        gone = _gone(each) or "the process died"
                    else:
                        each.period, gone = None, ""
                if gone:
                    report.add(each.died(gone), each.number)
                    each.end()
                    running[at] = each = _Process(made, folder, report.seed, deadline, count=False)
                    made += 1
                if each.period is None:
                    report.seconds = time.monotonic() - started
                    say(report)
                    _next(each, periods, deadline)
    finally:
        for each in running:
            report.left += _left(each.folder)
            each.end()


def _next(process: _Process, periods: Iterator[Period], deadline: float) -> None:
    period = next(periods, None) if time.time() < deadline else None
    if period is not None:
        process.give(period)


def _gone(process: _Process) -> str:
    """Why a process is given up, if it is."""
    if process.process.exitcode is not None:
        return f"the process died ({process.process.exitcode})"
    if time.monotonic() - process.seen[3] > STANDS:
        return f"no input was dealt with for {STANDS:.0f} s"
    return ""


def _left(folder: Path) -> int:
    """Bytes beside the alliances that worlds are copied from."""
    from simulations.attacks.fuzzing.target import size_of
    from simulations.attacks.tables import KINDS

    if not folder.exists():
        return 0
    own = [path for path in folder.iterdir() if path.name not in KINDS]
    return sum(size_of(path) if path.is_dir() else path.stat().st_size for path in own)


def _keep(folder: Path, faults: list[Fault]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, fault in enumerate(faults[:1000]):
        name = f"{number:04} {fault.target} {fault.period} {fault.input}"
        (folder / f"{name}.txt").write_text(shown(fault.what, 10_000) + "\n", encoding="utf-8")
        (folder / f"{name}.bin").write_bytes(fault.data)

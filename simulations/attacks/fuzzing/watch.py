"""What a run must not leave: tracebacks, in a log, of a thread, or unraisable; memory, files, threads.

Not seen: what a C library writes to the terminal by itself.
"""

from __future__ import annotations

import builtins
import gc
import logging
import re
import sys
import threading
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

GROUPS: dict[str, tuple[str, ...]] = {
    "gate": (
        "client/gate.py", "client/heads.py", "client/journal.py", "client/ledger.py", "client/limits.py",
        "client/models.py", "client/outcomes.py", "client/refusals.py", "client/policy.py",
        "client/frozen.py", "client/snapshots.py", "client/store.py", "client/jobkeys.py", "protos/wire.py",
        "protos/addresses.py", "protos/statements.py",
    ),
    "doors": (
        "client/tasks/*.py", "client/channel.py", "client/stream.py", "client/audience.py", "client/spill.py",
        "client/summing.py",
    ),
    "coordinator": (
        "server/app.py", "server/rounds.py", "server/tasks/*.py", "server/store.py", "server/heads.py",
        "server/witnesses.py", "server/display.py",
    ),
    "files": (
        "protos/alliance.py", "protos/jobs.py", "protos/matches.py", "protos/joining.py",
        "protos/identity.py", "protos/toml.py", "client/home.py", "client/masking/policy.py",
        "privacy/programs/rules.py", "privacy/programs/scoring.py", "privacy/matching/algebra.py",
    ),
    "tables": (
        "client/table.py", "client/source.py", "client/lines.py", "client/cells.py", "client/people.py",
        "client/duck.py", "client/piles.py", "client/masking/csv_files.py",
    ),
}  # fmt: skip
"""Files whose lines are counted."""
_ROOT = Path(__file__).parents[3]
_ERRORS = re.compile(
    r"\b("
    + "|".join(
        name for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, Exception)
    )
    + r")\b"
)  # fmt: skip
LONGEST = 2_000


def unplanned(text: str) -> bool:
    """Whether a sentence names an exception that nobody raised on purpose."""
    return _ERRORS.search(text) is not None


class Watch(logging.Handler):
    """Collects what goes wrong beside the replies, while it is entered."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info and record.exc_info[1] is not None:
            self._found.append("in the log: " + told(record.exc_info[1]))
        elif unplanned(record.getMessage()):
            self._found.append(f"in the log: {record.getMessage()[:LONGEST]}")

    def take(self) -> list[str]:
        """What was found since it was last asked."""
        found, self._found = self._found, []
        return found

    def __enter__(self) -> Watch:
        self._hooks = threading.excepthook, sys.unraisablehook
        threading.excepthook = lambda args: self._note("in a thread", args.exc_value)
        sys.unraisablehook = lambda args: self._note("unraisable", args.exc_value)
        logging.getLogger().addHandler(self)
        self._propagates, self._level = _quiet(True, logging.WARNING)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        logging.getLogger().removeHandler(self)
        threading.excepthook, sys.unraisablehook = self._hooks
        _quiet(self._propagates, self._level)

    def _note(self, where: str, error: BaseException | None) -> None:
        if error is not None:
            self._found.append(f"{where}: {told(error)}")


def _quiet(propagate: bool, level: int) -> tuple[bool, int]:
    log = logging.getLogger("tallystick")
    before = log.propagate, log.level
    log.propagate = propagate
    log.setLevel(level)
    return before


def told(error: BaseException) -> str:
    """An exception with the last places of its traceback."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = " < ".join(f"{_short(f.filename)}:{f.lineno} {f.name}" for f in reversed(frames))
    return f"{type(error).__name__}: {str(error)[:200]} at {places}"


def _short(name: str) -> str:
    path = Path(name)
    return str(path.relative_to(_ROOT)) if path.is_relative_to(_ROOT) else path.name


# ---------------------------------------------------------------------- what a process holds


@dataclass(frozen=True)
class Held:
    """What this process holds now. ``peak``: since it was last asked for."""

    rss: int
    peak: int
    files: int
    threads: int


def held() -> Held:
    """After a collection."""
    gc.collect()
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+) kB", status))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    files = sum(1 for _ in Path("/proc/self/fd").iterdir()) - 1
    return Held(
        int(found["VmRSS"]) << 10, int(found["VmHWM"]) << 10, files, threading.active_count()
    )


# ---------------------------------------------------------------------- lines


class Lines:
    """Which lines of :data:`GROUPS` ran while it was on; nothing where ``coverage`` is not installed. To be
    made before the modules are imported: their own lines count too."""

    def __init__(self) -> None:
        self._measure: Any = None
        try:
            import coverage
        except ImportError:
            return
        patterns = [str(_ROOT / pattern) for group in GROUPS.values() for pattern in group]
        self._measure = coverage.Coverage(
            data_file=None, include=patterns, config_file=False, check_preimported=False
        )

    def start(self) -> None:
        """Count from now on."""
        if self._measure is not None:
            self._measure.start()

    def stop(self) -> dict[str, list[int]]:
        """Stop counting: the lines so far, by file."""
        if self._measure is None:
            return {}
        self._measure.stop()
        data = self._measure.get_data()
        return {_short(name): data.lines(name) or [] for name in data.measured_files()}


def covered(ran: Mapping[str, set[int]]) -> list[tuple[str, str, int, int]]:
    """Group, file, lines that ran, lines there are. Empty without ``coverage``."""
    try:
        import coverage
    except ImportError:
        return []
    measure = coverage.Coverage(data_file=None, config_file=False)
    found = []
    for group, patterns in GROUPS.items():
        for path in sorted(path for pattern in patterns for path in _ROOT.glob(pattern)):
            if path.name != "__init__.py":
                statements = set(measure.analysis2(str(path))[1])
                some = len(statements & ran.get(_short(str(path)), set()))
                found.append((group, _short(str(path)), some, len(statements)))
    return found

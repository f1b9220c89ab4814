"""Log lines that a person reads in a terminal: one line each, escaped, without data.

A message may quote what came from outside, and an exception's own text may quote a row: a line break in
either would be an invented line, an escape sequence would rewrite the terminal. So the whole message goes
through :func:`protos.console.shown`; of an exception only types and places in the code are kept, never its
text, its notes or the values in its frames. *Not* handled: what other code writes to standard error itself.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any, TextIO

from protos.console import LONGEST_MESSAGE, shown

FORMAT = "%(asctime)s %(name)s %(message)s"
_PLACES = 6
"""Innermost frames that are named."""
_CAUSES = 4
log = logging.getLogger("tallystick.uncaught")


class EscapedFormatter(logging.Formatter):
    """Escapes message and logger's name; see the module for what is left of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line for one record."""
        try:
            message = record.getMessage()
        except Exception as error:  # a wrong format string must not print its arguments raw
            message = f"a message that cannot be formatted ({type(error).__name__})"
        exception = record.exc_info[1] if record.exc_info else None
        if exception is not None:
            message = f"{message} [{places(exception)}]"
        plain = logging.makeLogRecord(
            record.__dict__
            | {"msg": shown(message, LONGEST_MESSAGE), "args": None, "name": shown(record.name),
               "exc_info": None, "exc_text": None, "stack_info": None}
        )  # fmt: skip
        return super().format(plain)


class _Handler(logging.StreamHandler[Any]):
    """A stream that says nothing where it cannot write; the usual one prints the arguments raw."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        pass


def places(error: BaseException) -> str:
    """Types and places of an exception and of what caused it; none of their texts."""
    found: list[str] = []
    current: BaseException | None = error
    while current is not None and len(found) < _CAUSES:
        frames = traceback.extract_tb(current.__traceback__, limit=-_PLACES)
        at = " < ".join(f"{_short(f.filename)}:{f.lineno} {f.name}" for f in reversed(frames))
        found.append(f"{type(current).__name__} at {at}" if at else type(current).__name__)
        current = current.__cause__ or (
            None if current.__suppress_context__ else current.__context__
        )
    return "; after ".join(found)


def _short(path: str) -> str:
    return "/".join(path.replace("\\", "/").split("/")[-2:])


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> None:
    """Send all records of this process to ``stream`` (standard error), escaped.

    What nobody caught, in any thread, becomes such a line too, and so do warnings.
    """
    handler = _Handler(stream if stream is not None else sys.stderr)
    handler.setFormatter(EscapedFormatter(FORMAT))
    logging.basicConfig(handlers=[handler], level=level, force=True)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread
    sys.unraisablehook = _unraisable


def _uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if isinstance(error, KeyboardInterrupt):
        return
    log.error("ended by %s", places(error))


def _uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and not isinstance(found.exc_value, SystemExit):
        log.error("a thread was ended by %s", places(found.exc_value))


def _unraisable(found: Any) -> None:
    if found.exc_value is not None:
        log.error("ignored: %s", places(found.exc_value))

"""A log that callers cannot fill: so many lines a minute from each logger, and one that counts the rest.

What a caller does wrong is worth a line, and whoever has a key can do it a hundred times a second: the disk
of the coordinator would be full in a day. Together with :mod:`protos.supervise`, which bounds the file.

*Not* handled: which lines are lost. The first of a minute are kept, whoever caused them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MOST = 60
"""Lines of a logger in a minute."""
MINUTE = 60.0
LONGEST = 200
"""Loggers that are told apart."""


class Limit(logging.Filter):
    """Of one handler."""

    def __init__(
        self, handler: logging.Handler, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__()
        self._handler, self._clock = handler, clock
        self._minutes: dict[str, tuple[float, int]] = {}  # when it began, and lines since then

    def filter(self, record: logging.LogRecord) -> bool:
        """Is there room for this line?"""
        name = record.name
        if name not in self._minutes and len(self._minutes) >= LONGEST:
            name = ""
        now = self._clock()
        began, lines = self._minutes.get(name, (now, 0))
        if now - began >= MINUTE:
            if lines > MOST:
                self._handler.emit(_left_out(record, lines - MOST))
            began, lines = now, 0
        self._minutes[name] = began, lines + 1
        return lines < MOST


def _left_out(record: logging.LogRecord, lines: int) -> logging.LogRecord:
    return logging.LogRecord(
        record.name,
        logging.WARNING,
        "",
        0,
        "%d more lines like these were left out",
        (lines,),
        None,
    )


def limit_logs() -> None:
    """Limit every handler of this process. After all of them are there."""
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.addFilter(Limit(handler))

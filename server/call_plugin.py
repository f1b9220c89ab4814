"""Flower's event log, written into the call log: who called what, from where, and how it went.

A partner's node causes a line with each call, and a log that is a chain is never shortened. So each partner
has a budget of lines, under the name whose key it showed: one for calls that an answer needs, enough for half
an hour of them without a pause, and a small one for calls that failed or that our node does not make. What is
above it is counted, in a line a minute (``action``: "left out").

*Not* handled: a partner that stays within its budget, which is some hundreds of megabytes a day. Its lines
say who it was.
"""

from __future__ import annotations

import dataclasses
import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flwr.common.event_log_plugin import EventLogWriterPlugin
from flwr.supercore.event_log.typing import Actor, Event, LogEntry

from server.calls import CallLog
from server.http import VISIT

CHATTY = ("pull-messages", "pullmessages", "heartbeat")
FLEET = "/fleet/"
NEEDED = ("pull-object", "push-object", "push-messages", "confirm-message-received")
"""Calls that our node makes for each answer."""
WORK, OTHER = (10.0, 50_000.0), (1.0, 300.0)
"""Lines of a partner in a second, and at once."""
MINUTE = 60.0


class _Entry(LogEntry):  # type: ignore[misc]
    """``caller``: the partner whose key was shown; none where it is no partner's call."""

    caller: str | None = None


class Lines:
    """How many lines each partner may still cause."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left: dict[tuple[str, bool], tuple[float, float]] = {}
        self._untold: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def take(self, who: str, *, needed: bool) -> bool:
        """Is there room for one more line of theirs?"""
        rate, most = WORK if needed else OTHER
        now = self._clock()
        left, at = self._left.get((who, needed), (most, now))
        left = min(most, left + (now - at) * rate)
        has_room = left >= 1.0
        self._left[who, needed] = left - has_room, now
        if not has_room:
            self._untold[who] = self._untold.get(who, 0) + 1
            self._told.setdefault(who, now)
        return has_room

    def left_out(self, *, everything: bool = False) -> dict[str, int]:
        """Lines of each partner that were not written, if that was not said in this minute."""
        now = self._clock()
        due = {
            who: number
            for who, number in self._untold.items()
            if everything or now - self._told[who] >= MINUTE
        }
        for who in due:
            del self._untold[who], self._told[who]
        return due


class CallPlugin(EventLogWriterPlugin):  # type: ignore[misc]
    """What Flower tells of each call, as lines of the log."""

    def __init__(self, path: Path) -> None:
        self._calls = CallLog(path)
        self._lines, self._lock = Lines(), threading.Lock()

    def close(self) -> None:
        """Close the log."""
        self._tell(everything=True)
        self._calls.close()

    def compose_log_before_event(
        self, request: Any, context: Any, account_info: Any, method_name: str
    ) -> LogEntry:
        """Flower's hook, before a call."""
        return self._entry(request, context, account_info, method_name, "started")

    def compose_log_after_event(
        self, request: Any, context: Any, account_info: Any, method_name: str, response: Any
    ) -> LogEntry:
        """Flower's hook, after a call. Exception texts stay out."""
        status = "failed" if isinstance(response, BaseException) else "completed"
        return self._entry(request, context, account_info, method_name, status)

    def _entry(
        self, request: Any, context: Any, account: Any, method: str, status: str
    ) -> LogEntry:
        node = getattr(getattr(request, "node", None), "node_id", None)
        content = getattr(getattr(request, "fab", None), "content", b"")
        bundle = hashlib.sha256(content).hexdigest() if content else None
        actor = Actor(
            str(node) if node else getattr(account, "flwr_aid", None),
            None,
            context.client.host if context.client else "",
        )
        entry = _Entry(
            _stamp(), actor, Event(method, getattr(request, "run_id", None) or None, bundle), status
        )
        if FLEET in method:
            visit = getattr(context, "scope", {}).get(VISIT)
            entry.caller = visit.who if visit is not None else ""
        return entry

    def write_log(self, log_entry: LogEntry) -> None:
        """Append one line; polls and heartbeats that went well are left out.

        Control calls leave a line when they start and when they end, the others when they end.
        """
        action = log_entry.event.action.lower()
        if action.endswith(CHATTY) and log_entry.status != "failed":
            return
        if log_entry.status == "started" and "/control/" not in action:
            return
        self._tell()
        caller = getattr(log_entry, "caller", None)
        if caller is not None:
            needed = log_entry.status != "failed" and action.endswith(NEEDED)
            with self._lock:
                has_room = self._lines.take(caller, needed=needed)
            if not has_room:
                return
        self._calls.append(dataclasses.asdict(log_entry))

    def _tell(self, *, everything: bool = False) -> None:
        with self._lock:
            due = self._lines.left_out(everything=everything)
        for who, number in due.items():
            actor, event = Actor(who, None, ""), Event("left out", None, None)
            self._calls.append(
                dataclasses.asdict(LogEntry(_stamp(), actor, event, f"{number} lines"))
            )


def _stamp() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())

"""Flower's event log, written into the call log: who called what, from where, and how it went."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from pathlib import Path
from typing import Any

from flwr.common.event_log_plugin import EventLogWriterPlugin
from flwr.supercore.event_log.typing import Actor, Event, LogEntry

from server.calls import CallLog

CHATTY = ("pull-messages", "pullmessages", "heartbeat")


class CallPlugin(EventLogWriterPlugin):  # type: ignore[misc]
    """What Flower tells of each call, as lines of the log."""

    def __init__(self, path: Path) -> None:
        self._calls = CallLog(path)

    def close(self) -> None:
        """Close the log."""
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
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        return LogEntry(
            stamp, actor, Event(method, getattr(request, "run_id", None) or None, bundle), status
        )

    def write_log(self, log_entry: LogEntry) -> None:
        """Append one line; polls and heartbeats that went well are left out.

        Control calls leave a line when they start and when they end, the others when they end.
        """
        action = log_entry.event.action.lower()
        if action.endswith(CHATTY) and log_entry.status != "failed":
            return
        if log_entry.status == "started" and "/control/" not in action:
            return
        self._calls.append(dataclasses.asdict(log_entry))

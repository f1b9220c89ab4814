"""What is wrong with the coordinator's set-up, and what to do about it."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path

from privacy.errors import TallystickError
from server.home import Home


def examine(home: Home) -> list[tuple[bool, str, str]]:
    """Good or not, subject, text; one line for each thing looked at."""
    found: list[tuple[bool, str, str]] = []
    try:
        config = home.config()
        found.append((True, "coordinator.toml", config.name))
        home.identity()
        for name in ("ca.key", "server.key", "control.token", "runtime.secret"):
            home.key(name)
        found.append((True, "keys", "readable by you only"))
    except TallystickError as error:
        return [*found, (False, "set-up", str(error))]
    try:
        contract = home.contract()
        found.append((True, "contract", f"{contract.name}, until {contract.expires:%Y-%m-%d}"))
    except TallystickError as error:
        found.append((False, "contract", str(error)))
    ports = (("link", config.link_port), ("exchange", config.exchange_port))
    for label, port in (*ports, ("internal", config.internal_port)):
        with socket.socket() as probe:
            probe.settimeout(1.0)
            running = probe.connect_ex(("127.0.0.1", port)) == 0
        text = f"port {port} is {'answering' if running else 'free: `start` is not running'}"
        found.append((True, label, text))
    if home.calls.exists():
        count = count_calls(home.calls)
        text = f"{count} calls, chain intact" if count >= 0 else "the call log was edited"
        found.append((count >= 0, "call log", text))
    return found


def count_calls(path: Path) -> int:
    """Number of lines in an intact call log; -1 if it was edited."""
    previous, count = "0" * 64, 0
    for line in path.read_bytes().splitlines():
        try:
            if (
                json.loads(line)["prev"] != previous
            ):  # our own file: Flower's numbers have 64 bits, unsigned
                return -1
        except (ValueError, KeyError, TypeError, RecursionError):
            return -1
        previous, count = hashlib.sha256(line).hexdigest(), count + 1
    return count

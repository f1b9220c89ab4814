"""What is wrong with the coordinator's set-up, and what to do about it."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

from privacy.errors import TallystickError
from protos.alliance import Contract
from protos.files import check_folder
from server import renewal
from server.calls import BrokenLog, Calls
from server.home import Home
from server.witnesses import Proof, proofs


def examine(home: Home) -> list[tuple[bool, str, str]]:
    """Good or not, subject, text; one line for each thing looked at."""
    found: list[tuple[bool, str, str]] = []
    try:
        config = home.config()
        found.append((True, "coordinator.toml", config.name))
        check_folder(home.keys)
        check_folder(home.state)
        found.append((True, "folders", "nobody else can write in them"))
        home.identity()
        for name in ("ca.key", "server.key", "control.token", "runtime.secret"):
            home.key(name)
        found.append((True, "keys", "readable by you only"))
    except TallystickError as error:
        return [*found, (False, "set-up", str(error))]
    contract: Contract | None = None
    try:
        contract = home.contract()
        found.append((True, "contract", f"{contract.name}, until {contract.expires:%Y-%m-%d}"))
        found += renewal.look(home, contract, datetime.now(UTC))
    except TallystickError as error:
        found.append((False, "contract", str(error)))
    ports = (("link", config.link_port), ("exchange", config.exchange_port))
    for label, port in (*ports, ("internal", config.internal_port)):
        with socket.socket() as probe:
            probe.settimeout(1.0)
            running = probe.connect_ex(("127.0.0.1", port)) == 0
        text = f"port {port} is {'answering' if running else 'free: `start` is not running'}"
        found.append((True, label, text))
    found += _calls(home, contract)
    return found


def _calls(home: Home, contract: Contract | None) -> list[tuple[bool, str, str]]:
    """The call log: its chain, and every head of it that was signed."""
    label, calls = "call log", Calls(home.calls)
    kept: list[Proof] = []
    wrong: list[str] = []
    try:
        kept = proofs(home, contract) if contract else []
    except TallystickError as error:
        wrong = [str(error)]
    if not home.calls.exists():
        if kept:
            wrong = ["state/calls.jsonl is not there, though this coordinator signed heads of it"]
        return [(False, label, text) for text in wrong]
    try:
        found = calls.verify()
        wrong += [proof.missing() for proof in kept if not calls.has(proof.line, proof.digest)]
    except BrokenLog as error:
        lost = [proof.missing() for proof in kept if not calls.has(proof.line, proof.digest)]
        wrong = [str(error), *wrong, *lost]
    except OSError as error:
        wrong.insert(0, f"state/calls.jsonl cannot be read: {error.strerror}")
    if wrong:
        return [(False, label, text) for text in wrong]
    text = f"{found.lines} calls, chain intact"
    if found.torn:
        text += f"; lines that a crash cut off, and say so: {found.torn}"
    if kept:
        holders = [proof.holder for proof in kept if proof.holder]
        text += f"; signed up to line {max(proof.line for proof in kept)}"
        text += f", held by {', '.join(holders)}" if holders else ", no partner has answered yet"
    return [(True, label, text)]

"""What is wrong with this partner's set-up, and what to do about it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client import admission
from client.home import Home
from privacy.errors import TallystickError
from privacy.matching import fast
from privacy.matching.engine import available
from protos.alliance import Contract


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    subject: str
    good: bool
    text: str


def examine(home: Home) -> list[Finding]:
    """Look at everything; one finding each. Never raises for what it looks for."""
    return list(_findings(home))


def _findings(home: Home) -> Iterator[Finding]:
    yield _try("partner.toml", lambda: f"{home.config().name}")
    yield _try("keys", lambda: "readable by you only" if home.identity() else "")
    contract: Contract | None = None
    try:
        contract = home.contract()
        yield Finding("contract", True, f"{contract.name}, until {contract.expires:%Y-%m-%d}")
    except TallystickError as error:
        yield Finding("contract", False, str(error))
    if contract is None:
        return
    yield _data(home, contract)
    if contract.matching is not None:
        yield _matching(contract.matching.engine)
    for label, address in (
        ("link", contract.coordinator.link),
        ("exchange", contract.coordinator.exchange),
    ):
        yield _connection(label, address, contract.coordinator.authority)


def _try(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, True, look())
    except TallystickError as error:
        return Finding(subject, False, str(error))


def _data(home: Home, contract: Contract) -> Finding:
    try:
        home.source()  # what is wrong with a pin is found here
        found = admission.look(home, contract, with_identifiers=False)
        pin = admission.pinned(home)
    except TallystickError as error:
        return Finding("data", False, str(error))
    if pin is not None and pin != found.read_as:
        text = "is read otherwise than when it was admitted; run `doctor --data` again"
        return Finding("data", False, text)
    if not found.is_good:
        return Finding("data", False, f"{found.short()}; {found.warnings()[0]}")
    return Finding("data", True, found.short())


def _matching(engine: str) -> Finding:
    """Which engines run here; the fast lane, where the contract asks for it."""
    here = f"engines here: {', '.join(available())}"
    if engine == "fast" and not fast.available():
        return Finding("matching", False, f"{here}; engine fast needs tallystick[fast]")
    return Finding("matching", True, here)


def _connection(label: str, address: str, authority: str) -> Finding:
    host, _, port = address.rpartition(":")
    try:
        context = ssl.create_default_context(cadata=authority)
        with (
            socket.create_connection((host, int(port)), timeout=5.0) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return Finding(label, True, f"{address} answers with the alliance's certificate")
    except OSError as error:
        return Finding(label, False, f"{address}: {error.strerror or type(error).__name__}")

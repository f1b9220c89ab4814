"""What is wrong with this partner's set-up, and what to do about it."""

from __future__ import annotations

import socket
import sqlite3
import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime

from client import admission, renewal
from client.callhead import held_head, noted
from client.home import Home
from client.storage_key import SEALED, left_over, warning
from privacy.errors import ConfigError, TallystickError
from privacy.matching import fast
from privacy.matching.engine import available
from protos.alliance import Contract
from protos.certificates import ALARM_DAYS, days_left
from protos.files import read_private


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
    folders = _try("folders", lambda: _folders(home))
    yield folders
    if not folders.good:
        return  # whoever can write there says what would be looked at, and run
    settings = _try("partner.toml", lambda: f"{home.config().name}")
    yield settings
    if not settings.good:
        return
    yield _try("keys", lambda: "readable by you only" if home.identity() else "")
    yield _try("storage key", lambda: _storage(home))
    contract: Contract | None = None
    try:
        contract = home.contract()
        yield Finding("contract", True, f"{contract.name}, until {contract.expires:%Y-%m-%d}")
    except TallystickError as error:
        yield Finding("contract", False, str(error))
    if contract is None:
        return
    yield _certificate(home, contract, datetime.now(UTC))
    yield _data(home, contract)
    yield from _calls(home, contract)
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


def _folders(home: Home) -> str:
    home.check()
    return "nobody else can write in them"


def _storage(home: Home) -> str:
    """Where the storage key lies; opened only where nobody is asked for it."""
    keys = home.config().keys
    how, left = keys.storage, left_over(home.keys, keys)
    if left:
        raise ConfigError(f"keys.storage = {how!r}", warning(left))
    if how == "passphrase":
        read_private(home.keys / SEALED)
        return "sealed under a passphrase"
    if how.startswith("credential:"):
        return f"{how}: systemd gives it to the unit; not looked at here"
    home.storage_key()
    return "keys/storage.key lies beside the database" if how == "file" else "the command gives it"


def _certificate(home: Home, contract: Contract, now: datetime) -> Finding:
    """How long the exchange will let this partner in."""
    try:
        left = days_left(renewal.current(home, contract, now), now)
    except TallystickError as error:
        return Finding("certificate", False, str(error))
    text = f"{left} days left"
    if left < ALARM_DAYS:
        text += "; a running `start` renews it under 30 days, or get a file: `renew NAME.pem`"
    return Finding("certificate", left >= ALARM_DAYS, text)


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


def _calls(home: Home, contract: Contract) -> Iterator[Finding]:
    """What the coordinator signed of its call log. Read without the storage key, which may be asked for."""
    if not home.database.exists():
        return
    subject = "coordinator's call log"
    try:
        with closing(sqlite3.connect(home.database)) as database:

            def rows(query: str) -> list[tuple[object, ...]]:
                return list(database.execute(query))

            held, wrong = held_head(rows, contract), noted(rows, contract)
    except sqlite3.Error:  # of an earlier version: nothing was held yet
        return
    for each in wrong:
        yield Finding(subject, False, each.told())
    if held is not None and not wrong:
        yield Finding(subject, True, f"signed up to {held.head.is_of}")


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

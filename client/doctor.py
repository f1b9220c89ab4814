"""What is wrong with this partner's set-up, and what to do about it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from client.home import Home
from client.table import read
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
        source, columns = home.source(), contract.declared_columns()
        wanted = sorted(set(source.columns) & set(columns))
        unknown = sorted(set(source.columns) - set(columns))
        if unknown:
            text = f"data.columns.{unknown[0]} is not a column of the contract"
            return Finding("data", False, text)
        snapshot, report = read(
            source, columns, wanted, rows_per_person=contract.privacy.rows_per_person
        )
    except TallystickError as error:
        return Finding("data", False, str(error))
    bad = sum(report.unusable.values()) + report.without_person + report.malformed_lines
    text = (
        f"{report.rows} rows, {report.people} people usable, {bad} values or lines unusable, "
        f"{sum(report.clipped.values())} values clipped to the contract's bounds"
    )
    smallest = contract.privacy.smallest_cohort
    if snapshot.people < smallest:
        return Finding("data", False, f"{text}; the smallest cohort is {smallest}")
    return Finding("data", True, text)


def _matching(engine: str) -> Finding:
    """Which engines run here; the fast lane, where the contract asks for it."""
    here = f"engines here: {', '.join(available())}"
    if engine == "fast" and not fast.available():
        return Finding("matching", False, f"{here}; engine fast needs tallystick[fast]")
    return Finding("matching", True, here)


def _connection(label: str, address: str, authority: str) -> Finding:
    host, _, port = address.rpartition(":")
    context = ssl.create_default_context(cadata=authority)
    try:
        with (
            socket.create_connection((host, int(port)), timeout=5.0) as plain,
            context.wrap_socket(plain, server_hostname=host),
        ):
            return Finding(label, True, f"{address} answers with the alliance's certificate")
    except OSError as error:
        return Finding(label, False, f"{address}: {error.strerror or type(error).__name__}")

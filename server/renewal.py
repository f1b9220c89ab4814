"""New certificates for keys that the contract pins: by the partner's own asking, or as a file.

A certificate is the authority's word about a key that every partner has signed already, so renewing one needs
no decision of a person: the new one carries the pinned key, under the party's name, and nothing that was
asked for. Whoever asks over the exchange has proved the key in the TLS handshake, with a certificate that is
still valid; the request itself must be empty. Asking often makes no certificates: one that was issued lately
is given again. A revoked party gets none.

``certificates/NAME.pem`` is the newest one of each partner; it holds nothing secret.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cryptography import x509

from privacy.errors import ConfigError, WireError
from protos import identity
from protos.alliance import Contract
from protos.certificates import (
    ALARM_DAYS,
    LEAF_DAYS,
    RENEW_DAYS,
    check_issued,
    days_left,
    pinned_key,
)
from protos.files import check_folder, own_folder, write_private
from protos.identity import LONGEST_CERTIFICATE
from server import pki
from server.callers import revoked
from server.home import Home

FOLDER = "certificates"
METHOD = "/tallystick.v1.Exchange/Renew"
"""Unary; an empty request, a certificate in PEM as the reply."""
_ONE_AT_A_TIME = threading.Lock()


def renew(home: Home, party: str, request: bytes, now: datetime) -> bytes:
    """The exchange's answer to ``party``, whose valid certificate was checked already: a certificate in PEM.

    Raises WireError for a request that is not empty, ConfigError where none is given.
    """
    if request:
        raise WireError("a request for a certificate is empty")
    with _ONE_AT_A_TIME:
        last = _issued(home, party, now)
        if last is not None and days_left(last, now) >= LEAF_DAYS - RENEW_DAYS:
            return pki.pem(last)
        return issue(home, party, now).read_bytes()


def issue(home: Home, party: str, now: datetime) -> Path:
    """Write a new certificate for the pinned key of a party. Raises ConfigError."""
    contract = home.contract(lambda: now)
    key = pinned_key(contract, party)
    if revoked(home).has_party(party):
        raise ConfigError("party", f"{party} is revoked; `revoke --undo {party}` comes first")
    made = pki.client_certificate(home.key("ca.key"), home.key("ca.pem"), party, key, now)
    target = own_folder(home.root / FOLDER) / f"{party}.pem"
    write_private(target, made.encode())
    return target


def look(home: Home, contract: Contract, now: datetime) -> Iterator[tuple[bool, str, str]]:
    """For ``doctor``: how long each certificate lasts, and who is revoked. Raises ConfigError."""
    for name, subject in (("ca.pem", "authority"), ("server.pem", "server certificate")):
        left = days_left(identity.read_certificate(home.key(name).decode(), name), now)
        more = "" if left >= ALARM_DAYS else "; `start` it again: it renews what it serves with"
        yield left >= ALARM_DAYS, subject, f"{left} days left{more}"
    listed = revoked(home)
    for party in contract.parties:
        if listed.has_party(party.name):
            yield (
                True,
                f"{party.name}'s certificate",
                "revoked: neither link nor exchange lets it in",
            )
            continue
        where = f"parties.{party.name}.certificate"
        newest = _issued(home, party.name, now) or identity.read_certificate(
            party.certificate, where
        )
        left = days_left(newest, now)
        more = "" if left >= ALARM_DAYS else f"; `renew {party.name}` and send the file"
        yield left >= ALARM_DAYS, f"{party.name}'s certificate", f"{left} days left{more}"


def _issued(home: Home, party: str, now: datetime) -> x509.Certificate | None:
    """The last certificate, if it still says what a new one would."""
    contract = home.contract(lambda: now)
    path = home.root / FOLDER / f"{contract.party(party).name}.pem"
    if not path.is_file() or path.stat().st_size > LONGEST_CERTIFICATE:
        return None
    check_folder(path.parent)
    try:
        found = identity.read_certificate(path.read_text(encoding="ascii"), str(path))
        authority = identity.read_certificate(contract.coordinator.authority, "authority")
        check_issued(found, authority, now, str(path))
        fits = identity.certificate_key(found, str(path)) == pinned_key(contract, party)
    except (ConfigError, ValueError):
        return None
    listed = revoked(home)
    if listed.has_party(party) or listed.has_serial(found.serial_number):
        return None
    return found if fits else None

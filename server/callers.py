"""Who is calling: a certificate's key against the contract, and the coordinator's list of who is revoked.

The threat: a certificate that our authority issued for a name, but not for the key that the partners signed
(an application that was replaced, an authority's key that leaked, a mistake), and a partner that was put out.
A name in a certificate therefore says nothing here; the key does. ``state/revoked.toml`` is read again when
it changes, so `revoke` takes effect on the next call of a running ``start``:

    a party     nothing of it is let in: certificates by their key, and its node (:meth:`Callers.node_keys`)
    a serial    this one certificate, though another with the same key goes on

A list that cannot be read lets nobody in. *Not* handled: a TLS key that was stolen. It is pinned, so no new
certificate helps: revoke the party, and sign a new contract with new keys.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from pydantic import Field

from privacy.errors import ConfigError
from protos import identity
from protos.alliance import Contract, Name, to_toml
from protos.certificates import check_issued, pinned_key
from protos.files import locked, own_folder, write_private
from protos.toml import Moment, Strict, build, read_toml
from server.home import Home

log = logging.getLogger("tallystick.callers")

FILE = "revoked.toml"
SERIAL = "[1-9a-f][0-9a-f]{0,39}"
Reason = Annotated[str, Field(min_length=1, max_length=300)]


class Entry(Strict):
    """A party that is put out, or one certificate of it by its serial number in hexadecimal."""

    party: Name
    serial: str | None = Field(default=None, pattern=f"^{SERIAL}$")
    reason: Reason
    at: Moment


class Revoked(Strict):
    """``state/revoked.toml``."""

    entries: tuple[Entry, ...] = Field(default=(), max_length=10_000)

    def has_party(self, party: str) -> bool:
        """Is all of this party revoked?"""
        return any(entry.party == party and entry.serial is None for entry in self.entries)

    def has_serial(self, serial: int) -> bool:
        """Is this one certificate revoked?"""
        return any(entry.serial == f"{serial:x}" for entry in self.entries)


def serial_number(text: str) -> str:
    """A serial number as people copy it ("0A:1b:2C"), in its one form. Raises ConfigError."""
    plain = text.replace(":", "").lower().removeprefix("0x").lstrip("0")
    if not re.fullmatch(SERIAL, plain):
        raise ConfigError(
            "--serial", "must be hexadecimal, as `openssl x509 -noout -serial` prints it"
        )
    return plain


def revoked(home: Home) -> Revoked:
    """The list as it is now; empty if there is none. Raises ConfigError."""
    path = home.state / FILE
    if not path.exists() and not path.is_symlink():
        return Revoked()
    return build(Revoked, read_toml(path, own=True), str(path))


def revoke(
    home: Home, party: str, reason: str, now: datetime, *, serial: str | None = None
) -> None:
    """Put a party out, or one of its certificates. Raises ConfigError."""
    home.contract(lambda: now).party(party)
    entry = {"party": party, "reason": reason, "at": now, **({"serial": serial} if serial else {})}
    found = build(Entry, entry)
    with _changing(home):
        others = _without(revoked(home), party, found.serial)
        _write(home, Revoked(entries=(*others, found)))


def allow(home: Home, party: str, *, serial: str | None = None) -> None:
    """Take a party, or one of its certificates, off the list. Raises ConfigError if it is not on it."""
    with _changing(home):
        now = revoked(home)
        others = _without(now, party, serial)
        if len(others) == len(now.entries):
            raise ConfigError("revoke", f"{party} is not on the list")
        _write(home, Revoked(entries=others))


def _changing(home: Home) -> AbstractContextManager[None]:
    """Two commands at once: neither loses what the other wrote."""
    return locked(own_folder(home.state) / FILE)


def _without(found: Revoked, party: str, serial: str | None) -> tuple[Entry, ...]:
    return tuple(e for e in found.entries if (e.party, e.serial) != (party, serial))


def _write(home: Home, found: Revoked) -> None:
    write_private(home.state / FILE, to_toml(found).encode())


class Callers:
    """Parties by their pinned keys. Each method may be called from any thread, at any call."""

    def __init__(
        self,
        home: Home,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        contract: Contract | None = None,
    ) -> None:
        agreed = contract or home.contract()
        self._home, self._now = home, now
        self._authority = identity.read_certificate(
            agreed.coordinator.authority, "coordinator.authority"
        )
        self._parties = {pinned_key(agreed, p.name): p.name for p in agreed.parties}
        self._nodes = {
            p.name: identity.load_node_key(p.node_key, f"parties.{p.name}.node_key").public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            for p in agreed.parties
        }
        self._lock = threading.Lock()
        self._seen: tuple[int, ...] | None = None
        self._revoked: Revoked | None = Revoked()

    def party_of(self, certificate_pem: bytes) -> str | None:
        """The party whose pinned key this certificate carries; None unless it may call now."""
        try:
            found = identity.read_certificate(certificate_pem.decode("ascii"), "certificate")
            check_issued(found, self._authority, self._now(), "certificate")
            party = self._parties.get(identity.certificate_key(found, "certificate"))
        except (ConfigError, UnicodeDecodeError):
            return None
        return party if party is not None and self._is_allowed(party, found) else None

    def allows(self, party: str) -> bool:
        """Is the party in the contract, and not revoked?"""
        return party in self._nodes and self._is_allowed(party)

    def node_keys(self) -> frozenset[bytes]:
        """Node keys that may reach the link, in PEM as Flower registers them: the contract's, without those
        of revoked parties."""
        return frozenset(key for party, key in self._nodes.items() if self._is_allowed(party))

    def _is_allowed(self, party: str, certificate: x509.Certificate | None = None) -> bool:
        listed = self._list()
        if listed is None or listed.has_party(party):
            return False
        return certificate is None or not listed.has_serial(certificate.serial_number)

    def _list(self) -> Revoked | None:
        """The list, read again if the file changed; None if it cannot be read."""
        with self._lock:
            seen = _state_of(self._home.state / FILE)
            if seen != self._seen:
                try:
                    self._revoked = revoked(self._home)
                except ConfigError as error:
                    self._revoked = None
                    log.warning("nobody is let in: %s", error)
                self._seen = seen
            return self._revoked


def _state_of(path: Path) -> tuple[int, ...]:
    """What changes when the file does; empty if it is not there."""
    try:
        found = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

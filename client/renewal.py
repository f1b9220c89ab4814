"""This partner's TLS certificate: short, renewed over the key that the contract pins.

The key never changes while the contract lives; the certificate that carries it does. ``keys/tls.pem`` is the
newest, and used while it is valid; before there is one, the contract's. With fewer than thirty days left the
gate asks the exchange for another, over TLS with the one that it has; by file (`renew NAME.pem`) where that
one has ended or the coordinator cannot be reached.

What comes is the authority's word and changes nothing that was signed: it must be of the contract's
authority, for this partner's own key, and not older than the one in use. *Not* handled: a stolen
``keys/tls.key``. Whoever has it can sit on this partner's end of a match stream (which is sealed end to end
under the identity key) until the coordinator revokes the partner; it takes a new contract to replace it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from client.home import Home
from privacy.errors import ConfigError
from protos import identity
from protos.alliance import Contract
from protos.certificates import RENEW_DAYS, check_issued, days_left, pinned_key
from protos.files import read_private, write_private
from protos.identity import LONGEST_CERTIFICATE, certificate_key, read_certificate

log = logging.getLogger("tallystick.renewal")

FILE = "tls.pem"
METHOD = "/tallystick.v1.Exchange/Renew"
PATIENCE = 30.0
"""Seconds that the exchange may take to answer."""
HOUR = 3600.0
Ask = Callable[[Home, Contract, datetime], bytes]


def current(home: Home, contract: Contract, now: datetime) -> x509.Certificate:
    """The certificate to be used: the renewed one while it serves, otherwise the contract's."""
    path = home.keys / FILE
    if path.exists():
        try:
            return _checked(home, contract, read_private(path), now, str(path))
        except ConfigError as error:
            log.warning("not used: %s", error)
    party = contract.party(home.config().name)
    return read_certificate(party.certificate, f"parties.{party.name}.certificate")


def _checked(
    home: Home, contract: Contract, data: bytes, now: datetime, path: str
) -> x509.Certificate:
    """Raises ConfigError unless it is this partner's, of the contract's authority, and valid now."""
    try:
        found = read_certificate(data[: LONGEST_CERTIFICATE + 1].decode("ascii"), path)
    except UnicodeDecodeError:
        raise ConfigError(path, "is not a certificate in PEM") from None
    if certificate_key(found, path) != pinned_key(contract, home.config().name):
        raise ConfigError(path, "is not for the key that the contract pins for this partner")
    authority = identity.read_certificate(contract.coordinator.authority, "coordinator.authority")
    check_issued(found, authority, now, path)
    return found


def install(home: Home, data: bytes, now: datetime, path: str = FILE) -> x509.Certificate:
    """Check a certificate that the coordinator made and keep it for use. Raises ConfigError."""
    contract = home.contract(lambda: now)
    found = _checked(home, contract, data, now, path)
    if found.not_valid_before_utc < current(home, contract, now).not_valid_before_utc:
        raise ConfigError(path, "is older than the certificate in use")
    write_private(home.keys / FILE, _pem(found))
    return found


def read(path: Path) -> bytes:
    """A certificate that somebody sent, bounded. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_CERTIFICATE + 1)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {type(error).__name__}") from None


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def credentials(home: Home, contract: Contract, now: datetime) -> grpc.ChannelCredentials:
    """Mutual TLS with the exchange: the contract's authority, this partner's pinned key."""
    return grpc.ssl_channel_credentials(
        root_certificates=contract.coordinator.authority.encode(),
        private_key=home.key_file("tls.key"),
        certificate_chain=_pem(current(home, contract, now)),
    )


def ask(home: Home, contract: Contract, now: datetime) -> bytes:
    """A certificate from the exchange. Raises ConfigError that says what to do."""
    options = [
        ("grpc.max_receive_message_length", LONGEST_CERTIFICATE),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    address = contract.coordinator.exchange
    with grpc.secure_channel(address, credentials(home, contract, now), options) as channel:
        try:
            return bytes(channel.unary_unary(METHOD)(b"", timeout=PATIENCE))
        except grpc.RpcError as error:
            raise ConfigError(
                "certificate",
                f"{address} did not renew it ({error.code().name}); ask the coordinator for a file, "
                "`tallystick-coordinator renew`",
            ) from None


def renew_if_due(home: Home, now: datetime, ask: Ask = ask) -> bool:
    """Renew when fewer than :data:`RENEW_DAYS` are left; says if it did. Raises ConfigError."""
    contract = home.contract(lambda: now)
    if days_left(current(home, contract, now), now) >= RENEW_DAYS:
        return False
    made = install(home, ask(home, contract, now), now, "the coordinator's answer")
    log.info("renewed the certificate, until %s", f"{made.not_valid_after_utc:%Y-%m-%d}")
    return True


def keep(home: Home) -> None:
    """Look at once and every hour, for ever: the body of a thread of the gate. Whatever comes, it goes on."""
    while True:
        try:
            renew_if_due(home, datetime.now(UTC))
        except ConfigError as error:
            log.warning("%s", error)
        except Exception as error:
            log.warning("the certificate was not renewed: %s", type(error).__name__)
        time.sleep(HOUR)

"""The alliance's own certificate authority (X.509, RFC 5280): one server, one client per partner.

The authority lives as long as alliances do; what it issues is short (:data:`protos.certificates.LEAF_DAYS`)
and renewed, always for a key that was there before: a partner's is pinned by the contract, and of the
server's pair only the certificate is replaced, so that no moment has a key without its certificate.
"""

from __future__ import annotations

import ipaddress
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from privacy.errors import ConfigError
from protos.certificates import LEAF_DAYS

AUTHORITY_DAYS = 3650


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS 8 in PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def pem(certificate: x509.Certificate) -> bytes:
    """A certificate in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def new_authority(alliance: str, now: datetime) -> tuple[bytes, bytes]:
    """Key and self-signed certificate, both PEM. P-256; it may sign leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(f"{alliance} alliance"))
        .issuer_name(_name(f"{alliance} alliance"))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )
    return key_pem(key), pem(certificate)


def _issue(
    authority_key: bytes,
    authority: bytes,
    subject: str,
    public: ec.EllipticCurvePublicKey,
    names: list[x509.GeneralName],
    usage: x509.ObjectIdentifier,
    now: datetime,
) -> bytes:
    key = _private(authority_key, "keys/ca.key")
    issuer = x509.load_pem_x509_certificate(authority)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=LEAF_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    return pem(certificate)


def _private(data: bytes, path: str) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError):
        raise ConfigError(path, "is not a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(path, "is not an elliptic-curve key")
    return key


def new_key() -> bytes:
    """A private key for TLS, P-256, in PEM."""
    return key_pem(ec.generate_private_key(ec.SECP256R1()))


def server_certificate(
    authority_key: bytes, authority: bytes, server_key: bytes, host: str, now: datetime
) -> bytes:
    """A certificate for ``host`` and loopback over the server's key, PEM."""
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    try:
        address = ipaddress.ip_address(host)
        if not address.is_loopback:
            names.append(x509.IPAddress(address))
    except ValueError:
        if host != "localhost":
            names.append(x509.DNSName(host))
    public = _private(server_key, "keys/server.key").public_key()
    usage = ExtendedKeyUsageOID.SERVER_AUTH
    return _issue(authority_key, authority, host, public, names, usage, now)


def client_certificate(
    authority_key: bytes, authority: bytes, name: str, key: bytes, now: datetime
) -> str:
    """A certificate for a partner's TLS key (SubjectPublicKeyInfo), PEM. Raises ConfigError."""
    try:
        public = serialization.load_der_public_key(key)
    except (ValueError, UnsupportedAlgorithm):
        public = None
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ConfigError(f"parties.{name}", "its TLS key is not an elliptic-curve key")
    names: list[x509.GeneralName] = [x509.DNSName(f"{name}.partner")]
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    return _issue(authority_key, authority, name, public, names, usage, now).decode()

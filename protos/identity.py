"""Ed25519 identities (RFC 8032): signing with domain separation, and fingerprints for people.

Keys and certificates come in files from others: each text is bounded before it is decoded, and must be the
one spelling of what it holds. A second spelling would be a second party with the same key, and a second
certificate in a text would be trusted by TLS without having been shown to whoever signed.
"""

from __future__ import annotations

import base64
import hashlib

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from privacy.errors import ConfigError, ProtocolError

ENVELOPE = b"tallystick/v1/envelope"
REPLY = b"tallystick/v1/reply"
STATEMENT = b"tallystick/v1/statement/"
CONTRACT = b"tallystick/v1/contract"
JOURNAL = b"tallystick/v1/journal"
INVITATION = b"tallystick/v1/invitation"
NODE_PROOF = b"tallystick/v1/application/node"
TLS_PROOF = b"tallystick/v1/application/tls"

LONGEST_BASE64 = 1024
LONGEST_NODE_KEY = 1024
LONGEST_CERTIFICATE = 16 << 10
"""Characters of a PEM text: a certificate, or a request for one."""


def _framed(domain: bytes, message: bytes) -> bytes:
    return len(domain).to_bytes(1, "big") + domain + message


def sign(key: Ed25519PrivateKey, domain: bytes, message: bytes) -> bytes:
    """Signature over domain and message."""
    return key.sign(_framed(domain, message))


def verify(public: bytes, domain: bytes, message: bytes, signature: bytes) -> None:
    """Raises ProtocolError unless ``signature`` is by ``public`` (32 bytes) over both."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _framed(domain, message))
    except (InvalidSignature, ValueError) as error:
        raise ProtocolError("a signature does not fit its key") from error


def prove(key: ec.EllipticCurvePrivateKey, domain: bytes, message: bytes) -> bytes:
    """ECDSA (FIPS 186-5) over domain and message: proof that who says it holds ``key``."""
    return key.sign(_framed(domain, message), _ecdsa(key.curve))


def check_proof(
    public: ec.EllipticCurvePublicKey, domain: bytes, message: bytes, proof: bytes
) -> None:
    """Raises ProtocolError unless ``proof`` is by the holder of ``public`` over both."""
    try:
        public.verify(proof, _framed(domain, message), _ecdsa(public.curve))
    except InvalidSignature as error:
        raise ProtocolError("a proof of possession does not fit its key") from error


def _ecdsa(curve: ec.EllipticCurve) -> ec.ECDSA:
    return ec.ECDSA(hashes.SHA384() if curve.key_size > 256 else hashes.SHA256())


def encode(data: bytes) -> str:
    """Base64, as used in contract files."""
    return base64.b64encode(data).decode()


def decode(text: str) -> bytes:
    """Inverse of :func:`encode`. Raises ValueError, also for another spelling of the same bytes."""
    if len(text) > LONGEST_BASE64:
        raise ValueError("base64 is too long")
    data = base64.b64decode(text, validate=True)
    if encode(data) != text:
        raise ValueError("base64 is not in its one form")
    return data


def decode_key(text: str, path: str) -> bytes:
    """32 bytes of a public identity key. Rejects wrong sizes and points of small order."""
    try:
        data = decode(text)
    except ValueError:
        raise ConfigError(path, "is not base64") from None
    if len(data) != 32:
        raise ConfigError(path, "an Ed25519 public key has 32 bytes")
    if data in _SMALL_ORDER:
        raise ConfigError(path, "weak key: a point of small order")
    return data


def fingerprint(public: bytes) -> str:
    """What people compare over the telephone: 80 bits of SHA-256 in groups of four hex digits."""
    digest = hashlib.sha256(b"tallystick/v1/fingerprint" + public).hexdigest()[:20]
    return " ".join(digest[i : i + 4] for i in range(0, 20, 4))


def read_certificate(text: str, path: str) -> x509.Certificate:
    """The one certificate of a PEM text. Raises ConfigError at ``path`` if it is not alone in it."""
    if len(text) > LONGEST_CERTIFICATE:
        raise ConfigError(path, f"has over {LONGEST_CERTIFICATE} characters")
    try:
        found = x509.load_pem_x509_certificate(text.encode())
        again = found.public_bytes(serialization.Encoding.PEM).decode()
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
        raise ConfigError(path, "is not a certificate in PEM") from None
    if again.split() != text.split():
        raise ConfigError(path, "must be one certificate in PEM and nothing else")
    return found


def load_node_key(text: str, path: str) -> ec.EllipticCurvePublicKey:
    """A node's key, OpenSSH on P-384. Raises ConfigError at ``path``."""
    if len(text) > LONGEST_NODE_KEY:
        raise ConfigError(path, f"has over {LONGEST_NODE_KEY} characters")
    try:
        key = serialization.load_ssh_public_key(text.encode())
        decode(text.split()[1])  # one spelling
    except (ValueError, TypeError, IndexError, UnsupportedAlgorithm, NotImplementedError):
        raise ConfigError(path, "is not a public key in OpenSSH's form") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise ConfigError(path, "must be a key on P-384")
    return key


def read_node_key(text: str, path: str) -> bytes:
    """A node's key as its binary form, without the comment that may follow it. Raises ConfigError."""
    load_node_key(text, path)
    return decode(text.split()[1])


def key_bytes(public: CertificatePublicKeyTypes) -> bytes:
    """A public key as SubjectPublicKeyInfo (RFC 5280), whatever text it came in: equal for equal keys."""
    return public.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate_key(certificate: x509.Certificate, path: str) -> bytes:
    """A certificate's key as :func:`key_bytes`. Raises ConfigError at ``path``."""
    try:
        return key_bytes(certificate.public_key())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(path, "its key is of a kind that is not for us") from None


def sha256_groups(data: bytes) -> str:
    """SHA-256 in groups of four hex digits, to be read out."""
    return groups(hashlib.sha256(data).digest())


def groups(digest: bytes) -> str:
    """Hex digits in groups of four, to be read out."""
    text = digest.hex()
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


_SMALL_ORDER = {
    # The eight points of small order on edwards25519 and their non-canonical encodings
    # (Chalkias, Garillot, Nikolaenko 2020, "Taming the many EdDSAs", Table 1).
    bytes.fromhex(text)
    for text in (
        "0100000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "0100000000000000000000000000000000000000000000000000000000000080",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    )
}

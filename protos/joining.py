"""The two small files by which a partner joins: an invitation out, an application back.

The threat: whoever can send a file. So names are names before anything else is done with them (they become
files' names), texts are bounded and printable, and **possession of every key is proved**: an application
is signed by the identity key that it names, and by the node key and the TLS key too, over the same bytes.
Without that a partner could apply with somebody else's public key, and be taken for them or stop the link.
What an application says is true is not proved by it: that the keys are the partner's own is what people
compare fingerprints for.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field

from privacy.errors import ConfigError, ProtocolError
from protos import identity
from protos.alliance import Coordinator, Name, to_toml
from protos.files import write_private
from protos.identity import LONGEST_BASE64, LONGEST_CERTIFICATE, LONGEST_NODE_KEY
from protos.places import check_output
from protos.toml import Strict, build, canonical, read_toml


def _printable(text: str) -> str:
    if not text.isprintable() or text != text.strip():
        raise ValueError("must be printable, without spaces at its ends")
    return text


AllianceName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]
Residency = Annotated[str, Field(min_length=2, max_length=64), AfterValidator(_printable)]
Proof = Annotated[str, Field(max_length=LONGEST_BASE64)]


class Invitation(Strict):
    """What an invited partner needs to know of the alliance."""

    version: Literal[1]
    alliance: AllianceName
    party: Name
    coordinator: Coordinator

    def authority(self) -> x509.Certificate:
        """The alliance's certificate authority. Raises ConfigError."""
        return identity.read_certificate(self.coordinator.authority, "coordinator.authority")


class Proofs(Strict):
    """That the applicant holds its node key (ECDSA on P-384) and its TLS key (P-256)."""

    node: Proof
    tls: Proof


class Application(Strict):
    """A partner's public keys, signed with its identity key. ``request``: a TLS CSR in PEM, of which only
    the key is used. ``proofs``: since 0.5.0; an application without them is refused by :meth:`check`."""

    version: Literal[1]
    alliance: AllianceName
    party: Name
    identity: str = Field(max_length=LONGEST_BASE64)
    node_key: str = Field(max_length=LONGEST_NODE_KEY)
    request: str = Field(max_length=LONGEST_CERTIFICATE)
    residency: Residency
    proofs: Proofs | None = None
    signature: str = Field(default="", max_length=LONGEST_BASE64)

    def _body(self) -> bytes:
        """All keys and what is said with them: each proof is for this identity and no other."""
        return canonical(self.model_dump(mode="json", exclude={"signature", "proofs"}))

    def signed(
        self,
        key: Ed25519PrivateKey,
        node: ec.EllipticCurvePrivateKey,
        tls: ec.EllipticCurvePrivateKey,
    ) -> Self:
        """A copy with the signatures that prove possession of all three keys."""
        body = self._body()
        signature = identity.sign(key, identity.INVITATION, body)
        proofs = Proofs(
            node=identity.encode(identity.prove(node, identity.NODE_PROOF, body)),
            tls=identity.encode(identity.prove(tls, identity.TLS_PROOF, body)),
        )
        return self.model_copy(update={"signature": identity.encode(signature), "proofs": proofs})

    def check(self) -> None:
        """Raises ConfigError unless whoever made it holds the three keys that it names."""
        public = identity.decode_key(self.identity, "identity")
        body = self._body()
        try:
            signature = identity.decode(self.signature)
            identity.verify(public, identity.INVITATION, body, signature)
        except (ValueError, ProtocolError):
            raise ConfigError("signature", "does not fit: the file was changed") from None
        if self.proofs is None:
            raise ConfigError(
                "proofs",
                "are missing: it was made by an earlier version; the partner runs `join` again",
            )
        node, tls = self.public_node_key(), self.public_tls_key()
        _check_proof(node, identity.NODE_PROOF, body, self.proofs.node, "proofs.node")
        _check_proof(tls, identity.TLS_PROOF, body, self.proofs.tls, "proofs.tls")

    def public_node_key(self) -> ec.EllipticCurvePublicKey:
        """Raises ConfigError unless it is one key on P-384, without a comment."""
        key = identity.load_node_key(self.node_key, "node_key")
        form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        if key.public_bytes(*form).decode() != self.node_key:
            raise ConfigError("node_key", "must be the key and nothing else")
        return key

    def public_tls_key(self) -> ec.EllipticCurvePublicKey:
        """The key of the request. Raises ConfigError unless it is on P-256."""
        try:
            request = x509.load_pem_x509_csr(self.request.encode())
            key = request.public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            raise ConfigError("request", "is not a certificate request") from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
            raise ConfigError("request", "must be for a key on P-256")
        return key


def _check_proof(
    key: ec.EllipticCurvePublicKey, domain: bytes, body: bytes, proof: str, path: str
) -> None:
    try:
        identity.check_proof(key, domain, body, identity.decode(proof))
    except (ValueError, ProtocolError):
        raise ConfigError(path, "does not fit: whoever made this does not hold the key") from None


def load_invitation(path: Path, *, own: bool = False) -> Invitation:
    """Read an invitation; ``own``: one that we wrote. Raises ConfigError."""
    invitation = build(Invitation, read_toml(path, own=own), str(path))
    identity.decode_key(invitation.coordinator.identity, "coordinator.identity")
    invitation.authority()
    return invitation


def parse_application(data: dict[str, Any], where: str = "") -> Application:
    """An application from what its file holds, its keys proved. Raises ConfigError."""
    application = build(Application, data, where)
    application.check()
    return application


def load_application(path: Path) -> Application:
    """Read an application and check its proofs. Raises ConfigError."""
    return parse_application(read_toml(path), str(path))


def write(path: Path, model: Strict, *, inputs: tuple[Path, ...] = ()) -> None:
    """Write as TOML where the owner said, for the owner's eyes until it is sent. ``inputs``: files that must
    not be lost. Raises ConfigError for a place among what is a partner's or a coordinator's own."""
    check_output(path)
    write_private(path, to_toml(model).encode(), inputs=inputs)

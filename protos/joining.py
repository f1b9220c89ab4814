"""The two small files by which a partner joins: an invitation out, an application back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field

from privacy.errors import ConfigError, ProtocolError
from protos import identity
from protos.alliance import NAME, Coordinator, to_toml
from protos.identity import LONGEST_BASE64, LONGEST_CERTIFICATE, LONGEST_NODE_KEY
from protos.toml import Strict, build, canonical, read_toml


def _name(text: str) -> str:
    """It becomes a file's name at the coordinator."""
    if not NAME.fullmatch(text):
        raise ValueError("a-z, 0-9, - and _, starting with a letter, at most 32")
    return text


Name = Annotated[str, AfterValidator(_name)]
AllianceName = Annotated[str, Field(max_length=200)]


class Invitation(Strict):
    """What an invited partner needs to know of the alliance."""

    version: Literal[1]
    alliance: AllianceName
    party: Name
    coordinator: Coordinator


class Application(Strict):
    """A partner's public keys, signed with its identity key. ``request``: a TLS CSR in PEM."""

    version: Literal[1]
    alliance: AllianceName
    party: Name
    identity: str = Field(max_length=LONGEST_BASE64)
    node_key: str = Field(max_length=LONGEST_NODE_KEY)
    request: str = Field(max_length=LONGEST_CERTIFICATE)
    residency: str = Field(min_length=2, max_length=64)
    signature: str = Field(default="", max_length=LONGEST_BASE64)

    def _body(self) -> bytes:
        return canonical(self.model_dump(mode="json", exclude={"signature"}))

    def signed(self, key: Ed25519PrivateKey) -> Self:
        """A copy with the signature that proves possession of the identity key."""
        signature = identity.sign(key, identity.INVITATION, self._body())
        return self.model_copy(update={"signature": identity.encode(signature)})

    def check(self) -> None:
        """Raises ConfigError unless signed by the key it names, and its other keys can be read."""
        public = identity.decode_key(self.identity, "identity")
        try:
            signature = identity.decode(self.signature)
            identity.verify(public, identity.INVITATION, self._body(), signature)
        except (ValueError, ProtocolError):
            raise ConfigError("signature", "does not fit: the file was changed") from None
        identity.read_node_key(self.node_key, "node_key")
        try:
            x509.load_pem_x509_csr(self.request.encode())
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            raise ConfigError("request", "is not a certificate request") from None


def write(path: Path, model: Strict) -> None:
    """Write as TOML."""
    path.write_text(to_toml(model), encoding="utf-8")


def load_invitation(path: Path) -> Invitation:
    """Read an invitation. Raises ConfigError."""
    return build(Invitation, read_toml(path))


def load_application(path: Path) -> Application:
    """Read an application and check its signature. Raises ConfigError."""
    application = build(Application, read_toml(path))
    application.check()
    return application

"""The two small files by which a partner joins: an invitation out, an application back."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from privacy.errors import ConfigError, ProtocolError
from protos import identity
from protos.alliance import Coordinator, to_plain
from protos.toml import Strict, build, canonical, read_toml


class Invitation(Strict):
    """What an invited partner needs to know of the alliance."""

    version: Literal[1]
    alliance: str
    party: str
    coordinator: Coordinator


class Application(Strict):
    """A partner's public keys, signed with its identity key. ``request``: a TLS CSR in PEM."""

    version: Literal[1]
    alliance: str
    party: str
    identity: str
    node_key: str
    request: str
    residency: str
    signature: str = ""

    def _body(self) -> bytes:
        return canonical(self.model_dump(mode="json", exclude={"signature"}))

    def signed(self, key: Ed25519PrivateKey) -> Self:
        """A copy with the signature that proves possession of the identity key."""
        signature = identity.sign(key, identity.INVITATION, self._body())
        return self.model_copy(update={"signature": identity.encode(signature)})

    def check(self) -> None:
        """Raises ConfigError unless signed by the key it names."""
        public = identity.decode_key(self.identity, "identity")
        try:
            signature = identity.decode(self.signature)
            identity.verify(public, identity.INVITATION, self._body(), signature)
        except (ValueError, ProtocolError):
            raise ConfigError("signature", "does not fit: the file was changed") from None


def write(path: Path, model: Strict) -> None:
    """Write as TOML."""
    path.write_text(tomli_w.dumps(to_plain(model), multiline_strings=True), encoding="utf-8")


def load_invitation(path: Path) -> Invitation:
    """Read an invitation. Raises ConfigError."""
    return build(Invitation, read_toml(path))


def load_application(path: Path) -> Application:
    """Read an application and check its signature. Raises ConfigError."""
    application = build(Application, read_toml(path))
    application.check()
    return application

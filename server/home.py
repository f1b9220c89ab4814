"""A coordinator's folder.

coordinator.toml    name, addresses
draft.toml          the contract's terms, before the parties are in
alliance.toml       the contract
invitations/        one file for each invited partner
parties/            one file for each admitted partner
certificates/       the newest certificate of each partner, once renewed
keys/               identity.key, ca.key, ca.pem, server.key, server.pem, control.token,
                    runtime.secret (mode 0600)
state/              store.db, calls.jsonl, revoked.toml, logs
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field

from protos import alliance
from protos.alliance import Contract, Name
from protos.files import check_folder, read_private
from protos.toml import Strict, build, read_toml


def _host(text: str) -> str:
    if len(text) > LONGEST_HOST or not alliance.HOST.fullmatch(text):
        raise ValueError(f"must be a host's name or address, of up to {LONGEST_HOST} letters")
    return text


LONGEST_HOST = 64
"""Letters: what the server's certificate has room for as its name (RFC 5280, ub-common-name)."""
Host = Annotated[str, AfterValidator(_host)]


class CoordinatorConfig(Strict):
    """``coordinator.toml``. ``host`` is what partners reach; ``bind`` what is listened on."""

    name: Name
    host: Host
    bind: str = "0.0.0.0"  # noqa: S104 - partners come from outside; what they reach is firewalled
    link_port: int = Field(ge=1, le=65535)
    exchange_port: int = Field(ge=1, le=65535)
    internal_port: int = Field(ge=1, le=65535)


class Home:
    """Paths and keys of a coordinator. Raises ConfigError that names the file to mend."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_file = root / "coordinator.toml"
        self.draft_file = root / "draft.toml"
        self.contract_file = root / "alliance.toml"
        self.invitations = root / "invitations"
        self.parties = root / "parties"
        self.keys = root / "keys"
        self.state = root / "state"
        self.database = self.state / "store.db"
        self.calls = self.state / "calls.jsonl"

    def config(self) -> CoordinatorConfig:
        """Parsed ``coordinator.toml``, where nobody else can have written it, or what lies beside it."""
        self.check()
        where = str(self.config_file)
        return build(CoordinatorConfig, read_toml(self.config_file, own=True), where)

    def contract(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Contract:
        """The contract, valid and signed by everyone."""
        self.check()
        return alliance.load_signed(self.contract_file, now(), own=True)

    def check(self) -> None:
        """Raises ConfigError where another user could replace what lies here."""
        for folder in (self.root, self.keys, self.state, self.invitations, self.parties):
            if folder.exists() or folder.is_symlink():
                check_folder(folder)

    def identity(self) -> Ed25519PrivateKey:
        """The Ed25519 identity key."""
        return Ed25519PrivateKey.from_private_bytes(self.key("identity.key"))

    def key(self, name: str) -> bytes:
        """Bytes of a key file that nobody else can read."""
        return read_private(self.keys / name)

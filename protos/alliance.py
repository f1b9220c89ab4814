"""The contract of an alliance: ``alliance.toml``, agreed and signed by every partner.

An absent rule denies. The digest covers everything but the signatures, and is in every message.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import AfterValidator, Field, field_validator, model_validator

from privacy import accounting
from privacy.errors import ConfigError, ParameterError, ProtocolError
from privacy.noisy_sum.rounds import Roster, check_tolerance
from privacy.programs import columns as declared
from protos import identity
from protos.identity import LONGEST_BASE64, LONGEST_CERTIFICATE, LONGEST_NODE_KEY
from protos.toml import Moment, Strict, build, canonical, later, loads_toml, read_toml

NAME = re.compile(r"[a-z][a-z0-9_-]{0,31}")
NAMED = "a-z, 0-9, - and _, starting with a letter, at most 32"
COLUMN = re.compile(r"[a-z][a-z0-9_]{0,47}")
RESERVED = {"fold", "person", "and", "or", "not", "True", "False", "None"}
Kind = Literal["query", "segment", "propensity", "evaluate", "match"]
PLATFORMS = ("google", "meta", "uid2", "tiktok", "linkedin")
"""Platforms that :mod:`privacy.identifiers.platforms` knows, which would load polars."""
IdentifierKind = Literal["email", "phone", "id_card", "device_id", "hashed"]


def _name(text: str) -> str:
    if not NAME.fullmatch(text):
        raise ValueError(NAMED)
    return text


Name = Annotated[str, AfterValidator(_name)]
"""Of a party or a coordinator: it is printed, and becomes a file's name."""

HOST = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9A-Fa-f:.]+\]?")
"""A name or an address. No scheme: gRPC would take "unix:..." for a socket on the partner's machine."""


class Coordinator(Strict):
    """Who runs the link and the exchange. Addresses are HOST:PORT as partners reach them."""

    name: Name
    identity: str = Field(max_length=LONGEST_BASE64)
    link: str
    exchange: str
    authority: str = Field(
        max_length=LONGEST_CERTIFICATE,
        description="PEM of the alliance's certificate authority",
    )

    @field_validator("link", "exchange")
    @classmethod
    def _address(cls, value: str) -> str:
        host, _, port = value.rpartition(":")
        if len(value) > 300 or not HOST.fullmatch(host) or not re.fullmatch("[0-9]{1,5}", port):
            raise ValueError("must be HOST:PORT")
        if not 0 < int(port) < 65536:
            raise ValueError("must be HOST:PORT")
        return value


class Party(Strict):
    """A partner: identity key, Flower node key (OpenSSH, P-384), TLS certificate, residency."""

    name: Name
    identity: str = Field(max_length=LONGEST_BASE64)
    node_key: str = Field(max_length=LONGEST_NODE_KEY)
    certificate: str = Field(max_length=LONGEST_CERTIFICATE)
    residency: str = Field(min_length=2, max_length=64)


class Privacy(Strict):
    """Limits for each partner and period, at ``delta``.

    ``epsilon``: for a customer at one partner. ``epsilon_per_person``: for a person who may be a
    customer at ``partners_per_person`` partners. Both hold.
    """

    epsilon: float = Field(gt=0, le=100)
    epsilon_per_person: float = Field(gt=0, le=100)
    delta: float = Field(gt=1e-15, le=1e-3)
    period_days: int = Field(ge=1, le=3660)
    smallest_cohort: int = Field(default=50, ge=2)
    colluders: int = Field(ge=1)
    dropouts: int = Field(ge=0)
    partners_per_person: int = Field(ge=1)
    rows_per_person: int = Field(ge=1, le=10_000)


class NumberColumn(Strict):
    """A number with public bounds."""

    type: Literal["number"]
    low: float
    high: float
    scale: Literal["linear", "log"] = "linear"

    @model_validator(mode="after")
    def _ordered(self) -> NumberColumn:
        if not self.low < self.high:
            raise ValueError("low must be under high")
        return self


class CategoryColumn(Strict):
    """A text from a public vocabulary."""

    type: Literal["category"]
    values: tuple[str, ...] = Field(min_length=2, max_length=1000)


class LabelColumn(Strict):
    """Yes or no."""

    type: Literal["label"]


AnyColumn = Annotated[NumberColumn | CategoryColumn | LabelColumn, Field(discriminator="type")]


class Purpose(Strict):
    """Job kinds that a purpose allows."""

    kinds: tuple[Kind, ...] = Field(min_length=1)


class Matching(Strict):
    """Rules of the second door. ``recipients``: who may receive match lists; nobody if empty.
    ``platforms``: where a recipient may upload them; nowhere if empty.

    ``engine``: ``auto`` takes the fastest blinding that both sides have; ``fast`` uses the
    semi-honest fast lane for lists between two parties. ``assumes``: ``semi_honest`` if the parties
    accept what holds only while every one of them runs this code (docs/security.md): the fast lane, and
    noisy results over rules that a job brings.
    """

    identifiers: tuple[IdentifierKind, ...] = Field(min_length=1)
    bucket: int = Field(ge=64, le=1 << 24, description="sets are padded to a multiple")
    largest_set: int = Field(ge=64, le=1 << 26)
    recipients: tuple[str, ...] = ()
    platforms: tuple[str, ...] = ()
    engine: Literal["auto", "ristretto255", "fast"] = "auto"
    assumes: Literal["semi_honest"] | None = later()


class Contract(Strict):
    """The whole contract; see the module's docstring."""

    version: Literal[1]
    name: str = Field(max_length=200)
    expires: Moment
    coordinator: Coordinator
    parties: tuple[Party, ...] = Field(min_length=2, max_length=200)
    privacy: Privacy
    columns: dict[str, AnyColumn] = Field(min_length=1)
    purposes: dict[str, Purpose] = Field(min_length=1)
    matching: Matching | None = None
    signatures: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        names = [party.name for party in self.parties]
        if len(set(names)) != len(names):
            raise ValueError("a party is named twice")
        for name in self.columns:
            if not COLUMN.fullmatch(name) or name in RESERVED:
                raise ValueError(f"columns.{name} is not a column name, or is reserved")
        keys = [self.coordinator.identity] + [party.identity for party in self.parties]
        if len(set(keys)) != len(keys):
            raise ValueError("two parties have the same identity key")
        if self.privacy.partners_per_person > len(names):
            raise ValueError("privacy.partners_per_person exceeds the number of parties")
        if self.matching and not set(self.matching.recipients) <= set(names):
            raise ValueError("matching.recipients names someone who is not a party")
        for name in self.matching.platforms if self.matching else ():
            if name not in PLATFORMS:
                raise ValueError(f"matching.platforms: {name} is not one of {', '.join(PLATFORMS)}")
        for name in self.signatures:
            if name not in names:
                raise ValueError(f"signatures.{name} is not a party")
        return self

    # ------------------------------------------------------------------ what it says

    def digest(self) -> bytes:
        """SHA-256 over everything but the signatures."""
        body = self.model_dump(mode="json", exclude={"signatures"})
        return hashlib.sha256(b"tallystick/v1/contract" + canonical(body)).digest()

    def roster(self) -> Roster:
        """All parties in the contract's order, with c and d."""
        return Roster(
            tuple(party.name for party in self.parties),
            self.privacy.colluders,
            self.privacy.dropouts,
        )

    def party(self, name: str) -> Party:
        """The party called ``name``, or ConfigError."""
        for party in self.parties:
            if party.name == name:
                return party
        raise ConfigError("parties", f"{name} is not a party of {self.name}")

    def identity_of(self, name: str) -> bytes:
        """Public identity key of a party, 32 bytes."""
        return identity.decode_key(self.party(name).identity, f"parties.{name}.identity")

    def coordinator_identity(self) -> bytes:
        """Public identity key of the coordinator, 32 bytes."""
        return identity.decode_key(self.coordinator.identity, "coordinator.identity")

    def declared_columns(self) -> dict[str, declared.Column]:
        """Columns as programs see them. Raises ParameterError for bounds that :meth:`check_terms` refuses."""
        return {name: _declared(name, column) for name, column in self.columns.items()}

    def mu2_limit(self) -> float:
        """mu^2 that a partner may spend in a period: the stricter of the two epsilons."""
        privacy = self.privacy
        alone = accounting.mu_of(privacy.epsilon, privacy.delta)
        person = accounting.mu_of(privacy.epsilon_per_person, privacy.delta)
        return min(alone, person / privacy.partners_per_person) ** 2

    def per_person(self, mu2: float) -> float:
        """Epsilon for a person at the declared number of partners, each charged ``mu2``."""
        scale = self.privacy.partners_per_person
        return accounting.epsilon_of(scale * mu2**0.5, self.privacy.delta)

    # ------------------------------------------------------------------ checks

    def check_terms(self, now: datetime) -> None:
        """Raises ConfigError if expired, a key is weak, unreadable or somebody else's too, K > c + 2d does
        not hold, or a column's bounds are such that arithmetic within them could overflow or vanish."""
        if now >= self.expires:
            raise ConfigError("expires", f"the contract expired on {self.expires:%Y-%m-%d}")
        self.coordinator_identity()
        for party in self.parties:
            self.identity_of(party.name)
        self._check_keys()
        try:
            check_tolerance(len(self.parties), self.privacy.colluders, self.privacy.dropouts)
        except ParameterError as error:
            raise ConfigError("privacy", str(error)) from None
        for name, column in self.columns.items():
            try:
                _declared(name, column)
            except ParameterError as error:
                reason = str(error).removeprefix(f"column {name}: ")
                raise ConfigError(f"columns.{name}", reason) from None

    def _check_keys(self) -> None:
        """Every key can be read, and is one party's alone: whoever else holds it could be that party."""
        authority = identity.read_certificate(self.coordinator.authority, "coordinator.authority")
        where = "coordinator.authority"
        tls = {identity.certificate_key(authority, where): "the alliance's authority"}
        node: dict[bytes, str] = {}
        for party in self.parties:
            where = f"parties.{party.name}.node_key"
            key = identity.key_bytes(identity.load_node_key(party.node_key, where))
            _only(node, key, party.name, where)
            where = f"parties.{party.name}.certificate"
            certificate = identity.read_certificate(party.certificate, where)
            _only(tls, identity.certificate_key(certificate, where), party.name, where)

    def has_signed(self, name: str) -> bool:
        """Is there a signature of this party that fits this very contract?"""
        return self._is_signed(name, self.digest())

    def unsigned(self) -> list[str]:
        """Parties whose signature is missing or does not fit, in the contract's order."""
        digest = self.digest()
        return [party.name for party in self.parties if not self._is_signed(party.name, digest)]

    def _is_signed(self, name: str, digest: bytes) -> bool:
        try:
            signature = identity.decode(self.signatures.get(name, ""))
            identity.verify(self.identity_of(name), identity.CONTRACT, digest, signature)
        except (ValueError, ProtocolError):
            return False
        return True

    def check_signatures(self) -> None:
        """Raises ConfigError unless every party has signed this very contract."""
        for name in self.unsigned():
            if name not in self.signatures:
                raise ConfigError(f"signatures.{name}", "has not signed yet")
            raise ConfigError(
                f"signatures.{name}",
                "does not fit this contract: it was changed after signing, or the key differs",
            )

    def signed_by(self, name: str, key: Ed25519PrivateKey) -> Contract:
        """A copy with this party's signature added. The caller has checked the terms."""
        if key.public_key().public_bytes_raw() != self.identity_of(name):
            raise ConfigError(f"parties.{name}.identity", "is not the key of this partner")
        signature = identity.sign(key, identity.CONTRACT, self.digest())
        both: Mapping[str, str] = {**self.signatures, name: identity.encode(signature)}
        return self.model_copy(update={"signatures": dict(both)})

    def fingerprints(self) -> dict[str, str]:
        """Name to fingerprint, coordinator first: to be compared out of band before signing."""
        result = {self.coordinator.name: identity.fingerprint(self.coordinator_identity())}
        for party in self.parties:
            result[party.name] = identity.fingerprint(self.identity_of(party.name))
        return result


def _only(seen: dict[bytes, str], key: bytes, party: str, where: str) -> None:
    other = seen.setdefault(key, party)
    if other != party:
        raise ConfigError(where, f"is the key of {other} too; each party makes its own")


def _declared(name: str, column: AnyColumn) -> declared.Column:
    """A column as programs see it. Raises ParameterError."""
    if isinstance(column, NumberColumn):
        return declared.Number(name, column.low, column.high, column.scale)
    if isinstance(column, CategoryColumn):
        return declared.Category(name, column.values)
    return declared.Label(name)


def load(path: Path, *, own: bool = False) -> Contract:
    """Read a contract, signed or not. ``own``: as :func:`read_toml`. Raises ConfigError with the key path."""
    return build(Contract, read_toml(path, own=own), str(path))


def load_signed(path: Path, now: datetime, *, own: bool = False) -> Contract:
    """Read a contract and demand valid terms and every signature."""
    contract = load(path, own=own)
    contract.check_terms(now)
    contract.check_signatures()
    return contract


def dump(contract: Contract) -> str:
    """TOML text of a contract, which reads as the same contract."""
    return to_toml(contract)


def to_toml(model: Strict) -> str:
    """TOML text that reads as the same values, with PEM over many lines where that can be."""
    plain = to_plain(model)
    text = tomli_w.dumps(plain, multiline_strings=True)
    if loads_toml(text) != plain:  # a carriage return does not survive, and no signature would fit
        return tomli_w.dumps(plain)
    return text


def to_plain(model: Strict) -> dict[str, Any]:
    """Plain values for TOML; absent options are left out."""
    data = model.model_dump(mode="python", exclude_none=True)
    plain: dict[str, Any] = _listed(data)
    return plain


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_listed(item) for item in value]
    return value

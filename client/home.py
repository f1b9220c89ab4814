"""A partner's folder: ``partner.toml``, the installed contract, keys and state.

partner.toml        private: data source, column mapping, rules that may only be stricter
alliance.toml       the contract, once signed by all and installed by ``check``
keys/               identity.key, node.key, tls.key (mode 0600); storage.key, or where else the storage
                    key lies: :mod:`client.storage_key`
state/              gate.db, mark (how far its journal was), gate.sock, logs, admitted.json (how the table
                    is read), audiences/ (results); snapshots/, matches/, frozen/, caches/ and jobkeys/
                    (encrypted)
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, model_validator

from client import storage_key
from client.people import Normalisation
from client.source import PIN, ReadAs, Source
from client.storage_key import Keys
from privacy.errors import ConfigError
from privacy.identifiers import HOME_REGION
from protos import alliance
from protos.alliance import Contract, IdentifierKind, Kind
from protos.files import check_folder, own_folder, read_private
from protos.places import PARTNER, check_output, check_within
from protos.toml import Strict, build, read_toml


class Data(Strict):
    """Where the rows are. A relative ``source`` is relative to the partner's folder. ``region``: of
    telephone numbers without a country code. ``key``: how a person's key is normalised: "exact" its bytes,
    "trimmed" without surrounding blanks, "caseless" letter cases are one besides. ``line_breaks``: quoted
    cells of a CSV may hold line breaks, and its quotes are all as RFC 4180 says. ``delimiter``: of a CSV.
    """

    source: str
    person: str
    table: str | None = None
    columns: dict[str, str] = Field(default_factory=dict)
    identifiers: dict[str, str] = Field(default_factory=dict)
    region: str = Field(default=HOME_REGION, pattern="^[A-Z]{2}$")
    key: Normalisation = "trimmed"
    line_breaks: bool = False
    delimiter: Literal[",", ";", "\t", "|"] | None = None


class Rules(Strict):
    """What this partner allows, within the contract. Nothing is allowed that is not named.

    ``assumes``: as in the contract; both must say so."""

    kinds: tuple[Kind, ...] = ()
    purposes: tuple[str, ...] = ()
    largest_epsilon: float = Field(default=0.0, ge=0.0, le=100.0)
    send_lists_to: tuple[str, ...] = ()
    upload_to: tuple[str, ...] = ()
    assumes: Literal["semi_honest"] | None = None


class Limits(Strict):
    """What others may make this gate do. Hours and days are the gate's own.

    ``cpu_seconds_per_hour``: for messages before anything is charged. ``state_bytes``: snapshots and
    matches on disk. ``exact_disclosures``: how often one person may be in a list, pseudonyms or a cache in a
    period of the contract.
    """

    open_jobs: int = Field(default=8, ge=1, le=1000)
    jobs_per_day: int = Field(default=2_000, ge=1)
    messages_per_hour: int = Field(default=50_000, ge=10)
    cpu_seconds_per_hour: int = Field(default=900, ge=1)
    releases_per_hour: int = Field(default=20_000, ge=1)
    matches_per_day: int = Field(default=50, ge=1)
    state_bytes: int = Field(default=50 << 30, ge=1 << 20)
    idle_hours: int = Field(default=72, ge=1)
    exact_disclosures: int = Field(default=12, ge=1)


class AudienceRule(Strict):
    """An audience of this partner's own, to be frozen for an epoch: who is in it and how often it serves.

    ``rule``: over columns and models of this partner; absent: every customer. ``identifiers``: kinds that
    may be matched; all that are mapped if empty. ``valid_days``: an epoch serves that long. ``uses``: exact
    disclosures from one epoch. ``every_days``: freeze again by itself, as long as no more than
    ``largest_change`` people come or go; otherwise the last epoch serves and the owner is told.
    """

    rule: str | None = None
    identifiers: tuple[IdentifierKind, ...] = ()
    valid_days: int = Field(default=92, ge=1, le=3660)
    uses: int = Field(default=4, ge=1, le=1000)
    every_days: int | None = Field(default=None, ge=1)
    largest_change: int = Field(default=0, ge=0)


class Results(Strict):
    """The files that matches leave. ``as_is``: no cell is quoted for spreadsheets, because machines read
    them."""

    as_is: bool = False


class Masking(Strict):
    """Who may approve that tokens are turned back: name to public key."""

    approvers: dict[str, str] = Field(default_factory=dict)


class PartnerConfig(Strict):
    """``partner.toml``."""

    name: str
    data: Data | None = None
    rules: Rules = Rules()
    limits: Limits = Limits()
    keys: Keys = Keys()
    audiences: dict[str, AudienceRule] = Field(default_factory=dict)
    masking: Masking = Masking()
    results: Results = Results()

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not alliance.NAME.fullmatch(self.name):
            raise ValueError("name: a-z, 0-9, - and _, at most 32")
        for name in self.audiences:
            if not alliance.NAME.fullmatch(name):
                raise ValueError(f"audiences.{name!r}: a-z, 0-9, - and _, at most 32")
        return self


class Home:
    """Paths and keys of one partner. Raises ConfigError that names the file to mend."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config_file = root / "partner.toml"
        self.contract_file = root / "alliance.toml"
        self.keys = root / "keys"
        self.state = root / "state"
        self.socket = self.state / "gate.sock"
        self.database = self.state / "gate.db"
        self.snapshots = self.state / "snapshots"
        self.audiences = self.state / "audiences"
        self.matches = self.state / "matches"
        self.frozen = self.state / "frozen"
        self.mark = self.state / "mark"
        self.caches = self.state / "caches"
        self._storage: bytes | None = None

    def config(self) -> PartnerConfig:
        """Parsed ``partner.toml``, which names a table and may name a program: believed only where nobody
        else can have written it, or what lies beside it (:meth:`check`)."""
        self.check()
        return build(PartnerConfig, read_toml(self.config_file, own=True), str(self.config_file))

    def contract(self, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Contract:
        """The installed contract, valid and signed by everyone."""
        self.check()
        if not self.contract_file.exists():
            raise ConfigError(
                str(self.contract_file), "no contract is installed; run `check alliance.toml`"
            )
        return alliance.load_signed(self.contract_file, now(), own=True)

    def identity(self) -> Ed25519PrivateKey:
        """The Ed25519 identity key."""
        return Ed25519PrivateKey.from_private_bytes(self._key("identity.key", 32))

    def storage_key(self) -> bytes:
        """The 32-byte key that seals this partner's state; asked for once where it lies elsewhere."""
        if self._storage is None:
            config = self.config()
            key = storage_key.opened(self.keys, config.name, config.keys)
            if config.keys.storage == "file":
                return key
            self._storage = key
        return self._storage

    def hold(self, key: bytes) -> None:
        """Use this storage key, which was handed over. Raises ConfigError."""
        if len(key) != storage_key.SIZE:
            raise ConfigError("storage key", "was not handed over whole")
        self._storage = key

    def key_file(self, name: str) -> bytes:
        """Bytes of a key file."""
        return self._key(name, None)

    def _key(self, name: str, size: int | None) -> bytes:
        path = self.keys / name
        data = read_private(path)
        if size is not None and len(data) != size:
            raise ConfigError(str(path), "key file has a wrong size; restore it from your backup")
        return data

    def source(self, *, pinned: bool = True) -> Source:
        """The data source of ``partner.toml``; ``pinned``: to be read as it was admitted, if it was."""
        data = self.config().data
        if data is None:
            raise ConfigError("data", "is missing: name your table in partner.toml, [data]")
        location = data.source
        if "://" not in location:
            location = str((self.root / location).resolve())
        return Source(
            location,
            data.person,
            data.columns,
            data.identifiers,
            data.table,
            data.region,
            data.key,
            data.line_breaks,
            data.delimiter,
            ReadAs.load(self.state / PIN) if pinned else None,
        )

    def check(self) -> None:
        """Raises ConfigError where another user could replace what lies here."""
        for folder in (self.root, self.keys, self.state):
            if folder.exists() or folder.is_symlink():
                check_folder(folder)

    def check_output(self, path: Path, *, changes: bool = False) -> None:
        """Raises ConfigError for an output among this partner's keys and state, or in the place of its
        configuration, its contract or its table, and for one in any other such folder."""
        check_within(self.root, PARTNER, path, changes=changes)
        check_output(path, changes=changes)

    def prepare(self) -> None:
        """Create the state folders, private to this user."""
        folders = (self.snapshots, self.audiences, self.matches, self.frozen, self.caches)
        for folder in (self.state, *folders):
            own_folder(folder)

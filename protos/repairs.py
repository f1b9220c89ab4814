"""The small file by which an alliance forgets one head that a partner signed too high.

A gate holds the highest head that each other partner signed, and takes a lower one that is stated later for a
journal that was put back. So whoever signs a head that its journal never reaches, by a fault or in bad faith,
has locked its own later heads out of every gate. Nobody can undo that alone, and no message can: all partners
but the one concerned sign this file, each having seen what it names, and each gate applies it.

    one head       named by party, entry and that entry's digest: a later head is another, whatever becomes of
                   this file, and the one that was forgotten is never taken again
    all others     K - 1 signatures under this contract's keys: c colluding partners and the coordinator can
                   make none
    a time         it is read, signed and applied from a day before it says that it was made until it expires;
                   what was applied stays

What is lost with it: until the party's next head is stated, a gate holds none of it, and a backup that the
party puts back in that time is not found. Not handled: whether the signers looked.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field, model_validator

from privacy.errors import ConfigError, ProtocolError
from protos import identity
from protos.alliance import Contract, to_toml
from protos.identity import LONGEST_BASE64
from protos.statements import LARGEST_SEQUENCE
from protos.toml import Moment, Strict, build, canonical, loads_json, read_toml

DOMAIN = b"tallystick/v1/repair"
LONGEST_REASON = 400
LONGEST_LIFE = timedelta(days=90)
CLOCKS = timedelta(days=1)
"""By how much the clocks of two partners may differ."""
_Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Repair(Strict):
    """What everybody but ``party`` signs: forget the head of its journal with ``sequence`` and ``digest``.

    ``contract``: digest of the contract whose keys sign.
    """

    version: Literal[1]
    kind: Literal["forget a journal head"]
    contract: _Digest
    party: str = Field(max_length=32)
    sequence: int = Field(ge=0, le=LARGEST_SEQUENCE)
    digest: _Digest
    reason: str = Field(min_length=1, max_length=LONGEST_REASON)
    made: Moment
    expires: Moment
    signatures: dict[str, Annotated[str, Field(max_length=LONGEST_BASE64)]] = Field(
        default_factory=dict, max_length=200
    )

    @model_validator(mode="after")
    def _short(self) -> Self:
        if not timedelta() < self.expires - self.made <= LONGEST_LIFE:
            raise ValueError(f"expires: at most {LONGEST_LIFE.days} days after it was made")
        return self

    @property
    def head(self) -> tuple[str, int, bytes]:
        """Party, entry and digest of the head that is forgotten."""
        return self.party, self.sequence, bytes.fromhex(self.digest)

    def body(self) -> bytes:
        """What is signed: everything but the signatures."""
        return canonical(self.model_dump(mode="json", exclude={"signatures"}))

    def signers(self, contract: Contract) -> list[str]:
        """Who has to sign: all parties but the one concerned. Raises ConfigError for another contract."""
        if self.contract != contract.digest().hex():
            raise ConfigError("contract", "the repair is for another contract")
        contract.party(self.party)
        return [party.name for party in contract.parties if party.name != self.party]

    def signed_by(self, name: str, key: Ed25519PrivateKey, contract: Contract) -> Self:
        """A copy with this party's signature. Raises ConfigError if it is not one that signs."""
        if name not in self.signers(contract):
            raise ConfigError("party", f"{name} does not sign what concerns itself")
        if key.public_key().public_bytes_raw() != contract.identity_of(name):
            raise ConfigError(f"parties.{name}.identity", "is not the key of this partner")
        signature = identity.encode(identity.sign(key, DOMAIN, self.body()))
        return self.model_copy(update={"signatures": {**self.signatures, name: signature}})

    def missing(self, contract: Contract) -> list[str]:
        """Who has not signed yet. Raises ConfigError for a signature that does not fit."""
        wanted = self.signers(contract)
        for name, text in self.signatures.items():
            if name not in wanted:
                raise ConfigError("signatures", "one is of nobody who has to sign")
            try:
                signature = identity.decode(text)
                identity.verify(contract.identity_of(name), DOMAIN, self.body(), signature)
            except (ValueError, ProtocolError):
                raise ConfigError(
                    f"signatures.{name}", "does not fit: the file was changed"
                ) from None
        return [name for name in wanted if name not in self.signatures]

    def check_time(self, now: datetime) -> None:
        """Raises ConfigError if it has expired, or says that it is yet to be made: dated far ahead, it could
        be applied for much longer than a repair lives."""
        if self.made - now > CLOCKS:
            raise ConfigError(
                "made",
                f"is in the future, {self.made:%Y-%m-%d %H:%M} UTC: is this machine's clock right?",
            )
        if now >= self.expires:
            raise ConfigError(
                "expires",
                f"the repair expired on {self.expires:%Y-%m-%d %H:%M} UTC; make a new one",
            )

    def check(self, contract: Contract, now: datetime) -> None:
        """Raises ConfigError unless all others signed this, under this contract, and it is its time."""
        missing = self.missing(contract)
        if missing:
            raise ConfigError("signatures", f"not signed yet by {', '.join(missing)}")
        self.check_time(now)

    def kept(self) -> bytes:
        """The file with its signatures as a journal keeps it."""
        return canonical(self.model_dump(mode="json"))

    def told(self) -> list[str]:
        """All that is bound, line by line, for a person; to be shown escaped."""
        return [
            f"forget the head of {self.party}'s journal that says entry {self.sequence},",
            f"which has the digest {self.digest}",
            f"reason given: {self.reason}",
            f"made {self.made:%Y-%m-%d %H:%M} UTC, to be applied before {self.expires:%Y-%m-%d %H:%M} UTC",
            f"under the contract {self.contract[:16]}..., signed so far by"
            f" {', '.join(sorted(self.signatures)) or 'nobody'}",
        ]


def forget(
    contract: Contract, party: str, sequence: int, digest: bytes, reason: str, now: datetime,
    days: int,
) -> Repair:  # fmt: skip
    """A repair that nobody has signed yet. Raises ConfigError."""
    made = now.replace(microsecond=0)
    plain = {
        "version": 1, "kind": "forget a journal head", "contract": contract.digest().hex(),
        "party": party, "sequence": sequence, "digest": digest.hex(), "reason": reason,
        "made": made, "expires": made + timedelta(days=days),
    }  # fmt: skip
    return build(Repair, plain)


def load(path: Path, now: datetime) -> Repair:
    """Read a repair, signed or not. Raises ConfigError, also for one that it is not the time for."""
    read = build(Repair, read_toml(path))
    read.check_time(now)
    return read


def from_kept(data: bytes) -> Repair:
    """Inverse of :meth:`Repair.kept`. Raises ConfigError."""
    return build(Repair, loads_json(data))


def to_text(repair: Repair) -> str:
    """TOML that reads as the same repair."""
    return to_toml(repair)

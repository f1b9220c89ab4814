"""Tokens turned back: only with the key, an approval by somebody listed, and two entries in the journal.

    ask       the journal gets "asked to reveal" with the request's digest; the request names that entry
    approve   somebody whom partner.toml lists signs all of it (Ed25519), the entry and its time too
    open      this journal must hold exactly that entry, and none yet that used it; "reveal COLUMN" is written
              before the file appears

So what was approved, until when and whether it was used is in the journal and nowhere else: a copy of the
folder without its ``state`` has no such entry and opens nothing; a database that was put back is behind its
mark. An approval holds at most :data:`LONGEST` from the entry's time, whatever its file says.

*Not* handled: a copy of the whole folder, ``state`` and all, opens once more where nobody sees it, for who
also has the masking key. Put back in the gate's place it is found as every restored backup is, by the heads
that peers hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from client import marks
from client.home import Home, check_output
from client.journal import Journal
from client.masking.keys import KeyRing
from client.masking.outputs import created
from client.masking.policy import Policy, Purpose
from client.masking.tables import Table, file_digest
from client.store import Store
from privacy.errors import ConfigError, ProtocolError
from privacy.masking.keyed import enciphered, opened, tokens
from privacy.masking.transform import Column
from privacy.randomness import Randomness
from protos import alliance, identity
from protos.files import read_private, write_private
from protos.toml import Strict, build, canonical, read_toml

APPROVAL = identity.STATEMENT + b"reveal"
ASKED = "asked to reveal"
OPENED = "reveal "
"""Kinds of entries; a column's name follows the second."""
LONGEST = timedelta(days=30)
_LATER = frozenset(("entry", "digest", "approver", "signature"))
"""Fields that are not there yet when the request is entered."""


class Request(Strict):
    """What is asked, and who allowed it. ``table``: SHA-256 of the file. ``key``: id of the key that FF1
    was done with, None for the current one; tokens say it themselves. ``partner``, ``entry``, ``digest``: in
    whose journal it stands, as which entry, and that entry's digest."""

    version: Literal[2] = 2
    id: str = Field(pattern="^[0-9a-f]{32}$")
    table: str = Field(pattern="^[0-9a-f]{64}$")
    policy: str = Field(pattern="^[0-9a-f]{64}$")
    column: str
    purpose: Purpose
    key: str | None = None
    reason: str = Field(min_length=8, max_length=500)
    by: str = Field(min_length=1, max_length=64)
    partner: str = Field(pattern=f"^{alliance.NAME.pattern}$")
    asked: datetime
    expires: datetime
    entry: int = Field(default=0, ge=0)
    digest: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    approver: str | None = None
    signature: str | None = None

    def content(self) -> bytes:
        """What the journal holds the digest of."""
        return canonical(self.model_dump(mode="json", exclude=set(_LATER)))

    def statement(self) -> bytes:
        """What an approver signs."""
        body = self.model_dump(mode="json", exclude={"signature"})
        return hashlib.sha256(canonical(body)).digest()


def ask(
    table: Table,
    policy: Policy,
    column: str,
    purpose: Purpose,
    reason: str,
    by: str,
    out: Path,
    *,
    hours: int,
    now: datetime,
    randomness: Randomness,
    home: Home,
    store: Store,
    key: str | None = None,
    inputs: Sequence[Path] = (),
) -> Request:
    """Enter a request into the journal and write it. Raises ConfigError if the policy makes no token of the
    column, or ``out`` is there and no request."""
    _token(policy, column, purpose)
    _has(table, [column])
    _check_place(out)
    request = Request(
        id=randomness(16).hex(), table=file_digest(table.path), policy=policy.digest(),
        column=column, purpose=purpose, key=key, reason=reason, by=by, partner=home.config().name,
        asked=now, expires=now + min(timedelta(hours=hours), LONGEST),
    )  # fmt: skip
    journal = _journal(home, store, now)
    with store.transaction():
        journal.record(ASKED, request.id, request.content(), by)
        sequence, digest = journal.head()
    marks.put(home, store, journal)
    entered = request.model_copy(update={"entry": sequence, "digest": digest.hex()})
    _write(out, entered, [table.path, *inputs])
    return entered


def _check_place(out: Path) -> None:
    """A request may take the place of an earlier one, and of nothing else."""
    check_output(out)
    if out.exists() or out.is_symlink():
        try:
            load(out)
        except ConfigError:
            if not _is_earlier(out):
                raise ConfigError(str(out), "is there and is no request; name another") from None


def _is_earlier(path: Path) -> bool:
    try:
        return read_toml(path).get("version") == 1 and "expires" in read_toml(path)
    except ConfigError:
        return False


def approve(path: Path, approver: str, key_file: Path, now: datetime) -> Request:
    """Sign a request in place, as ``approver``."""
    request = load(path)
    if now >= request.expires:
        raise ConfigError(str(path), "the request has expired; ask again")
    if request.expires > request.asked + LONGEST:
        raise ConfigError(str(path), f"would hold over {LONGEST.days} days; ask again")
    if not request.entry or not request.digest:
        raise ConfigError(str(path), "was never entered into a journal; ask again")
    named = request.model_copy(update={"approver": approver})
    signature = identity.sign(read_key(key_file), APPROVAL, named.statement())
    signed = named.model_copy(update={"signature": identity.encode(signature)})
    _write(path, signed)
    return signed


def new_approver(name: str, path: Path, randomness: Randomness) -> str:
    """A key file for an approver; the line for partner.toml, [masking.approvers]."""
    if not alliance.NAME.fullmatch(name):
        raise ConfigError("name", "a-z, 0-9, - and _, starting with a letter, at most 32")
    check_output(path)
    key = Ed25519PrivateKey.from_private_bytes(randomness(32))
    write_private(path, key.private_bytes_raw(), once=True)
    return f'{name} = "{identity.encode(key.public_key().public_bytes_raw())}"'


def reveal(
    table: Table,
    policy: Policy,
    request_file: Path,
    out: Path,
    *,
    home: Home,
    store: Store,
    keys: KeyRing,
    now: datetime,
    inputs: Sequence[Path] = (),
    as_is: bool = False,
) -> int:
    """Write the table with the column turned back; the number of rows. Raises ConfigError, and
    ParameterError that names a row whose token does not open."""
    request = load(request_file)
    journal = _journal(home, store, now)
    _check(request, table, policy, home, now)
    _check_entered(request, journal, home, store, now)
    token = _token(policy, request.column, request.purpose)
    used = keys.keys.get(request.key) if request.key else keys.current
    if used is None:
        raise ConfigError("key", f"key {request.key} is not there")
    rows = 0
    taken = [request_file, *inputs]
    with created(out, table.path, None, inputs=taken, as_is=as_is) as writer:
        for block in table.blocks():
            values = block[request.column].cast(pl.String)
            if token.transform.do == "token":
                back = opened(values, keys.keys, token.domain, rows)
            else:
                back = enciphered(values, used, token.domain, back=True)
            writer.write(block.with_columns(back.alias(request.column)))
            rows += len(block)
        with store.transaction():
            _check_entered(request, journal, home, store, now)
            kind = f"{OPENED}{request.column}"
            journal.record(kind, request.id, request.statement(), request.by)
        marks.put(home, store, journal)
    return rows


def _check(request: Request, table: Table, policy: Policy, home: Home, now: datetime) -> None:
    if request.approver is None or request.signature is None:
        raise ConfigError("approver", "nobody has approved this request; `reveal approve` signs it")
    listed = home.config().masking.approvers
    if request.approver not in listed:
        raise ConfigError(
            "approver", f"{request.approver} is not in partner.toml, [masking.approvers]"
        )
    if now >= request.expires:
        raise ConfigError("expires", "the approval has expired; ask again")
    if request.table != file_digest(table.path) or request.policy != policy.digest():
        raise ConfigError("table", "the approval is for another table, or policy")
    public = identity.decode_key(listed[request.approver], f"masking.approvers.{request.approver}")
    try:
        identity.verify(public, APPROVAL, request.statement(), identity.decode(request.signature))
    except (ProtocolError, ValueError):
        raise ConfigError(
            "signature", "does not fit: the request was changed, or the key differs"
        ) from None


def _journal(home: Home, store: Store, now: datetime) -> Journal:
    """This partner's book, its chain checked. Raises ConfigError where the database was put back."""
    journal = Journal(store, home.identity(), now.timestamp)
    if marks.is_behind(home, store, journal):
        raise ConfigError(
            "state/gate.db",
            "is older than its mark: a backup was restored. What was approved behind it may have been used;"
            " `start` goes on from what peers saw, then ask again",
        )
    return journal


def _check_entered(
    request: Request, journal: Journal, home: Home, store: Store, now: datetime
) -> None:
    """This journal holds exactly the entry that the approver signed, not too long ago, and none that used it.
    Raises ConfigError."""
    if request.partner != home.config().name:
        raise ConfigError("partner", f"the approval is for {request.partner}'s journal")
    found = store.row(
        "SELECT kind, job, content, time, digest FROM journal WHERE sequence = ?", request.entry
    )
    wanted = (ASKED, request.id, hashlib.sha256(request.content()).digest())
    if (
        found is None
        or (found[0], found[1], bytes(found[2])) != wanted
        or journal.at(request.entry) != bytes.fromhex(request.digest)
    ):
        raise ConfigError(
            "entry", "this journal does not hold the request that was approved; ask again here"
        )
    if now.timestamp() >= float(found[3]) + LONGEST.total_seconds():
        raise ConfigError("expires", "the approval has expired; ask again")
    others = "SELECT 1 FROM journal WHERE job = ? AND sequence != ?"
    if store.row(others, request.id, request.entry) is not None:
        raise ConfigError("id", "this approval was used already; ask again")


def _token(policy: Policy, name: str, purpose: Purpose) -> Column:
    """The column as the policy turns it into something reversible. Raises ConfigError."""
    for column in policy.for_purpose(purpose):
        if column.name == name and column.transform.do in ("token", "ff1"):
            return column
    raise ConfigError(
        f"columns.{name}",
        f"for {purpose} the policy makes no token of it that could be turned back",
    )


def _has(table: Table, columns: list[str]) -> None:
    for name in columns:
        if name not in table.names:
            raise ConfigError(f"columns.{name}", f"{table.name} has no such column")


def retoken(
    table: Table, policy: Policy, purpose: Purpose, out: Path, *, keys: KeyRing,
    inputs: Sequence[Path] = (), as_is: bool = False,
) -> tuple[int, list[str]]:  # fmt: skip
    """The table with its tokens under the current key; rows, and which columns. What an earlier key made
    as HMAC or FF1 stays: an HMAC has no way back, and FF1 does not say which key made it."""
    columns = [c for c in policy.for_purpose(purpose) if c.transform.do == "token"]
    names = [column.name for column in columns]
    if not columns:
        raise ConfigError("columns", f"no column is a token for {purpose}")
    _has(table, names)
    rows = 0
    with created(out, table.path, None, inputs=inputs, as_is=as_is) as writer:
        for block in table.blocks():
            for column in columns:
                values = block[column.name].cast(pl.String)
                plain = opened(values, keys.keys, column.domain, rows)
                again = tokens(plain, keys.current, column.domain)
                block = block.with_columns(again.alias(column.name))
            writer.write(block)
            rows += len(block)
    return rows, names


def load(path: Path) -> Request:
    """Read a request. Raises ConfigError."""
    plain = read_toml(path)
    if plain.get("version") == 1:
        raise ConfigError(
            str(path), "was asked with an earlier version, which entered nothing; ask again"
        )
    return build(Request, plain)


def read_key(path: Path) -> Ed25519PrivateKey:
    """An approver's key. Raises ConfigError."""
    data = read_private(path)
    try:
        return Ed25519PrivateKey.from_private_bytes(data)
    except ValueError:
        raise ConfigError(str(path), "is not an approver's key") from None


def _write(path: Path, request: Request, inputs: Sequence[Path] = ()) -> None:
    plain = request.model_dump(mode="python", exclude_none=True)
    for name in ("asked", "expires"):
        plain[name] = plain[name].astimezone(UTC)
    write_private(path, tomli_w.dumps(plain).encode(), inputs=inputs)

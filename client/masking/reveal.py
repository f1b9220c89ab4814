"""Tokens turned back: only with the key, an approval by somebody listed, and an entry in the journal.

A request names the table by its digest, the column and the reason; an approver signs it (Ed25519). It is
good for one use, until it expires. The journal entry is written before the file appears.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from client.home import Home
from client.journal import Journal
from client.masking.keys import KeyRing
from client.masking.policy import Policy, Purpose
from client.masking.tables import Table, created, file_digest
from client.store import Store
from privacy.errors import ConfigError, ProtocolError
from privacy.masking.keyed import enciphered, opened, tokens
from privacy.masking.transform import Column
from privacy.randomness import Randomness
from protos import alliance, identity
from protos.files import write_private
from protos.toml import Strict, build, canonical, read_toml

APPROVAL = identity.STATEMENT + b"reveal"
Clock = Callable[[], datetime]


class Request(Strict):
    """What is asked, and who allowed it. ``table``: SHA-256 of the file. ``key``: id of the key that FF1
    was done with, None for the current one; tokens say it themselves."""

    version: Literal[1] = 1
    id: str = Field(pattern="^[0-9a-f]{32}$")
    table: str = Field(pattern="^[0-9a-f]{64}$")
    policy: str = Field(pattern="^[0-9a-f]{64}$")
    column: str
    purpose: Purpose
    key: str | None = None
    reason: str = Field(min_length=8, max_length=500)
    by: str = Field(min_length=1, max_length=64)
    expires: datetime
    approver: str | None = None
    signature: str | None = None

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
    key: str | None = None,
) -> Request:
    """Write a request. Raises ConfigError if the policy makes no token of the column."""
    _token(policy, column, purpose)
    _has(table, [column])
    request = Request(
        id=randomness(16).hex(), table=file_digest(table.path), policy=policy.digest(),
        column=column, purpose=purpose, key=key, reason=reason, by=by, expires=now + timedelta(hours=hours),
    )  # fmt: skip
    _write(out, request)
    return request


def approve(path: Path, approver: str, key_file: Path, now: datetime) -> Request:
    """Sign a request in place, as ``approver``."""
    request = load(path)
    if now >= request.expires:
        raise ConfigError(str(path), "the request has expired; ask again")
    named = request.model_copy(update={"approver": approver})
    signature = identity.sign(read_key(key_file), APPROVAL, named.statement())
    signed = named.model_copy(update={"signature": identity.encode(signature)})
    _write(path, signed)
    return signed


def new_approver(name: str, path: Path, randomness: Randomness) -> str:
    """A key file for an approver; the line for partner.toml, [masking.approvers]."""
    if not alliance.NAME.fullmatch(name):
        raise ConfigError("name", "a-z, 0-9, - and _, starting with a letter, at most 32")
    if path.exists():
        raise ConfigError(str(path), "is there already; keys are never overwritten")
    key = Ed25519PrivateKey.from_private_bytes(randomness(32))
    write_private(path, key.private_bytes_raw())
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
) -> int:
    """Write the table with the column turned back; the number of rows. Raises ConfigError, and
    ParameterError that names a row whose token does not open."""
    request = load(request_file)
    _check(request, table, policy, home, now)
    token = _token(policy, request.column, request.purpose)
    used = keys.keys.get(request.key) if request.key else keys.current
    if used is None:
        raise ConfigError("key", f"key {request.key} is not there")
    rows = 0
    with created(out, table.path, None) as writer:
        for block in table.blocks():
            values = block[request.column].cast(pl.String)
            if token.transform.do == "token":
                back = opened(values, keys.keys, token.domain, rows)
            else:
                back = enciphered(values, used, token.domain, back=True)
            writer.write(block.with_columns(back.alias(request.column)))
            rows += len(block)
        with store.transaction():
            _once(store, request)
            journal = Journal(store, home.identity(), lambda: now.timestamp())
            journal.record(f"reveal {request.column}", request.id, request.statement(), request.by)
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


def _once(store: Store, request: Request) -> None:
    nonce = b"reveal" + bytes.fromhex(request.id)
    if store.row("SELECT 1 FROM nonces WHERE nonce = ?", nonce) is not None:
        raise ConfigError("id", "this approval was used already; ask again")
    never = (request.expires + timedelta(days=3660)).timestamp()
    store.execute("INSERT INTO nonces VALUES (?, ?)", nonce, never)


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
    table: Table, policy: Policy, purpose: Purpose, out: Path, *, keys: KeyRing
) -> tuple[int, list[str]]:
    """The table with its tokens under the current key; rows, and which columns. What an earlier key made
    as HMAC or FF1 stays: an HMAC has no way back, and FF1 does not say which key made it."""
    columns = [c for c in policy.for_purpose(purpose) if c.transform.do == "token"]
    names = [column.name for column in columns]
    if not columns:
        raise ConfigError("columns", f"no column is a token for {purpose}")
    _has(table, names)
    rows = 0
    with created(out, table.path, None) as writer:
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
    """Read a request."""
    return build(Request, read_toml(path))


def read_key(path: Path) -> Ed25519PrivateKey:
    """An approver's key. Raises ConfigError."""
    try:
        data = path.read_bytes()
        if path.stat().st_mode & 0o077:
            raise ConfigError(str(path), "key file is readable by others; chmod 600 it")
        return Ed25519PrivateKey.from_private_bytes(data)
    except (OSError, ValueError):
        raise ConfigError(str(path), "is not an approver's key") from None


def _write(path: Path, request: Request) -> None:
    plain = request.model_dump(mode="python", exclude_none=True)
    plain["expires"] = request.expires.astimezone(UTC)
    write_private(path, tomli_w.dumps(plain).encode())

"""Tokens turned back: only with the key, an approval by somebody listed, and two entries in the journal.

    ask       the journal gets "asked to reveal" with the request's digest; the request names that entry
    approve   somebody whom partner.toml lists is shown all of it and signs just that (Ed25519), the entry and
              its time too: not the column's name alone, which the asker chose, but what the tokens are of
    open      this journal must hold exactly that entry, and none yet that used it; "reveal COLUMN" is written
              before the file appears

So what was approved, until when and whether it was used is in the journal and nowhere else: a copy of the
folder without its ``state`` has no such entry and opens nothing; a database that was put back is behind its
mark. Digest and rows of a table are of one copy of it, which nobody else can reach: who may rename files
cannot have another table opened than the one that was approved. An approval holds at most :data:`LONGEST`
from the entry's time, whatever its file says.

*Not* handled: a copy of the whole folder, ``state`` and all, opens once more where nobody sees it, for who
also has the masking key. Put back in the gate's place it is found as every restored backup is, by the heads
that peers hold.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

import polars as pl
import tomli_w
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import Field

from client import marks
from client.home import Home
from client.journal import Journal
from client.masking.keys import KeyRing
from client.masking.outputs import created, spelled
from client.masking.policy import Policy, Purpose
from client.masking.tables import Copy, Table, column_errors
from client.store import Store
from privacy.errors import ConfigError, DataError, ProtocolError
from privacy.masking.keyed import enciphered, opened
from privacy.masking.transform import Column
from privacy.randomness import Randomness
from protos import alliance, identity
from protos.files import read_private, write_private
from protos.places import check_output
from protos.toml import Moment, Strict, build, canonical, read_toml

APPROVAL = identity.STATEMENT + b"reveal"
ASKED = "asked to reveal"
OPENED = "reveal "
"""Kinds of entries; a column's name follows the second."""
LONGEST = timedelta(days=30)
_LATER = frozenset(("entry", "digest", "approver", "signature"))
"""Fields that are not there yet when the request is entered."""


_Text = Annotated[str, Field(max_length=255)]


class Request(Strict):
    """What is asked, and who allowed it.

    table, table_name, rows   SHA-256 of the file, what the asker calls it, and how many rows it has
    policy, policy_name       the same of the policy
    kind, domain, transform   of the column, by the policy; tokens of another domain do not open
    key                       id of the key that FF1 was done with, None for the current one; tokens say it
                              themselves
    partner, entry, digest    in whose journal it stands, as which entry, and that entry's digest
    """

    version: Literal[2] = 2
    id: str = Field(pattern="^[0-9a-f]{32}$")
    table: str = Field(pattern="^[0-9a-f]{64}$")
    table_name: _Text
    rows: int = Field(ge=0)
    policy: str = Field(pattern="^[0-9a-f]{64}$")
    policy_name: _Text
    column: str
    purpose: Purpose
    kind: _Text
    domain: _Text
    transform: _Text
    key: str | None = None
    reason: str = Field(min_length=8, max_length=500)
    by: str = Field(min_length=1, max_length=64)
    partner: str = Field(pattern=f"^{alliance.NAME.pattern}$")
    asked: Moment
    expires: Moment
    entry: int = Field(default=0, ge=0)
    digest: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    approver: str | None = None
    signature: str | None = None

    def asks(self) -> Request:
        """The same without who approved it."""
        return self.model_copy(update={"approver": None, "signature": None})

    def content(self) -> bytes:
        """What the journal holds the digest of."""
        return canonical(self.model_dump(mode="json", exclude=set(_LATER)))

    def statement(self) -> bytes:
        """What an approver signs."""
        body = self.model_dump(mode="json", exclude={"signature"})
        return hashlib.sha256(canonical(body)).digest()


def ask(
    table: Copy,
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
    token = _token(policy, column, purpose)
    table.check_has([column])
    _check_place(out)
    plain = {
        "id": randomness(16).hex(), "table": table.digest(), "table_name": spelled(table.name),
        "rows": _rows(table, column), "policy": policy.digest(), "policy_name": policy.name,
        "column": column, "purpose": purpose, **_behind(token), "key": key, "reason": reason, "by": by,
        "partner": home.config().name, "asked": now,
        "expires": now + min(timedelta(hours=hours), LONGEST),
    }  # fmt: skip
    request = build(Request, plain)  # its errors show no value
    journal = _journal(home, store, now)
    with store.transaction():
        journal.record(ASKED, request.id, request.content(), by)
        sequence, digest = journal.head()
    marks.put(home, store, journal)
    entered = request.model_copy(update={"entry": sequence, "digest": digest.hex()})
    _write(out, entered, [table.path, *inputs])
    return entered


def _behind(token: Column) -> dict[str, str]:
    """What is behind a column's name."""
    return {"kind": token.kind, "domain": token.domain, "transform": token.transform.do}


def _rows(table: Table, column: str) -> int:
    if table.rows is not None:
        return table.rows
    return sum(len(block) for block in table.blocks([column]))


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


def approve(
    path: Path, approver: str, key_file: Path, now: datetime, *, agreed: Request | None = None
) -> Request:
    """Sign a request in place, as ``approver``.

    ``agreed``: what was shown; the file may have been replaced while somebody read. Raises ConfigError,
    before there is a signature of anything else.
    """
    request = load(path)
    if agreed is not None and request.asks() != agreed.asks():
        raise ConfigError(
            str(path), "was changed while it was shown; nothing was signed, look at it again"
        )
    if now >= request.expires:
        raise ConfigError(str(path), "the request has expired; ask again")
    if request.expires - request.asked > LONGEST:
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
    table: Copy,
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
    if _behind(token) != request.model_dump(include=set(_behind(token))):
        raise ConfigError("column", "is not of the kind, domain and transform that were approved")
    used = keys.keys.get(request.key) if request.key else keys.current
    if used is None:
        raise ConfigError("key", f"key {request.key} is not there")
    rows = 0
    taken = [request_file, *inputs]
    with created(out, table.path, None, inputs=taken, as_is=as_is) as writer:
        for block in table.blocks():
            with column_errors(table):
                values = block[request.column].cast(pl.String)
            if token.transform.do == "token":
                back = opened(values, keys.keys, token.domain, rows)
            else:
                back = enciphered(values, used, token.domain, back=True)
            writer.write(block.with_columns(back.alias(request.column)))
            rows += len(block)
        if rows != request.rows:
            raise ConfigError("rows", "are not as many as were approved; ask again")
        with store.transaction():
            _check_entered(request, journal, home, store, now)
            kind = f"{OPENED}{request.column}"
            journal.record(kind, request.id, request.statement(), request.by)
    # Not before: the entry has used the approval up, and a mark that fails must not take the file with it.
    try:
        marks.put(home, store, journal)
    except (ConfigError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(
            f"{out.name} is written and entered, but state/mark is not: {reason}"
        ) from None
    return rows


def _check(request: Request, table: Copy, policy: Policy, home: Home, now: datetime) -> None:
    if request.approver is None or request.signature is None:
        raise ConfigError("approver", "nobody has approved this request; `reveal approve` signs it")
    listed = home.config().masking.approvers
    if request.approver not in listed:
        raise ConfigError(
            "approver", f"{request.approver} is not in partner.toml, [masking.approvers]"
        )
    if now >= request.expires:
        raise ConfigError("expires", "the approval has expired; ask again")
    if request.table != table.digest() or request.policy != policy.digest():
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
    write_private(path, tomli_w.dumps(plain).encode(), inputs=inputs)

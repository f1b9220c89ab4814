"""What the masking commands share: their options, and how a table, a policy and keys are opened."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import parse_qs, urlsplit

import typer

from privacy.errors import ConfigError

if TYPE_CHECKING:
    from client.home import Home
    from client.masking.keys import KeyRing
    from client.masking.policy import Policy
    from client.masking.run import Progress
    from client.masking.tables import Table
    from client.store import Store


class Purpose(StrEnum):
    """What a masked table is for."""

    DISPLAY = "display"
    PARTNER_JOIN = "partner_join"
    RELEASE = "release"


def _without_password(table: str) -> str:
    if "://" not in table:
        return table
    try:
        parts = urlsplit(table)
    except ValueError:
        raise ConfigError("TABLE", "is not a location of a database") from None
    # libpq takes a password from the query, too
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ConfigError(
            "TABLE", "has a password in it, which everybody on this machine can see; use ~/.pgpass"
        )
    return table


TableArgument = Annotated[
    str,
    typer.Argument(
        help="a .csv, .tsv, .parquet or .duckdb file, or postgresql://USER@HOST/DB",
        callback=_without_password,
    ),
]
MaskedArgument = Annotated[Path, typer.Argument(help="a masked table, .csv or .parquet")]
PolicyOption = Annotated[Path, typer.Option("--policy", help="the table policy, TOML")]
PurposeOption = Annotated[Purpose, typer.Option("--purpose", help="what the result is for")]
KeysOption = Annotated[
    str | None,
    typer.Option("--keys", help="file:PATH, env:NAME or keyring:NAME; else the policy's"),
]
EncodingOption = Annotated[str, typer.Option("--encoding", help="of a CSV file, such as gb18030")]
InsideOption = Annotated[
    str | None, typer.Option("--table", help="of a .duckdb file or a database")
]
OutOption = Annotated[Path, typer.Option("--out", help="the file to write, whole or not at all")]
AsIsOption = Annotated[
    bool,
    typer.Option(
        "--as-is",
        help="for machines: leave cells of a CSV as they are that a spreadsheet would run as a formula",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="print one JSON object")]
HomeOption = Annotated[
    Path, typer.Option("--home", envvar="TALLYSTICK_HOME", help="this partner's folder")
]
HERE = Path("partner")


def prepared(
    table: str, policy: Path, keys: str | None, encoding: str, inside: str | None
) -> tuple[Policy, Table, KeyRing | None]:
    """The policy, the table that it is for, and its keys. Raises ConfigError, DataError."""
    from client.masking import policy as policies
    from client.masking import tables

    rules = policies.load(policy)
    ring = key_ring(keys, rules, policy)
    source = tables.opened(table, keys=ring, encoding=encoding, table=inside)
    rules.check_columns(source.names, source.name)
    return rules, source, ring


def key_ring(
    keys: str | None, rules: Policy | None = None, policy: Path | None = None
) -> KeyRing | None:
    """Keys named on the command line, or else in the policy; None if nowhere. Raises ConfigError."""
    from client.masking.keys import KeySource

    if keys is not None:
        return KeySource.parse(keys).read()
    if rules is None or policy is None or not rules.key:
        return None
    return KeySource.parse(rules.key).at(policy.parent).read()


def files_of(policy: Path, keys: str | None, rules: Policy) -> list[Path]:
    """The files besides its table that a command reads: no output may take their place."""
    from client.masking.keys import KeySource

    found, named = [policy], keys if keys is not None else rules.key
    if named:
        source = KeySource.parse(named)
        source = source if keys is not None else source.at(policy.parent)
        found += [Path(source.name)] if source.scheme == "file" else []
    return found


def who() -> str:
    """Who runs this command, as the system knows it: the environment says whatever its user wants."""
    user = os.getuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"


def store_of(partner: Home) -> Store:
    """A partner's database, also before its first job. Raises ConfigError."""
    from client.store import Store

    partner.prepare()
    return Store(partner.database, partner.storage_key(), os.urandom)


@contextmanager
def progress_of(source: Table) -> Iterator[Progress]:
    """A bar on a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda rows: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("rows", total=source.rows)
        yield lambda rows: bar.advance(task, rows)

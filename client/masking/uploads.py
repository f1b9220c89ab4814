"""Upload files for advertising platforms, from a match list that contract and partner permit.

Unkeyed SHA-256 of a phone number is reversible in minutes: it is what the platforms ask for, and this is
the one place where it leaves. Cells are as the platforms want them: digests, and of what goes in the clear
(country, postal code, device) only what looks like one, so that no cell begins a formula. The contract must
name the platform in ``matching.platforms``, the partner's ``rules.upload_to`` too; the file is entered into
the journal and among the disclosures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from client.home import Home
from client.journal import Journal
from client.masking.outputs import written
from client.masking.policy import Policy
from client.masking.tables import column_errors, opened
from client.store import Store
from privacy.errors import ConfigError, Refused
from privacy.identifiers.platforms import Profile, prepared, profile
from protos import jobs
from protos.refusal import Code

UID2_BATCH = 5000
"""Identifiers of one request to UID2's identity map."""


@dataclass
class Uploaded:
    """``people`` of the list; ``rows`` written; ``without``: people for whom nothing was usable."""

    people: int = 0
    rows: int = 0
    without: int = 0


def upload(
    name: str,
    platform: str,
    policy: Policy,
    out: Path,
    *,
    home: Home,
    store: Store,
    now: datetime,
    inputs: Sequence[Path] = (),
) -> Uploaded:
    """Write the upload file for the match list called ``name`` (without ``.csv``).

    Raises Refused(POLICY), ConfigError, DataError.
    """
    home.check_output(out)
    wanted, purpose = profile(platform), _permitted(home, store, name, platform)
    fields = {
        column: rule.platform_upload
        for column, rule in policy.columns.items()
        if rule.platform_upload in wanted.fields
    }
    if not fields:
        raise ConfigError("columns", f"no column has a platform_upload that {platform} takes")
    if len(set(fields.values())) != len(fields):
        raise ConfigError("columns", "two columns have the same platform_upload")
    source = home.source()
    table = opened(source.location, table=source.table)
    policy.check_columns(table.names, table.name)
    if source.person not in table.names:
        raise ConfigError("data.person", f"{table.name} has no column {source.person}")
    people = _list(home, name)
    counts = Uploaded(people=len(people))
    digest, size = hashlib.sha256(), 0
    with written(out, [table.path, *inputs]) as file:
        blocks = table.blocks(list(dict.fromkeys([source.person, *fields])))
        lines = _lines(blocks, source.person, people, fields, wanted, policy.region, counts)
        with column_errors(table):
            for line in lines:
                file.write(line)
                digest.update(line)
                size += len(line)
        _entered(home, store, name, platform, purpose, size, digest.digest(), now)
    return counts


def _lines(
    blocks: Iterator[pl.DataFrame],
    person: str,
    people: pl.Series,
    fields: dict[str, str | None],
    wanted: Profile,
    region: str,
    counts: Uploaded,
) -> Iterator[bytes]:
    """The file: CSV with the platform's headings, or for UID2 one request body a line."""
    if wanted.name != "uid2":
        head = [wanted.fields[str(field)][0] for field in fields.values()]
        yield pl.DataFrame(schema=dict.fromkeys(head, pl.String)).write_csv().encode()
    for block in blocks:
        rows = block.filter(pl.col(person).cast(pl.String).is_in(people.implode()))
        columns = [
            prepared(wanted.name, str(field), rows[column].cast(pl.String), region)
            .alias(wanted.fields[str(field)][0])
            for column, field in fields.items()
        ]  # fmt: skip
        frame = pl.DataFrame(columns)
        held = frame.filter(pl.any_horizontal(pl.all().is_not_null()))
        counts.rows += len(held)
        counts.without += len(frame) - len(held)
        if wanted.name == "uid2":
            yield from _bodies(held)
        elif len(held):
            yield held.write_csv(include_header=False).encode()


def _bodies(frame: pl.DataFrame) -> Iterator[bytes]:
    for name in frame.columns:
        values = frame[name].drop_nulls().to_list()
        for start in range(0, len(values), UID2_BATCH):
            yield json.dumps({name: values[start : start + UID2_BATCH]}).encode() + b"\n"


def _permitted(home: Home, store: Store, name: str, platform: str) -> str:
    """The purpose of the match that made the list. Raises Refused(POLICY)."""
    contract, rules = home.contract(), home.config().rules
    if contract.matching is None or platform not in contract.matching.platforms:
        raise Refused(Code.POLICY, f"contract: matching.platforms does not name {platform}")
    if platform not in rules.upload_to:
        raise Refused(Code.POLICY, f"partner.toml: rules.upload_to does not name {platform}")
    label, _, short = name.rpartition("-")
    for (spec,) in store.rows("SELECT spec FROM jobs WHERE substr(id, 1, 8) = ?", short):
        job = jobs.from_canonical(spec)
        if job.name == label and job.match and home.config().name in job.match.recipients:
            return job.purpose
    raise Refused(Code.POLICY, f"{name} is not a match list that this partner received")


def _list(home: Home, name: str) -> pl.Series:
    path = home.audiences / f"{name}.csv"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in home.audiences.glob("*.csv"))) or "none yet"
        raise ConfigError("list", f"no match list {name}; there are: {known}")
    table = opened(path, quoted=not home.config().results.as_is)
    return table.head(1 << 30, ["person"])["person"]


def _entered(
    home: Home,
    store: Store,
    name: str,
    platform: str,
    purpose: str,
    size: int,
    digest: bytes,
    now: datetime,
) -> None:
    with store.transaction():
        journal = Journal(store, home.identity(), now.timestamp)
        journal.record_digest(f"upload for {purpose}", name, size, digest, platform)
        store.execute(
            "INSERT INTO disclosures (time, job, kind, recipient, purpose) VALUES (?, ?, ?, ?, ?)",
            now.timestamp(), name, "upload", platform, purpose,
        )  # fmt: skip

"""Masking a table: block by block from one file into another, with a lineage record beside it."""

from __future__ import annotations

import importlib.metadata
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl

from client.masking.keys import KeyRing
from client.masking.outputs import Writer, created, spelled, written
from client.masking.policy import Policy, Purpose, Role
from client.masking.tables import Table, column_errors
from privacy.errors import ConfigError, DataError, ReleaseRefused
from privacy.masking import risk, scan, transform
from privacy.masking.transform import Counts
from privacy.randomness import Randomness
from protos.files import nameless

Progress = Callable[[int], None]
"""Told the number of rows of each block that is done."""
VERSIONS = ("polars", "polars-hash", "pyarrow", "phonenumbers", "cryptography")


@dataclass
class Outcome:
    """What was done. ``after``: the release's risk, None for other purposes."""

    rows: int = 0
    dropped: tuple[str, ...] = ()
    counts: dict[str, Counts] = field(default_factory=dict)
    after: risk.Risk | None = None


@dataclass(frozen=True)
class Lineage:
    """Where a masked table came from, for who must show it later. No value of a row is in it."""

    source: Mapping[str, Any]
    result: Mapping[str, Any]
    policy: Mapping[str, Any]
    purpose: str
    keys: tuple[str, ...]
    columns: Mapping[str, Mapping[str, Any]]
    dropped: tuple[str, ...]
    actor: str
    time: str
    versions: Mapping[str, str]

    def write(self, path: Path, inputs: Iterable[Path] = ()) -> None:
        """As JSON, readable by this user only. Raises ConfigError, DataError."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"
        with written(path, inputs) as file:
            file.write(text.encode())


def masked_blocks(
    table: Table,
    policy: Policy,
    purpose: Purpose,
    keys: KeyRing | None,
    randomness: Randomness,
    outcome: Outcome,
) -> Iterator[pl.DataFrame]:
    """Blocks of the masked table; counts go into ``outcome``. Raises ConfigError, DataError."""
    policy.check_columns(table.names, table.name)
    columns = policy.for_purpose(purpose)
    kept = [column.name for column in columns]
    outcome.dropped = tuple(name for name in table.names if name not in kept)
    if keys is None and policy.needs_key(purpose):
        raise ConfigError("key", f"{purpose} makes tokens; name a key in the policy or with --keys")
    key = keys.current if keys else None
    beside = [name for column in columns for name, _ in column.own]
    looked: dict[str, pl.Series] = {}
    for block in table.blocks(list(dict.fromkeys(kept + beside))):
        _look_at_what_is_kept(policy, columns, block, looked)
        yield transform.masked(columns, block, key, randomness, outcome.counts)
        outcome.rows += len(block)


LOOKED_AT = 4096
"""Distinct values of a column, in each block: of a category these are all."""
EVIDENT = ("email", "phone", "id_card", "bank_card", "iban", "plate", "ip", "device_id")
"""Kinds that a column is not taken for by chance."""


def _look_at_what_is_kept(
    policy: Policy,
    columns: Sequence[transform.Column],
    block: pl.DataFrame,
    looked: dict[str, pl.Series],
) -> None:
    """Raises ConfigError where a column that is kept holds what its declared kind would not let pass. Every
    block is looked at: what is personal may begin in the middle of a table. ``looked``: values of earlier
    blocks, by column."""
    for column in columns:
        if column.transform.do != "keep" or policy.columns[column.name].reviewed:
            continue
        if block[column.name].dtype.is_nested():
            raise ConfigError(
                f"columns.{column.name}",
                "holds lists or structures, which nothing looks into; suppress it or say reviewed = true",
            )
        distinct = block[column.name].unique(maintain_order=True)
        before = looked.setdefault(column.name, distinct.clear())
        new = distinct.filter(~distinct.is_in(before.implode()))
        some = new.gather_every(max(1, -(-len(new) // LOOKED_AT)))
        looked[column.name] = some if len(before) > LOOKED_AT else before.append(some)
        seen = scan.column(some, policy.region)
        kinds = [kind for kind in (seen.kind, *seen.inside) if kind in EVIDENT]
        if seen.unmasked and kinds:
            raise ConfigError(
                f"columns.{column.name}",
                f"is declared {column.kind} and kept, but looks like {kinds[0]}; declare what it is,"
                " or say reviewed = true",
            )


def mask(
    table: Table,
    policy: Policy,
    purpose: Purpose,
    out: Path,
    *,
    keys: KeyRing | None,
    encrypt: bool,
    randomness: Randomness,
    progress: Progress,
    actor: str,
    now: datetime,
    inputs: Sequence[Path] = (),
    as_is: bool = False,
) -> Outcome:
    """Write ``out`` and ``out.lineage.json``. ``inputs``: what else is read. Raises ReleaseRefused,
    ConfigError, DataError; then nothing is written."""
    outcome = Outcome()
    if encrypt and keys is None:
        raise ConfigError("--encrypt", "needs a key; name one in the policy or with --keys")
    sealing = keys if encrypt else None
    with (
        column_errors(table),
        created(out, table.path, sealing, inputs=inputs, as_is=as_is) as writer,
    ):
        blocks = masked_blocks(table, policy, purpose, keys, randomness, outcome)
        if purpose == "release":
            outcome.after = _released(blocks, writer, policy, out.parent, progress)
        else:
            for block in blocks:
                writer.write(block)
                progress(len(block))
        used = keys if encrypt or policy.needs_key(purpose) else None
        made = {"file": spelled(out.name), "sha256": writer.digest(), "rows": outcome.rows}
        lineage = lineage_of(table, policy, purpose, made, used, outcome, actor, now)
        beside = out.with_name(out.name + ".lineage.json")
        lineage.write(beside, [table.path, *inputs])  # before the table is in place
    return outcome


def _released(
    blocks: Iterator[pl.DataFrame], writer: Writer, policy: Policy, folder: Path, progress: Progress
) -> risk.Risk:
    """Writes a release; raises ReleaseRefused, before it is in place, where there are objections."""

    def written() -> Iterator[pl.DataFrame]:
        for block in blocks:
            writer.write(block)
            progress(len(block))
            yield block

    with _beside(written(), _roles(policy, "release"), folder) as frame:
        found, objections = judged(frame, policy, "release")
    if objections:
        raise ReleaseRefused("; ".join(objections))
    return found


def judged(frame: pl.LazyFrame, policy: Policy, purpose: Purpose) -> tuple[risk.Risk, list[str]]:
    """The risk of a masked table, and what speaks against letting it go: each names columns."""
    k, least = policy.release.k, policy.release.l
    quasi, sensitive = policy.names("quasi", purpose), policy.names("sensitive", purpose)
    found, objections = risk.measure(frame, quasi, sensitive, k), []
    for name in risk.nearly_unique(frame, policy.names("safe", purpose)):
        objections.append(
            f"column {name} is called safe, but most rows have a value of their own;"
            " call it quasi or direct, generalise it or suppress it"
        )
    if found.rows and found.k < k:
        worst = risk.culprits(frame, quasi, k, found)
        named = ", ".join(f"{name} ({gain:.0%} of rows)" for name, gain in worst if gain > 0)
        objections.append(
            f"the smallest group has {found.k} row(s), {k} are needed;"
            f" {found.under:.1%} of rows are in smaller groups;"
            f" generalise or suppress {named or ', '.join(quasi)}"
        )
    thin = [name for name, values in found.diversity.items() if values < least]
    if found.rows and thin:
        objections.append(
            f"within a group {', '.join(thin)} has fewer than {least} values;"
            f" generalise {', '.join(quasi) or 'more'}, or suppress {', '.join(thin)}"
        )
    return found, objections


def _roles(policy: Policy, purpose: Purpose) -> list[str]:
    """The masked columns that a judgement looks at."""
    roles: tuple[Role, ...] = ("quasi", "sensitive", "safe")
    return [name for role in roles for name in policy.names(role, purpose)]


@contextmanager
def _beside(
    blocks: Iterator[pl.DataFrame], columns: list[str], folder: Path
) -> Iterator[pl.LazyFrame]:
    """The blocks' ``columns`` as a lazy frame over a file in ``folder`` that never has a name: it is gone
    with this process, however that ends. Raises DataError where the disk does not take it."""
    names = list(dict.fromkeys(columns))
    try:
        with nameless(folder) as file:
            writer = Writer(file, ".parquet", None)
            try:
                for block in blocks:
                    kept = block.select(names) if names else block.select(pl.lit(0).alias("row"))
                    writer.write(kept)
                writer.close()
            except BaseException:
                writer.abandon()
                raise
            yield pl.scan_parquet(f"/dev/fd/{file.fileno()}")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror}") from None


def risks(
    table: Table,
    policy: Policy,
    purpose: Purpose,
    *,
    keys: KeyRing | None,
    randomness: Randomness,
    progress: Progress,
) -> tuple[risk.Risk, risk.Risk, list[str]]:
    """Risk of the declared columns before, of the masked ones after, and the objections to the latter."""
    policy.check_columns(table.names, table.name)
    roles = policy.columns.items()
    quasi = [name for name, rule in roles if rule.role == "quasi"]
    sensitive = [name for name, rule in roles if rule.role == "sensitive"]

    def raw() -> Iterator[pl.DataFrame]:
        for block in table.blocks(quasi + sensitive or None):
            progress(len(block))
            yield block

    folder = Path(tempfile.gettempdir())
    with column_errors(table):
        with _beside(raw(), quasi + sensitive, folder) as frame:
            before = risk.measure(frame, quasi, sensitive, policy.release.k)
        blocks = masked_blocks(table, policy, purpose, keys, randomness, Outcome())
        with _beside(blocks, _roles(policy, purpose), folder) as frame:
            after, objections = judged(frame, policy, purpose)
    return before, after, objections


def lineage_of(
    table: Table,
    policy: Policy,
    purpose: Purpose,
    made: Mapping[str, Any],
    keys: KeyRing | None,
    outcome: Outcome,
    actor: str,
    now: datetime,
) -> Lineage:
    """The record of a masking. ``made``: file, digest and rows of the result; ``keys``: if used."""
    columns = {}
    for name, counts in outcome.counts.items():
        how = policy.columns[name].how(purpose)
        plain = how.model_dump(mode="json", exclude_defaults=True) if how else {}
        columns[name] = {**asdict(counts), "transform": plain}
    return Lineage(
        {"file": spelled(table.name), "sha256": table.digest(), "rows": outcome.rows},
        made,
        {"name": policy.name, "sha256": policy.digest()},
        purpose,
        (keys.current.id,) if keys else (),
        columns,
        outcome.dropped,
        actor,
        now.isoformat(timespec="seconds"),
        {name: importlib.metadata.version(name) for name in ("tallystick", *VERSIONS)},
    )

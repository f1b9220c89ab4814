"""The masking commands of ``tallystick-partner``: they work without an alliance, too."""

from __future__ import annotations

import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.masking.cli_keys import keys_app, reveal_app
from client.masking.options import (
    HERE,
    AsIsOption,
    EncodingOption,
    HomeOption,
    InsideOption,
    JsonOption,
    KeysOption,
    OutOption,
    PolicyOption,
    Purpose,
    PurposeOption,
    TableArgument,
    files_of,
    key_ring,
    prepared,
    progress_of,
    store_of,
    who,
)
from privacy.errors import ConfigError
from privacy.identifiers import HOME_REGION
from protos import console

if TYPE_CHECKING:
    import polars as pl

    from client.masking.keys import KeyRing
    from client.masking.policy import Policy
    from client.masking.tables import Table

SAMPLE = 100_000


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (mask, scan, risk, quality, dedupe, upload):
        app.command()(command)
    app.add_typer(keys_app, name="keys")
    app.add_typer(reveal_app, name="reveal")


def mask(
    table: TableArgument,
    policy: PolicyOption,
    purpose: PurposeOption,
    out: Annotated[Path | None, typer.Option("--out", help="the file to write")] = None,
    preview: Annotated[
        int,
        typer.Option(
            "--preview", min=0, max=1000, help="show rows before and after; write nothing"
        ),
    ] = 0,
    encrypt: Annotated[bool, typer.Option("--encrypt", help="AES-256, Parquet only")] = False,
    keys: KeysOption = None,
    encoding: EncodingOption = "utf-8",
    inside: InsideOption = None,
    as_is: AsIsOption = False,
) -> None:
    """Mask a table by its policy: undeclared columns are dropped, invalid values hidden whole."""
    from client.masking import run

    if (out is None) == (preview == 0):
        raise ConfigError("--out", "say where to write, or --preview how many rows to look at")
    rules, source, ring = prepared(table, policy, keys, encoding, inside)
    if out is None:
        _preview(rules, source, ring, purpose, preview)
        return
    with progress_of(source) as progress:
        done = run.mask(
            source, rules, purpose.value, out, keys=ring, encrypt=encrypt, randomness=os.urandom,
            progress=progress, actor=who(), now=datetime.now(UTC),
            inputs=files_of(policy, keys, rules), as_is=as_is,
        )  # fmt: skip
    shown: list[list[object]] = [
        [name, rules.columns[name].kind, c.values, c.nulls, c.invalid, c.found]
        for name, c in done.counts.items()
    ]
    typer.echo(console.table(["column", "kind", "values", "nulls", "hidden", "redacted"], shown))
    console.say("{} rows into {}; its lineage is in {}.lineage.json", done.rows, out, out.name)
    if done.dropped:
        console.say("dropped: {}", ", ".join(done.dropped))
    if done.after:
        typer.echo(f"smallest group {done.after.k}; {done.after.groups} groups")


def scan(
    table: TableArgument,
    masked: Annotated[
        bool, typer.Option("--masked", help="exit with 1 if unmasked personal data is found")
    ] = False,
    rows: Annotated[
        int, typer.Option(help="rows to look at; 0 for all, as --masked does")
    ] = SAMPLE,
    region: Annotated[
        str, typer.Option(help="of telephone numbers without a country code")
    ] = HOME_REGION,
    keys: KeysOption = None,
    encoding: EncodingOption = "utf-8",
    inside: InsideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say what is in each column: kind, hits, interval, check digits, masked examples."""
    from client.masking import tables
    from privacy.masking.scan import scan as look
    from privacy.masking.scan import together

    source = tables.opened(table, keys=key_ring(keys), encoding=encoding, table=inside)
    with tables.column_errors(source):
        if masked or not rows:
            parts = [look(block, region) for block in source.blocks()]
            seen = [together(column) for column in zip(*parts, strict=True)]
        else:
            seen = look(source.sample(rows, source.names), region)
    exposed = [s.column for s in seen if s.unmasked]
    if as_json:
        typer.echo(console.json_text({"columns": [asdict(s) for s in seen]}))
    else:
        shown: list[list[object]] = [
            [s.column, s.kind or "empty", s.values, s.hits, f"{s.low:.3f}..{s.high:.3f}",
             "" if s.checked is None else f"{s.checked:.1%}",
             ", ".join(f"{k} {n}" for k, n in s.inside.items()), " ".join(s.examples)]
            for s in seen
        ]  # fmt: skip
        head = ["column", "kind", "values", "hits", "95 %", "checked", "inside", "examples"]
        typer.echo(console.table(head, shown))
    if masked and exposed:
        console.say("unmasked personal data in: {}", ", ".join(exposed), err=True)
        raise typer.Exit(1)


def risk(
    table: TableArgument,
    policy: PolicyOption,
    purpose: PurposeOption = Purpose.RELEASE,
    keys: KeysOption = None,
    encoding: EncodingOption = "utf-8",
    inside: InsideOption = None,
) -> None:
    """How far does the table single people out, before and after masking? Exit 1 under the threshold."""
    from client.masking import run
    from privacy.masking.transform import candidates

    rules, source, ring = prepared(table, policy, keys, encoding, inside)
    left: list[list[object]] = []
    for column in rules.for_purpose(purpose.value):
        number = candidates(column.kind, column.transform)
        text = "nobody can say" if number is None else "only with the key, or none"
        if number is not None and number != float("inf"):
            text = f"{number:,.0f}"
        left.append(
            [column.name, column.kind, rules.columns[column.name].role, column.transform.do, text]
        )
    typer.echo(console.table(["column", "kind", "role", "transform", "values that remain"], left))
    with progress_of(source) as progress:
        before, after, objections = run.risks(
            source, rules, purpose.value, keys=ring, randomness=os.urandom, progress=progress
        )
    k = rules.release.k
    shown: list[list[object]] = [
        [label, r.k, f"{r.unique:.2%}", f"{r.under:.2%}", r.groups,
         ", ".join(f"{n} {least}" for n, least in r.diversity.items())]
        for label, r in (("before", before), ("after", after))
    ]  # fmt: skip
    head = ["", "smallest group", "unique", f"in groups under {k}", "groups", "least diversity"]
    typer.echo(console.table(head, shown))
    for objection in objections:
        console.say("{}", objection, err=True)
    if objections:
        raise typer.Exit(1)


def quality(
    table: TableArgument,
    policy: PolicyOption,
    keys: KeysOption = None,
    encoding: EncodingOption = "utf-8",
    inside: InsideOption = None,
    as_json: JsonOption = False,
) -> None:
    """Missing, invalid, outliers, delay, duplicates; exit 1 if a limit is passed."""
    from client.masking import checks

    rules, source, _ = prepared(table, policy, keys, encoding, inside)
    with progress_of(source) as progress:
        findings = checks.quality(source, rules, datetime.now(UTC).replace(tzinfo=None), progress)
    if as_json:
        plain = [asdict(f) | {"alert": f.alert} for f in findings]
        typer.echo(console.json_text({"findings": plain}))
    else:
        shown: list[list[object]] = [
            [f.check, f.column, f"{f.value:.1f} h" if f.check == "delay" else f"{f.value:.2%}",
             f"{f.limit:g} h" if f.check == "delay" else f"{f.limit:.0%}", "ALERT" if f.alert else ""]
            for f in findings
            if f.value
        ]  # fmt: skip
        typer.echo(console.table(["check", "column", "value", "limit", ""], shown))
        typer.echo("all else is 0")
    if any(f.alert for f in findings):
        raise typer.Exit(1)


def dedupe(
    table: TableArgument,
    policy: PolicyOption,
    out: OutOption,
    keys: KeysOption = None,
    encoding: EncodingOption = "utf-8",
    inside: InsideOption = None,
    for_people: Annotated[
        bool,
        typer.Option(
            "--for-people",
            help="for a spreadsheet: an apostrophe before cells of a CSV that it would run as a formula",
        ),
    ] = False,
) -> None:
    """Merge rows of one person; print the share of repeated rows before and after."""
    from client.masking import checks

    rules, source, _ = prepared(table, policy, keys, encoding, inside)
    with progress_of(source) as progress:
        done = checks.dedupe(
            source, rules, out, progress, inputs=files_of(policy, keys, rules),
            as_is=not for_people,
        )  # fmt: skip
    console.say(
        f"repeated rows: {done.before:.2%} before, {done.after:.2%} after; {done.rows} rows into {{}}",
        out,
    )
    if done.uncompared:
        console.say(
            "names were not compared in {} rows: too many agree on {}; name more columns in"
            " duplicates.within",
            done.uncompared,
            ", ".join(rules.duplicate_rule().within),
            err=True,
        )


def upload(
    matched: Annotated[str, typer.Argument(help="a match list, as named in state/audiences")],
    platform: Annotated[str, typer.Option(help="google, meta, uid2, tiktok or linkedin")],
    policy: PolicyOption,
    out: OutOption,
    home: HomeOption = HERE,
) -> None:
    """Write a platform's upload file for a match list that the contract permits."""
    from client.home import Home
    from client.masking import policy as policies
    from client.masking import uploads

    partner = Home(home)
    counts = uploads.upload(
        matched.removesuffix(".csv"), platform, policies.load(policy), out, home=partner,
        store=store_of(partner), now=datetime.now(UTC), inputs=[policy],
    )  # fmt: skip
    console.say(
        "{} rows for {} into {}; {} people in the list, {} without a usable identifier",
        counts.rows, platform, out, counts.people, counts.without,
    )  # fmt: skip


def _preview(
    rules: Policy, source: Table, ring: KeyRing | None, purpose: Purpose, count: int
) -> None:
    from client.masking import run
    from client.masking.tables import column_errors

    with column_errors(source):
        first, done = source.head(count), run.Outcome()
        after = next(run.masked_blocks(source, rules, purpose.value, ring, os.urandom, done))
    for row in range(len(first)):
        shown: list[list[object]] = [
            [
                name,
                _cell(first, name, row),
                _cell(after, name, row) if name in after.columns else "(dropped)",
            ]
            for name in first.columns
        ]
        typer.echo(f"row {row + 1}\n{console.table(['column', 'before', 'after'], shown)}\n")


def _cell(frame: pl.DataFrame, name: str, row: int) -> str:
    value = frame[name][row]
    text = "(null)" if value is None else str(value).replace("\n", " ")
    return text if len(text) <= 60 else text[:57] + "..."

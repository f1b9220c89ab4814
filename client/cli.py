"""``tallystick-partner``: what a partner organisation runs."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.home import Home
from client.masking import cli as masking
from client.store import Store
from privacy.errors import ConfigError, DataError
from protos import console

app = console.new_app(
    "Run a partner's node: join an alliance, say what is allowed, see what was spent."
)
journal_app = console.new_app("The journal of everything that left this partner.")
app.add_typer(journal_app, name="journal")

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="TALLYSTICK_HOME", help="this partner's folder")
]
HERE = Path("partner")


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="this partner's name in the alliance")],
    home: HomeOption = HERE,
) -> None:
    """Create this partner's folder: keys and a partner.toml to fill in."""
    from client import setup

    made = setup.init(home, name, os.urandom)
    typer.echo(f"created {made.root}; fingerprint of {name}: {setup.own_fingerprint(made)}")
    typer.echo("next: fill in partner.toml, then `tallystick-partner join INVITATION`")


@app.command()
def join(
    invitation: Annotated[Path, typer.Argument(help="the file the coordinator sent")],
    residency: Annotated[str, typer.Option(help="where the data stays, such as DE")] = "EU",
    out: Annotated[Path, typer.Option(help="where to write the application")] = Path(
        "application.toml"
    ),
    home: HomeOption = HERE,
) -> None:
    """Answer an invitation: write an application with this partner's public keys."""
    from client import setup
    from protos.identity import decode_key, fingerprint

    partner = Home(home)
    invited = setup.join(partner, invitation, residency, out)
    public = decode_key(invited.coordinator.identity, "coordinator.identity")
    typer.echo(f"wrote {out}; send it to {invited.coordinator.name}")
    typer.echo(f"their fingerprint: {fingerprint(public)}")
    typer.echo(f"your fingerprint:  {setup.own_fingerprint(partner)}")
    typer.echo("compare both by telephone, not by the channel the file came on")


@app.command()
def sign(
    contract: Annotated[Path, typer.Argument(help="alliance.toml")],
    fingerprints_confirmed: Annotated[
        bool,
        typer.Option("--fingerprints-confirmed", help="they were compared out of band already"),
    ] = False,
    home: HomeOption = HERE,
) -> None:
    """Show the terms and everyone's fingerprints, then sign the contract in place."""
    from client import setup
    from protos import alliance

    now = datetime.now(UTC)
    partner, terms = Home(home), alliance.load(contract)
    setup.check_before_signing(partner, terms, now)
    privacy = terms.privacy
    typer.echo(
        f"{terms.name}, until {terms.expires:%Y-%m-%d}, contract {terms.digest().hex()[:16]}"
    )
    typer.echo(
        f"epsilon {privacy.epsilon:g} for a customer here, {privacy.epsilon_per_person:g} for a "
        f"person at {privacy.partners_per_person} partners, in {privacy.period_days} days, "
        f"delta {privacy.delta:g}"
    )
    typer.echo(
        f"holds against the coordinator with {privacy.colluders} partner(s); "
        f"{privacy.dropouts} may drop out"
    )
    for name, text in terms.fingerprints().items():
        typer.echo(f"  {name:<20} {text}")
    if not fingerprints_confirmed:
        typer.confirm(
            "Did you compare these fingerprints with each party by telephone or in person?",
            abort=True,
        )
    signed = setup.sign(partner, contract, now)
    missing = [p.name for p in signed.parties if p.name not in signed.signatures]
    typer.echo(f"signed; {'missing: ' + ', '.join(missing) if missing else 'everyone has signed'}")


@app.command()
def check(
    contract: Annotated[Path, typer.Argument(help="alliance.toml, signed by everyone")],
    home: HomeOption = HERE,
) -> None:
    """Check a contract's terms and signatures, and install it."""
    from client import setup

    installed = setup.install(Home(home), contract)
    typer.echo(
        f"{installed.name} is valid until {installed.expires:%Y-%m-%d}, signed by "
        f"{len(installed.signatures)} parties; installed"
    )


@app.command()
def start(
    stock_supernode: Annotated[
        bool,
        typer.Option(
            "--stock-supernode",
            help="run beside an unmodified flower-supernode instead of our node",
        ),
    ] = False,
    home: HomeOption = HERE,
) -> None:
    """Run the gate and the node until stopped."""
    from client.start import start as run

    partner = Home(home)
    name = partner.config().name
    run(partner, stock=stock_supernode, ready=lambda: typer.echo(f"{name} is running"))


@app.command()
def doctor(home: HomeOption = HERE) -> None:
    """Check configuration, keys, contract, data and connection; say what to mend."""
    from client.doctor import examine

    findings = examine(Home(home))
    for finding in findings:
        typer.echo(f"{'ok  ' if finding.good else 'FAIL'}  {finding.subject}: {finding.text}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


@app.command()
def preview(
    job: Annotated[Path, typer.Argument(help="job.toml as the coordinator would send it")],
    home: HomeOption = HERE,
) -> None:
    """Would this job be allowed here, what would it cost, and how many rows would it use?"""
    from client import policy
    from client.table import read
    from protos import jobs

    partner = Home(home)
    contract, wanted = partner.contract(), jobs.load(job)
    policy.check(wanted, contract, partner.config())
    mu2 = wanted.mu2(contract)
    if mu2:
        typer.echo(
            f"allowed; epsilon {wanted.epsilon:g} for a customer here, "
            f"{contract.per_person(mu2):.2f} for a person at "
            f"{contract.privacy.partners_per_person} partners"
        )
    else:
        typer.echo("allowed; a disclosure without epsilon")
    if not wanted.match:
        _, report = read(
            partner.source(), contract.declared_columns(), sorted(wanted.columns()),
            rows_per_person=contract.privacy.rows_per_person,
        )  # fmt: skip
        typer.echo(f"rows: {report.rows}, people: {report.people}")
        for label, counts in (("unusable", report.unusable), ("clipped", report.clipped)):
            for column, count in counts.items():
                typer.echo(f"{label} in {column}: {count}")


@app.command()
def ledger(home: HomeOption = HERE) -> None:
    """Show what this partner's customers have paid, and the limits."""
    from client.ledger import Ledger

    partner = Home(home)
    store = _store(partner)
    standing = Ledger(store, partner.contract(), time.time).standing()
    rows: list[list[object]] = [
        ["a customer here", f"{standing.epsilon:.4f}", f"{standing.epsilon_limit:g}"],
        ["a person anywhere", f"{standing.person:.4f}", f"{standing.person_limit:g}"],
    ]
    typer.echo(console.table(["epsilon in this period for", "spent", "limit"], rows))
    lists = store.row("SELECT COUNT(*) FROM disclosures")
    typer.echo(
        f"lifetime epsilon {standing.lifetime:.4f} in {standing.releases} releases; "
        f"{lists[0] if lists else 0} disclosure(s) without epsilon"
    )


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="name of a delivered model")],
    out: Annotated[Path, typer.Option(help="CSV to write, readable by you only")],
    home: HomeOption = HERE,
) -> None:
    """Score this partner's own customers with a delivered model. Nothing leaves."""
    import json

    from client.home import write_private
    from client.table import read
    from privacy.programs.scoring import model_from

    partner = Home(home)
    contract, store = partner.contract(), _store(partner)
    found = store.row("SELECT sealed FROM models WHERE name = ?", model)
    if found is None:
        known = ", ".join(row[0] for row in store.rows("SELECT name FROM models")) or "none yet"
        raise ConfigError("model", f"no model called {model!r}; delivered so far: {known}")
    columns = contract.declared_columns()
    scorer = model_from(columns, json.loads(store.unseal(f"model {model}", found[0])))
    snapshot, _ = read(
        partner.source(), columns, sorted(scorer.names),
        rows_per_person=contract.privacy.rows_per_person,
    )  # fmt: skip
    if not snapshot.count:
        raise DataError("no usable rows to score")
    values = scorer.score(snapshot.rows)
    pairs = zip(snapshot.key, values, strict=True)
    lines = "".join(
        f'"{str(key).replace(chr(34), chr(34) * 2)}",{value:.6g}\n' for key, value in pairs
    )
    write_private(out, f"person,{model}\n{lines}".encode())
    typer.echo(f"scored {snapshot.count} rows into {out}")


@journal_app.command("verify")
def journal_verify(home: HomeOption = HERE) -> None:
    """Check the hash chain and every signature of the journal."""
    from client.journal import verify

    partner = Home(home)
    count = verify(_store(partner), partner.identity().public_key().public_bytes_raw())
    typer.echo(f"{count} entries, all intact")


@journal_app.command("show")
def journal_show(
    last: Annotated[int, typer.Option(help="how many entries")] = 20, home: HomeOption = HERE
) -> None:
    """List the last messages that left: kind, size, digest, recipient."""

    rows = _store(Home(home)).rows(
        "SELECT sequence, time, kind, job, size, content, recipient FROM journal"
        " ORDER BY sequence DESC LIMIT ?",
        last,
    )
    shown: list[list[object]] = [
        [r[0], datetime.fromtimestamp(r[1], UTC).strftime("%Y-%m-%d %H:%M:%S"), r[2], r[3][:8],
         r[4], bytes(r[5]).hex()[:12], r[6]]
        for r in reversed(rows)
    ]  # fmt: skip
    head = ["entry", "time (UTC)", "kind", "job", "bytes", "digest", "recipient"]
    typer.echo(console.table(head, shown))


def _store(partner: Home) -> Store:
    if not partner.database.exists():
        raise ConfigError("state", "nothing has run here yet; `start` first")
    return Store(partner.database, partner.storage_key(), os.urandom)


masking.register(app)
main = console.entry(app)

if __name__ == "__main__":
    main()

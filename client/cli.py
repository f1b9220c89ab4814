"""``tallystick-partner``: what a partner organisation runs."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client import audience_cli, heads_cli
from client.home import Home
from client.masking import cli as masking
from privacy.errors import DataError
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
    from client import asked, setup
    from protos.identity import decode_key, fingerprint
    from protos.joining import load_invitation

    partner, invited = Home(home), load_invitation(invitation)
    for line in asked.of_invitation(invited):
        typer.echo(line)
    setup.apply(partner, invited, residency, out, inputs=(invitation,))
    public = decode_key(invited.coordinator.identity, "coordinator.identity")
    console.say("wrote {}; send it to {}", out, invited.coordinator.name)
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
    """Show all terms and everyone's fingerprints, then sign the contract in place."""
    from client import setup
    from client.terms import lines
    from protos import alliance

    now = datetime.now(UTC)
    partner, terms = Home(home), alliance.load(contract)
    setup.check_before_signing(partner, terms, now)
    for line in lines(terms):
        typer.echo(line)
    if not fingerprints_confirmed:
        console.agree(
            "Did you compare these fingerprints with each party by telephone or in person?"
        )
    signed = setup.sign(partner, contract, now, agreed=terms.digest())
    missing = signed.unsigned()
    typer.echo(f"signed; {'missing: ' + ', '.join(missing) if missing else 'everyone has signed'}")


@app.command()
def check(
    contract: Annotated[Path, typer.Argument(help="alliance.toml, signed by everyone")],
    replace: Annotated[
        bool, typer.Option("--replace", help="in place of another contract; do not ask")
    ] = False,
    home: HomeOption = HERE,
) -> None:
    """Check a contract's terms and signatures, and install it; asks before it replaces another."""
    from client import replacing, setup

    partner, now = Home(home), datetime.now(UTC)
    wanted = setup.checked(partner, contract, now)
    changes = replacing.standing(partner, wanted)
    for line in changes:
        console.say("{}", line)
    if changes and not replace:
        console.agree("Install it in the place of the other?")
    installed = setup.install(partner, contract, now, agreed=wanted.digest())
    console.say(
        "{} is valid until {}, signed by {} parties; installed",
        installed.name, f"{installed.expires:%Y-%m-%d}", len(installed.signatures),
    )  # fmt: skip


@app.command()
def renew(
    certificate: Annotated[Path, typer.Argument(help="the file the coordinator sent")],
    home: HomeOption = HERE,
) -> None:
    """Take a new TLS certificate for the key in the contract; `start` also gets one by itself."""
    from client import renewal

    now = datetime.now(UTC)
    made = renewal.install(Home(home), renewal.read(certificate), now, str(certificate))
    typer.echo(f"the certificate in use is valid until {made.not_valid_after_utc:%Y-%m-%d}")


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
def doctor(
    data: Annotated[
        bool,
        typer.Option(
            "--data", help="read the whole table, tell all about it, and pin how it is read"
        ),
    ] = False,
    home: HomeOption = HERE,
) -> None:
    """Check configuration, keys, contract, data and connection; say what to mend."""
    from client import admission
    from client.doctor import examine

    partner = Home(home)
    if data:
        admitted = admission.admit(partner, partner.contract())
        for sentence in admitted.sentences():
            console.say("{}", sentence)
        typer.echo("This is how the table is read from now on.")
        if not admitted.is_good:
            raise typer.Exit(1)
        return
    findings = examine(partner)
    for finding in findings:
        console.say(
            f"{'ok  ' if finding.good else 'FAIL'}  {{}}: {{}}", finding.subject, finding.text
        )
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


@app.command()
def preview(
    job: Annotated[Path, typer.Argument(help="job.toml as the coordinator would send it")],
    home: HomeOption = HERE,
) -> None:
    """Show all that a job asks for: would it be allowed here, at what cost, over how many rows?"""
    from client import asked, policy
    from client.table import read
    from protos import jobs

    partner = Home(home)
    contract, wanted = partner.contract(), jobs.load(job)
    for line in asked.of_job(wanted):
        typer.echo(line)
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
                console.say("{} in {}: {}", label, column, count)


@app.command()
def ledger(home: HomeOption = HERE) -> None:
    """Show what this partner's customers have paid, and the limits."""
    from client.offline import owner

    with owner(Home(home), started=True) as found:
        standing = found.ledger.standing()
        lists = found.store.row("SELECT COUNT(*) FROM disclosures")
    rows: list[list[object]] = [
        ["a customer here", f"{standing.epsilon:.4f}", f"{standing.epsilon_limit:g}"],
        ["a person anywhere", f"{standing.person:.4f}", f"{standing.person_limit:g}"],
    ]
    typer.echo(console.table(["epsilon in this period for", "spent", "limit"], rows))
    typer.echo(
        f"lifetime epsilon {standing.lifetime:.4f} in {standing.releases} releases; "
        f"{lists[0] if lists else 0} disclosure(s) without epsilon"
    )


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="a delivered model: NAME, or NAME@JOB")],
    out: Annotated[Path, typer.Option(help="CSV to write, readable by you only")],
    home: HomeOption = HERE,
    as_is: Annotated[
        bool,
        typer.Option(
            "--as-is", help="for machines: leave keys that a spreadsheet would run as a formula"
        ),
    ] = False,
) -> None:
    """Score this partner's own customers with a delivered model. Nothing leaves."""
    from client import sheets
    from client.offline import owner
    from client.table import read
    from protos.files import new_private

    partner = Home(home)
    partner.check_output(out)
    with owner(partner, started=True) as found:
        contract, held = found.contract, found.models.find(model, unverified=True)
    columns = contract.declared_columns()
    snapshot, _ = read(
        partner.source(), columns, sorted(held.model.names),
        rows_per_person=contract.privacy.rows_per_person, keys=True,
    )  # fmt: skip
    if not snapshot.count or snapshot.key is None:
        raise DataError("no usable rows to score")
    values = held.model.score(snapshot.rows)
    with new_private(out) as file:
        file.write(f"person,{held.name}\n".encode())
        for key, value in zip(snapshot.key, values, strict=True):
            text = str(key) if as_is else sheets.quoted(str(key))
            doubled = text.replace('"', '""')
            file.write(f'"{doubled}",{value:.6g}\n'.encode())
    console.say("scored {} rows into {}", snapshot.count, out)


@app.command()
def refusals(home: HomeOption = HERE) -> None:
    """What this gate refused and why: the asker was told the code and nothing more."""
    from client.offline import stored
    from client.refusals import listed

    rows: list[list[object]] = [
        [datetime.fromtimestamp(r.last, UTC).strftime("%Y-%m-%d %H:%M"), r.count, r.code, r.kind,
         r.job[:8], r.reason]
        for r in listed(stored(Home(home)))
    ]  # fmt: skip
    head = ["last (UTC)", "times", "code", "message", "job", "reason"]
    typer.echo(console.table(head, rows) if rows else "nothing was refused")


@journal_app.command("verify")
def journal_verify(home: HomeOption = HERE) -> None:
    """Recompute the journal and the ledger in it: the chain, every signature, every charge."""
    from client.journal import verify
    from client.offline import stored

    partner = Home(home)
    found = verify(stored(partner), partner.identity().public_key().public_bytes_raw())
    typer.echo(
        f"{found.entries} entries, all intact; mu^2 {found.mu2:.6g} charged in all; "
        f"peers have vouched for entries up to {found.vouched}"
    )


@journal_app.command("show")
def journal_show(
    last: Annotated[int, typer.Option(help="how many entries")] = 20, home: HomeOption = HERE
) -> None:
    """List the last messages that left: kind, size, digest, recipient."""

    from client.offline import stored

    rows = stored(Home(home)).rows(
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


audience_cli.register(app)
heads_cli.register(app)
masking.register(app)
main = console.entry(app)

if __name__ == "__main__":
    main()

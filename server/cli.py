"""``tallystick-coordinator``: what a coordinator runs."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from privacy.errors import ConfigError, RoundFailed
from protos import console, jobs
from server.home import Home
from server.store import OPEN_STATES, JobRow, Store

app = console.new_app("Run an alliance: invite partners, price and launch jobs, read results.")

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="TALLYSTICK_HOME", help="the coordinator's folder")
]
HERE = Path("coordinator")
MANY = 1000
"""Steps from which on a rate says something: elements of a match, not releases."""
JobFile = Annotated[Path, typer.Argument(help="job.toml")]
JobName = Annotated[str, typer.Argument(help="a job's id, its start, or its name (the newest)")]


@app.command()
def init(
    alliance: Annotated[str, typer.Argument(help="name of the alliance")],
    name: Annotated[str, typer.Option(help="the coordinator's name")] = "coordinator",
    host: Annotated[str, typer.Option(help="host that partners reach")] = "127.0.0.1",
    bind: Annotated[str, typer.Option(help="address to listen on")] = "0.0.0.0",  # noqa: S104
    link_port: Annotated[int, typer.Option(help="for the partners' nodes")] = 8400,
    exchange_port: Annotated[int, typer.Option(help="for match streams")] = 8401,
    internal_port: Annotated[int, typer.Option(help="loopback only")] = 8402,
    home: HomeOption = HERE,
) -> None:
    """Create the coordinator's folder: keys, certificates and a draft contract to edit."""
    from protos.toml import build
    from server import setup
    from server.home import CoordinatorConfig

    said = {
        "name": name, "host": host, "bind": bind, "link_port": link_port,
        "exchange_port": exchange_port, "internal_port": internal_port,
    }  # fmt: skip
    config = build(CoordinatorConfig, said)
    made = setup.init(home, alliance, config, os.urandom, datetime.now(UTC))
    typer.echo(f"created {made.root}; fingerprint of {name}: {_fingerprint(made)}")
    typer.echo("next: edit draft.toml, then `tallystick-coordinator invite PARTNER` for each")


@app.command()
def invite(
    partner: Annotated[str, typer.Argument(help="the partner's name")], home: HomeOption = HERE
) -> None:
    """Write an invitation for a partner."""
    from server import setup

    path = setup.invite(Home(home), partner)
    console.say("wrote {}; send it to {}", path, partner)
    typer.echo(f"your fingerprint, to be read to them by telephone: {_fingerprint(Home(home))}")


@app.command()
def admit(
    file: Annotated[
        Path, typer.Argument(help="a partner's application, or a signed contract copy")
    ],
    fingerprint_confirmed: Annotated[
        bool, typer.Option("--fingerprint-confirmed", help="it was compared out of band already")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="in place of other keys under the same name")
    ] = False,
    home: HomeOption = HERE,
) -> None:
    """Show a partner's application and take it, or take the signatures in a copy of the contract."""
    from protos.joining import Application
    from server import admission, setup

    coordinator, found, now = Home(home), setup.load(file), datetime.now(UTC)
    if isinstance(found, Application):
        admission.check(coordinator, found)
        before = admission.replaced(coordinator, found)
        for line in admission.lines(found, before):
            typer.echo(line)
        if before is not None and not replace:
            raise ConfigError("party", admission.already(before, found))
        if not fingerprint_confirmed:
            console.agree(
                "Did you compare this fingerprint with the partner by telephone or in person?"
                if before is None
                else "Did the partner say, by telephone or in person, that these keys replace its old ones?",
            )
    console.say("{}", setup.take(coordinator, found, file, now, replace=replace))


@app.command()
def renew(
    partner: Annotated[str, typer.Argument(help="a partner, or nothing for all of them")] = "",
    home: HomeOption = HERE,
) -> None:
    """Write new certificates for the keys in the contract, to be sent to the partners."""
    from server import renewal
    from server.callers import revoked

    coordinator, now = Home(home), datetime.now(UTC)
    names = [partner] if partner else [p.name for p in coordinator.contract().parties]
    for name in names:
        if not partner and revoked(coordinator).has_party(name):
            console.say("{} is revoked and gets none", name)
            continue
        console.say("wrote {}; send it to {}", renewal.issue(coordinator, name, now), name)
    typer.echo(
        "next: each runs `tallystick-partner renew FILE`; under 30 days they also ask by themselves"
    )


@app.command()
def revoke(
    partner: Annotated[str, typer.Argument(help="a party of the contract")],
    reason: Annotated[str, typer.Option(help="why, for whoever reads the list later")] = "",
    serial: Annotated[
        str, typer.Option(help="this certificate only: its serial number in hexadecimal")
    ] = "",
    undo: Annotated[bool, typer.Option("--undo", help="take it off the list again")] = False,
    home: HomeOption = HERE,
) -> None:
    """Shut a partner out, or one certificate of it, from the next call on."""
    from server import callers

    coordinator, number = Home(home), callers.serial_number(serial) if serial else None
    if undo:
        callers.allow(coordinator, partner, serial=number)
        console.say("{} may call again", partner)
        return
    if not reason:
        raise ConfigError("--reason", "say why; it is kept in state/revoked.toml")
    callers.revoke(coordinator, partner, reason, datetime.now(UTC), serial=number)
    if number:
        console.say(
            "certificate {} of {} is refused from now on; `renew` makes another", number, partner
        )
    else:
        console.say("{} is shut out of link and exchange from now on", partner)
        typer.echo("jobs of everybody need it: to go on without it, sign a new contract")


@app.command()
def start(home: HomeOption = HERE) -> None:
    """Run the link, the exchange and the jobs until stopped."""
    from server.service import start as run

    coordinator = Home(home)
    address = coordinator.contract().coordinator.link
    run(coordinator, ready=lambda: typer.echo(f"partners reach this coordinator at {address}"))


@app.command()
def doctor(home: HomeOption = HERE) -> None:
    """Check keys, contract, ports and the call log; say what to mend."""
    from server.doctor import examine

    findings = examine(Home(home))
    for good, subject, text in findings:
        console.say(f"{'ok  ' if good else 'FAIL'}  {{}}: {{}}", subject, text)
    if not all(good for good, _, _ in findings):
        raise typer.Exit(1)


@app.command()
def quote(job: JobFile, home: HomeOption = HERE) -> None:
    """Price a job: epsilon, rounds, bytes, expected error. Touches no data."""
    from server.quote import quote as price

    coordinator = Home(home)
    contract, wanted = coordinator.contract(), jobs.load(job)
    if wanted.evaluate:
        wanted = jobs.with_model(wanted, *_store(coordinator).model(wanted.evaluate.model))
    found = price(wanted, contract)
    many = contract.privacy.partners_per_person
    rows: list[list[object]] = [
        ["epsilon for a customer at one partner", f"{found.epsilon:g}"],
        [f"epsilon for a person at {many} partners", f"{found.epsilon_person:.3f}"],
        ["releases", found.releases],
        ["message rounds", found.rounds],
        ["bytes, about", found.bytes],
    ]
    rows += [[f"expected error of {name}", f"{error:.4g}"] for name, error in found.errors.items()]
    typer.echo(console.table([f"{wanted.kind} {wanted.name}", ""], rows))
    if wanted.match and wanted.match.is_noisy:
        typer.echo(
            "the noise holds against the relay and against a partner that runs this code, not against one"
            " that deviates from the protocol (docs/security.md)"
        )


@app.command()
def run(
    job: JobFile,
    detach: Annotated[bool, typer.Option("--detach", help="queue it and return")] = False,
    home: HomeOption = HERE,
) -> None:
    """Launch a job and wait for its result. Needs `start` to be running."""
    coordinator = Home(home)
    row = submit(coordinator, jobs.load(job))
    typer.echo(f"job {row.id[:8]} queued", err=True)
    if not detach:
        _show(_wait(_store(coordinator), row.id))


@app.command()
def watch(job: JobName, home: HomeOption = HERE) -> None:
    """Wait for a job and show its result."""
    store = _store(Home(home))
    _show(_wait(store, store.job(job).id))


@app.command()
def results(
    job: Annotated[str, typer.Argument(help="a job, or nothing for a list")] = "",
    home: HomeOption = HERE,
) -> None:
    """List all jobs, or print one job's result as JSON."""
    store = _store(Home(home))
    if job:
        _show(store.job(job))
        return
    rows: list[list[object]] = [
        [r.id[:8], r.name, r.job().kind, r.job().purpose, f"{r.job().epsilon:g}", r.state,
         f"{r.done}/{r.planned}",
         datetime.fromtimestamp(r.created, UTC).strftime("%Y-%m-%d %H:%M")]
        for r in store.all_jobs()
    ]  # fmt: skip
    head = ["job", "name", "kind", "purpose", "epsilon", "state", "releases", "created (UTC)"]
    typer.echo(console.table(head, rows))


@app.command()
def heads(
    repair: Annotated[
        Path | None,
        typer.Option("--repair", help="forget the head that this file names, signed by all others"),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="it was read already; do not ask")] = False,
    home: HomeOption = HERE,
) -> None:
    """List the journal heads that partners signed, or forget one that all others agreed to forget."""
    from protos.repairs import load
    from server import heads as kept

    coordinator = Home(home)
    contract, store, now = coordinator.contract(), _store(coordinator), datetime.now(UTC)
    if repair is None:
        rows: list[list[object]] = [
            [name, said.sequence, _when(said.time), said.digest.hex()[:16]]
            for name, (said, _) in kept.held(store, contract).items()
        ]
        head = ["party", "entry", "signed at (UTC)", "digest"]
        typer.echo(console.table(head, rows) if rows else "no head of a partner is held yet")
        return
    read = load(repair, now)
    read.check(contract, now)
    for line in read.told():
        console.say("{}", line)
    if not yes:
        console.agree("Forget this head here?")
    held = kept.forget(store, contract, read, now)
    console.say(
        "forgotten" if held else "no such head of {} was held; none will be taken", read.party
    )


@app.command()
def resume(job: JobName, home: HomeOption = HERE) -> None:
    """Let a failed job continue from its last release."""
    store = _store(Home(home))
    row = store.job(job)
    if row.state != "failed":
        raise ConfigError("job", f"{row.id[:8]} is {row.state}; only failed jobs are resumed")
    store.reopen(row.id)
    _show(_wait(store, row.id))


@app.command()
def cancel(job: JobName, home: HomeOption = HERE) -> None:
    """Stop a job for good, also one that failed. What was charged stays charged."""
    coordinator = Home(home)
    store = _store(coordinator)
    row = store.job(job)
    if row.state == "failed":
        store.cancel_failed(row.id, row.job().participants(coordinator.contract()))
        typer.echo(f"cancelled {row.id[:8]}; the partners are told when the next job runs")
        return
    if row.state not in OPEN_STATES:
        raise ConfigError("job", f"{row.id[:8]} is {row.state} already")
    store.end(row.id, "cancelled", {}, "cancelled")
    typer.echo(f"cancelled {row.id[:8]}")


def submit(home: Home, job: jobs.Job) -> JobRow:
    """Check a job against the contract and queue it. Raises ConfigError."""
    contract, store = home.contract(), _store(home)
    if job.evaluate:
        job = jobs.with_model(job, *store.model(job.evaluate.model))
    job.check(contract)
    salt = os.urandom(16)
    job_id = jobs.job_id(contract.digest(), job.canonical(), salt)
    store.add(job_id, job, salt)
    return store.job(job_id)


def _wait(store: Store, job_id: str) -> JobRow:
    from rich.console import Console
    from rich.progress import Progress

    rate = ""
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("waiting", total=None)
        before, at = 0, time.monotonic()
        while (row := store.job(job_id)).state in OPEN_STATES:
            now = time.monotonic()
            if row.done > before and now - at > 2.0:
                rate, before, at = f", {(row.done - before) / (now - at):,.0f}/s", row.done, now
            label = f"{console.shown(row.name)} {row.state}{rate if row.planned > MANY else ''}"
            progress.update(task, description=label, total=row.planned or None, completed=row.done)
            time.sleep(0.2)
    return row


def _show(row: JobRow) -> None:
    if row.state in ("failed", "cancelled"):
        raise RoundFailed(f"job {row.id[:8]} {row.state}: {row.reason}")
    shown = {
        "job": row.id,
        "name": row.name,
        "state": row.state,
        "releases": [row.done, row.planned],
        **row.stats,
        "result": row.result,
    }
    typer.echo(console.json_text(shown))


def _when(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "a time that no clock shows"


def _store(home: Home) -> Store:
    home.config()  # a folder of ours, before anything is made in it
    return Store(home.database, time.time)


def _fingerprint(home: Home) -> str:
    from protos.identity import fingerprint

    return fingerprint(home.identity().public_key().public_bytes_raw())


main = console.entry(app)

if __name__ == "__main__":
    main()

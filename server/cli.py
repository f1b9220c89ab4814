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
    from server import setup
    from server.home import CoordinatorConfig

    config = CoordinatorConfig(
        name=name, host=host, bind=bind, link_port=link_port,
        exchange_port=exchange_port, internal_port=internal_port,
    )  # fmt: skip
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
    home: HomeOption = HERE,
) -> None:
    """Take a partner's application, or the signatures in a copy of the contract."""
    from server import setup

    console.say("{}", setup.admit(Home(home), file, datetime.now(UTC)))


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
        [r.id[:8], r.name, r.job().kind, r.state, f"{r.done}/{r.planned}",
         datetime.fromtimestamp(r.created, UTC).strftime("%Y-%m-%d %H:%M")]
        for r in store.all_jobs()
    ]  # fmt: skip
    typer.echo(console.table(["job", "name", "kind", "state", "releases", "created (UTC)"], rows))


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
    """Stop a job for good. What was charged stays charged."""
    store = _store(Home(home))
    row = store.job(job)
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


def _store(home: Home) -> Store:
    return Store(home.database, time.time)


def _fingerprint(home: Home) -> str:
    from protos.identity import fingerprint

    return fingerprint(home.identity().public_key().public_bytes_raw())


main = console.entry(app)

if __name__ == "__main__":
    main()

"""``tallystick-partner heads``: what is held of the other partners' journals; how one head is forgotten."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.home import Home
from privacy.errors import ConfigError
from protos import console

app = console.new_app("Heads of the other partners' journals, as they signed them; forget one.")

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="TALLYSTICK_HOME", help="this partner's folder")
]
HERE = Path("partner")
RepairFile = Annotated[Path, typer.Argument(help="the repair, as it went round the partners")]
Yes = Annotated[bool, typer.Option("--yes", help="it was read already; do not ask")]


@app.callback(invoke_without_command=True, no_args_is_help=False)
def heads(context: typer.Context, home: HomeOption = HERE) -> None:
    """List the heads that this gate holds of the other partners' journals; `heads repair` forgets one."""
    if context.invoked_subcommand is not None:
        return
    from client.offline import owner
    from client.repair import listed

    with owner(Home(home), started=True) as at:
        found = listed(at.store, at.contract)
        forgotten = len(at.journal.repaired())
    rows: list[list[object]] = [
        [h.party, h.sequence, _day(h.time), "yes" if h.current else "no", h.digest.hex()[:16]]
        for h in found
    ]
    head = ["party", "entry", "signed at (UTC)", "by its present key", "digest"]
    typer.echo(console.table(head, rows) if rows else "no head of another partner is held yet")
    if forgotten:
        typer.echo(f"{forgotten} head(s) were forgotten by a repair; see the journal")


@app.command()
def repair(
    party: Annotated[str, typer.Argument(help="whose head every gate should forget")],
    reason: Annotated[str, typer.Option(help="why, for those who sign; up to 400 characters")],
    out: Annotated[Path, typer.Option(help="where to write the repair")] = Path("repair.toml"),
    days: Annotated[int, typer.Option(min=1, max=90, help="how long it can be applied")] = 30,
    yes: Yes = False,
    home: HomeOption = HERE,
) -> None:
    """Begin a repair: all partners but PARTY sign that the head held here of PARTY is forgotten."""
    from client import repair as repairing
    from client.offline import owner
    from protos.files import write_private
    from protos.repairs import to_text

    now = datetime.now(UTC)
    Home(home).check_output(out)
    with owner(Home(home), started=True) as at:
        made = repairing.begin(at, party, reason, now, days)
        _agree(
            [*made.told(), repairing.here(at, made)], yes, "Sign that every gate forgets this head?"
        )
        signed = repairing.sign(at, made, now)
        write_private(out, to_text(signed).encode(), once=True)
        _next(signed.missing(at.contract), out)


@app.command()
def sign(file: RepairFile, yes: Yes = False, home: HomeOption = HERE) -> None:
    """Show a repair that another partner began, and sign it in place."""
    from client import repair as repairing
    from client.offline import owner
    from protos.files import locked, write_private
    from protos.repairs import load, to_text

    now = datetime.now(UTC)
    read = load(file, now)
    Home(home).check_output(file)
    with owner(Home(home)) as at:
        read.missing(at.contract)  # of another contract, or changed: before it is shown as signed
        _agree(
            [*read.told(), repairing.here(at, read)], yes, "Sign that every gate forgets this head?"
        )
        with locked(file):
            again = load(file, now)  # another partner may have signed it while this one read
            if again.body() != read.body():
                raise ConfigError(str(file), "was changed while it was shown; nothing was signed")
            signed = repairing.sign(at, again, now)
            write_private(file, to_text(signed).encode())
        _next(signed.missing(at.contract), file)


@app.command()
def apply(file: RepairFile, yes: Yes = False, home: HomeOption = HERE) -> None:
    """Forget the head that a repair names, once all other partners have signed it; it is journalled."""
    from client import repair as repairing
    from client.offline import owner
    from protos.repairs import load

    now = datetime.now(UTC)
    read = load(file, now)
    with owner(Home(home), started=True) as at:
        read.check(at.contract, now)
        _agree([*read.told(), repairing.here(at, read)], yes, "Forget this head here?")
        held = repairing.apply(at, read, now)
    console.say(
        "forgotten and journalled; the next head that {} states is taken as it is" if held
        else "journalled; no such head of {} was held here, and none will be taken", read.party,
    )  # fmt: skip


@app.command()
def forget_calls(yes: Yes = False, home: HomeOption = HERE) -> None:
    """Forget what is held of the coordinator's call log and what did not fit it; it is journalled."""
    from client.callhead import CallHeads, held_head, noted
    from client.offline import owner

    with owner(Home(home), started=True) as at:
        calls = CallHeads(at.store, at.journal, at.contract, time.time)
        held = held_head(at.store.rows, at.contract)
        told = [each.told() for each in noted(at.store.rows, at.contract)]
        if held is not None:
            told.append(f"is signed up to {held.head.is_of}: the proof of that goes")
        _agree(
            [f"the coordinator's call log: {text}" for text in told],
            yes,
            "Forget all of this here?",
        )
        console.say("forgotten: {}", calls.forget())


def _agree(lines: list[str], yes: bool, question: str) -> None:
    for line in lines:
        console.say("{}", line)
    if not yes:
        console.agree(question)


def _next(missing: list[str], file: Path) -> None:
    if missing:
        console.say("signed; send {} on, still to sign: {}", file, ", ".join(missing))
    else:
        console.say("signed by all; `heads apply {}` at every partner", file)


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "a time that no clock shows"


def register(parent: typer.Typer) -> None:
    """Add ``heads`` to the partner's command line."""
    parent.add_typer(app, name="heads")

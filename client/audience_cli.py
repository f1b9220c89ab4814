"""``tallystick-partner audience``: what this partner's lists are made of, frozen by hand or when due."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.home import Home
from privacy.errors import ConfigError
from protos import console

if TYPE_CHECKING:
    from client.frozen import Epoch

audience_app = console.new_app("Audiences of your own, which lists are made from.")

HomeOption = Annotated[
    Path, typer.Option("--home", envvar="TALLYSTICK_HOME", help="this partner's folder")
]
NameArgument = Annotated[str, typer.Argument(help="as partner.toml has it under [audiences.NAME]")]
HERE = Path("partner")


def register(app: typer.Typer) -> None:
    """Add the commands to the partner's."""
    app.add_typer(audience_app, name="audience")


@audience_app.command("list")
def list_audiences(home: HomeOption = HERE) -> None:
    """List the audiences of partner.toml and what of them serves now."""
    from client import freezing, frozen

    with freezing.owner(Home(home)) as at:
        rows: list[list[object]] = []
        for name in at.config.audiences:
            last = frozen.newest(at.store, name)
            if last is None:
                rows.append([name, "-", "-", "-", "never frozen"])
                continue
            left = last.uses - last.used
            state = "serves" if left and last.until > at.ledger.now() else "is over"
            rows.append([name, last.number, last.people, f"{left} of {last.uses}",
                         f"{state}, until {_day(last.until)}"])  # fmt: skip
        due = set(freezing.due(at))
    head = ["audience", "epoch", "people", "uses left", "state"]
    typer.echo(console.table(head, rows))
    for name in sorted(due):
        console.say("{} is due: `tallystick-partner audience refresh`", name)


@audience_app.command()
def freeze(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", help="freeze without asking")] = False,
    home: HomeOption = HERE,
) -> None:
    """Read the table, show what an epoch would hold and give away, and freeze it."""
    from client import freezing

    def confirm(found: freezing.Found) -> bool:
        for sentence in found.sentences():
            console.say("{}", sentence)
        return yes or typer.confirm("Freeze it?")

    with freezing.owner(Home(home)) as at:
        if freezing.freeze(at, name, confirm) is None:
            console.say("nothing was frozen")
            raise typer.Exit(1)
    console.say("frozen; a running gate uses it from now on")


@audience_app.command()
def show(name: NameArgument, home: HomeOption = HERE) -> None:
    """Show an audience's epochs: who was in, for how long, and how often each was used."""
    from client import freezing, frozen

    with freezing.owner(Home(home)) as at:
        found = [each for each in frozen.epochs(at.store) if each.audience == name]
        if not found:
            raise ConfigError(f"audiences.{name}", "was never frozen")
        recipients = at.store.rows(
            "SELECT epoch, GROUP_CONCAT(DISTINCT recipient) FROM disclosures WHERE audience = ?"
            " GROUP BY epoch",
            name,
        )
    used = {int(number): str(names) for number, names in recipients}
    rows: list[list[object]] = [
        [e.number, _day(e.time), _day(e.until), e.people, ", ".join(e.identifiers),
         f"{e.used} of {e.uses}", used.get(e.number, ""), e.commitment.hex()[:16]]
        for e in found
    ]  # fmt: skip
    head = ["epoch", "frozen", "until", "people", "by", "used", "recipients", "commitment"]
    typer.echo(console.table(head, rows))
    console.say("rule: {}", found[-1].rule or "everybody")


@audience_app.command()
def refresh(home: HomeOption = HERE) -> None:
    """Freeze what is due by its every_days; exit 1 where a last epoch goes on serving instead."""
    from client import freezing

    with freezing.owner(Home(home)) as at:
        results = freezing.refresh(at)
    for each in results:
        console.say(
            "{}: {}", each.audience, "frozen" if each.frozen else f"not frozen: {each.reason}"
        )
    if not results:
        console.say("nothing is due")
    if not all(each.frozen for each in results):
        raise typer.Exit(1)


@audience_app.command()
def lost(
    name: Annotated[str | None, typer.Argument(help="of this audience only")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="end them without asking")] = False,
    home: HomeOption = HERE,
) -> None:
    """End epochs whose files cannot be opened any more, as after the loss of the storage key."""
    from client import freezing
    from client import lost as losses

    def confirm(found: list[Epoch]) -> bool:
        for e in found:
            console.say(
                "{}, epoch {}: cannot be opened; {} people, used {} of {} times",
                e.audience, e.number, e.people, e.used, e.uses,
            )  # fmt: skip
        console.say(
            "what they were used for counts against everybody until the period is over; it cannot be undone"
        )
        return yes or typer.confirm("End them?")

    with freezing.owner(Home(home)) as at:
        if not losses.found(at, name):
            console.say("every epoch of this period can be opened")
            return
        ended = losses.end(at, confirm, name)
    if not ended:
        console.say("nothing was ended")
        raise typer.Exit(1)
    console.say("{} epoch(s) ended, as the journal says; freeze again", len(ended))


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")

"""``tallystick-partner keys`` and ``reveal``: masking keys, where the storage key lies, and the one way back
from a token."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from client.masking.options import (
    HERE,
    AsIsOption,
    EncodingOption,
    HomeOption,
    KeysOption,
    MaskedArgument,
    OutOption,
    PolicyOption,
    Purpose,
    PurposeOption,
    files_of,
    key_ring,
    store_of,
    who,
)
from privacy.errors import ConfigError
from protos import console

keys_app = console.new_app(
    "Masking keys: make, rotate, list; where the storage key lies. Keys are never shown."
)
reveal_app = console.new_app("Turn tokens back: ask, approve, open. Every use is journalled.")
KeysArgument = Annotated[str, typer.Argument(help="file:PATH, env:NAME or keyring:NAME")]


@keys_app.command("new")
def keys_new(where: KeysArgument) -> None:
    """Make a first key."""
    from client.masking.keys import KeySource

    ring = KeySource.parse(where).create(os.urandom)
    typer.echo(f"made key {ring.current.id} in {where}; back it up: tokens are lost without it")


@keys_app.command("rotate")
def keys_rotate(where: KeysArgument) -> None:
    """Make a new current key; earlier ones stay to open old tokens."""
    from client.masking.keys import KeySource

    ring = KeySource.parse(where).rotate(os.urandom)
    typer.echo(f"current key {ring.current.id}; `keys retoken` brings tables to it")


@keys_app.command("list")
def keys_list(where: KeysArgument) -> None:
    """The ids of the keys, the current one first."""
    from client.masking.keys import KeySource

    ring = KeySource.parse(where).read()
    for key_id in [ring.current.id, *(i for i in ring.keys if i != ring.current.id)]:
        typer.echo(f"{key_id}{'  current' if key_id == ring.current.id else ''}")


@keys_app.command("retoken")
def keys_retoken(
    table: MaskedArgument,
    policy: PolicyOption,
    out: OutOption,
    purpose: PurposeOption,
    keys: KeysOption = None,
    encoding: EncodingOption = "utf-8",
    as_is: AsIsOption = False,
) -> None:
    """Bring a table's tokens to the current key. HMACs have no way back: mask the table again."""
    from client.masking import policy as policies
    from client.masking import tables
    from client.masking.retoken import retoken

    rules = policies.load(policy)
    ring = key_ring(keys, rules, policy)
    if ring is None:
        raise ConfigError("key", "retoken needs a key")
    source = tables.opened(table, keys=ring, encoding=encoding, quoted=not as_is)
    rows, names = retoken(
        source, rules, purpose.value, out, keys=ring, inputs=files_of(policy, keys, rules),
        as_is=as_is,
    )  # fmt: skip
    console.say(
        "{} rows with {} under key {} into {}", rows, ", ".join(names), ring.current.id, out
    )


@keys_app.command("storage")
def keys_storage(
    to: Annotated[str, typer.Option(help="file, passphrase, credential:NAME or command")],
    command: Annotated[
        list[str] | None,
        typer.Argument(help="for command: after --, an absolute path and arguments"),
    ] = None,
    home: HomeOption = HERE,
) -> None:
    """Move the storage key, which opens what the gate keeps, away from the database it lies beside."""
    from client import storage_moves
    from client.home import Home
    from client.storage_key import PASSPHRASE_FD, PASSPHRASE_FILE, Keys, at_terminal
    from protos.toml import build

    def twice(prompt: str) -> str:
        first = at_terminal(prompt)
        if at_terminal("The same again: ") != first:
            raise ConfigError("passphrase", "was not the same twice; nothing was changed")
        return first

    partner, plain = Home(home), {"storage": to, "storage_command": list(command or [])}
    wanted = build(Keys, plain)
    given = {PASSPHRASE_FD, PASSPHRASE_FILE} & set(os.environ)
    asked = not given or partner.config().keys.storage == "passphrase"
    try:
        storage_moves.move(partner, wanted, os.urandom, ask_new=twice if asked else None)
    except ConfigError:
        if to not in ("file", "passphrase"):
            for line in storage_moves.by_hand(partner, wanted):
                console.say("{}", line, err=True)
        raise
    console.say("the storage key comes from {} now; partner.toml says so", to)


# ---------------------------------------------------------------------- reveal


@reveal_app.command("new-approver")
def reveal_new_approver(
    name: Annotated[str, typer.Argument(help="who will approve")], out: OutOption
) -> None:
    """Make an approver's key; print the line for partner.toml."""
    from client.masking import reveal

    line = reveal.new_approver(name, out, os.urandom)
    console.say("made {}; put this into partner.toml, [masking.approvers]:", out)
    typer.echo(line)


@reveal_app.command("ask")
def reveal_ask(
    table: MaskedArgument,
    policy: PolicyOption,
    out: OutOption,
    column: Annotated[str, typer.Option(help="whose tokens to turn back")],
    reason: Annotated[str, typer.Option(help="why, for the approver and the journal")],
    purpose: PurposeOption = Purpose.PARTNER_JOIN,
    hours: Annotated[int, typer.Option(min=1, max=720, help="until it expires")] = 24,
    key_id: Annotated[str | None, typer.Option(help="for FF1: the key it was done with")] = None,
    keys: KeysOption = None,
    home: HomeOption = HERE,
) -> None:
    """Write a request to turn one column of one table back, and enter it into the journal."""
    from client.home import Home
    from client.masking import policy as policies
    from client.masking import reveal, tables

    rules, partner = policies.load(policy), Home(home)
    partner.check_output(out)
    source = tables.copied(table, keys=key_ring(keys, rules, policy), quoted=True)
    request = reveal.ask(
        source, rules, column, purpose.value, reason, who(), out,
        hours=hours, now=datetime.now(UTC), randomness=os.urandom, home=partner,
        store=store_of(partner), key=key_id, inputs=files_of(policy, keys, rules),
    )  # fmt: skip
    until = f"{request.expires:%Y-%m-%d %H:%M}"
    console.say(
        "wrote {}, entry {} of the journal; it expires at {} UTC", out, request.entry, until
    )


@reveal_app.command("approve")
def reveal_approve(
    request: Annotated[Path, typer.Argument(help="the request")],
    name: Annotated[str, typer.Option(help="the approver, as in partner.toml")],
    key: Annotated[Path, typer.Option(help="the approver's key file")],
    confirmed: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Show all of a request, and sign it."""
    from client.masking import reveal

    wanted = reveal.load(request)
    console.say("{} asks for column '{}': {}", wanted.by, wanted.column, wanted.reason)
    console.say(
        "  behind it: {} of kind {}, domain {}, for {}",
        wanted.transform, wanted.kind, wanted.domain, wanted.purpose,
    )  # fmt: skip
    console.say("  table {}: {} rows, {}", wanted.table_name, wanted.rows, wanted.table)
    console.say("  policy {}: {}", wanted.policy_name, wanted.policy)
    console.say("  key {}, until {}", wanted.key or "the current one", wanted.expires)
    console.say(
        "  asked at {}, entry {} of {}'s journal", wanted.asked, wanted.entry, wanted.partner
    )
    if not confirmed:
        console.agree("Approve?")
    reveal.approve(request, name, key, datetime.now(UTC), agreed=wanted)
    console.say("approved by {}", name)


@reveal_app.command("open")
def reveal_open(
    table: MaskedArgument,
    request: Annotated[Path, typer.Option(help="the approved request")],
    policy: PolicyOption,
    out: OutOption,
    keys: KeysOption = None,
    home: HomeOption = HERE,
    as_is: AsIsOption = False,
) -> None:
    """Turn the column back, once, with a journal entry; needs the key and the approval."""
    from client.home import Home
    from client.masking import policy as policies
    from client.masking import reveal, tables

    rules = policies.load(policy)
    ring = key_ring(keys, rules, policy)
    if ring is None:
        raise ConfigError("key", "there is no way back without the key")
    source = tables.copied(table, keys=ring, quoted=not as_is)
    partner = Home(home)
    partner.check_output(out)
    rows = reveal.reveal(
        source, rules, request, out, home=partner, store=store_of(partner), keys=ring,
        now=datetime.now(UTC), inputs=files_of(policy, keys, rules), as_is=as_is,
    )  # fmt: skip
    console.say("{} rows into {}; it is in the journal", rows, out)

"""A partner that deviates, before an honest coordinator: its gate's answers are changed and signed with its
own key. Everything else is real: gates, rounds, the coordinator's drive and its store."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from protos import console, jobs, wire
from server import cli
from server.app import drive
from server.cli import submit
from server.rounds import Delivered
from server.store import JobRow, Store
from simulations.alliances import Alliance
from simulations.room import Room

Change = Callable[[wire.Request, wire.ReplyBody], wire.ReplyBody | None]
"""What a partner answers instead; None: what its gate did."""


def honest(_: wire.Request, __: wire.ReplyBody) -> None:
    """As the gate says."""


class Between:
    """A transport over a room's gates. ``change``: by partner."""

    def __init__(self, room: Room, change: Mapping[str, Change]) -> None:
        self.room, self.alliance, self.change = room, room.alliance, change

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> dict[str, Delivered]:
        answers = self.room.exchange(envelopes, timeout)
        return {name: self._changed(name, envelopes[name], d) for name, d in answers.items()}

    def _changed(self, name: str, envelope: bytes, given: Delivered) -> Delivered:
        request = wire.open_request(envelope, self.alliance.contract.coordinator_identity())
        reply = wire.parse(wire.Reply, given.reply)
        other = self.change.get(name, honest)(request, wire.parse(wire.ReplyBody, reply.body))
        if other is None:
            return given
        header = wire.parse(wire.ReplyHeader, reply.header)
        key = self.alliance.partners[name].identity()
        return Delivered(wire.seal_reply(key, header, wire.serialise(other)), 0, "", 0)


class Coordinator:
    """The honest coordinator of a room, with its own store."""

    def __init__(self, room: Room) -> None:
        self.room, self.alliance = room, room.alliance
        self.store = Store(room.alliance.coordinator.database, time.time)

    def run(self, wanted: jobs.Job, **change: Change) -> JobRow:
        """Drive one job to its end, with partners that deviate."""
        row = submit(self.alliance.coordinator, wanted)
        drive(self.alliance.coordinator, self.store, Between(self.room, change), row.id)
        return self.store.job(row.id)

    def close(self) -> None:
        self.store.close()


def restated(
    alliance: Alliance,
    name: str,
    kind: type[wire.M],
    signed: wire.Signed,
    change: Callable[[Any], Any],
) -> wire.Signed:
    """A statement of ``name``, changed and signed anew by its key."""
    said = wire.read_statement(kind, signed, alliance.contract.identity_of(name))
    change(said)
    return wire.state(alliance.partners[name].identity(), name, said)


def shown(row: JobRow, capsys: pytest.CaptureFixture[str]) -> str:
    """What ``results JOB`` prints, of which nothing may change a terminal; a result is JSON."""
    capsys.readouterr()
    code = console.run(_app(row), [])
    printed = capsys.readouterr()
    text = printed.out + printed.err
    assert all(line.isprintable() for line in text.split("\n")), text[:200]
    assert len(text) < 20_000
    if code == 0:
        json.loads(printed.out, parse_constant=_never)
    return text


def _never(text: str) -> None:
    raise AssertionError(f"{text} is no JSON")


def _app(row: JobRow) -> Any:
    app = console.new_app("shows one job")

    @app.command()
    def show() -> None:
        cli._show(row)

    return app

"""Row 23: what a partner answers ends its job at worst, with its name; the coordinator's process goes on,
what it prints is text, what it keeps is JSON, and the next job is done."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.app.metadata import Metadata
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.task_identity import TaskIdentity

from client.gate import Delivery, Gate
from client.service import GateServer
from privacy.errors import RoundFailed
from protos import jobs, wire
from protos.statements import BadStatement
from protos.supervise import Child, python
from server import app
from server.app import FIELD, RECORD, GridTransport, drive
from server.cli import submit
from server.quote import quote
from server.rounds import LinkLost, PartnerFailed, Rounds
from server.store import Store
from server.tasks.figures import FAR, expected, read_figures
from server.tasks.match import LONGEST, STALLED, MatchDrive
from simulations.alliances import Alliance, create
from simulations.live import Live, free_ports
from simulations.room import Room
from tests.attacks.between import Between, Change, Coordinator, shown
from tests.attacks.hostile import count
from tests.conftest import NAMES, data_settings, job, terms, write_csv

EVIL = "shop"
SIZE: dict[str, Any] = {
    "name": "joint", "kind": "match", "epsilon": 1.0,
    "match": {"identifier": "email", "parties": [EVIL, "bank"], "result": "size"},
}  # fmt: skip
OVERLAP = {
    **SIZE, "match": {"identifier": "email", "parties": [EVIL, "bank", "telecom"], "result": "overlap",
                      "audience": "bank & telecom - shop"},
}  # fmt: skip
SUM = {**SIZE, "match": {**SIZE["match"], "result": "sum", "value": "age"}}


@pytest.fixture(scope="module")
def alliance(tmp_path_factory: pytest.TempPathFactory) -> Alliance:
    root, names = tmp_path_factory.mktemp("drive"), NAMES[:3]
    for index, name in enumerate(names):
        write_csv(root / f"{name}.csv", range(20 * index, 20 * index + 60))
    # The engine that is not compiled first.
    wanted = terms(3, {"engine": "ristretto255"}, epsilon=100.0, epsilon_per_person=100.0)
    return create(root, names, wanted, {n: data_settings(root / f"{n}.csv") for n in names})


@pytest.fixture(scope="module")
def coordinator(alliance: Alliance) -> Iterator[Coordinator]:
    with Room(alliance, patience=5.0) as room:
        made = Coordinator(room)
        yield made
        made.close()


def matched(alliance: Alliance, wanted: jobs.Job, reply: wire.MatchReply) -> Change:
    """Answers to a match without a match: what the receiver says is what counts here."""
    found = expected(wanted, alliance.contract)
    honest = [wire.Figure(name=n, value=7.0, deviation=e.deviation) for n, e in found.items()]
    if not reply.figures:
        reply.figures.extend(honest)
    return answers("match", wire.ReplyBody(match=reply))


def answers(kind: str, body: wire.ReplyBody) -> Change:
    return lambda request, _: body if request.HasField(kind) else None  # type: ignore[arg-type]


QUIET = wire.ReplyBody(match=wire.MatchReply(engine="ristretto255"))


def run_match(
    coordinator: Coordinator, plain: Mapping[str, Any], reply: wire.MatchReply,
    capsys: pytest.CaptureFixture[str], others: wire.ReplyBody = QUIET,
) -> tuple[str, str]:  # fmt: skip
    """State and what is printed, of a match in which the gates are not asked to match."""
    wanted = job(**plain)
    row = coordinator.run(
        wanted, **{EVIL: matched(coordinator.alliance, wanted, reply)},
        bank=answers("match", others), telecom=answers("match", others),
    )  # fmt: skip
    text = shown(row, capsys)
    again = coordinator.run(count(epsilon=0.05))
    assert again.state == "done", again.reason
    return row.state, text


def figure(name: str = "size", value: float = 1.0, deviation: float | None = None) -> wire.Figure:
    return wire.Figure(name=name, value=value, deviation=0.0 if deviation is None else deviation)


def test_honest_figures_are_results(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    for plain in (SIZE, SUM, OVERLAP):
        reply = wire.MatchReply(is_receiver=True, engine="ristretto255")
        state, text = run_match(coordinator, plain, reply, capsys)
        assert state == "done", text
        assert '"notes"' not in text


def own(coordinator: Coordinator, plain: Mapping[str, Any]) -> dict[str, float]:
    return {
        n: e.deviation for n, e in expected(job(**plain), coordinator.alliance.contract).items()
    }


BAD_FIGURES: dict[str, Callable[[float], list[wire.Figure]]] = {
    "none, but another": lambda d: [figure("sum", 1.0, d)],
    "infinite": lambda d: [figure("size", float("inf"), d)],
    "no number": lambda d: [figure("size", float("nan"), d)],
    "noise that is no number": lambda d: [figure("size", 1.0, float("nan"))],
    "infinite noise": lambda d: [figure("size", 1.0, float("inf"))],
    "no noise": lambda d: [figure("size", 1.0, 0.0)],
    "noise below none": lambda d: [figure("size", 1.0, -d)],
    "twice the noise": lambda d: [figure("size", 1.0, 2 * d)],
    "1e308": lambda d: [figure("size", 1e308, d)],
    "far below none": lambda d: [figure("size", -1e9, d)],
    "twice": lambda d: [figure("size", 1.0, d), figure("size", 2.0, d)],
    "one too many": lambda d: [figure("size", 1.0, d), figure("\x1b[2J", 2.0, d)],
    "a name that turns the line": lambda d: [figure("size\u202e\u009b2J", 1.0, d)],
    "fifty of them": lambda d: [figure(f"size {i}", 1.0, d) for i in range(50)],
    "a hundred thousand": lambda d: [figure("size", 1.0, d)] * 100_000,
}


@pytest.mark.parametrize("what", BAD_FIGURES)
def test_a_figure_that_no_match_has_fails_it_with_the_receivers_name(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    figures = BAD_FIGURES[what](own(coordinator, SIZE)["size"])
    reply = wire.MatchReply(is_receiver=True, engine="ristretto255", figures=figures)
    state, text = run_match(coordinator, SIZE, reply, capsys)
    assert state == "failed"
    assert EVIL in text
    assert "bank" not in text


ENGINES = {
    "escapes": "\u009b31m\u202eok\x7f\x1b]0;x\x07",
    "40 MB": "e" * (40 << 20),
    "none": "",
    "another": "x",
}


@pytest.mark.parametrize("what", ENGINES)
def test_an_engine_is_one_that_exists(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str], what: str
) -> None:
    reply = wire.MatchReply(is_receiver=True, engine=ENGINES[what])
    state, text = run_match(coordinator, OVERLAP, reply, capsys)
    assert (state, EVIL in text, "bank" in text) == ("failed", True, False)
    assert coordinator.alliance.coordinator.database.stat().st_size < 1 << 20


def test_who_says_that_it_received_too_is_named(
    coordinator: Coordinator, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = job(**{**SIZE, "match": {**SIZE["match"], "parties": ["bank", EVIL]}})
    quiet = wire.MatchReply(is_receiver=True, engine="ristretto255")
    row = coordinator.run(
        wanted, bank=matched(coordinator.alliance, wanted, quiet),
        **{EVIL: answers("match", wire.ReplyBody(match=wire.MatchReply(is_receiver=True)))},
    )  # fmt: skip
    assert row.state == "failed"
    assert EVIL in row.reason
    assert "bank" not in row.reason


def test_the_size_that_one_party_told_another_accuses_neither(coordinator: Coordinator) -> None:
    """In an overlap each party tells the receiver its own size, under a key that only they have."""
    wanted, contract = job(**OVERLAP), coordinator.alliance.contract
    found = expected(wanted, contract)
    figures = [figure(n, 1e18 if n == "size bank" else 1.0, e.deviation) for n, e in found.items()]
    with pytest.raises(RoundFailed, match=f"the size bank, as {EVIL} was told it") as caught:
        read_figures(wanted, contract, wire.MatchReply(figures=figures))
    assert not isinstance(caught.value, PartnerFailed)
    for other in figures:
        other.value = 1e18 if other.name == f"size {EVIL}" else 1.0
    with pytest.raises(BadStatement):
        read_figures(wanted, contract, wire.MatchReply(figures=figures))


def test_the_noise_of_a_figure_is_what_the_quote_says(coordinator: Coordinator) -> None:
    """An independent sum: the deviations that a quote shows are those that a result must have."""
    contract = coordinator.alliance.contract
    for plain in (SIZE, SUM):
        price = quote(job(**plain), contract)
        assert own(coordinator, plain) == pytest.approx(price.errors)
    for name, bound in expected(job(**SUM), contract).items():
        assert bound.low < -FAR * bound.deviation < FAR * bound.deviation < bound.high, name


def test_a_real_match_is_within_the_bounds(coordinator: Coordinator) -> None:
    """Names, noise and engine as the gates make them, and nobody between."""
    for plain in (SIZE, SUM, OVERLAP):
        row = coordinator.run(job(**plain))
        assert row.state == "done", row.reason
        assert "notes" not in row.stats


@pytest.mark.parametrize("code", ["protocol", "unavailable"])
def test_a_refusal_in_a_match_is_told_with_those_whose_messages_it_judged(
    coordinator: Coordinator, code: str
) -> None:
    """What a peer sends goes through a sealed channel: the gate that refuses need not be at fault."""
    refuse = answers("match", wire.ReplyBody(refusal=wire.Refusal(code=code)))
    row = coordinator.run(job(**SIZE), bank=refuse)
    assert row.state == "failed"
    assert row.reason.startswith(f"bank refused: {code}")
    assert row.reason.endswith(f"in a match a gate judges what others send it, here {EVIL}")


def test_a_list_has_no_figures(alliance: Alliance) -> None:
    plain = {
        **SIZE,
        "epsilon": 0.0,
        "match": {**SIZE["match"], "result": "list", "parties": ["bank", EVIL]},
    }
    assert expected(job(**plain), alliance.contract) == {}
    reply = wire.MatchReply(figures=[figure()])
    with pytest.raises(BadStatement, match="other figures"):
        read_figures(job(**plain), alliance.contract, reply)


# ---------------------------------------------------------------------- progress


class Late(Between):
    """A transport on which time passes; ``change`` as before."""

    step = 30.0

    def __init__(self, room: Room, now: list[float], change: Mapping[str, Change]) -> None:
        super().__init__(room, change)
        self.now = now

    def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> Any:
        self.now[0] += self.step
        return super().exchange(envelopes, timeout)


def working(done: Callable[[], int], total: int = 1 << 30) -> Change:
    def change(request: wire.Request, _: wire.ReplyBody) -> wire.ReplyBody | None:
        if not request.HasField("match"):
            return None
        return wire.ReplyBody(working=wire.Working(done=done(), total=total))

    return change


def late_match(alliance: Alliance, now: list[float], **change: Change) -> RoundFailed:
    started = now[0]
    with Room(alliance, clock=lambda: now[0]) as room:
        wanted, salt = job(**SIZE), bytes(16)
        job_id = jobs.job_id(alliance.contract.digest(), wanted.canonical(), salt + b"")
        rounds = Rounds(
            Late(room, now, change), alliance.contract, alliance.coordinator.identity(), job_id,
            randomness=room.randomness, clock=lambda: now[0], sleep=lambda s: None,
        )  # fmt: skip
        with pytest.raises(RoundFailed) as caught:
            MatchDrive(rounds, wanted, salt).run()
    now.append(now[0] - started)
    return caught.value


DONE = answers("match", QUIET)


@pytest.mark.parametrize("answered", ["bank", "shop"])
def test_a_match_that_stalls_ends_within_the_hour_and_accuses_nobody(
    make_alliance: Callable[..., Alliance], answered: str
) -> None:
    """Who has answered here may still send its peer nothing: it is told of like the one that waits."""
    now, other = [time.time()], {"bank": "shop", "shop": "bank"}[answered]
    change = {other: working(lambda: 1), answered: DONE}
    failed = late_match(make_alliance(), now, **change)
    assert not isinstance(failed, PartnerFailed)
    assert f"no progress for 30 minutes: {other} at 1 of" in str(failed)
    assert f"{answered} has answered here; each may be waiting for another" in str(failed)
    assert STALLED < now[1] < 2 * STALLED


def test_where_both_stand_still_nobody_is_accused(make_alliance: Callable[..., Alliance]) -> None:
    now = [time.time()]
    failed = late_match(make_alliance(), now, shop=working(lambda: 1), bank=working(lambda: 9))
    assert not isinstance(failed, PartnerFailed)
    assert "shop at 1 of" in str(failed)
    assert "bank at 9 of" in str(failed)
    assert "may be waiting for another" in str(failed)


def test_who_is_silent_is_named_while_another_says_that_it_works(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance, now, steps = make_alliance(), [time.time()], iter(range(10**6))

    class Gone(Late):
        def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> Any:
            found = super().exchange(envelopes, timeout)
            asked = wire.open_request(
                next(iter(envelopes.values())), alliance.contract.coordinator_identity()
            )
            return {n: d for n, d in found.items() if n != EVIL or not asked.HasField("match")}

    with Room(alliance, clock=lambda: now[0]) as room:
        wanted, salt, started = job(**SIZE), bytes(16), now[0]
        job_id = jobs.job_id(alliance.contract.digest(), wanted.canonical(), salt)
        change = {"bank": working(lambda: next(steps)), EVIL: DONE}
        rounds = Rounds(
            Gone(room, now, change), alliance.contract, alliance.coordinator.identity(), job_id,
            randomness=room.randomness, clock=lambda: now[0], sleep=lambda s: None,
        )  # fmt: skip
        with pytest.raises(RoundFailed, match=f"no answer from {EVIL} for 600 s") as caught:
            MatchDrive(rounds, wanted, salt).run()
        assert "bank" not in str(caught.value)
        assert now[0] - started < 900


def test_a_match_that_gets_on_goes_on_for_a_day_and_no_longer(
    make_alliance: Callable[..., Alliance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Late, "step", 400.0)
    now, steps = [time.time()], iter(range(10**6))
    failed = late_match(make_alliance(), now, shop=working(lambda: next(steps)), bank=DONE)
    assert not isinstance(failed, PartnerFailed)
    assert "no end after 24 hours: shop at" in str(failed)
    assert "bank has answered here" in str(failed)
    assert LONGEST < now[1] < LONGEST + 2000


@pytest.mark.parametrize("said", [(2**64 - 1, 2**64 - 1), (1, 2**63), (2**63, 1)])
def test_progress_is_bounded(coordinator: Coordinator, said: tuple[int, int]) -> None:
    """A number of 64 bits is none that the store takes."""
    body = wire.ReplyBody(working=wire.Working(done=said[0], total=said[1]))
    row = coordinator.run(job(**SIZE), **{EVIL: answers("match", body)}, bank=DONE)
    assert row.state == "failed"
    assert EVIL in row.reason
    assert "progress" in row.reason


def test_more_done_than_there_is_is_all_of_it(coordinator: Coordinator) -> None:
    """A gate between two stages says so."""
    steps = iter([wire.Working(done=9, total=5), wire.Working(done=0, total=0)])

    def change(request: wire.Request, body: wire.ReplyBody) -> wire.ReplyBody | None:
        said = next(steps, None) if request.HasField("match") else None
        return None if said is None else wire.ReplyBody(working=said)

    row = coordinator.run(job(**SIZE), **{EVIL: change})
    assert row.state == "done", row.reason
    assert (row.done, row.planned) == (5, 5)


# ---------------------------------------------------------------------- whatever else goes wrong


def test_any_exception_fails_the_job_without_its_text(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: Store, job_id: str, done: int, planned: int | None = None) -> None:
        raise OverflowError("user7@example.com \x1b[2J")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "progress", broken)
        row = coordinator.run(count(epsilon=0.05))
    assert row.state == "failed"
    assert "OverflowError at" in row.reason
    assert "user7" not in shown(row, capsys)
    assert coordinator.run(count(epsilon=0.05)).state == "done"


@pytest.mark.parametrize(
    "error", [ValueError, MemoryError, UnicodeDecodeError, KeyError, RecursionError]
)
def test_an_exception_over_a_reply_names_its_partner(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    made = (
        error("utf-8", b"secret", 0, 1, "secret")
        if error is UnicodeDecodeError
        else error("secret")
    )

    def broken(asked: Any, party: str, signed: wire.Signed) -> Any:
        if party == EVIL:
            raise made
        return SimpleNamespace()

    with monkeypatch.context() as patch:
        patch.setattr("protos.statements.read_sealing_key", broken)
        row = coordinator.run(count(epsilon=0.05))
    assert row.state == "failed"
    assert f"a reply of {EVIL} could not be dealt with: {error.__name__} at" in row.reason
    assert "secret" not in row.reason
    assert coordinator.run(count(epsilon=0.05)).state == "done"


def test_numbers_that_are_none_never_become_json(coordinator: Coordinator) -> None:
    row = submit(coordinator.alliance.coordinator, count(epsilon=0.05))
    for value in (float("nan"), float("inf"), [float("-inf")]):
        with pytest.raises(RoundFailed, match="finite"):
            coordinator.store.end(row.id, "done", {"size": value})
        with pytest.raises(RoundFailed, match="finite"):
            coordinator.store.add_stats(row.id, {"seconds": value})
        with pytest.raises(RoundFailed, match="finite"):
            coordinator.store.keep_model("m", row.id, b"", {"weights": value})
    assert coordinator.store.job(row.id).state == "queued"
    coordinator.store._run("UPDATE jobs SET result = ?, state = 'done' WHERE id = ?",
                           '{"size": Infinity, "deviation": NaN}', row.id)  # fmt: skip
    assert coordinator.store.job(row.id).result == {"size": None, "deviation": None}


def test_an_expired_contract_fails_the_job_and_the_queue_goes_on(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = submit(coordinator.alliance.coordinator, count(epsilon=0.05))
    from privacy.errors import ConfigError
    from server.home import Home

    def expired(self: Home) -> None:
        raise ConfigError("expires", "the contract expired on 2035-01-01")

    with monkeypatch.context() as patch:
        patch.setattr(Home, "contract", expired)
        drive(coordinator.alliance.coordinator, coordinator.store, None, row.id)
    assert coordinator.store.job(row.id).reason == "expires: the contract expired on 2035-01-01"


def test_a_lost_link_is_no_failure_of_the_job(coordinator: Coordinator) -> None:
    """Another process goes on with it."""

    class Lost:
        def exchange(self, envelopes: Mapping[str, bytes], timeout: float) -> Any:
            raise LinkLost("gone")

    row = submit(coordinator.alliance.coordinator, count(epsilon=0.05))
    with pytest.raises(LinkLost):
        drive(coordinator.alliance.coordinator, coordinator.store, Lost(), row.id)
    assert coordinator.store.job(row.id).state == "running"
    drive(
        coordinator.alliance.coordinator, coordinator.store, Between(coordinator.room, {}), row.id
    )
    assert coordinator.store.job(row.id).state == "done"


def test_failed_jobs_do_not_fill_the_gates(coordinator: Coordinator) -> None:
    """A gate has room for eight open jobs: those that a partner spoilt do not stay among them."""
    refuse = answers("prepare", wire.ReplyBody(refusal=wire.Refusal(code="policy")))
    spoil = answers("release", wire.ReplyBody(masked=wire.MaskedReply()))
    for number in range(12):
        row = coordinator.run(count(epsilon=0.01), **{EVIL: refuse if number % 2 else spoil})
        assert row.state == "failed"
        assert EVIL in row.reason
    assert coordinator.run(count(epsilon=0.01)).state == "done"


def test_a_failed_job_can_be_cancelled_and_the_gates_hear_of_it(coordinator: Coordinator) -> None:
    refuse = answers("release", wire.ReplyBody(refusal=wire.Refusal(code="failed")))
    row = coordinator.run(count(epsilon=0.01), **{EVIL: refuse})
    bank = coordinator.room.gates["bank"]

    def state() -> str:
        found = bank.store.row("SELECT state FROM jobs WHERE id = ?", row.id)
        return str(found[0]) if found else ""

    assert (row.state, state()) == ("failed", "open")  # `resume` may go on with it
    names = row.job().participants(coordinator.alliance.contract)
    coordinator.store.cancel_failed(row.id, names)
    assert coordinator.store.job(row.id).state == "cancelled"
    assert coordinator.run(count(epsilon=0.01)).state == "done"
    assert state() == "cancelled"
    assert coordinator.store.untold() == []


# ---------------------------------------------------------------------- Flower's objects


class Grid:
    """Flower's grid for three nodes; what ``spoilt`` nodes answer is inflated as Flower does it. As the link
    does, it hands a reply out once."""

    def __init__(self, spoilt: Mapping[int, Any]) -> None:
        self.spoilt, self.sent, self.pulls = spoilt, {}, []
        self.down = False

    def push_messages(self, messages: list[Message]) -> list[str]:
        for message in messages:
            self.sent[f"{len(self.sent)}"] = message.metadata.dst_node_id
        return list(self.sent)[-len(messages) :]

    def pull_messages(self, ids: list[str]) -> list[Message]:
        self.pulls.append(list(ids))
        if self.down:
            raise ConnectionError("gone")
        found = {i: self.sent.pop(i) for i in ids if i in self.sent}
        return [self._reply(i, node) for i, node in found.items()]

    def _reply(self, question: str, node: int) -> Message:
        content = self.spoilt.get(node, b"reply")
        metadata = Metadata(
            run_id=1, message_id="", src_node_id=node, dst_node_id=1, reply_to_message_id=question,
            group_id="", created_at=time.time(), ttl=60.0, message_type="query.tallystick",
        )  # fmt: skip
        if isinstance(content, Error):
            return Message(content, metadata=metadata)
        if isinstance(content, dict):
            first = next(iter(content))
            made = inflate_object_from_contents(first, dict(content))
            assert isinstance(made, Message)
            return made
        record = content if isinstance(content, RecordDict) else RecordDict(
            {RECORD: ConfigRecord({FIELD: content})}
        )  # fmt: skip
        return Message(record, metadata=metadata)


def object_of(data: bytes) -> dict[str, bytes]:
    return {hashlib.sha256(data).hexdigest(): data}


SPOILT: dict[str, Any] = {
    "no object": object_of(b"\xff\xff"),
    "an object of an unknown class": object_of(b"Nothing  3\0abc"),
    "a message of rubbish": object_of(b"Message  3\0abc"),
    "a child that is not there": object_of(b"RecordDict " + b"0" * 64 + b" 2\0{}"),
    "a list of text": object_of(b"ConfigRecord  4\0\xff\xff\xff\xff"),
    "another record": RecordDict({"other": ConfigRecord({FIELD: b"x"})}),
    "two records": RecordDict(
        {RECORD: ConfigRecord({FIELD: b"x"}), "b": ConfigRecord({FIELD: b"x"})}
    ),
    "another field": RecordDict({RECORD: ConfigRecord({"other": b"x"})}),
    "two fields": RecordDict({RECORD: ConfigRecord({FIELD: b"x", "b": b"y"})}),
    "a number": RecordDict({RECORD: ConfigRecord({FIELD: 7})}),
    "nothing": RecordDict({}),
}


def transport(grid: Grid) -> GridTransport:
    def look() -> dict[str, int]:
        if grid.down:
            raise ConnectionError("gone")
        return {"bank": 11, EVIL: 12, "telecom": 13}

    return GridTransport(grid, 1, look)  # type: ignore[arg-type]


ASKED = {"bank": b"a", EVIL: b"b", "telecom": b"c"}


@pytest.fixture
def in_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a ServerApp's process, without its pauses."""
    for name in ("_run_id", "_node_id", "_task_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    monkeypatch.setattr(app, "FIRST_LOOK", 0.0)


@pytest.mark.parametrize("what", SPOILT)
def test_a_malformed_flower_object_is_its_partners_and_nobody_elses(
    what: str, in_a_run: None
) -> None:
    line = transport(Grid({12: SPOILT[what]}))

    def ask() -> None:
        for _ in range(2):  # what was pulled along with it is asked for again
            assert EVIL not in line.exchange(ASKED, 5.0)

    with pytest.raises(PartnerFailed) as caught:
        ask()
    assert caught.value.partner == EVIL
    assert "bank" not in str(caught.value)
    assert str(caught.value).isprintable()


def test_the_others_are_answered_once_it_is_known_whose_reply_cannot_be_read(
    in_a_run: None,
) -> None:
    grid = Grid({12: SPOILT["no object"]})
    line = transport(grid)
    assert line.exchange(ASKED, 5.0) == {}
    assert set(line.exchange({"bank": b"a", "telecom": b"c"}, 5.0)) == {"bank", "telecom"}
    assert [len(ids) for ids in grid.pulls] == [3, 1, 1]
    honest = transport(Grid({}))
    assert set(honest.exchange(ASKED, 5.0)) == set(ASKED)


def test_an_error_of_flower_is_a_node_that_is_gone(in_a_run: None) -> None:
    line = transport(Grid({12: Error(1, "gone")}))
    assert set(line.exchange(ASKED, 5.0)) == {"bank", "telecom"}


def test_a_link_that_is_gone_blames_nobody(in_a_run: None) -> None:
    grid = Grid({})
    line = transport(grid)
    assert set(line.exchange(ASKED, 5.0)) == set(ASKED)
    grid.down = True
    with pytest.raises(LinkLost):
        line.exchange(ASKED, 5.0)


def test_what_is_kept_is_json_for_everybody(coordinator: Coordinator) -> None:
    def never(text: str) -> None:
        raise AssertionError(text)

    rows = coordinator.store._run("SELECT stats, result FROM jobs")
    for stats, result in rows:
        json.loads(stats, parse_constant=never)
        if result and "Infinity" not in result:  # planted above
            json.loads(result, parse_constant=never)
    assert Path(coordinator.alliance.coordinator.database).stat().st_size < 2 << 20


# ---------------------------------------------------------------------- real processes


class Deviating:
    """A gate whose answers are changed, for its socket."""

    def __init__(self, gate: Gate, alliance: Alliance) -> None:
        self.gate, self.alliance = gate, alliance
        self.change: Change = lambda request, body: None

    def handle(self, envelope: bytes, delivery: Delivery) -> bytes:
        data = self.gate.handle(envelope, delivery)
        reply = wire.parse(wire.Reply, data)
        request = wire.open_request(envelope, self.alliance.contract.coordinator_identity())
        other = self.change(request, wire.parse(wire.ReplyBody, reply.body))
        if other is None:
            return data
        header = wire.parse(wire.ReplyHeader, reply.header)
        return wire.seal_reply(self.gate.identity, header, wire.serialise(other))


class Node(Child):
    """A partner's node that nobody starts again: it waits for the link."""

    port = 0

    def start(self) -> None:
        deadline = time.monotonic() + 60.0
        while time.monotonic() < deadline:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1.0),
            ):
                break
            time.sleep(0.2)
        time.sleep(1.0)
        super().start()


@pytest.mark.slow
def test_the_real_coordinator_works_off_its_queue(make_alliance: Callable[..., Alliance]) -> None:
    """Link, worker, nodes and the other gates are processes; one partner's gate deviates job by job."""
    link, exchange, internal = free_ports(3)
    alliance = make_alliance(
        ports=(link, exchange, internal), epsilon=50.0, epsilon_per_person=50.0
    )
    home = alliance.partners[EVIL]
    gate = Gate(home, randomness=os.urandom, clock=time.time)
    evil = Deviating(gate, alliance)
    server = GateServer(evil, home.socket)  # type: ignore[arg-type]
    server.start()
    live = Live(alliance)
    Node.port = link
    live.partners[EVIL] = Node(
        "node", python("client.node", str(home.root)), home.state / "node.log"
    )
    high = wire.JournalHead(
        contract=alliance.contract.digest(), sequence=2**63 - 1, digest=bytes(32)
    )
    bad_head = answers(
        "finish",
        wire.ReplyBody(finish=wire.FinishReply(head=wire.state(gate.identity, EVIL, high))),
    )
    endless = answers(
        "hello", wire.ReplyBody(working=wire.Working(done=2**64 - 1, total=2**64 - 1))
    )
    fat = answers("hello", wire.ReplyBody(hello=wire.Signed(party=EVIL, body=bytes(2 << 20))))
    spoilt = answers("hello", wire.ReplyBody(masked=wire.MaskedReply()))
    try:
        with live:
            live.ready()
            for change, state in (
                (bad_head, "done"),
                (endless, "failed"),
                (fat, "failed"),
                (spoilt, "failed"),
            ):
                evil.change = change
                row = live.wait(submit(alliance.coordinator, count(epsilon=0.1)).id, 60.0)
                assert (row.state, row.starts) == (state, 1), (change, row.reason)
                told = row.reason + " ".join(row.stats.get("notes", []))
                assert EVIL in told
                assert "bank" not in told
            evil.change = lambda request, body: None
            assert live.run(count(epsilon=0.1), patience=60.0).starts == 1
    finally:
        server.stop()
        gate.close()

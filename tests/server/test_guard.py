"""What stands before the link's and the exchange's ports: who is let in, in which order, with how much."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import socket
from base64 import b64encode
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import create_superexec_auth_metadata, derive_auth_secret
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from protos import supervise
from protos.files import open_private
from server import guard
from server.call_plugin import OTHER, CallPlugin, Lines
from server.credentials import Insiders, Nodes
from server.guard import LARGEST_QUESTION, SMALL, Guard, Pace, largest_answer
from server.http import VISIT
from server.loglimit import MOST, Limit
from server.once import SIGNED_FOR, Once
from server.ports import GRACE, Limits, Port, Visit, fit

NOW = datetime(2030, 1, 1, tzinfo=UTC)
PUSH, POLL = "/v1/fleet/push-object", "/v1/fleet/pull-messages"


# ---------------------------------------------------------------------- connections


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def port(strangers: int = 3, each: int = 2) -> tuple[Port, Clock, list[str]]:
    clock: Clock = Clock()
    return Port("test", socket.socket(), Limits(strangers, each), clock), clock, []


def come(at: Port, gone: list[str], name: str, address: str = "a") -> Visit:
    return at.enter(address, lambda: gone.append(name))


def test_the_oldest_stranger_goes_and_nobody_known() -> None:
    at, _, gone = port()
    known = come(at, gone, "bank")
    known.show("bank")
    for name in ("one", "two", "three"):
        come(at, gone, name)
    assert gone == []
    come(at, gone, "four")
    come(at, gone, "five")
    assert gone == ["one", "two"]
    at.close()


def test_the_address_with_most_strangers_gives_way() -> None:
    at, _, gone = port()
    come(at, gone, "elsewhere", "b")
    for number in range(9):
        come(at, gone, str(number))
    assert "elsewhere" not in gone
    assert len(gone) == 7
    at.close()


def test_a_stranger_has_a_moment_before_it_can_be_dropped() -> None:
    at, clock, gone = port(strangers=1)
    assert at.patience() == 0.0
    come(at, gone, "one")
    assert at.patience() == pytest.approx(GRACE)
    clock.now += GRACE
    assert at.patience() == 0.0
    at.close()


def test_a_key_has_so_many_connections_and_keeps_those_it_has() -> None:
    at, _, gone = port()
    visits = [come(at, gone, str(number)) for number in range(3)]
    assert [visit.show("bank") for visit in visits] == [True, True, False]
    assert gone == []
    assert [visit.who for visit in visits] == ["bank", "bank", ""]  # the last is a stranger still
    assert come(at, gone, "other").show("shop")
    assert not visits[0].show("shop")  # a connection is one key's
    assert visits[0].show("bank")
    at.leave(visits[1])
    assert visits[2].show("bank")
    at.close()


def test_who_was_dropped_cannot_come_back_by_showing_a_key() -> None:
    at, _, gone = port(strangers=1)
    first = come(at, gone, "one")
    come(at, gone, "two")
    assert not first.show("bank")
    assert [visit.who for visit in at.visits()] == [""]
    at.close()


@pytest.mark.parametrize("available", [40, 400, 4000])
@pytest.mark.parametrize("keys", [2, 5, 200])
def test_limits_fit_the_descriptors_or_are_the_least(available: int, keys: int) -> None:
    fitted = fit(Limits(128, 16), keys, available)
    assert fitted.strangers <= 128
    assert fitted.each <= 16
    assert fitted.most(keys) <= max(available, fitted.strangers + 2 * keys)


# ---------------------------------------------------------------------- requests


KIND = {"content-type": "application/protobuf"}


class Call:
    """One request to a guard: what it was answered, and how much of its body was read."""

    def __init__(self, path: str, headers: dict[str, str], pieces: list[bytes]) -> None:
        self.scope: dict[str, Any] = {
            "type": "http",
            "path": path,
            "headers": [(k.encode(), v.encode()) for k, v in (KIND | headers).items()],
        }
        self.pieces, self.read, self.status, self.headers = pieces, 0, 0, {}
        self.body = b""

    async def receive(self) -> Any:
        piece = self.pieces.pop(0)
        self.read += len(piece)
        return {"type": "http.request", "body": piece, "more_body": bool(self.pieces)}

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message["body"]

    async def to(self, guarded: Guard) -> Call:
        await guarded(self.scope, self.receive, self.send)
        return self


def by_name(path: str, headers: Any) -> str | None:
    return {b"x": None}.get(
        dict(headers).get(b"who", b"x"), dict(headers).get(b"who", b"").decode()
    )


def app_of(seen: list[bytes], wait: Callable[[], Awaitable[Any]] | None = None) -> Any:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message["more_body"]
        seen.append(message["body"])
        if wait is not None:
            await wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x" * 200_000})

    return app


def push(size: int, who: str = "bank", **headers: str) -> Call:
    return Call(PUSH, {"who": who, "content-length": str(size), **headers}, [bytes(size)])


def test_no_byte_of_a_body_is_read_before_its_sender_is_known() -> None:
    seen: list[bytes] = []
    for headers in ({"content-length": str(4 * 10**9)}, {"transfer-encoding": "chunked"}):
        call = Call(PUSH, headers, [b"x"])
        asyncio.run(call.to(Guard(app_of(seen), by_name, objects=1000)))
        assert (call.status, call.read, call.headers[b"connection"]) == (401, 0, b"close")
    assert seen == []


@pytest.mark.parametrize(
    ("path", "headers", "status", "most"),
    [
        (PUSH, {"content-length": "100001"}, 413, 0),
        (POLL, {"content-length": str(SMALL + 1)}, 413, 0),
        ("/health", {"content-length": "1"}, 413, 0),
        (PUSH, {"content-length": "-1"}, 413, 0),
        (PUSH, {"content-length": "1" * 40}, 413, 0),
        (PUSH, {"content-length": "5", "transfer-encoding": "chunked"}, 413, 0),
        (PUSH, {"transfer-encoding": "chunked"}, 413, 110_000),
        (PUSH, {"content-length": "5"}, 413, 110_000),  # more than was claimed
    ],
)
def test_a_body_is_as_long_as_its_path_allows(
    path: str, headers: dict[str, str], status: int, most: int
) -> None:
    seen: list[bytes] = []
    call = Call(path, {"who": "bank", **headers}, [bytes(10_000)] * 200)
    asyncio.run(call.to(Guard(app_of(seen), by_name, objects=100_000)))
    assert call.status == status
    assert call.read <= most
    assert seen == []


def test_what_is_allowed_arrives_whole_and_so_does_the_answer() -> None:
    seen: list[bytes] = []
    call = Call(PUSH, {"who": "bank", "transfer-encoding": "chunked"}, [b"a" * 70_000, b"b"])
    asyncio.run(call.to(Guard(app_of(seen), by_name, objects=100_000)))
    assert call.status == 200
    assert seen == [b"a" * 70_000 + b"b"]
    assert call.body == b"x" * 200_000


def test_one_callers_large_bodies_go_one_after_the_other_and_hold_up_nobody() -> None:
    seen: list[bytes] = []

    async def main() -> None:
        done = asyncio.Event()
        guarded = Guard(app_of(seen, done.wait), by_name, objects=100_000)
        calls = [push(80_000) for _ in range(9)]
        tasks = [asyncio.create_task(call.to(guarded)) for call in calls]
        small = asyncio.create_task(push(10, "shop").to(guarded))
        for _ in range(20):
            await asyncio.sleep(0)
        assert [len(body) for body in seen] == [80_000, 10]
        assert sum(call.read for call in calls) == 80_000  # nobody else's is in memory
        assert (
            sorted(call.status for call in calls) == [0] * 5 + [503] * 4
        )  # one, and four that wait
        done.set()
        await asyncio.gather(*tasks, small)
        assert sorted(call.status for call in calls) == [200] * 5 + [503] * 4

    asyncio.run(main())


def test_all_callers_bodies_together_take_two_of_the_largest() -> None:
    seen: list[bytes] = []

    async def main() -> None:
        done = asyncio.Event()
        guarded = Guard(app_of(seen, done.wait), by_name, objects=100_000)
        calls = [push(100_000, who) for who in ("bank", "shop", "telecom", "insurer")]
        tasks = [asyncio.create_task(call.to(guarded)) for call in calls]
        for _ in range(20):
            await asyncio.sleep(0)
        assert sum(call.read for call in calls) == 200_000
        assert len(seen) == 1  # and one at a time is parsed
        done.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())


def test_those_who_claim_the_largest_and_send_nothing_keep_nobody_waiting() -> None:
    seen: list[bytes] = []

    async def never() -> Any:
        await asyncio.sleep(30)

    async def main() -> None:
        guarded = Guard(app_of(seen), by_name, objects=100_000, callers=3)
        silent = [push(100_000, who) for who in ("shop", "telecom")]
        for call in silent:
            call.receive = never  # type: ignore[method-assign]
        tasks = [asyncio.create_task(call.to(guarded)) for call in silent]
        await asyncio.sleep(0)
        assert (await push(100_000).to(guarded)).status == 200
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())


def test_a_large_body_has_to_come_at_a_rate_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "START", 0.05)

    async def drips() -> Any:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    call = push(90_000)
    call.receive = drips  # type: ignore[method-assign]
    asyncio.run(call.to(Guard(app_of([]), by_name, objects=100_000)))
    assert call.status == 408


def test_who_calls_too_often_waits_and_is_refused_at_last() -> None:
    clock = Clock()
    pace = Pace(rate=10.0, burst=20.0, clock=clock)
    assert [pace.turn("bank") for _ in range(20)] == [0.0] * 20
    assert pace.turn("bank") == pytest.approx(0.1)
    turns = [pace.turn("bank") for _ in range(100)]
    assert turns[48] == pytest.approx(guard.LONGEST_TURN)
    assert set(turns[49:]) == {None}
    assert pace.turn("shop") == 0.0
    clock.now += 1.0
    assert pace.turn("bank") == pytest.approx(guard.LONGEST_TURN - 0.9)
    clock.now += 100.0
    assert pace.turn("bank") == 0.0


def test_who_is_paced_gets_a_status_and_no_place_in_the_application() -> None:
    seen: list[bytes] = []
    pace = Pace(rate=0.001, burst=1.0)
    guarded = Guard(app_of(seen), by_name, objects=1000, pace=pace)
    asyncio.run(push(10).to(guarded))
    call = asyncio.run(push(10).to(guarded))
    assert (call.status, call.read, len(seen)) == (429, 0, 1)


@pytest.mark.parametrize(
    "kind",
    ["", "text/plain", "application/protobuf; charset=x", "APPLICATION/PROTOBUF", "z" * 14_000],
)
def test_a_body_is_of_flowers_kind_to_the_letter(kind: str) -> None:
    call = push(10, **{"content-type": kind})
    asyncio.run(call.to(Guard(app_of([]), by_name, objects=1000)))
    assert (call.status, call.read) == (415, 0)


def test_a_path_without_a_body_is_answered_without_waiting_for_one() -> None:
    async def never() -> Any:
        raise AssertionError

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await guard.refuse(send, 200)

    for headers, status in (({}, 200), ({"transfer-encoding": "chunked"}, 413)):
        call = Call("/health", headers, [])
        call.receive = never  # type: ignore[method-assign]
        asyncio.run(call.to(Guard(app, lambda path, headers: "", objects=1000)))
        assert call.status == status


def test_a_signature_opens_one_call_until_flower_would_not_take_it() -> None:
    clock, key = Clock(), ec.generate_private_key(ec.SECP384R1())
    once, headers = Once(clock), signed(key)
    assert once("bank", headers)
    assert not once("bank", headers)
    assert once("bank", signed(key))
    assert not once("bank", [*headers, *headers])
    assert not once("bank", [])
    assert not once("bank", [(b"flwr-signature", b"AAAA")])
    clock.now += SIGNED_FOR + 1.0
    assert once("bank", headers)
    calls: list[bytes] = []
    guarded = Guard(app_of(calls), by_name, objects=1000, spend=lambda who, headers: not calls)
    assert [asyncio.run(push(10).to(guarded)).status for _ in range(2)] == [200, 401]


# ---------------------------------------------------------------------- what callers cause to be written


def test_log_lines_of_a_logger_are_so_many_a_minute_and_the_rest_is_counted() -> None:
    clock, stream = Clock(), io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(Limit(handler, clock))

    def say(name: str, number: int) -> None:
        for _ in range(number):
            handler.handle(logging.makeLogRecord({"name": name, "msg": "refused"}))

    say("link", 1000)
    say("other", 1)
    assert stream.getvalue().count("refused") == MOST + 1
    clock.now += 61.0
    say("link", 1)
    assert stream.getvalue().splitlines()[-2:] == [
        f"{1000 - MOST} more lines like these were left out",
        "refused",
    ]


def test_a_partners_lines_in_the_call_log_are_bounded_and_the_rest_is_counted() -> None:
    clock = Clock()
    lines = Lines(clock)
    taken = sum(lines.take("bank", needed=False) for _ in range(5000))
    assert taken == OTHER[1]
    assert lines.take("bank", needed=True)
    assert lines.take("shop", needed=False)
    assert lines.left_out() == {}
    clock.now += 60.0
    assert lines.left_out() == {"bank": 5000 - taken}
    assert lines.left_out() == {}
    assert lines.take("bank", needed=False)


def test_the_call_log_says_how_many_lines_of_whom_are_missing(tmp_path: Path) -> None:
    plugin = CallPlugin(tmp_path / "calls.jsonl")
    visit = SimpleNamespace(who="bank")
    context = SimpleNamespace(client=None, scope={VISIT: visit})
    request = SimpleNamespace(run_id=7)
    for _ in range(int(OTHER[1]) + 50):
        # the name that it calls itself by changes, the key that it showed does not
        request.node = SimpleNamespace(node_id=request.run_id + 1)
        plugin.write_log(
            plugin.compose_log_after_event(request, context, None, "/v1/fleet/get-run", None)
        )
    plugin.close()
    written = [json.loads(line) for line in (tmp_path / "calls.jsonl").read_text().splitlines()]
    assert OTHER[1] < len(written) < OTHER[1] + 30
    last = written[-1]
    assert (last["actor"]["actor_id"], last["event"]["action"]) == ("bank", "left out")
    assert int(last["status"].split()[0]) == OTHER[1] + 50 - (len(written) - 1)


def test_a_childs_log_is_bounded_while_the_child_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervise, "LARGEST_LOG", 1000)
    log = tmp_path / "link.log"
    with open_private(log, append=True) as appending:  # as the child holds it
        child = supervise.Child("link", ["none"], log)
        monkeypatch.setattr(supervise.Child, "running", lambda self: True)
        appending.write(b"x" * 5000 + b"end")
        appending.flush()
        child.tend()
        assert log.stat().st_size == 0
        kept = tmp_path / "link.log.1"
        assert kept.read_bytes() == b"x" * 997 + b"end"
        assert kept.stat().st_mode & 0o077 == 0
        appending.write(b"later")
        appending.flush()
    assert log.read_bytes() == b"later"


def test_a_body_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "PATIENCE", 0.05)

    async def never() -> Any:
        await asyncio.sleep(30)

    call = push(10)
    call.receive = never  # type: ignore[method-assign]
    asyncio.run(call.to(Guard(app_of([]), by_name, objects=1000)))
    assert call.status == 408


def test_the_largest_answer_grows_with_the_partners_up_to_the_largest_question() -> None:
    assert 8 << 20 < largest_answer(3) < 10 << 20
    assert largest_answer(200) == LARGEST_QUESTION


def test_who_has_no_place_for_one_more_connection_is_refused_without_its_body() -> None:
    at, _, gone = port(each=1)
    assert come(at, gone, "first").show("bank")
    call = push(80_000)
    call.scope[VISIT] = come(at, gone, "second")
    asyncio.run(call.to(Guard(app_of([]), by_name, objects=100_000)))
    assert (call.status, call.read) == (503, 0)
    at.close()


# ---------------------------------------------------------------------- who calls


def signed(key: ec.EllipticCurvePrivateKey, at: datetime = NOW) -> list[tuple[bytes, bytes]]:
    stamp = at.isoformat().encode()
    return [
        (b"flwr-public-key", b64encode(public_key_to_bytes(key.public_key()))),
        (b"flwr-signature", b64encode(key.sign(stamp, ec.ECDSA(hashes.SHA256())))),
        (b"flwr-timestamp", stamp),
    ]


def test_a_node_shows_a_key_of_the_contract_and_the_time() -> None:
    ours, other = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    revoked: set[str] = set()
    who = Nodes(
        {public_key_to_bytes(ours.public_key()): "bank"},
        lambda party: party not in revoked,
        lambda: NOW,
    )
    good = signed(ours)
    assert who(POLL, good) == "bank"
    assert who("/health", []) == ""
    assert who("/v1/control/list-runs", good) is None
    assert who(POLL, signed(other)) is None
    assert who(POLL, [good[0], signed(other)[1], good[2]]) is None
    assert who(POLL, signed(ours, NOW - timedelta(seconds=306))) is None
    assert who(POLL, signed(ours, NOW + timedelta(seconds=6))) is None
    assert who(POLL, signed(ours, NOW.replace(tzinfo=None))) is None
    assert who(POLL, [*good, good[0]]) is None
    for missing in range(3):
        assert who(POLL, good[:missing] + good[missing + 1 :]) is None
        broken = [*good]
        broken[missing] = (broken[missing][0], b"\xff!" * 10)
        assert who(POLL, broken) is None
    revoked.add("bank")
    assert who(POLL, good) is None


def test_an_insider_shows_the_token_the_secret_or_its_task() -> None:
    now = datetime.now(UTC)
    who = Insiders("token", b"secret", lambda task: task == "mine", lambda: now)
    assert who("/v1/control/start-run", [(b"authorization", b"Bearer token")]) == "control"
    assert who("/v1/runtime/pull-messages", [(b"flwr-task-token", b"mine")]) == "task"
    for path, header in (
        ("/v1/control/start-run", (b"authorization", b"Bearer tokem")),
        ("/v1/control/get-login-details", (b"flwr-task-token", b"mine")),
        ("/v1/runtime/pull-messages", (b"flwr-task-token", b"other")),
        ("/v1/runtime/pull-messages", (b"authorization", b"Bearer token")),
        ("/v1/responses", (b"flwr-task-token", b"mine")),
        ("/v1/fleet/pull-messages", (b"authorization", b"Bearer token")),
    ):
        assert who(path, [header]) is None
        assert who(path, []) is None

    def asked(secret: bytes) -> list[tuple[bytes, bytes]]:
        found = create_superexec_auth_metadata(
            auth_secret=derive_auth_secret(secret),
            method="/flwr.proto.Runtime/AcquireTask",
            request=AcquireTaskRequest(),
        )
        return [(name.encode(), value.encode()) for name, value in found.items()]

    assert who("/v1/runtime/acquire-task", asked(b"secret")) == "runtime"
    assert who("/v1/runtime/acquire-task", asked(b"other")) is None
    assert who("/v1/runtime/acquire-task", asked(b"secret")[1:]) is None

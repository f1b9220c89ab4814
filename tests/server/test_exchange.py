"""The relay and the sealed stream, over real gRPC with real certificates."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from client.exchange import open_stream
from client.stream import LARGEST_FRAME, SealedStream, StreamLost
from privacy.errors import ProtocolError
from server import callers
from server.exchange import Exchange, open_matches, serve
from server.store import Store
from simulations.alliances import Alliance
from simulations.live import free_ports
from simulations.room import Pipes
from tests import conftest

JOB = "a" * 32


@pytest.fixture
def relayed(make_alliance: Callable[..., Alliance]) -> Iterator[tuple[Alliance, Exchange]]:
    ports = free_ports(3)
    alliance = make_alliance(ports=(ports[0], ports[1], ports[2]))
    exchange = Exchange(lambda job: ("bank", "shop") if job == JOB else ())
    server = serve(alliance.coordinator, exchange)
    yield alliance, exchange
    server.stop(0.2).wait(5)


def _sealed(alliance: Alliance, stream: Any, me: str, peer: str) -> SealedStream:
    return SealedStream(
        stream, contract=alliance.contract, job=JOB, me=me, peer=peer,
        identity=alliance.partners[me].identity(), randomness=os.urandom,
    )  # fmt: skip


def _open(alliance: Alliance, me: str, peer: str) -> SealedStream:
    return _sealed(alliance, open_stream(alliance.partners[me], JOB, peer), me, peer)


def _both(left: Callable[[], Any], right: Callable[[], Any]) -> list[Any]:
    results: list[Any] = [None, None]

    def run(place: int, work: Callable[[], Any]) -> None:
        try:
            results[place] = work()
        except ProtocolError as error:
            results[place] = error

    threads = [threading.Thread(target=run, args=(i, w)) for i, w in enumerate((left, right))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return results


def test_frames_cross_in_order_and_the_relay_reads_none(
    relayed: tuple[Alliance, Exchange],
) -> None:
    alliance, exchange = relayed
    frames = [os.urandom(200_000) for _ in range(30)]  # more than the queues hold

    def bank() -> list[bytes]:
        stream = _open(alliance, "bank", "shop")
        for frame in frames:
            stream.send(frame)
        echo = [stream.receive() for _ in frames]
        stream.close()
        return echo

    def shop() -> int:
        stream = _open(alliance, "shop", "bank")
        got = [stream.receive() for _ in frames]
        for frame in got[::-1]:
            stream.send(frame)
        stream.close()
        return len(got)

    results = _both(bank, shop)
    assert results[0] == frames[::-1]
    assert results[1] == 30
    assert exchange.bytes_relayed > 2 * 30 * 200_000


def test_who_comes_back_meets_the_peer_again(relayed: tuple[Alliance, Exchange]) -> None:
    """One end vanishes without a goodbye: the other hears of it, and both start a new session."""
    alliance, _ = relayed
    first = threading.Event()

    def bank() -> bytes:
        stream = _open(alliance, "bank", "shop")
        stream.send(b"here")
        first.wait(10)
        with pytest.raises(StreamLost):
            stream.receive()
        stream.abort()
        stream = _open(alliance, "bank", "shop")
        frame = stream.receive()
        stream.close()
        return frame

    def shop() -> None:
        gone = _open(alliance, "shop", "bank")
        gone.receive()  # or its handshake might be lost with it
        gone.abort()
        first.set()
        stream = _open(alliance, "shop", "bank")
        stream.send(b"again")
        stream.close()

    assert _both(bank, shop)[0] == b"again"


def test_strangers_are_not_let_in(relayed: tuple[Alliance, Exchange]) -> None:
    alliance, _ = relayed
    for name, job, peer in (
        ("telecom", JOB, "bank"), ("bank", "b" * 32, "shop"), ("bank", JOB, "telecom"),
        ("bank", JOB, "bank"),
    ):  # fmt: skip
        stream = open_stream(alliance.partners[name], job, peer)
        with pytest.raises(ProtocolError):
            stream.receive()
        stream.close()


class Tampered:
    """Passes frames on, after doing something to one of them."""

    def __init__(self, inner: Any, number: int, how: str) -> None:
        self.inner, self.number, self.how, self.seen = inner, number, how, 0
        self.kept = b""

    def send(self, frame: bytes) -> None:
        self.inner.send(frame)

    def receive(self) -> bytes:
        frame = self.inner.receive()
        self.seen += 1
        if self.seen == self.number:
            if self.how == "flip":
                return frame[:-1] + bytes([frame[-1] ^ 1])
            if self.how == "cut":
                return frame[:10]
            if self.how == "repeat":
                return self.kept
            if self.how == "drop":
                return self.inner.receive()
            return bytes(LARGEST_FRAME + 1)
        self.kept = frame
        return frame

    def close(self) -> None:
        self.inner.close()

    def abort(self) -> None:
        self.inner.abort()

    def lost(self) -> bool:
        return bool(self.inner.lost())


@pytest.mark.parametrize("how", ["flip", "cut", "repeat", "drop", "oversize"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_tampered_stream_ends_in_one_opaque_error(
    make_alliance: Callable[..., Alliance], how: str, number: int
) -> None:
    alliance, pipes = make_alliance(), Pipes()

    def bank() -> Any:
        stream = _sealed(alliance, pipes.open("bank", JOB, "shop"), "bank", "shop")
        for _ in range(4):
            stream.send(os.urandom(1000))
        stream.close()

    def shop() -> Any:
        tampered = Tampered(pipes.open("shop", JOB, "bank"), number, how)
        stream = _sealed(alliance, tampered, "shop", "bank")
        return [stream.receive() for _ in range(4)]

    error = _both(bank, shop)[1]
    assert isinstance(error, ProtocolError)
    assert str(error) == "protocol check failed"


def test_a_frame_the_peer_would_not_take_is_not_sent(
    make_alliance: Callable[..., Alliance],
) -> None:
    alliance, pipes = make_alliance(), Pipes()

    def bank() -> Any:
        stream = _sealed(alliance, pipes.open("bank", JOB, "shop"), "bank", "shop")
        stream.send(bytes(LARGEST_FRAME))

    def shop() -> Any:
        return _sealed(alliance, pipes.open("shop", JOB, "bank"), "shop", "bank")

    assert isinstance(_both(bank, shop)[0], ProtocolError)


def test_a_handshake_is_for_one_peer(make_alliance: Callable[..., Alliance]) -> None:
    """The relay joins the bank's stream to the shop with the telecom's to the shop."""
    alliance, pipes = make_alliance(), Pipes()

    def shop() -> Any:
        return _sealed(alliance, pipes.open("shop", JOB, "bank"), "shop", "bank")

    def other() -> Any:
        return _sealed(alliance, pipes.open("bank", JOB, "shop"), "bank", "telecom")

    assert isinstance(_both(shop, other)[0], ProtocolError)


def test_a_relay_in_the_middle_has_no_identity_key(make_alliance: Callable[..., Alliance]) -> None:
    """The coordinator signs a handshake with its own key, in the shop's name."""
    alliance, pipes = make_alliance(), Pipes()

    def relay() -> Any:
        return SealedStream(
            pipes.open("shop", JOB, "bank"), contract=alliance.contract, job=JOB, me="shop", peer="bank",
            identity=alliance.coordinator.identity(), randomness=os.urandom,
        )  # fmt: skip

    def bank() -> Any:
        return _sealed(alliance, pipes.open("bank", JOB, "shop"), "bank", "shop")

    assert isinstance(_both(relay, bank)[1], ProtocolError)


def test_who_is_revoked_is_cut_off_in_the_middle_of_a_stream(
    make_alliance: Callable[..., Alliance], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.desks.AGAIN", 0.1)
    ports = free_ports(3)
    alliance = make_alliance(ports=(ports[0], ports[1], ports[2]))
    home = alliance.coordinator
    server = serve(home, Exchange(lambda job: ("bank", "shop")))
    stream = open_stream(alliance.partners["bank"], JOB, "shop")
    peer = open_stream(alliance.partners["shop"], JOB, "bank")
    stream.send(b"before")
    assert peer.receive() == b"before"
    callers.revoke(home, "bank", "left the alliance", datetime.now(UTC))
    with pytest.raises(StreamLost):
        stream.receive()
    again = open_stream(alliance.partners["bank"], JOB, "shop")
    with pytest.raises(StreamLost):
        again.receive()
    for each in (stream, again, peer):
        each.abort()
    server.stop(0.2).wait(5)


def test_only_the_relay_of_the_open_match_is_joined(tmp_path: Path) -> None:
    store = Store(tmp_path / "store.db", lambda: 0.0)
    match = {"identifier": "email", "parties": ["bank", "shop"], "result": "size"}
    store.add("m1", conftest.job(name="one", kind="match", epsilon=1.0, match=match), bytes(16))
    store.add("q", conftest.job(**conftest.QUERY), bytes(16))
    store.add("m2", conftest.job(name="two", kind="match", epsilon=1.0, match=match), bytes(16))
    parties_of = open_matches(store)
    assert parties_of("m1") == parties_of("m2") == ("bank", "shop")  # both, whichever came first
    assert parties_of("q") == parties_of("") == parties_of("x") == ()
    store.end("m1", "cancelled", {})
    assert parties_of("m1") == ()
    store.close()

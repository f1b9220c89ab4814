"""The relay and the sealed stream, over real gRPC with real certificates."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from client.exchange import open_stream
from client.stream import LARGEST_FRAME, SealedStream
from privacy.errors import ProtocolError
from server.exchange import Exchange, serve
from simulations.alliances import Alliance
from simulations.live import free_ports
from simulations.room import Pipes

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


def test_points_cross_in_order_and_the_relay_sees_none(
    relayed: tuple[Alliance, Exchange],
) -> None:
    alliance, exchange = relayed
    points = [os.urandom(32) for _ in range(20_000)]  # three chunks, more than the queues hold

    def bank() -> list[bytes]:
        stream = _sealed(alliance, open_stream(alliance.partners["bank"], JOB), "bank", "shop")
        stream.send_points(1, points)
        echo = stream.receive_points(2, 30_000)
        stream.close()
        return echo

    def shop() -> int:
        stream = _sealed(alliance, open_stream(alliance.partners["shop"], JOB), "shop", "bank")
        got = stream.receive_points(1, 30_000)
        stream.send_points(2, got[::-1])
        stream.close()
        return len(got)

    results = _both(bank, shop)
    assert results[0] == points[::-1]
    assert results[1] == 20_000
    assert exchange.bytes_relayed > 2 * 32 * 20_000


def test_strangers_are_not_let_in(relayed: tuple[Alliance, Exchange]) -> None:
    alliance, _ = relayed
    for name, job in (("telecom", JOB), ("bank", "b" * 32)):
        stream = open_stream(alliance.partners[name], job)
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


@pytest.mark.parametrize("how", ["flip", "cut", "repeat", "drop", "oversize"])
@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_tampered_stream_ends_in_one_opaque_error(
    make_alliance: Callable[..., Alliance], how: str, number: int
) -> None:
    alliance, pipes = make_alliance(), Pipes()

    def bank() -> Any:
        stream = _sealed(alliance, pipes.open(JOB), "bank", "shop")
        stream.send_points(1, [os.urandom(32)] * 9000)
        stream.close()

    def shop() -> Any:
        stream = _sealed(alliance, Tampered(pipes.open(JOB), number, how), "shop", "bank")
        return stream.receive_points(1, 10_000)

    error = _both(bank, shop)[1]
    assert isinstance(error, ProtocolError)
    assert str(error) == "protocol check failed"


@pytest.mark.parametrize("most", [10, 8999])
def test_more_points_than_agreed_are_refused(
    make_alliance: Callable[..., Alliance], most: int
) -> None:
    alliance, pipes = make_alliance(), Pipes()

    def bank() -> Any:
        _sealed(alliance, pipes.open(JOB), "bank", "shop").send_points(1, [bytes(32)] * 9000)

    def shop() -> Any:
        return _sealed(alliance, pipes.open(JOB), "shop", "bank").receive_points(1, most)

    assert isinstance(_both(bank, shop)[1], ProtocolError)


def test_a_relay_in_the_middle_has_no_identity_key(make_alliance: Callable[..., Alliance]) -> None:
    """The coordinator signs a handshake with its own key, in the shop's name."""
    alliance, pipes = make_alliance(), Pipes()

    def relay() -> Any:
        return SealedStream(
            pipes.open(JOB), contract=alliance.contract, job=JOB, me="shop", peer="bank",
            identity=alliance.coordinator.identity(), randomness=os.urandom,
        )  # fmt: skip

    def bank() -> Any:
        return _sealed(alliance, pipes.open(JOB), "bank", "shop")

    assert isinstance(_both(relay, bank)[1], ProtocolError)

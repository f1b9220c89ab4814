"""A partner's end of the exchange: gRPC over TLS with the keys that the contract pins."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from datetime import UTC, datetime

import grpc

from client import renewal
from client.home import Home
from client.stream import LARGEST_FRAME, StreamLost

METHOD = "/tallystick.v1.Exchange/Relay"
JOB_KEY, PEER_KEY = "tallystick-job", "tallystick-peer"
QUEUED_FRAMES = 8
QUIET = 600.0
"""Seconds that a peer may not read before the connection is given up."""
LONGEST = 24 * 3600.0
"""Seconds of one connection."""
_TICK = 0.5


class ExchangeStream:
    """One job's frames to and from one peer through the coordinator's relay."""

    def __init__(self, channel: grpc.Channel, job: str, peer: str) -> None:
        self._channel = channel
        self._outbox: queue.Queue[bytes | None] = queue.Queue(maxsize=QUEUED_FRAMES)
        call = channel.stream_stream(METHOD)
        metadata = ((JOB_KEY, job), (PEER_KEY, peer))
        self._replies = call(self._frames(), metadata=metadata, timeout=LONGEST)

    def _frames(self) -> Iterator[bytes]:
        while True:
            frame = self._outbox.get()
            if frame is None:
                return
            yield frame

    def send(self, frame: bytes) -> None:
        waited = 0.0
        while waited < QUIET:
            if not self._replies.is_active():
                break
            try:
                self._outbox.put(frame, timeout=_TICK)
                return
            except queue.Full:
                waited += _TICK
        raise StreamLost

    def receive(self) -> bytes:
        try:
            return bytes(next(self._replies))
        except (StopIteration, grpc.RpcError):
            raise StreamLost from None

    def close(self) -> None:
        try:
            self._outbox.put(None, timeout=10.0)
            for _ in self._replies:  # let the relay take what is still queued
                pass
        except (queue.Full, grpc.RpcError):
            self._replies.cancel()
        finally:
            self._channel.close()

    def lost(self) -> bool:
        return not self._replies.is_active()

    def abort(self) -> None:
        self._replies.cancel()
        try:
            self._outbox.put_nowait(None)
        except queue.Full:
            self._outbox.get_nowait()  # makes room for the end; the call is gone anyway
            self._outbox.put_nowait(None)
        self._channel.close()


def open_stream(home: Home, job: str, peer: str) -> ExchangeStream:
    """Connect to the exchange of the installed contract, with the key that it pins for this partner."""
    contract = home.contract()
    credentials = renewal.credentials(home, contract, datetime.now(UTC))
    options = [
        ("grpc.max_receive_message_length", LARGEST_FRAME + 1024),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.use_local_subchannel_pool", 1),  # a new connection is a new TLS session
    ]
    return ExchangeStream(
        grpc.secure_channel(contract.coordinator.exchange, credentials, options), job, peer
    )

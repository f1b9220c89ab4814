"""A partner's end of the exchange: gRPC over TLS with the certificates of the contract."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import grpc

from client.home import Home
from client.stream import LARGEST_FRAME
from privacy.errors import ProtocolError

METHOD = "/tallystick.v1.Exchange/Relay"
JOB_KEY = "tallystick-job"
QUEUED_FRAMES = 8
QUIET = 600.0
"""Seconds of silence, and of a peer that does not read, after which the match is given up."""


class ExchangeStream:
    """One job's frames through the coordinator's relay."""

    def __init__(self, channel: grpc.Channel, job: str) -> None:
        self._channel = channel
        self._outbox: queue.Queue[bytes | None] = queue.Queue(maxsize=QUEUED_FRAMES)
        call = channel.stream_stream(METHOD)
        self._replies = call(self._frames(), metadata=((JOB_KEY, job),), timeout=6 * 3600)

    def _frames(self) -> Iterator[bytes]:
        while True:
            frame = self._outbox.get()
            if frame is None:
                return
            yield frame

    def send(self, frame: bytes) -> None:
        try:
            self._outbox.put(frame, timeout=QUIET)
        except queue.Full:
            raise ProtocolError from None
        if not self._replies.is_active():
            raise ProtocolError

    def receive(self) -> bytes:
        try:
            return bytes(next(self._replies))
        except (StopIteration, grpc.RpcError):
            raise ProtocolError from None

    def close(self) -> None:
        try:
            self._outbox.put(None, timeout=10.0)
            for _ in self._replies:  # let the relay take what is still queued
                pass
        except (queue.Full, grpc.RpcError):
            self._replies.cancel()
        finally:
            self._channel.close()


def open_stream(home: Home, job: str) -> ExchangeStream:
    """Connect to the exchange of the installed contract, as the partner the contract knows."""
    contract = home.contract()
    party = contract.party(home.config().name)
    credentials = grpc.ssl_channel_credentials(
        root_certificates=contract.coordinator.authority.encode(),
        private_key=home.key_file("tls.key"),
        certificate_chain=party.certificate.encode(),
    )
    options = [
        ("grpc.max_receive_message_length", LARGEST_FRAME + 1024),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
    return ExchangeStream(
        grpc.secure_channel(contract.coordinator.exchange, credentials, options), job
    )

"""The relay of match streams: gRPC over mutual TLS. It reads nothing and keeps nothing.

The two parties of an open match job are joined, frame by frame, through short queues, so a slow
reader slows the writer (back-pressure). Who a caller is comes from its certificate, issued by the
alliance's authority.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

from privacy.matching.group import CHUNK, POINT_BYTES
from server.home import Home

log = logging.getLogger("tallystick.exchange")

METHOD = "/tallystick.v1.Exchange/Relay"
JOB_KEY = "tallystick-job"
LARGEST_FRAME = CHUNK * POINT_BYTES + 1024
QUEUED_FRAMES = 8
QUIET = 600.0
"""Seconds to wait for a peer to come, or to read on."""
TICK = 0.05
MOST_STREAMS = 64


class _Meeting:
    """The ends of one job. ``finished``: parties whose frames are all in the peer's inbox."""

    def __init__(self) -> None:
        self.inboxes: dict[str, queue.Queue[bytes]] = {}
        self.finished: set[str] = set()


class Exchange:
    """Joins the two parties of each open match. ``parties_of``: who may join a job, or nobody."""

    def __init__(self, parties_of: Callable[[str], tuple[str, ...]]) -> None:
        self._parties_of = parties_of
        self._meetings: dict[str, _Meeting] = {}
        self._lock = threading.Lock()
        self.bytes_relayed = 0

    def relay(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """gRPC handler: frames in from one party, out to the other."""
        me = _caller(context)
        job = dict(context.invocation_metadata()).get(JOB_KEY, "")
        parties = self._parties_of(job)
        if me not in parties:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a party of an open match")
        peer = parties[1] if parties[0] == me else parties[0]
        inbox: queue.Queue[bytes] = queue.Queue(maxsize=QUEUED_FRAMES)
        with self._lock:
            meeting = self._meetings.setdefault(job, _Meeting())
            if me in meeting.inboxes or me in meeting.finished:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, "already connected")
            meeting.inboxes[me] = inbox
        threading.Thread(
            target=self._pump, args=(frames, meeting, me, peer, context), daemon=True
        ).start()
        try:
            while context.is_active():
                try:
                    yield inbox.get(timeout=TICK)
                except queue.Empty:
                    if peer in meeting.finished:
                        return
        finally:
            with self._lock:
                meeting.inboxes.pop(me, None)
                meeting.finished.add(me)
                if not meeting.inboxes:
                    self._meetings.pop(job, None)

    def _pump(
        self, frames: Iterator[bytes], meeting: _Meeting, me: str, peer: str, context: Any
    ) -> None:
        try:
            for frame in frames:
                if len(frame) > LARGEST_FRAME or not _put(meeting, peer, frame, context):
                    context.cancel()
                    return
                self.bytes_relayed += len(frame)
        except Exception:  # grpc raises a bare Exception when the call is gone
            log.debug("a match stream ended early")
        finally:
            meeting.finished.add(me)


def _put(meeting: _Meeting, peer: str, frame: bytes, context: Any) -> bool:
    """Hand a frame to the peer, waiting for it to come and to read; False if it does not."""
    deadline = time.monotonic() + QUIET
    while context.is_active() and time.monotonic() < deadline:
        inbox = meeting.inboxes.get(peer)
        if inbox is None:
            if peer in meeting.finished:
                return False
            time.sleep(TICK)
            continue
        try:
            inbox.put(frame, timeout=TICK)
        except queue.Full:
            continue
        return True
    return False


def _caller(context: Any) -> str:
    names = context.auth_context().get("x509_common_name", [])
    return names[0].decode() if names else ""


def serve(home: Home, exchange: Exchange) -> grpc.Server:
    """Start the exchange's server on the port of ``coordinator.toml``."""
    config = home.config()
    server = grpc.server(
        ThreadPoolExecutor(max_workers=MOST_STREAMS),
        options=[
            ("grpc.max_receive_message_length", LARGEST_FRAME + 1024),
            ("grpc.so_reuseport", 0),
        ],
    )
    service, method = METHOD.strip("/").split("/")
    handler = grpc.method_handlers_generic_handler(
        service, {method: grpc.stream_stream_rpc_method_handler(exchange.relay)}
    )
    server.add_generic_rpc_handlers((handler,))
    credentials = grpc.ssl_server_credentials(
        [(home.key("server.key"), home.key("server.pem"))],
        root_certificates=home.key("ca.pem"),
        require_client_auth=True,
    )
    if server.add_secure_port(f"{config.bind}:{config.exchange_port}", credentials) == 0:
        raise OSError(f"port {config.exchange_port} cannot be bound")
    server.start()
    return server

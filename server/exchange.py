"""The relay of match streams: gRPC over mutual TLS. It reads nothing and keeps nothing.

Two parties of an open match job are joined, frame by frame, through short queues, so a slow reader slows
the writer (back-pressure). Who a caller is comes from its certificate, issued by the alliance's
authority. When one end breaks, the other is cut too: both connect again and go on where they were.
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

from privacy.matching.deck import CHUNK
from privacy.matching.engine import POINT_BYTES
from server.home import Home

log = logging.getLogger("tallystick.exchange")

METHOD = "/tallystick.v1.Exchange/Relay"
JOB_KEY, PEER_KEY = "tallystick-job", "tallystick-peer"
LARGEST_FRAME = CHUNK * POINT_BYTES + 1024
QUEUED_FRAMES = 8
QUIET = 600.0
"""Seconds to wait for a peer to come, or to read on."""
TICK = 0.05
MOST_STREAMS = 128


class _Meeting:
    """The two ends of one connection. ``finished``: whose frames are all in the peer's inbox."""

    def __init__(self) -> None:
        self.inboxes: dict[str, queue.Queue[bytes | None]] = {}
        self.finished: set[str] = set()
        self.cut = threading.Event()

    def end(self) -> None:
        """Cut both ends; wakes who waits for a frame."""
        self.cut.set()
        for inbox in list(self.inboxes.values()):
            try:
                inbox.put_nowait(None)
            except queue.Full:
                continue


class Exchange:
    """Joins two parties of an open match. ``parties_of``: who may join a job, or nobody."""

    def __init__(self, parties_of: Callable[[str], tuple[str, ...]]) -> None:
        self._parties_of = parties_of
        self._meetings: dict[tuple[str, frozenset[str]], _Meeting] = {}
        self._lock = threading.Lock()
        self.bytes_relayed = 0

    def relay(self, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """gRPC handler: frames in from one party, out to the other."""
        me, metadata = _caller(context), dict(context.invocation_metadata())
        job, peer = metadata.get(JOB_KEY, ""), metadata.get(PEER_KEY, "")
        parties = self._parties_of(job)
        if me not in parties or peer not in parties or me == peer:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "not a party of an open match")
        meeting, inbox = self._join(job, me, peer)
        threading.Thread(
            target=self._pump, args=(frames, meeting, me, peer, context), daemon=True
        ).start()
        try:
            while context.is_active() and not meeting.cut.is_set():
                try:
                    frame = inbox.get(timeout=TICK)
                except queue.Empty:
                    if {me, peer} <= meeting.finished and inbox.empty():
                        return
                    continue
                if frame is not None:
                    yield frame
        finally:
            self._leave(job, me, peer, meeting)

    def _join(self, job: str, me: str, peer: str) -> tuple[_Meeting, queue.Queue[bytes | None]]:
        """A party that comes back replaces its old connection, and cuts the peer's."""
        inbox: queue.Queue[bytes | None] = queue.Queue(maxsize=QUEUED_FRAMES)
        key = (job, frozenset((me, peer)))
        with self._lock:
            meeting = self._meetings.get(key)
            if meeting is not None and (
                meeting.cut.is_set() or me in meeting.inboxes or me in meeting.finished
            ):
                meeting.end()
                meeting = None
            if meeting is None:
                meeting = self._meetings[key] = _Meeting()
            meeting.inboxes[me] = inbox
        return meeting, inbox

    def _leave(self, job: str, me: str, peer: str, meeting: _Meeting) -> None:
        key = (job, frozenset((me, peer)))
        with self._lock:
            if not {me, peer} <= meeting.finished:
                meeting.end()  # not in good order: the peer must not wait
            meeting.inboxes.pop(me, None)
            if not meeting.inboxes and self._meetings.get(key) is meeting:
                del self._meetings[key]

    def _pump(
        self, frames: Iterator[bytes], meeting: _Meeting, me: str, peer: str, context: Any
    ) -> None:
        try:
            for frame in frames:
                if len(frame) > LARGEST_FRAME or not _put(meeting, peer, frame, context):
                    meeting.end()
                    context.cancel()
                    return
                self.bytes_relayed += len(frame)
            meeting.finished.add(me)
        except Exception:  # grpc raises a bare Exception when the call is gone
            log.debug("a match stream ended early")
            meeting.end()


def _put(meeting: _Meeting, peer: str, frame: bytes, context: Any) -> bool:
    """Hand a frame to the peer, waiting for it to come and to read; False if it does not."""
    deadline = time.monotonic() + QUIET
    while context.is_active() and not meeting.cut.is_set() and time.monotonic() < deadline:
        inbox = meeting.inboxes.get(peer)
        if inbox is None:
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

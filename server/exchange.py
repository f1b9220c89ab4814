"""The relay of match streams: it reads nothing and keeps nothing. A process of its own.

Two parties of an open match job are joined, frame by frame, through short queues, so a slow reader slows
the writer (back-pressure). When one end breaks, the other is cut too: both connect again and go on where they
were. Who a caller is was decided before the first byte of a call: :mod:`server.desks` ends TLS, asks
:class:`server.callers.Callers` about the certificate, and each party has a gRPC server of its own behind it.
So nobody without a certificate of the contract reaches gRPC, and no party's calls take another's places.

    Relay    a stream: one end of a match
    Renew    a new certificate for the key that the contract pins (:mod:`server.renewal`)
"""

from __future__ import annotations

import argparse
import logging
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from privacy.errors import TallystickError
from privacy.matching.deck import CHUNK
from privacy.matching.engine import POINT_BYTES
from protos import logs
from server import renewal
from server.desks import Calls, Desks
from server.home import Home
from server.loglimit import limit_logs
from server.store import Store

log = logging.getLogger("tallystick.exchange")

METHOD = "/tallystick.v1.Exchange/Relay"
JOB_KEY, PEER_KEY = "tallystick-job", "tallystick-peer"
LARGEST_FRAME = CHUNK * POINT_BYTES + 1024
QUEUED_FRAMES = 8
QUIET = 600.0
"""Seconds to wait for a peer to come, or to read on."""
TICK = 0.05


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

    def relay(self, me: str, frames: Iterator[bytes], context: Any) -> Iterator[bytes]:
        """gRPC handler for calls of ``me``: frames in from one party, out to the other."""
        metadata = dict(context.invocation_metadata())
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


def open_matches(store: Store) -> Callable[[str], tuple[str, ...]]:
    """The parties of an open match; nobody for anything else."""

    def parties_of(job_id: str) -> tuple[str, ...]:
        for row in store.open_jobs():
            if row.id == job_id and (match := row.job().match):
                return match.parties
        return ()

    return parties_of


def serve(home: Home, exchange: Exchange) -> Desks:
    """Start the exchange on the port of ``coordinator.toml``. Raises OSError if it cannot be bound."""

    def renew(party: str, request: bytes, context: Any) -> bytes:
        try:
            return renewal.renew(home, party, request, datetime.now(UTC))
        except TallystickError as error:
            log.warning("no new certificate for %s: %s", party, error)
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no certificate")
            raise

    calls: Calls = {METHOD: exchange.relay, renewal.METHOD: renew}
    return Desks(home, calls, streams={METHOD}, largest=LARGEST_FRAME + 1024)


def main() -> None:
    """``python -m server.exchange HOME``: started by the supervisor."""
    parser = argparse.ArgumentParser(prog="python -m server.exchange")
    parser.add_argument("home", type=Path)
    home = Home(parser.parse_args().home)
    logs.configure(level=logging.WARNING)
    limit_logs()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    store = Store(home.database, time.time)
    desks = serve(home, Exchange(open_matches(store)))
    while not stop.wait(1.0) and desks.running():
        pass
    desks.stop(0.5).wait(2.0)
    store.close()


if __name__ == "__main__":
    main()

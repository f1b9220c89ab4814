"""The exchange's port: TLS ends here, and each party of the contract has a desk of its own behind it.

gRPC lets anybody begin a handshake, keeps what he holds open, and drops nobody for the next; it counts calls
of all callers together. So it stands behind :mod:`server.ports`:

    outside    TLS 1.3 with a certificate that the authority issued, at most ``LIMITS.strangers`` handshakes
    who        the certificate's key, as the contract pins it, not revoked; looked at again every ``AGAIN``
               seconds for as long as the connection lasts
    inside     one gRPC server for each party, on a Unix socket in a folder that only this user can enter,
               with ``MOST_CALLS`` calls at once

Bytes are passed on in both directions with back-pressure, never more than a buffer of them held.

*Not* handled: a party that floods its own desk harms itself, and takes bandwidth and processor time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import tempfile
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Self

import grpc

from server.callers import Callers
from server.home import Home
from server.ports import (
    RESERVED,
    Limits,
    Port,
    Visit,
    descriptors,
    fit,
    listen,
    loop_factory,
    tls,
)

log = logging.getLogger("tallystick.exchange")

LIMITS = Limits(strangers=160, each=48)
"""Four matches of a party at once, each with a connection to every peer, and some that are being replaced."""
MOST_CALLS = 48
AGAIN = 10.0
LONGEST_PATH = 100
BUFFER = 256 << 10
QUIET_MS, PING_MS = 60_000, 10_000

Calls = Mapping[str, Callable[..., Any]]
"""A handler for each method; its first argument is the party that calls."""


class Desks:
    """The running exchange: a thread with an event loop, and a gRPC server for each party that came."""

    def __init__(self, home: Home, calls: Calls, *, streams: Collection[str], largest: int) -> None:
        config, contract = home.config(), home.contract()
        self._callers = Callers(home, contract=contract)
        self._calls, self._streams, self._largest = calls, streams, largest
        self._context = tls(
            home.keys / "server.key", home.keys / "server.pem", authority=home.keys / "ca.pem"
        )
        self._context.set_alpn_protocols(["h2"])
        # two descriptors for each connection, and for each desk some of gRPC's own
        parties = len(contract.parties)
        available = (descriptors() - RESERVED - 8 * parties) // 2
        listening = listen(config.bind, config.exchange_port)
        self._port = Port("exchange", listening, fit(LIMITS, parties, available))
        self._numbers = {party.name: number for number, party in enumerate(contract.parties)}
        self._folder = _folder(home)
        self._servers: dict[str, grpc.Server] = {}
        self._over: list[threading.Event] = []
        self._loop = loop_factory()()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="exchange", daemon=True)
        self._thread.start()

    def running(self) -> bool:
        """Is the port served?"""
        return self._thread.is_alive()

    def stop(self, grace: float) -> Self:
        """Take no more calls, and end those that run after ``grace`` seconds."""
        with contextlib.suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._port.close)
        self._over = [server.stop(grace) for server in self._servers.values()]
        return self

    def wait(self, seconds: float) -> bool:
        """Wait for all calls to end, then end the rest. True if they did."""
        done = True
        for event in self._over:
            done &= event.wait(seconds)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(seconds)
        self._folder.cleanup()
        return done

    # ------------------------------------------------------------------ the loop's thread

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        accepting = self._port.open(lambda visit: _Outer(self, visit), self._context)
        looking = asyncio.create_task(self._look_again())
        stopping = asyncio.create_task(self._stop.wait())
        await asyncio.wait([stopping, accepting], return_when=asyncio.FIRST_COMPLETED)
        await stopping
        looking.cancel()
        for visit in self._port.visits():
            visit.drop()
        await asyncio.wait([looking, accepting])
        await asyncio.sleep(0.05)  # what was dropped says goodbye to its other half

    async def _look_again(self) -> None:
        """A certificate may be revoked, or run out, while its connection lasts."""
        while True:
            await asyncio.sleep(AGAIN)
            for visit in self._port.visits():
                if visit.who and self._callers.party_of(visit.proof) != visit.who:
                    visit.drop()

    def admit(self, visit: Visit, certificate: bytes) -> str | None:
        """The party that came with this certificate, if it may call."""
        visit.proof = ssl.DER_cert_to_PEM_cert(certificate).encode()
        party = self._callers.party_of(visit.proof)
        return party if party is not None and visit.show(party) else None

    async def connect(self, party: str, make: Callable[[], asyncio.Protocol]) -> None:
        """Join a connection to the desk of ``party``."""
        path = f"{self._folder.name}/{self._numbers[party]}"
        if party not in self._servers:
            self._servers[party] = self._desk(party, path)
        await self._loop.create_unix_connection(make, path)

    def _desk(self, party: str, path: str) -> grpc.Server:
        server = grpc.server(
            ThreadPoolExecutor(max_workers=MOST_CALLS, thread_name_prefix="desk"),
            maximum_concurrent_rpcs=MOST_CALLS,
            options=[
                ("grpc.max_receive_message_length", self._largest),
                ("grpc.max_metadata_size", 8192),
                ("grpc.max_concurrent_streams", MOST_CALLS),
                ("grpc.max_connection_idle_ms", QUIET_MS),
                ("grpc.keepalive_time_ms", QUIET_MS),
                ("grpc.keepalive_timeout_ms", QUIET_MS // 3),
                # partners ask every 20 s whether we are there, also while no frame moves
                ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
            ],
        )
        for method, handler in self._calls.items():
            service, name = method.strip("/").split("/")
            kind = (
                grpc.stream_stream_rpc_method_handler
                if method in self._streams
                else grpc.unary_unary_rpc_method_handler
            )
            server.add_generic_rpc_handlers(
                (
                    grpc.method_handlers_generic_handler(
                        service, {name: kind(partial(handler, party))}
                    ),
                )
            )
        server.add_insecure_port(f"unix:{path}")
        server.start()
        return server


class _Half(asyncio.Protocol):
    """One side of a connection that is passed on; what the other cannot take yet is not read."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.other: _Half | None = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.set_write_buffer_limits(high=BUFFER)

    def data_received(self, data: bytes) -> None:
        if self.other is None:
            self.transport.abort()
        else:
            self.other.transport.write(data)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


class _Outer(_Half):
    """The party's side."""

    def __init__(self, desks: Desks, visit: Visit) -> None:
        super().__init__()
        self._desks, self._visit = desks, visit
        self._joining: asyncio.Task[None] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        secured: ssl.SSLObject = transport.get_extra_info("ssl_object")
        certificate = secured.getpeercert(binary_form=True)
        party = self._desks.admit(self._visit, certificate) if certificate else None
        if party is None or secured.selected_alpn_protocol() != "h2":
            transport.abort()
            return
        transport.pause_reading()
        self._joining = asyncio.get_running_loop().create_task(self._join(party))

    async def _join(self, party: str) -> None:
        try:
            await self._desks.connect(party, partial(_Inner, self))
        except OSError as error:  # no descriptors left, or no memory
            log.warning("a party could not be served: %s", error.strerror)
            self.transport.abort()


class _Inner(_Half):
    """The desk's side."""

    def __init__(self, outer: _Outer) -> None:
        super().__init__()
        self.other = outer

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        outer = self.other
        if outer is None or outer.transport.is_closing():
            transport.abort()
            return
        outer.other = self
        outer.transport.resume_reading()


def _folder(home: Home) -> tempfile.TemporaryDirectory[str]:
    """A folder of ours for the desks' sockets, whose paths have to be short."""
    prefix = "desks-"
    fits = len(str((home.state / prefix).resolve()).encode()) < LONGEST_PATH - 16
    return tempfile.TemporaryDirectory(
        prefix=prefix, dir=str(home.state.resolve()) if fits else None, ignore_cleanup_errors=True
    )

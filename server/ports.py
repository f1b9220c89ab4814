"""A port with a limit: who holds a connection, and who has to go when another comes.

An outsider can always open connections, hold them half open, and open them again. So nothing here waits for
him, and nothing of his adds up:

    stranger   a connection that has not shown a key yet. There are at most ``strangers`` at once. When one
               more comes, the oldest goes, of the address that has most of them (OpenSSH's ``MaxStartups``
               drops a random one; the oldest is the one that had most time to show a key). None goes within
               its first ``GRACE``: until then new ones wait in the kernel's queue. That bounds the handshakes
               that a flood can buy, and whoever is let in has the time for its own.
    known      a connection that showed a key. Never dropped for others. At most ``each`` for one key: one
               more is refused, so whoever floods a key's places does not cut what its owner has open.

Handshakes end after ``HANDSHAKE`` seconds. Before a port is opened the process's descriptors are counted
(:func:`descriptors`) and the limits made to fit, so that one port's connections never take what another port
or a file needs; where the system has none left all the same, the oldest stranger goes.

*Not* handled: floods of packets before the kernel accepts, and of bandwidth.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger("tallystick.ports")

HANDSHAKE = 5.0
"""Seconds for a TLS handshake."""
FAREWELL = 2.0
"""Seconds that a peer may take to close its side."""
GRACE = 0.25
"""Seconds that every stranger has, however many others come."""
BACKLOG = 256
MOST_DESCRIPTORS = 8192
RESERVED = 192
"""Descriptors for files, pipes, the database and what Python keeps open."""
FEWEST_STRANGERS, FEWEST_EACH = 8, 2


@dataclass(frozen=True)
class Limits:
    """``strangers``: connections without a key at once. ``each``: connections of one key."""

    strangers: int
    each: int

    def most(self, keys: int) -> int:
        """Connections at once, if there are so many keys."""
        return self.strangers + keys * self.each


def descriptors() -> int:
    """Raise this process's limit of open files as far as is allowed and useful, and say what it is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, MOST_DESCRIPTORS)


def fit(limits: Limits, keys: int, available: int) -> Limits:
    """``limits``, or as much of them as ``available`` connections allow with so many keys."""
    strangers = max(FEWEST_STRANGERS, min(limits.strangers, available // 2))
    each = max(FEWEST_EACH, min(limits.each, (available - strangers) // max(keys, 1)))
    return Limits(strangers, each)


class Visit:
    """One connection. ``drop`` ends it at once; ``who``: whose key it showed, or nothing; ``proof``: how."""

    def __init__(self, port: Port, address: str, drop: Callable[[], object], now: float) -> None:
        self.drop, self.address, self.since = drop, address, now
        self.who, self.proof = "", b""
        self._port = port

    def show(self, who: str) -> bool:
        """It showed the key of ``who``: a stranger no longer, if there is room for one more of them."""
        return self._port.know(self, who)


class Port:
    """The connections of one listening socket. ``clock``: seconds that only go forward."""

    def __init__(
        self,
        name: str,
        listening: socket.socket,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name, self.limits = name, limits
        self._listening, self._clock = listening, clock
        self._strangers: dict[Visit, None] = {}  # oldest first
        self._from: dict[str, dict[Visit, None]] = {}  # the same by address
        self._known: dict[str, dict[Visit, None]] = {}
        self._accepting: asyncio.Task[None] | None = None
        self._greetings: set[asyncio.Task[None]] = set()
        self._short = False

    # ------------------------------------------------------------------ who is here

    def enter(self, address: str, drop: Callable[[], object]) -> Visit:
        """A stranger came; another may have to go."""
        while len(self._strangers) >= self.limits.strangers:
            self._drop(self._next_to_go())
        visit = Visit(self, address, drop, self._clock())
        self._strangers[visit] = None
        self._from.setdefault(address, {})[visit] = None
        return visit

    def know(self, visit: Visit, who: str) -> bool:
        """A visit showed a key. False if it was dropped meanwhile, showed another's before, or has to go."""
        if visit.who or visit not in self._strangers:
            return bool(visit.who) and visit.who == who
        if len(self._known.get(who, ())) >= self.limits.each:
            return False
        self._forget(visit)
        visit.who = who
        self._known.setdefault(who, {})[visit] = None
        return True

    def leave(self, visit: Visit) -> None:
        """A connection is over, whoever ended it."""
        self._forget(visit)
        mine = self._known.get(visit.who, {})
        mine.pop(visit, None)
        if visit.who and not mine:
            self._known.pop(visit.who, None)

    def visits(self) -> list[Visit]:
        """All that are here."""
        return [*self._strangers, *(visit for mine in self._known.values() for visit in mine)]

    def patience(self) -> float:
        """Seconds until there is room for one more stranger, if need be by dropping one."""
        if len(self._strangers) < self.limits.strangers:
            return 0.0
        return max(0.0, self._next_to_go().since + GRACE - self._clock())

    def _next_to_go(self) -> Visit:
        crowded = max(self._from, key=lambda address: len(self._from[address]))
        return next(iter(self._from[crowded]))

    def _forget(self, visit: Visit) -> bool:
        """It is no stranger any more, if it was one."""
        if visit not in self._strangers:
            return False
        del self._strangers[visit], self._from[visit.address][visit]
        if not self._from[visit.address]:
            del self._from[visit.address]
        return True

    def _drop(self, visit: Visit) -> None:
        self.leave(visit)
        visit.drop()

    # ------------------------------------------------------------------ letting in

    def open(
        self, make: Callable[[Visit], asyncio.Protocol], context: ssl.SSLContext
    ) -> asyncio.Task[None]:
        """Begin to accept: TLS, then the protocol that ``make`` gives for a visit."""
        self._accepting = asyncio.get_running_loop().create_task(self._accept(make, context))
        return self._accepting

    async def _accept(
        self, make: Callable[[Visit], asyncio.Protocol], context: ssl.SSLContext
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if (seconds := self.patience()) > 0.0:
                await asyncio.sleep(seconds)
                continue
            try:
                connection, address = await loop.sock_accept(self._listening)
            except ConnectionError:
                continue  # it left while it waited
            except OSError as error:  # EMFILE, ENFILE, ENOBUFS, ENOMEM
                self._no_room(error)
                await asyncio.sleep(0.1)
                continue
            self._short = False
            greeting = loop.create_task(self._greet(connection, str(address[0]), make, context))
            self._greetings.add(greeting)
            greeting.add_done_callback(self._greetings.discard)

    def _no_room(self, error: OSError) -> None:
        if not self._short:
            log.warning("%s: no connection can be taken: %s", self.name, error.strerror)
        self._short = True
        if self._strangers:
            self._drop(self._next_to_go())

    async def _greet(
        self,
        connection: socket.socket,
        address: str,
        make: Callable[[Visit], asyncio.Protocol],
        context: ssl.SSLContext,
    ) -> None:
        """The handshake of one connection, and the handing over."""
        task = asyncio.current_task()
        visit = self.enter(address, task.cancel if task else connection.close)
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                lambda: _Watched(make(visit), self, visit),
                connection,
                ssl=context,
                ssl_handshake_timeout=HANDSHAKE,
                ssl_shutdown_timeout=FAREWELL,
            )
        except (OSError, asyncio.CancelledError):  # an ssl.SSLError too; the transport is closed
            self.leave(visit)
            return
        if transport.is_closing():
            self.leave(visit)

    def close(self) -> None:
        """Accept no more; who is here may stay."""
        if self._accepting is not None:
            self._accepting.cancel()
        for greeting in list(self._greetings):
            greeting.cancel()
        self._listening.close()

    async def wait_closed(self) -> None:
        """Until the last accept is over."""
        if self._accepting is not None:
            await asyncio.wait([self._accepting])


class _Watched(asyncio.Protocol):
    """Between a transport and its protocol: the visit has to learn of the transport, and the port of its end,
    whatever the protocol does."""

    def __init__(self, inner: asyncio.Protocol, port: Port, visit: Visit) -> None:
        self._inner, self._port, self._visit = inner, port, visit

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._visit.drop = transport.abort  # type: ignore[attr-defined]
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.leave(self._visit)
        self._visit.drop = _nothing  # or transport, protocol and visit hold each other
        self._inner.connection_lost(exc)


def _nothing() -> None:
    """It is gone already."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises OSError that names the port."""
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(BACKLOG)
        listening.setblocking(False)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"port {port} cannot be bound: {error.strerror}") from None
    return listening


def tls(key: Path, certificate: Path, *, authority: Path | None = None) -> ssl.SSLContext:
    """TLS 1.3 as a server, without tickets: a certificate is looked at for every connection.

    ``authority``: who must have issued the peer's certificate; without it the peer shows none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    if authority is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority)
    return context


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop]:
    """The event loop that uvicorn takes too: uvloop, whose connections are small, where there is one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop
    make: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return make

"""ASGI: whose request it is before a byte of its body, and how much a body may be.

Flower reads a whole body, of any length, parses it, and then asks who sent it: three bodies of 400 MB by
somebody without a key once took the link to 1.3 GB. Here the head decides:

    who       from headers alone (:mod:`server.credentials`); nobody: 401 and closed, whatever is claimed
    length    bounded for each path; 413 where the claim is above it, or more comes than was claimed
    kind      exactly Flower's content type, or 415: Flower logs what it does not know, twice and at length
    time      at least ``SLOWEST`` bytes a second from the start, and ``PATIENCE`` seconds of grace; ``START``
              for a body over ``SMALL``
    memory    bodies over ``SMALL`` share a budget between all callers, of one of the largest for each caller
              and one more, at most ``PLACES``; one such body at a time for each of them, and one at a time is
              worked on: Flower and :mod:`server.pushes` hold a body up to five times while they parse and
              check it. Who has to wait waits; after ``LONGEST_WAIT`` the answer is 503, and our node asks
              again
    number    ``Pace``: so many calls a second for each key; who asks faster waits, and at last gets 429
    once      a signature opens one call (:mod:`server.once`), before Flower looks at it
    answers   go out in pieces, each within ``PATIENCE`` seconds; ``pulls`` objects at a time for a caller

*Not* handled: more than ``PLACES`` partners who send their largest bodies as slowly as they may, all at once:
the others' answers wait until theirs are through.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from privacy.programs.program import LONGEST, MOST_RELEASES
from protos.wire import LARGEST_REQUEST
from server.http import VISIT

SMALL = 64 << 10
LARGEST_QUESTION = LARGEST_REQUEST + SMALL
"""The largest envelope that a partner takes, and Flower's frame around it."""
LARGEST_SHARE = 256
"""Bytes of one sealed share, with its names."""
PATIENCE, START, SLOWEST = 10.0, 3.0, 128 << 10
PLACES = 8
LONGEST_WAIT, LONGEST_TURN = 20.0, 5.0
PIECE = 64 << 10
KIND = b"application/protobuf"

Headers = Iterable[tuple[bytes, bytes]]
Who = Callable[[str, Headers], str | None]
"""The name of whoever may call a path, from the headers; empty for anybody; None: nobody who may."""
Spend = Callable[[str, Headers], bool]


class TooLongError(Exception):
    """More came than was claimed or is allowed."""


def largest_answer(parties: int) -> int:
    """Bytes of a body that carries an honest answer: a vector of the longest release, or a share for each
    release and peer."""
    return min(8 * LONGEST + parties * MOST_RELEASES * LARGEST_SHARE + SMALL, LARGEST_QUESTION)


def largest(path: str, objects: int) -> int:
    """Bytes of a request's body at a path; of ``objects``: where they are pushed."""
    if path.endswith("/push-object"):
        return objects
    if path.startswith("/v1/fleet/"):
        return 4 * SMALL if path.endswith("/push-messages") else SMALL
    return 64 * SMALL if path.startswith("/v1/") else 0


class Budget:
    """Bytes that bodies may take together; first come, first served. One body at a time for each caller, and
    ``waiting`` more that wait."""

    def __init__(self, total: int, waiting: int) -> None:
        self._left, self._most = total, waiting
        self._room = asyncio.Condition()
        self._holding: set[str] = set()
        self._waiting: Counter[str] = Counter()

    async def take(self, who: str, size: int) -> None:
        """Wait until there is room. Raises TimeoutError, at once if too many wait already."""
        if self._waiting[who] >= self._most:
            raise TimeoutError
        self._waiting[who] += 1
        try:
            async with asyncio.timeout(LONGEST_WAIT), self._room:
                await self._room.wait_for(lambda: who not in self._holding and size <= self._left)
                self._holding.add(who)
                self._left -= size
        finally:
            self._waiting[who] -= 1

    async def give_back(self, who: str, size: int) -> None:
        """The body is gone."""
        async with self._room:
            self._holding.discard(who)
            self._left += size
            self._room.notify_all()


class Pace:
    """Calls of each caller: ``rate`` a second, ``burst`` at once. Who is faster waits for his turn, up to
    ``LONGEST_TURN``: our node, which makes one call after the other, would be slower and never refused."""

    def __init__(
        self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left: dict[str, tuple[float, float]] = {}

    def turn(self, who: str) -> float | None:
        """Seconds until this call's turn; None where there are too many before it."""
        now = self._clock()
        left, at = self._left.get(who, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._rate) - 1.0
        wait = max(0.0, -left / self._rate)
        if wait > LONGEST_TURN:
            return None
        self._left[who] = left, now
        return wait


class Guard:
    """ASGI: lets a request through to ``app`` once it is known whose it is and its body is here.

    ``objects``: bytes of the largest. ``pulls``: objects that one caller may be sent at a time; Flower's
    clients ask for two. ``callers``: how many there are. ``pace``: of their calls. ``spend``: may this
    caller's headers open a call, and have they not opened one before?
    """

    def __init__(
        self,
        app: Callable[..., Any],
        who: Who,
        *,
        objects: int,
        callers: int = 1,
        pulls: int = 2,
        pace: Pace | None = None,
        spend: Spend = lambda who, headers: True,
    ) -> None:
        self._app, self._who, self._objects, self._most_pulls = app, who, objects, pulls
        self._budget = Budget(min(callers + 1, PLACES) * objects, waiting=2 * pulls)
        self._pace, self._spend = pace, spend
        self._one = asyncio.Lock()
        self._pulls: dict[str, asyncio.Semaphore] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, headers = scope.get("path", ""), scope["headers"]
        who = self._who(path, headers)
        if who is None:
            await refuse(send, 401)
            return
        visit = scope.get(VISIT)
        if who and visit is not None and not visit.show(who):
            await refuse(send, 503)
            return
        most = largest(path, self._objects)
        size = claimed(headers, most)
        if size > most:
            await refuse(send, 413)
            return
        if path.startswith("/v1/") and not is_of_kind(headers):
            await refuse(send, 415)
            return
        turn = self._pace.turn(who) if self._pace is not None and who else 0.0
        if turn is None:
            await refuse(send, 429)
            return
        if turn > 0.0:
            await asyncio.sleep(turn)
        paced = _Paced(send, visit.drop if visit is not None else lambda: None)
        if size <= SMALL:
            await self._let_through(who, path, size, scope, receive, paced)
            return
        try:
            await self._budget.take(who, size)
        except TimeoutError:
            await refuse(send, 503)
            return
        try:
            await self._let_through(who, path, size, scope, receive, paced)
        finally:
            gc.collect()  # an error's frames hold the body in a circle, and the next one would come on top
            await asyncio.shield(self._budget.give_back(who, size))

    async def _let_through(
        self, who: str, path: str, size: int, scope: Any, receive: Any, send: Any
    ) -> None:
        try:
            body = await read(receive, size, PATIENCE if size <= SMALL else START) if size else b""
        except TooLongError:
            await refuse(send, 413)
            return
        except TimeoutError:
            await refuse(send, 408)
            return
        if body is None:
            return
        if who and not self._spend(who, scope["headers"]):
            await refuse(send, 401)
            return
        whole = _Whole(body, receive)
        del body
        if path.endswith("/pull-object"):
            async with self._pulls.setdefault(who, asyncio.Semaphore(self._most_pulls)):
                await self._app(scope, whole, send)
        elif size > SMALL:
            async with self._one:
                await self._app(scope, whole, send)
        else:
            await self._app(scope, whole, send)


def claimed(headers: Headers, most: int) -> int:
    """The length that a head claims; ``most`` where the body comes in chunks of any number; above ``most``
    where it is claimed twice, is no number, or comes in chunks where there is none."""
    lengths = [value for name, value in headers if name == b"content-length"]
    if any(name == b"transfer-encoding" for name, _ in headers):
        return most if most and not lengths else most + 1
    if not lengths:
        return 0
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > 15:
        return most + 1
    return int(lengths[0])


def is_of_kind(headers: Headers) -> bool:
    """Does a head say once, and in the one way, that its body is Flower's?"""
    return [value for name, value in headers if name == b"content-type"] == [KIND]


async def read(receive: Any, most: int, patience: float) -> bytes | None:
    """A body of at most ``most`` bytes; None if the caller left. Raises TooLongError, and TimeoutError where
    it falls behind ``SLOWEST`` by ``patience`` seconds."""
    body = bytearray()  # no list: pieces may be of a byte each
    began = asyncio.get_running_loop().time()
    while True:
        async with asyncio.timeout_at(began + patience + len(body) / SLOWEST):
            message = await receive()
        if message["type"] != "http.request":
            return None
        piece = message.get("body", b"")
        if len(body) + len(piece) > most:
            raise TooLongError
        body += piece
        if not message.get("more_body", False):
            return bytes(body)


class _Whole:
    """``receive`` for an app: the body in one piece, given away once; then whatever the connection says."""

    def __init__(self, body: bytes, receive: Any) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Any:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Paced:
    """``send`` in pieces, each of which the peer has to take in time, or it is dropped."""

    def __init__(self, send: Any, drop: Callable[[], object]) -> None:
        self._send, self._drop = send, drop

    async def __call__(self, message: Any) -> None:
        body = message.get("body", b"")
        if message["type"] != "http.response.body" or len(body) <= PIECE:
            await self._piece(message)
            return
        for start in range(0, len(body), PIECE):
            more = start + PIECE < len(body) or message.get("more_body", False)
            await self._piece({**message, "body": body[start : start + PIECE], "more_body": more})

    async def _piece(self, message: Any) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._send(message)
        except TimeoutError:
            self._drop()


async def refuse(send: Any, status: int) -> None:
    """An answer without a word, and the end of the connection: nothing of the body is read."""
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(b"content-length", b"0"), (b"connection", b"close")],
        }
    )
    await send({"type": "http.response.body", "body": b""})

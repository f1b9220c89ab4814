"""uvicorn's HTTP on a port with a limit: what a peer may take its time over.

uvicorn limits neither the length of a head nor the time until it is there, keeps what comes behind a body as
more headers, and parses every request of a pipeline before the first is answered. Here:

    head      complete within ``HEAD`` seconds of the handshake or of the last answer
    length    of whatever is no body (address, headers, lines between chunks, the next head while an answer
              is waited for): ``LARGEST_HEAD`` bytes between two answers, and ``1 / FRAMING`` of the body
    trailers  end the connection. Who calls was read from the headers, and these do not change afterwards
    pipeline  of one: a client that has a whole answer may ask again a moment before we know that it was sent

Bodies are the business of :mod:`server.guard`, which reads none before it knows whose it is. Nothing that a
proxy would add is believed, and no version or time of day is told.
"""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from server.ports import Port, Visit

HEAD = 10.0
LARGEST_HEAD = 16 << 10
FRAMING = 16
"""Bytes of a body for each byte around its pieces."""
VISIT = "tallystick.visit"
"""Where the scope of a request has the visit that it came by."""


class Listener(HttpToolsProtocol):  # type: ignore[misc]
    """One connection. ``visit``: as its port knows it."""

    def __init__(self, visit: Visit, **options: Any) -> None:
        super().__init__(**options)
        self._visit = visit
        self._timer: asyncio.TimerHandle | None = None
        self._beside = self._body = 0  # bytes since the last answer
        self._headers_are_here = self._is_over = False

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._wait_for_a_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        self.pipeline.clear()
        if self.cycle is not None:
            self.cycle.body.clear()  # its task may wait for a while

    def data_received(self, data: bytes) -> None:
        if self._is_over:
            return
        before = self._body
        super().data_received(data)
        self._beside += max(0, len(data) - (self._body - before))
        if self._beside > LARGEST_HEAD + self._body // FRAMING:
            self._cut()

    def _cut(self) -> None:
        self._is_over = True
        self._visit.drop()

    def send_400_response(self, msg: str) -> None:
        if not self._is_over:
            self._is_over = True  # whatever comes until it is closed
            super().send_400_response(msg)

    def on_message_begin(self) -> None:
        if self.pipeline:
            raise ValueError("pipelined")  # the parser stops, and uvicorn closes
        self._headers_are_here = False
        super().on_message_begin()
        self.scope[VISIT] = self._visit

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers_are_here:
            self._cut()
            raise ValueError("trailers")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._headers_are_here = True
        self._stop_waiting()
        self.scope["headers"] = tuple(self.headers)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        self._beside = self._body = 0
        super().on_response_complete()
        if self.cycle.response_complete:  # or the next request is here already
            self._wait_for_a_head()

    def _wait_for_a_head(self) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(HEAD, self._visit.drop)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class Link(uvicorn.Server):  # type: ignore[misc]
    """uvicorn with ports of ours in place of its own."""

    def __init__(self, app: Any, ports: list[Port], context: Any) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Listener,
                ws="none",
                lifespan="on",
                log_config=None,  # its own would write past ours
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                date_header=False,
                timeout_keep_alive=3600,  # HEAD is shorter, and does not wait for the peer
                timeout_graceful_shutdown=2,
            )
        )
        self._ports, self._context = ports, context

    async def startup(self, sockets: Any = None) -> None:
        """Instead of uvicorn's, which would listen itself."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            self.should_exit = True
            return
        self.servers = self._ports
        for port in self._ports:
            port.open(self._listener, self._context)
        self.started = True

    def _listener(self, visit: Visit) -> Listener:
        return Listener(
            visit,
            config=self.config,
            server_state=self.server_state,
            app_state=self.lifespan.state,
            _loop=asyncio.get_running_loop(),
        )

"""uvicorn's HTTP on a port with a limit: what a peer may take its time over.

uvicorn limits neither the length of a head nor the time until it is there, and parses every request of a
pipeline before the first is answered. Here:

    head      complete within ``HEAD`` seconds of the handshake or of the last answer; ``LARGEST_HEAD`` bytes
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
VISIT = "tallystick.visit"
"""Where the scope of a request has the visit that it came by."""


class Listener(HttpToolsProtocol):  # type: ignore[misc]
    """One connection. ``visit``: as its port knows it."""

    def __init__(self, visit: Visit, **options: Any) -> None:
        super().__init__(**options)
        self._visit = visit
        self._timer: asyncio.TimerHandle | None = None
        self._head = 0
        self._in_head = True

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
        if self._in_head:
            self._head += len(data)
        super().data_received(data)
        if self._in_head and self._head > LARGEST_HEAD:
            self._visit.drop()

    def on_message_begin(self) -> None:
        if self.pipeline:
            raise ValueError("pipelined")  # the parser stops, and uvicorn closes
        super().on_message_begin()
        self.scope[VISIT] = self._visit

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # or the next request is here already
            self._wait_for_a_head()

    def _wait_for_a_head(self) -> None:
        self._in_head, self._head = True, 0
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

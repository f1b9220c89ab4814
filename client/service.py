"""The gate as a process: gRPC on a Unix socket that only this user can reach.

``python -m client.service HOME [key-on-input]``: ``start`` hands the storage key over on standard input; by
hand, without it, the gate gets the key itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from client import freezing, renewal
from client.exchange import open_stream
from client.gate import Delivery, Gate
from client.home import Home
from client.storage_key import KEY_ON_INPUT, SIZE
from privacy.errors import TallystickError
from protos import console, logs, wire

METHOD = "/tallystick.v1.Gate/Handle"
log = logging.getLogger("tallystick.gate")
BETWEEN_LOOKS = 3600.0
"""Seconds between two looks for audiences that are due."""
WAIT = 120.0
"""Seconds the node waits for the gate; the gate answers "working" long before."""
_OPTIONS = [
    ("grpc.max_receive_message_length", wire.LARGEST_MESSAGE + 4096),
    ("grpc.max_send_message_length", wire.LARGEST_MESSAGE + 4096),
]


def _pack(envelope: bytes, delivery: Delivery) -> bytes:
    head = wire.ReplyHeader(run=delivery.run, message=delivery.message, node=delivery.node)
    return wire.serialise(wire.Reply(header=wire.serialise(head), body=envelope))


def _unpack(data: bytes) -> tuple[bytes, Delivery]:
    packed = wire.parse(wire.Reply, data, wire.LARGEST_MESSAGE + 4096)
    head = wire.parse(wire.ReplyHeader, packed.header, 4096)
    return packed.body, Delivery(head.run, head.message, head.node)


class GateServer:
    """Serves one gate on its socket."""

    def __init__(self, gate: Gate, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.parent.chmod(0o700)
        self._server = grpc.server(ThreadPoolExecutor(max_workers=8), options=_OPTIONS)

        def handle(request: bytes, context: Any) -> bytes:
            try:
                envelope, delivery = _unpack(request)
            except TallystickError:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "malformed")
                raise
            return gate.handle(envelope, delivery)

        service, method = METHOD.strip("/").split("/")
        handler = grpc.method_handlers_generic_handler(
            service, {method: grpc.unary_unary_rpc_method_handler(handle)}
        )
        self._server.add_generic_rpc_handlers((handler,))
        self._server.add_insecure_port(f"unix:{path}")

    def start(self) -> None:
        """Begin to serve."""
        self._server.start()

    def stop(self) -> None:
        """Finish what runs, for a second at most."""
        self._server.stop(1.0).wait(2.0)


class GateClient:
    """Reaches a gate through its socket; waits for one that is restarting."""

    def __init__(self, path: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)
        self._call = self._channel.unary_unary(METHOD)

    def handle(self, envelope: bytes, delivery: Delivery) -> bytes:
        """One envelope in, one reply out. Raises RuntimeError without details if it cannot."""
        try:
            return bytes(self._call(_pack(envelope, delivery), timeout=WAIT, wait_for_ready=True))
        except grpc.RpcError as error:
            raise RuntimeError(f"gate: {error.code().name}") from None

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()


def _freeze_what_is_due(gate: Gate) -> None:
    """Audiences that their owner lets freeze themselves; what was not frozen is in the log for the owner."""
    try:
        for found in freezing.refresh(gate.context):
            log.info("audience %s: %s", found.audience, "frozen" if found.frozen else found.reason)
    except Exception as error:  # nothing that a table holds may end the gate
        log.warning("audiences: %s", type(error).__name__)


def main(root: Path, *, key_on_input: bool = False) -> int:
    """Run the gate process until a signal stops it. Returns the exit code."""
    logs.configure()
    home = Home(root)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        if key_on_input:
            home.hold(sys.stdin.buffer.read(SIZE))
        gate = Gate(
            home,
            randomness=os.urandom,
            clock=time.time,
            open_stream=lambda job, peer: open_stream(home, job, peer),
        )
    except TallystickError as error:
        print(f"gate: {console.shown(str(error))}", file=sys.stderr)
        return 2
    server = GateServer(gate, home.socket)
    server.start()
    threading.Thread(target=renewal.keep, args=(home,), daemon=True).start()
    parent, looked = os.getppid(), time.monotonic()
    while not stop.wait(1.0):
        if os.getppid() != parent:  # the supervisor is gone: do not linger
            break
        if time.monotonic() - looked > BETWEEN_LOOKS:
            looked = time.monotonic()
            threading.Thread(target=_freeze_what_is_due, args=(gate,), daemon=True).start()
    server.stop()
    gate.close()
    home.socket.unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), key_on_input=sys.argv[2:] == [KEY_ON_INPUT]))

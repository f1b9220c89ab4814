"""Row 24: the link, as a process on its real port, before anybody has shown a key."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random

from privacy.errors import RoundFailed
from simulations.attacks.lab import Lab, base
from simulations.attacks.table import Attack
from simulations.live import free_ports, memory

LARGEST = 300.0
"""MB that the link may take under all that."""
PATIENCE, PART = 10.0, 1 << 20


@dataclass
class Link:
    """The process, its port, and the authority that its certificate is of."""

    process: subprocess.Popen[bytes]
    port: int
    authority: str

    def connect(self, *, tls: bool) -> socket.socket:
        """A connection, of an outsider."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        if not tls:
            return plain
        try:
            context = ssl.create_default_context(cafile=self.authority)
            return context.wrap_socket(plain, server_hostname="127.0.0.1")
        except BaseException:
            plain.close()
            raise

    def answers(self) -> bool:
        """Whether somebody new gets an answer soon."""
        try:
            with self.connect(tls=True) as line:
                line.sendall(
                    b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                )
                return line.recv(64).startswith(b"HTTP/1.1 ")
        except OSError:
            return False


def started(root: Path) -> Link:
    """A link that runs."""
    link, exchange, internal = free_ports(3)
    home = base(root, ["bank", "shop"], (link, exchange, internal)).coordinator
    home.state.mkdir(exist_ok=True)
    with (home.state / "attacked.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "server.link", "serve", str(home.root)],
            stdout=log,
            stderr=log,
        )
    made = Link(process, link, str(home.keys / "ca.pem"))
    deadline = time.monotonic() + 60.0
    while not made.answers():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RoundFailed("the link did not start")
        time.sleep(0.2)
    return made


def stop(link: Link) -> None:
    """End it."""
    link.process.terminate()
    try:
        link.process.wait(20)
    except subprocess.TimeoutExpired:
        link.process.kill()


def _flooded(lab: Lab, rng: Random) -> bool:
    """Idle connections, requests that are never finished, bodies of up to 400 MB; success: over 300 MB, or
    nobody else gets an answer within ten seconds."""

    def start() -> Link:
        made = started(lab.root / "live")
        lab.until_closed(lambda: stop(made))
        return made

    link = lab.once("link", start)
    with contextlib.ExitStack() as stack:
        for _ in range(rng.choice([0, 50, 200])):
            _open(stack, link, b"", tls=False)
        for _ in range(rng.choice([0, 50, 100])):
            _open(
                stack,
                link,
                b"POST /v1/fleet/x HTTP/1.1\r\nHost: a\r\nX: " + b"a" * rng.randint(0, 9000),
            )
        for _ in range(rng.choice([0, 5, 20])):
            head = b"POST /v1/fleet/PushObject HTTP/1.1\r\nHost: a\r\nContent-Length: 400000000\r\n\r\n"
            line = _open(stack, link, head)
            with contextlib.suppress(OSError):
                for _ in range(rng.choice([1, 40]) if line else 0):
                    line.sendall(bytes(PART))  # type: ignore[union-attr]
        return memory(link.process.pid) > LARGEST or not link.answers()


def _open(
    stack: contextlib.ExitStack, link: Link, data: bytes, *, tls: bool = True
) -> socket.socket | None:
    try:
        line = stack.enter_context(link.connect(tls=tls))
        line.settimeout(2.0)
        line.sendall(data)
    except OSError:
        return None
    return line


ATTACKS = [
    Attack("24", "idle, half-open and huge requests", "outsider", "300 MB, or others unserved", _flooded,
           trials=10),
]  # fmt: skip

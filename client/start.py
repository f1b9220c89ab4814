"""``tallystick-partner start``: one command, two processes, the gate and the node.

The node may end at any time (Flower's code does so on purpose); the gate does not notice. With a
stock SuperNode there are three: the gate, ``flower-supernode`` and our executor beside it. The storage key
is asked for once, here, and handed to the gate through a pipe whenever it is started; where it came from is
taken out of the environment that the others get.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

from client.home import Home
from client.storage_key import (
    CREDENTIALS,
    KEY_ON_INPUT,
    PASSPHRASE_FD,
    PASSPHRASE_FILE,
    left_over,
    warning,
)
from privacy.errors import ConfigError
from protos import console
from protos.files import own_folder, write_private
from protos.supervise import Child, beside, python, run


def start(home: Home, *, stock: bool = False, ready: Callable[[], None] = lambda: None) -> None:
    """Run until a signal comes. Raises ConfigError if it cannot start."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    home.check()
    home = Home(home.root.resolve())  # children stand elsewhere
    home.contract()
    home.identity()
    home.prepare()
    _check_socket_length(home.socket)
    key = home.storage_key()
    left = left_over(home.keys, home.config().keys)
    if left:
        console.say("warning: {}", warning(left), err=True)
    for name in (CREDENTIALS, PASSPHRASE_FD, PASSPHRASE_FILE):
        os.environ.pop(name, None)
    command = python("client.service", str(home.root), KEY_ON_INPUT)
    gate = Child("gate", command, _log(home, "gate"), secret=key)
    nodes = _stock(home) if stock else [_node(home)]
    run([gate, *nodes], ready=ready)


def _log(home: Home, name: str) -> Path:
    return home.state / f"{name}.log"


def _node(home: Home, *more: str) -> Child:
    return Child("node", python("client.node", str(home.root), *more), _log(home, "node"))


def _check_socket_length(path: Path) -> None:
    if len(str(path).encode()) > 100:
        raise ConfigError(str(path), "path too long for a Unix socket; use a shorter folder")


def _stock(home: Home) -> list[Child]:
    """An unmodified SuperNode in process isolation, and our executor that unpacks nothing."""
    program = beside("flower-supernode")
    if not program.is_file():  # nor anywhere else: PATH may name the current folder
        raise ConfigError("flower-supernode", "is not installed beside this Python")
    contract = home.contract()
    secret = home.keys / "runtime.secret"
    if not secret.exists():
        write_private(secret, os.urandom(32).hex().encode(), once=True)
    authority = home.state / "authority.pem"
    write_private(authority, contract.coordinator.authority.encode())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = home.state / "supernode"
    own_folder(folder)
    command = [
        str(program),
        "--superlink", contract.coordinator.link,
        "--root-certificates", str(authority),
        "--auth-supernode-private-key", str(home.keys / "node.key"),
        "--host", "127.0.0.1",
        "--port", str(port),
        "--isolation", "process",
        "--superexec-auth-secret-file", str(secret),
    ]  # fmt: skip
    supernode = Child("supernode", command, _log(home, "supernode"), {"FLWR_HOME": str(folder)})
    executor = _node(home, "--runtime", f"127.0.0.1:{port}", "--secret-file", str(secret))
    return [supernode, executor]

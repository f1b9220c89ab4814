"""The SuperLink, as the coordinator runs it. With :mod:`server.working`, :mod:`server.credentials` and
:mod:`server.pushes` every use of flwr's private parts on this side.

Stock Flower has no authentication on its Control API and serves Control, Runtime and Fleet on one
port. Here two sockets are listened on: the public one answers ``/v1/fleet/*`` and ``/health`` only,
the internal one (loopback) answers the rest, Control behind a token and Runtime behind a secret.
Every call is written to a hash-chained log. The state is in memory; what must last is in the
coordinator's store. Node keys come from the contract: nobody else can register.

A request passes, from the outside in:

    server.ports        connections: how many, for whom, how long until they say who they are
    server.http         the head: its length, its time, one request at a time
    server.firewall     what exists on which port
    server.guard        whose it is (:mod:`server.credentials`), before its body; size, time, memory of that
    Flower's layers     those that concern the path (:func:`server.firewall.shorten`)
    server.pushes       what a node may send

``serve`` runs the link until it is stopped, ``work`` one job (:mod:`server.working`).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import hmac
import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.main import create_app

from protos import logs
from server import pushes
from server.call_plugin import CallPlugin
from server.callers import Callers
from server.credentials import INSIDERS, Insiders, Nodes
from server.firewall import PathFirewall, shorten
from server.guard import LARGEST_QUESTION, Guard, Pace, largest_answer
from server.home import Home
from server.http import Link
from server.loglimit import limit_logs
from server.once import Once
from server.ports import RESERVED, Limits, Port, descriptors, fit, listen, tls
from server.working import work

log = logging.getLogger("tallystick.link")

PUBLIC = Limits(strangers=160, each=16)
"""A node keeps one or two connections."""
INTERNAL = Limits(strangers=32, each=32)
"""Our own processes, and whoever else is on this machine."""
STORED = 6
"""Answers of one node that wait to be fetched: one in each job that is worked on, and one more."""
PACE, BURST = 100.0, 400.0
"""Calls of one node in a second, and at once. Ours looks ten times a second; an answer takes seven."""

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Of glibc's ``mallopt``."""


class TokenAuthn(NoOpControlAuthnPlugin):  # type: ignore[misc]
    """Bearer token on the Control API, compared in constant time."""

    def __init__(self, token: str) -> None:
        super().__init__()
        self._token = token

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Flower's hook: is this caller who holds the token?"""
        given = str(dict(metadata).get("flwr-oidc-access-token", ""))
        if self._token and hmac.compare_digest(self._token.encode(), given.encode()):
            # The open-source federation manager knows this one account only.
            return True, AccountInfo(flwr_aid="<id:none>", account_name="none")
        return False, None


def _config(home: Home, calls: CallPlugin) -> SuperLinkLifespanConfig:
    keys, config = home.keys, home.config()
    authority, server, key = (home.key(n) for n in ("ca.pem", "server.pem", "server.key"))
    return SuperLinkLifespanConfig(
        control_address="127.0.0.1:1",  # legacy gRPC, never started
        health_server_address=None,
        host=config.bind,
        port=config.internal_port,
        insecure=False,
        certificates=(authority, server, key),
        superexec_auth_secret=home.key("runtime.secret"),
        authn_plugin=TokenAuthn(home.key("control.token").decode()),
        event_log_plugin=calls,
        fleet_event_log_plugin=calls,
        enable_event_log=True,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type="grpc-rere",
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=str(keys / "ca.pem"),
        ssl_certfile=str(keys / "server.pem"),
        ssl_keyfile=str(keys / "server.key"),
        database=FLWR_IN_MEMORY_DB_NAME,
        isolation="process",
        runtime_dependency_install=False,
    )


def node_key_bytes(text: str) -> bytes:
    """A contract's OpenSSH node key as Flower registers it."""
    key = load_ssh_public_key(text.encode())
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ValueError("a node key is an elliptic-curve key")
    return bytes(public_key_to_bytes(key))


def _return_memory() -> None:
    """glibc: what a large body took goes back to the system, whatever was allocated after it."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 256 << 10)
        mallopt(M_ARENA_MAX, 2)


def _now() -> datetime:
    return datetime.now(UTC)


def serve(home: Home) -> None:
    """Run the SuperLink until a signal stops it. Raises OSError if a port cannot be bound."""
    _return_memory()
    contract, config = home.contract(), home.config()
    app = create_app(_config(home, CallPlugin(home.calls)), SuperLinkLifespan)
    shorten(app)
    pushes.guard(app, STORED * largest_answer(len(contract.parties)))
    state = app.state.linkstate_factory.state()
    nodes = {node_key_bytes(party.node_key): party.name for party in contract.parties}
    for key, name in nodes.items():
        state.create_node(
            owner_aid="<id:none>",
            owner_name="none",
            public_key=key,
            heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL,
            name=name,
        )
    who_outside = Nodes(nodes, Callers(home, contract=contract).allows, _now)
    who_inside = Insiders(
        home.key("control.token").decode(),
        home.key("runtime.secret"),
        lambda token: state.get_task_by_token(token) is not None,
        _now,
    )
    firewall = PathFirewall(
        Guard(
            app,
            who_outside,
            objects=largest_answer(len(nodes)),
            callers=len(nodes),
            pace=Pace(PACE, BURST),
            spend=Once(),
        ),
        Guard(app, who_inside, objects=LARGEST_QUESTION, pulls=INTERNAL.each),
        config.internal_port,
    )
    available = descriptors() - RESERVED - INTERNAL.most(len(INSIDERS))
    ports = [
        Port("link", listen(config.bind, config.link_port), fit(PUBLIC, len(nodes), available)),
        Port("internal", listen("127.0.0.1", config.internal_port), INTERNAL),
    ]
    gc.collect()
    gc.freeze()  # the guard collects after every large body, and this is not to be looked through each time
    Link(firewall, ports, tls(home.keys / "server.key", home.keys / "server.pem")).run()


def main() -> None:
    """``python -m server.link serve HOME`` or ``work HOME JOB``: started by the supervisor."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    parser = argparse.ArgumentParser(prog="python -m server.link")
    parser.add_argument("what", choices=["serve", "work"])
    parser.add_argument("home", type=Path)
    parser.add_argument("job", nargs="?")
    arguments = parser.parse_args()
    logs.configure(level=logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    # Its own handler writes what callers sent as it is, and a second time.
    logging.getLogger("flwr").handlers.clear()
    limit_logs()
    home = Home(arguments.home)
    if arguments.what == "serve":
        serve(home)
    else:
        work(home, str(arguments.job))


if __name__ == "__main__":
    main()

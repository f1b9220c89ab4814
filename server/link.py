"""The SuperLink, as the coordinator runs it. Every use of flwr's private parts on this side.

Stock Flower has no authentication on its Control API and serves Control, Runtime and Fleet on one
port. Here two sockets are listened on: the public one answers ``/v1/fleet/*`` and ``/health`` only,
the internal one (loopback) answers the rest, Control behind a token and Runtime behind a secret.
Every call is written to a hash-chained log. The state is in memory; what must last is in the
coordinator's store. Node keys come from the contract: nobody else can register.

    serve     runs the link until it is stopped
    work      submits one job as a Flower run and is its ServerApp process
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import hmac
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_public_key
from flwr.app import Context
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL, SubStatus
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    fab_to_proto,
    run_from_proto,
    user_config_to_proto,
)
from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.auth.typing import AccountInfo
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid, http_grid
from flwr.superlink.main import create_app

from protos import logs
from server.calls import CallLog
from server.firewall import PathFirewall, shorten
from server.home import Home

log = logging.getLogger("tallystick.link")

APP_FILES = {
    "pyproject.toml": b"""\
[project]
name = "tallystick"
version = "0.1.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "tallystick"
fab-include = ["*.py"]

[tool.flwr.app.config]
home = ""
job = ""

[tool.flwr.app.components]
serverapp = "tallystick_app:server_app"
clientapp = "tallystick_app:client_app"
""",
    "tallystick_app.py": b"""\
from flwr.clientapp import ClientApp
from server.app import app as server_app

server_app = server_app
client_app = ClientApp()  # partners run their own, installed one
""",
}
"""What Flower wants shipped with a run. Neither side ever unpacks it."""

OBJECT_PAUSE = 0.03
"""Seconds before an object that is still being pushed is asked for again."""

OBJECT_PATIENCE = 8.0
"""Seconds until a reply whose sender died while pushing it is asked for afresh."""


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


def _config(home: Home, calls: CallLog) -> SuperLinkLifespanConfig:
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


def serve(home: Home) -> None:
    """Run the SuperLink until a signal stops it."""
    contract, config = home.contract(), home.config()
    app = create_app(_config(home, CallLog(home.calls)), SuperLinkLifespan)
    shorten(app)
    state = app.state.linkstate_factory.state()
    for party in contract.parties:
        state.create_node(
            owner_aid="<id:none>",
            owner_name="none",
            public_key=node_key_bytes(party.node_key),
            heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL,
            name=party.name,
        )
    public = _listen(config.bind, config.link_port)
    internal = _listen("127.0.0.1", config.internal_port)
    server = uvicorn.Server(
        uvicorn.Config(
            PathFirewall(app, config.internal_port),
            ssl_keyfile=str(home.keys / "server.key"),
            ssl_certfile=str(home.keys / "server.pem"),
            log_level="error",
            lifespan="on",
            server_header=False,
            access_log=False,
        )
    )
    server.run(sockets=[public, internal])


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((host, port))
    listening.listen(128)
    return listening


class _Bearer:
    """Adds the control token to each call."""

    def __init__(self, token: str) -> None:
        self._token = token

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        context.request.headers["authorization"] = f"Bearer {self._token}"
        return call_next(context)


def control(home: Home, token: str | None = None) -> Any:
    """A client of the Control API."""
    return ControlHttpClient.from_server_address(
        f"127.0.0.1:{home.config().internal_port}",
        False,
        home.key("ca.pem"),
        [
            RuntimeVersionHttpInterceptor(component_name="flwr CLI"),
            _Bearer(home.key("control.token").decode() if token is None else token),
        ],
    )


def _submit(home: Home, job_id: str) -> int:
    bundle = build_fab_from_files(APP_FILES)[0]
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    settings = user_config_to_proto({"home": str(home.root), "job": job_id})
    with control(home) as client:
        reply = client.StartRun(StartRunRequest(fab=fab_to_proto(fab), override_config=settings))
    return int(reply.run_id)


def work(home: Home, job_id: str) -> None:
    """Submit a job as a Flower run and serve it here: the installed ServerApp, not the bundle's."""
    from server.app import app as server_app

    run_id = _submit(home, job_id)
    address = f"127.0.0.1:{home.config().internal_port}"
    authority = home.key("ca.pem")
    # A reply is visible before its objects are pushed; Flower then waits a whole second.
    http_grid.pull_objects = functools.partial(
        http_grid.pull_objects,
        initial_backoff=OBJECT_PAUSE,
        backoff_cap=0.5,
        max_time=OBJECT_PATIENCE,
    )
    token = _acquire(home, address, authority)
    grid = HttpGrid(
        runtime_api_address=address, insecure=False, root_certificates=authority, token=token
    )
    runtime = grid._runtime_client
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(runtime))
    heartbeat.start()
    context: Context | None = None
    outcome, details = SubStatus.FAILED, "ServerApp failed"
    try:
        given = runtime.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        run: Run = run_from_proto(given.run)
        context = context_from_proto(given.context)
        context.run_config = dict(run.override_config)
        grid.set_run(run)
        server_app(grid, context)
        outcome, details = SubStatus.COMPLETED, ""
    finally:
        with contextlib.suppress(Exception):
            runtime.PushTaskOutput(
                PushTaskOutputRequest(
                    context=context_to_proto(context) if context else None,
                    sub_status=outcome,
                    details=details,
                )
            )
        if outcome != SubStatus.COMPLETED:
            with contextlib.suppress(Exception), control(home) as client:
                client.StopRun(StopRunRequest(run_id=run_id))
        heartbeat.stop()
        grid.close()


def _acquire(home: Home, address: str, authority: bytes, patience: float = 30.0) -> str:
    """The task token of the run just submitted."""
    client = RuntimeHttpClient.from_server_address(
        address,
        False,
        authority,
        [
            RuntimeVersionHttpInterceptor(component_name="flwr-serverapp"),
            SuperExecAuthHttpInterceptor(
                master_secret=home.key("runtime.secret"),
                protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
            ),
        ],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    deadline = time.monotonic() + patience
    try:
        while time.monotonic() < deadline:
            reply = client.AcquireTask(
                AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
            )
            if reply.token:
                return str(reply.token)
            time.sleep(0.05)
    finally:
        client.close()
    raise TimeoutError("the link gave no task")


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
    home = Home(arguments.home)
    if arguments.what == "serve":
        serve(home)
    else:
        work(home, str(arguments.job))


if __name__ == "__main__":
    main()

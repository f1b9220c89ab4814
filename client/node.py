"""The partner's Flower node: runs the *installed* ClientApp, warm. flwr's private parts stay here.

``serve_link`` (the default) is one process on Flower's own connection. It never asks for the bundle
that the coordinator ships. ``serve_beside_supernode`` runs beside an unmodified ``flower-supernode``
in process isolation and treats the bundle as opaque bytes. Both hand messages to ``client.app``.

Flower's code may end this process (a 401 on a heartbeat raises SIGINT; a failed activation exits):
the supervisor starts it again, and the gate, another process, does not notice.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
    push_object_contents_from_iterable,
)
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.home import Home
from protos import logs
from protos.files import write_private

log = logging.getLogger("tallystick.node")

POLL = 0.1
"""Seconds between looks for messages; faster polling makes the link slower."""
OBJECT_PAUSE = 0.03
"""Seconds before an object that is still being pushed is asked for again; Flower waits a second."""
OBJECT_PATIENCE = 8.0
"""Seconds until a message whose sender died while pushing it is given up."""
CONNECT_RETRIES = 2
"""Then the process ends and the supervisor starts it afresh."""
EXPECTED_TYPE = "query.tallystick"


def answer(app: ClientApp, message: Message, context: Context) -> Message:
    """Run the installed app. Whatever is raised becomes one fixed text: Flower ships exceptions."""
    try:
        if message.metadata.message_type != EXPECTED_TYPE:
            raise ValueError
        return app(message, context)
    except Exception as error:
        log.error("message not answered: %s", type(error).__name__)
        failure = Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, "not answered")
        return Message(failure, reply_to=message)


def serve_link(home: Home, app: ClientApp) -> None:
    """Serve messages until the process is stopped or Flower gives up."""
    contract = home.contract()
    key = load_ssh_private_key(home.key_file("node.key"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the node key is an elliptic-curve key")
    authority = home.state / "authority.pem"
    authority.write_text(contract.coordinator.authority)
    keys = (key, key.public_key())
    _leave(home, contract.coordinator.link, authority, keys)
    with http_request_response(
        contract.coordinator.link, False, str(authority), keys, max_retries=CONNECT_RETRIES
    ) as (node_id, receive, send, _get_run, _get_bundle, pull_object, push_object, confirm):
        write_private(home.state / "node.id", str(node_id).encode())
        log.info("node %s is connected", node_id)
        while True:
            try:
                if not _one(app, node_id, receive, send, pull_object, push_object, confirm):
                    time.sleep(POLL)
            except (RunNotRunningException, ObjectPullError):
                log.info("a message was given up: its run ended, or it never came whole")
            except httpx.HTTPStatusError as error:
                log.warning("link answered %s", error.response.status_code)
                if error.response.status_code in (401, 403, 404, 412):
                    return  # a link that restarted knows this node no longer: connect afresh
                time.sleep(1.0)


def _one(
    app: ClientApp,
    node_id: int,
    receive: Callable[..., Any],
    send: Callable[..., Any],
    pull_object: Callable[..., bytes],
    push_object: Callable[..., None],
    confirm: Callable[..., None],
) -> bool:
    """Take and answer one message; False if there was none."""
    got = receive()
    if got is None:
        return False
    head, tree = got
    run_id = head.metadata.run_id
    contents = pull_objects(
        [node.object_id for node in iterate_object_tree(tree)],
        pull_object_fn=lambda object_id: pull_object(run_id, object_id),
        initial_backoff=OBJECT_PAUSE,
        backoff_cap=0.5,
        max_time=OBJECT_PATIENCE,
    )
    message = inflate_object_from_contents(head.metadata.message_id, contents)
    message.metadata.__dict__["_message_id"] = head.metadata.message_id
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, 1
    context = Context(
        run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={},
        series_id=0,
    )  # fmt: skip
    started = time.monotonic()
    reply = answer(app, message, context)
    reply.metadata.__dict__["_message_id"] = reply.object_id
    with no_object_id_recompute():
        objects = get_all_nested_objects(reply)
        wanted, session = send(reply, get_object_tree(reply), time.monotonic() - started)
        push_object_contents_from_iterable(
            ((object_id, objects[object_id].deflate()) for object_id in wanted),
            push_object_fn=lambda object_id, data: push_object(run_id, session, object_id, data),
        )
    confirm(run_id, head.metadata.message_id)  # off the path that the coordinator waits on
    return True


def _leave(home: Home, address: str, authority: Path, keys: Any) -> None:
    """Take back the registration of a killed predecessor, which would block us for a minute."""
    try:
        node_id = int((home.state / "node.id").read_text())
    except (OSError, ValueError):
        return
    interceptors = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(*keys),
    ]
    with (
        contextlib.suppress(httpx.HTTPError, RuntimeError, OSError),
        FleetHttpClient.from_server_address(
            address, False, str(authority), interceptors=interceptors
        ) as client,
    ):
        client.DeactivateNode(DeactivateNodeRequest(node_id=node_id))


def serve_beside_supernode(app: ClientApp, runtime: str, secret_file: str) -> None:
    """Serve the messages that a stock SuperNode queues, through its Runtime API on loopback."""
    secret = load_superexec_auth_secret(secret_file=secret_file)
    control = _runtime(
        runtime,
        SuperExecAuthHttpInterceptor(
            master_secret=secret,
            protected_methods=frozenset({"/flwr.proto.Runtime/AcquireTask"}),
        ),
    )
    while True:
        try:
            task = control.AcquireTask(
                AcquireTaskRequest(supported_task_types=[TaskType.CLIENT_APP])
            )
        except httpx.HTTPError as error:
            log.warning("supernode: %s", type(error).__name__)
            time.sleep(1.0)
            continue
        if task.token:
            _serve_task(app, _runtime(runtime, RuntimeTokenHttpInterceptor(task.token)))
        else:
            time.sleep(POLL)


def _runtime(address: str, interceptor: Any) -> Any:
    return RuntimeHttpClient.from_server_address(
        address,
        True,
        None,
        [RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def _serve_task(app: ClientApp, client: Any) -> None:
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    context: Context | None = None
    outcome, details = SubStatus.COMPLETED, ""
    try:
        message, context, _run, _bundle = pull_task_input(client)
        push_message(client, answer(app, message, context), context)
    except Exception as error:
        log.error("task failed: %s", type(error).__name__)
        outcome, details = SubStatus.FAILED, "not answered"
    finally:
        with contextlib.suppress(httpx.HTTPError):
            push_task_output(client, context, outcome, details)
        heartbeat.stop()
        client.close()


def main() -> None:
    """``python -m client.node HOME``: started by the supervisor."""
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    parser = argparse.ArgumentParser(prog="python -m client.node")
    parser.add_argument("home", type=Path)
    parser.add_argument("--runtime", help="Runtime API of a stock SuperNode, HOST:PORT")
    parser.add_argument("--secret-file", default="")
    arguments = parser.parse_args()
    logs.configure()
    logging.getLogger("httpx").setLevel(logging.WARNING)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    home = Home(arguments.home)
    from client import app as installed

    os.environ[installed.SOCKET_VARIABLE] = str(home.socket)
    if arguments.runtime:
        serve_beside_supernode(installed.app, arguments.runtime, arguments.secret_file)
    else:
        serve_link(home, installed.app)


if __name__ == "__main__":
    main()

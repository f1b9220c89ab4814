"""The partner's Flower node: runs the *installed* ClientApp, warm. flwr's private parts stay here.

``serve_link`` (the default) is one process on Flower's own connection. It never asks for the bundle
that the coordinator ships. ``serve_beside_supernode`` runs beside an unmodified ``flower-supernode``
in process isolation and treats the bundle as opaque bytes. Both hand messages to ``client.app``.

Whoever can reach the link or sits on it may try to end this loop or to fill this process. What reaches the
app is a message that says that it comes from the link (node 1), is for this node, of the one type, and whose
objects have the one form that an envelope has (:mod:`protos.carried`): one object is pulled, of bounded size,
and none is inflated by what its header says. Answers of the link are cut off at a size before they are parsed
and lead to no other address (:mod:`client.responses`). Anything else gets the fixed error, or nothing; it is
confirmed, and the loop goes on to what is behind it. Nothing here decides who asked: that is for the gate,
another process, by the signature in the envelope; this one holds no key but the node's.

Flower's code may end this process (a 401 on a heartbeat raises SIGINT; a failed activation exits), by the
link's word alone: the supervisor starts it again, and the gate does not notice. *Not* handled: a link that
does so for ever; what a stock ``flower-supernode`` does with what it pulls before it hands it on.
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
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode, SubStatus
from flwr.common.serde import context_from_proto, message_from_proto
from flwr.proto.fleet_pb2 import DeactivateNodeRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullAppMessagesRequest,
    PullTaskInputRequest,
)
from flwr.supercore.auth import load_superexec_auth_secret
from flwr.supercore.constant import TaskType
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
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
from flwr.supernode import fleet_http_connection
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor
from flwr.supernode.runtime.run_clientapp import push_message, push_task_output

from client.home import Home
from client.responses import bounded
from privacy.errors import WireError
from protos import carried, logs
from protos.files import write_private

log = logging.getLogger("tallystick.node")

POLL = 0.1
"""Seconds between looks for messages; faster polling makes the link slower."""
PAUSE = 1.0
"""Seconds after what was none."""
OBJECT_PAUSE = 0.03
"""Seconds before an object that is still being pushed is asked for again; Flower waits a second."""
OBJECT_PATIENCE = 8.0
"""Seconds until a message whose sender died while pushing it is given up."""
CONNECT_RETRIES = 2
"""Then the process ends and the supervisor starts it afresh."""
EXPECTED_TYPE = "query.tallystick"
ANYTHING = (Exception, RunNotRunningException)
"""What may be raised by what came: Flower makes a 403 an exception that is no Exception."""
LARGEST_LOCAL = 64 << 20
"""Bytes of an answer of a stock SuperNode, which holds the bundle."""


class _FleetClient(FleetHttpClient):  # type: ignore[misc]
    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        bounded(self)


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


def question(head: Message, tree: Any, pull: Callable[[str], bytes]) -> Message:
    """The message that a head and its tree of objects stand for.

    One without content, which the app cannot answer, where they are not what an envelope travels as.
    """
    try:
        last = carried.last_of(tree, head.metadata.message_id)
        contents = pull_objects(
            [last],
            pull_object_fn=pull,
            initial_backoff=OBJECT_PAUSE,
            backoff_cap=0.5,
            max_time=OBJECT_PATIENCE,
        )
        record = ConfigRecord({carried.FIELD: carried.open_record(contents[last], last)})
        content = RecordDict({carried.RECORD: record})
    except WireError as error:
        log.warning("a message that is none: %s", error)
        content = RecordDict({})
    return Message(content, metadata=head.metadata)


def is_from_link(head: Message, node_id: int) -> bool:
    """Whether a message says that the link asks this node something."""
    said = head.metadata
    return (said.src_node_id, said.dst_node_id, said.reply_to_message_id) == (
        SUPERLINK_NODE_ID, node_id, "",
    )  # fmt: skip


def serve_link(home: Home, app: ClientApp) -> None:
    """Serve messages until the process is stopped or the link is gone."""
    contract = home.contract()
    key = load_ssh_private_key(home.key_file("node.key"), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the node key is an elliptic-curve key")
    authority = home.state / "authority.pem"
    write_private(authority, contract.coordinator.authority.encode())
    keys = (key, key.public_key())
    fleet_http_connection.FleetHttpClient = _FleetClient
    _leave(home, contract.coordinator.link, authority, keys)
    with http_request_response(
        contract.coordinator.link, False, str(authority), keys, max_retries=CONNECT_RETRIES
    ) as (node_id, receive, send, _get_run, _get_bundle, pull_object, push_object, confirm):
        write_private(home.state / "node.id", str(node_id).encode())
        log.info("node %s is connected", node_id)
        while _goes_on(app, node_id, receive, send, pull_object, push_object, confirm):
            pass


def _goes_on(app: ClientApp, node_id: int, receive: Callable[..., Any], *rest: Any) -> bool:
    """Look for a message and answer it, whatever it is; False where this node must connect afresh."""
    try:
        got = receive()
    except httpx.HTTPStatusError as error:
        log.warning("link answered %s", error.response.status_code)
        if error.response.status_code in (401, 404, 412):
            return False  # a link that restarted knows this node no longer
        got = ()
    except httpx.TransportError:
        raise  # no link
    except ANYTHING as error:
        log.warning("the link sent what is no message: %s", type(error).__name__)
        got = ()
    if got:
        try:
            _one(app, node_id, *got, *rest)
        except ANYTHING as error:
            log.warning("a message was given up: %s", type(error).__name__)
    else:
        time.sleep(POLL if got is None else PAUSE)
    return True


def _one(
    app: ClientApp,
    node_id: int,
    head: Message,
    tree: Any,
    send: Callable[..., Any],
    pull_object: Callable[..., bytes],
    push_object: Callable[..., None],
    confirm: Callable[..., None],
) -> None:
    """Answer one message, and let the link forget it, whatever comes of it."""
    run_id = head.metadata.run_id
    try:
        if not is_from_link(head, node_id):
            log.warning("a message that is not the link's was dropped")
            return
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = run_id, node_id, 1
        started = time.monotonic()
        message = question(head, tree, lambda object_id: pull_object(run_id, object_id))
        context = Context(
            run_id=run_id, node_id=node_id, node_config={}, state=RecordDict(), run_config={},
            series_id=0,
        )  # fmt: skip
        reply = answer(app, message, context)
        reply.metadata.__dict__["_message_id"] = reply.object_id
        with no_object_id_recompute():
            objects = get_all_nested_objects(reply)
            wanted, session = send(reply, get_object_tree(reply), time.monotonic() - started)
            push_object_contents_from_iterable(
                ((object_id, objects[object_id].deflate()) for object_id in wanted),
                push_object_fn=lambda object_id, data: push_object(
                    run_id, session, object_id, data
                ),
            )
    finally:
        with contextlib.suppress(*ANYTHING):
            # off the path that the coordinator waits on
            confirm(run_id, head.metadata.message_id)


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
        contextlib.suppress(Exception),
        _FleetClient.from_server_address(
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
            if task.token:
                _serve_task(app, _runtime(runtime, RuntimeTokenHttpInterceptor(task.token)))
            else:
                time.sleep(POLL)
        except ANYTHING as error:
            log.warning("supernode: %s", type(error).__name__)
            time.sleep(PAUSE)


def _runtime(address: str, interceptor: Any) -> Any:
    client = RuntimeHttpClient.from_server_address(
        address,
        True,
        None,
        [RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=make_simple_http_retry_invoker(),
    )
    return bounded(client, LARGEST_LOCAL, proxies=False)


def _serve_task(app: ClientApp, client: Any) -> None:
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    context: Context | None = None
    outcome, details = SubStatus.FAILED, "not answered"
    try:
        given = client.PullTaskInput(PullTaskInputRequest())
        context = context_from_proto(given.context)
        run_id, node_id = context.run_id, context.node_id
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, run_id
        TaskIdentity.node_id = node_id
        found = client.PullMessages(PullAppMessagesRequest())
        head = message_from_proto(found.messages_list[0])
        node, tree = Node(node_id=node_id), found.message_object_trees[0]
        confirm = make_confirm_message_received_fn_protobuf(
            client.ConfirmMessageReceived, node, run_id
        )
        if not is_from_link(head, node_id):
            raise WireError("a message that is not the link's")
        pull = make_pull_object_fn_protobuf(client.PullObject, node, run_id)
        message = question(head, tree, pull)
        confirm(head.metadata.message_id)
        push_message(client, answer(app, message, context), context)
        outcome, details = SubStatus.COMPLETED, ""
    except ANYTHING as error:
        log.error("task failed: %s", type(error).__name__)
    finally:
        with contextlib.suppress(*ANYTHING):
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

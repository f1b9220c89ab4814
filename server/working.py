"""One job's process: submits it as a Flower run, takes that run's task and is its ServerApp.

Flower gives any waiting task to whoever asks next, and several jobs are worked on at once. So submitting and
taking are one step that one process takes at a time; a task left over by a process that died in between is
ended, not driven. And a job has one driver: a second process for it, of a supervisor that was started again
while the first one's children still ran, waits for the first to end.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import time
from collections.abc import Callable
from typing import Any

from flwr.app import Context
from flwr.cli.build import build_fab_from_files
from flwr.common.constant import SubStatus
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    fab_to_proto,
    run_from_proto,
)
from flwr.proto.control_pb2 import StartRunRequest, StopRunRequest
from flwr.proto.runtime_pb2 import (
    AcquireTaskRequest,
    PullTaskInputRequest,
    PushTaskOutputRequest,
)
from flwr.supercore.constant import TaskType
from flwr.supercore.control import ControlHttpClient
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.run import Run
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid, http_grid

from server.alone import DRIVING, TAKING, alone
from server.home import Home

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
"""What Flower wants shipped with a run. Neither side ever unpacks it. It has no configuration: any partner
may read a run's, and this coordinator's folder and the jobs of others are not for them."""

OBJECT_PAUSE = 0.03
"""Seconds before an object that is still being pushed is asked for again."""

OBJECT_PATIENCE = 8.0
"""Seconds until a reply whose sender died while pushing it is asked for afresh."""

PATIENCE = 60.0
"""Seconds to wait for another process to end, or to take its run."""


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


def _place(job_id: str) -> int:
    return int.from_bytes(hashlib.sha256(job_id.encode()).digest()[:7], "big")


def _submit(home: Home) -> int:
    bundle = build_fab_from_files(APP_FILES)[0]
    fab = Fab(hashlib.sha256(bundle).hexdigest(), bundle, {})
    with control(home) as client:
        reply = client.StartRun(StartRunRequest(fab=fab_to_proto(fab)))
    return int(reply.run_id)


def work(home: Home, job_id: str) -> None:
    """Submit a job as a Flower run and serve it here: the installed ServerApp, not the bundle's. Raises
    TimeoutError if another process has the job, or the link gives no task."""
    with alone(home, DRIVING, _place(job_id), PATIENCE):
        _work(home, job_id)


def _work(home: Home, job_id: str) -> None:
    from server.app import app as server_app

    # A reply is visible before its objects are pushed; Flower then waits a whole second.
    http_grid.pull_objects = functools.partial(
        http_grid.pull_objects,
        initial_backoff=OBJECT_PAUSE,
        backoff_cap=0.5,
        max_time=OBJECT_PATIENCE,
    )
    with alone(home, TAKING, 0, PATIENCE):
        run_id = _submit(home)
        grid, given = _take(home, run_id)
    runtime = grid._runtime_client
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(runtime))
    heartbeat.start()
    context: Context | None = None
    outcome, details = SubStatus.FAILED, "ServerApp failed"
    try:
        TaskIdentity.task_id, TaskIdentity.run_id = given.task_id, given.run.run_id
        TaskIdentity.node_id = given.context.node_id
        run: Run = run_from_proto(given.run)
        context = context_from_proto(given.context)
        context.run_config = {"home": str(home.root), "job": job_id}  # of this process only
        grid.set_run(run)
        server_app(grid, context)
        outcome, details = SubStatus.COMPLETED, ""
    finally:
        heartbeat.stop()
        if not _stop(home, run_id):
            _give_back(runtime, outcome, details, context)
        grid.close()


def _take(home: Home, run_id: int) -> tuple[HttpGrid, Any]:
    """The task of this run. Those of others are of processes that died before they took them."""
    address, authority = f"127.0.0.1:{home.config().internal_port}", home.key("ca.pem")
    while True:
        grid = HttpGrid(
            runtime_api_address=address,
            insecure=False,
            root_certificates=authority,
            token=_acquire(home, address, authority),
        )
        given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        if given.run.run_id == run_id:
            return grid, given
        _give_back(grid._runtime_client, SubStatus.FAILED, "its process ended", None)
        grid.close()


def _stop(home: Home, run_id: int) -> bool:
    """End a run however it went, and have the link delete what was sent in it: of a run that finished by
    itself Flower keeps all that nobody fetched."""
    with contextlib.suppress(Exception), control(home) as client:
        return bool(client.StopRun(StopRunRequest(run_id=run_id)).success)
    return False


def _give_back(runtime: Any, outcome: str, details: str, context: Context | None) -> None:
    with contextlib.suppress(Exception):
        runtime.PushTaskOutput(
            PushTaskOutputRequest(
                context=context_to_proto(context) if context else None,
                sub_status=outcome,
                details=details,
            )
        )


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

"""Flower's private parts, as ``client/node.py`` uses them, and what leaves on an exception."""

from __future__ import annotations

import inspect
import typing

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_connection import http_request_response
from flwr.supernode.runtime import run_clientapp

from client import node


def test_the_connection_helper_is_where_it_was() -> None:
    assert list(inspect.signature(http_request_response).parameters) == [
        "server_address", "insecure", "root_certificates", "authentication_keys", "max_retries",
        "max_wait_time",
    ]  # fmt: skip
    inner = inspect.unwrap(http_request_response)
    callbacks = typing.get_args(typing.get_args(typing.get_type_hints(inner)["return"])[0])
    assert len(callbacks) == 8
    for name in ("pull_task_input", "push_message", "push_task_output"):
        assert callable(getattr(run_clientapp, name))


@pytest.fixture
def question() -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 2, 3
    message = Message(RecordDict({"r": ConfigRecord({})}), 2, node.EXPECTED_TYPE)
    message.metadata.__dict__["_message_id"] = message.object_id
    return message


def _context() -> Context:
    return Context(
        run_id=1, node_id=2, node_config={}, state=RecordDict(), run_config={}, series_id=0
    )


def test_an_exception_leaves_without_its_text(
    question: Message, caplog: pytest.LogCaptureFixture
) -> None:
    app = ClientApp()

    @app.query("tallystick")  # type: ignore[untyped-decorator]
    def query(message: Message, context: Context) -> Message:
        raise ValueError("secret-customer-row: jane@example.com")

    reply = node.answer(app, question, _context())
    assert reply.has_error()
    assert "jane" not in str(reply.error)
    assert "jane" not in caplog.text


def test_other_message_types_reach_no_app(question: Message) -> None:
    called = []

    class App(ClientApp):  # type: ignore[misc]
        def __call__(self, message: Message, context: Context) -> Message:
            called.append(1)
            return message

    other = Message(RecordDict({"r": ConfigRecord({})}), 2, "train")
    other.metadata.__dict__["_message_id"] = other.object_id
    assert node.answer(App(), other, _context()).has_error()
    assert called == []
    node.answer(App(), question, _context())
    assert called == [1]

"""Another partner's node pushes to the link what no honest node would; a hostile link to a node.

The link is the real process on real ports; the nodes are Flower's own client with the partners' keys.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.serde import (
    message_to_proto,
    metadata_from_proto,
    recorddict_to_proto,
    run_from_proto,
)
from flwr.proto import fleet_pb2 as fleet
from flwr.proto import heartbeat_pb2 as heartbeat
from flwr.proto import message_pb2 as objects
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullTaskInputRequest
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client import node, responses
from client.home import Home as PartnerHome
from protos import carried
from server import pushes, working
from server.app import GridTransport
from simulations.alliances import Alliance, create
from simulations.live import free_ports
from tests.conftest import NAMES, data_settings, terms, write_csv


class Headers:
    """Keeps or replaces the headers of a call."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        self.instead: dict[str, str] = {}

    def intercept(self, context: Any, call_next: Callable[[Any], Any]) -> Any:
        for name, value in self.instead.items():
            context.request.headers[name] = value
        self.seen = dict(context.request.headers)
        return call_next(context)


@dataclass
class Caller:
    """A node that says whatever it likes, with the key of a partner."""

    client: FleetHttpClient
    public: bytes
    headers: Headers
    id: int = 0
    asked: list[Any] = field(default_factory=list)

    def activate(self) -> None:
        request = fleet.ActivateNodeRequest(public_key=self.public, heartbeat_interval=60)
        self.id = self.client.ActivateNode(request).node_id

    @property
    def node(self) -> Node:
        return Node(node_id=self.id)

    def pull(self) -> tuple[Any, Any]:
        """The question that was asked, and its tree."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            found = self.client.PullMessages(fleet.PullMessagesRequest(node=self.node))
            if found.messages_list:
                return found.messages_list[0], found.message_object_trees[0]
            time.sleep(0.05)
        raise AssertionError("nothing was asked")

    def push(self, message: Any, tree: Any, **more: Any) -> Any:
        return self.client.PushMessages(
            fleet.PushMessagesRequest(
                node=self.node, messages_list=[message], message_object_trees=[tree], **more
            )
        )

    def put(self, run: int, session: str, name: str, content: bytes) -> bool:
        request = objects.PushObjectRequest(
            node=self.node, run_id=run, session_id=session, object_id=name, object_content=content
        )
        return bool(self.client.PushObject(request).stored)


class Link:
    """A link as a process, and the coordinator's end of a run on it."""

    def __init__(self, alliance: Alliance) -> None:
        self.alliance, self.home = alliance, alliance.coordinator
        self.log = self.home.state / "test.log"
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("wb") as target:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "server.link", "serve", str(self.home.root)],
                stdout=target, stderr=target,
            )  # fmt: skip
        self.address = f"127.0.0.1:{self.home.config().link_port}"
        try:
            self._wait()
            self.grid = self._grid()
        except BaseException:
            self.process.kill()
            self.process.wait()
            raise

    def plain(self) -> httpx.Client:
        """A client that knows nothing of Flower."""
        authority = self.home.key("ca.pem").decode()
        return httpx.Client(verify=ssl.create_default_context(cadata=authority))

    def _wait(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                with self.plain() as client:
                    client.get(f"https://{self.address}/health")
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError(self.log.read_text())

    def _grid(self) -> HttpGrid:
        working._submit(self.home)
        address = f"127.0.0.1:{self.home.config().internal_port}"
        authority = self.home.key("ca.pem")
        token = working._acquire(self.home, address, authority)
        grid = HttpGrid(
            runtime_api_address=address, insecure=False, root_certificates=authority, token=token
        )
        given = grid._runtime_client.PullTaskInput(PullTaskInputRequest())
        self.run = int(given.run.run_id)
        self.identity = (given.run.run_id, given.context.node_id, given.task_id)
        grid.set_run(run_from_proto(given.run))
        return grid

    def ask(self, to: int, data: bytes | None = None) -> str:
        record = ConfigRecord({carried.FIELD: data or os.urandom(16)})
        return self.send(to, RecordDict({carried.RECORD: record}), node.EXPECTED_TYPE)

    def send(self, to: int, content: RecordDict, kind: str) -> str:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = self.identity
        message = Message(content, dst_node_id=to, message_type=kind, ttl=600.0)
        (name,) = self.grid.push_messages([message])
        return str(name)

    def caller(self, name: str, keys: Any = None) -> Caller:
        if keys is None:
            private = load_ssh_private_key(
                PartnerHome(self.alliance.partners[name].root).key_file("node.key"), None
            )
            keys = (private, private.public_key())
        headers = Headers()
        client = FleetHttpClient.from_server_address(
            self.address, False, self.home.key("ca.pem"),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(*keys),
                headers,
            ],
        )  # fmt: skip
        return Caller(client, public_key_to_bytes(keys[1]), headers)

    def close(self) -> None:
        self.grid.close()
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Link]:
    root = tmp_path_factory.mktemp("link")
    names = NAMES[:3]
    data = {}
    for index, name in enumerate(names):
        write_csv(root / f"{name}.csv", range(200 * index, 200 * index + 300))
        data[name] = data_settings(root / f"{name}.csv")
    ports = free_ports(3)
    alliance = create(root, names, terms(3), data, ports=(ports[0], ports[1], ports[2]))
    made = Link(alliance)
    yield made
    made.close()


@pytest.fixture
def bank(running: Link) -> Iterator[Caller]:
    yield from _caller(running, "bank")


@pytest.fixture
def shop(running: Link) -> Iterator[Caller]:
    yield from _caller(running, "shop")


def _caller(running: Link, name: str) -> Iterator[Caller]:
    made = running.caller(name)
    try:
        made.activate()
        while made.client.PullMessages(fleet.PullMessagesRequest(node=made.node)).messages_list:
            pass  # what an earlier test left
        yield made
        made.client.DeactivateNode(fleet.DeactivateNodeRequest(node_id=made.id))
    finally:
        made.client.close()


def refused(call: Callable[[], object], *statuses: int) -> None:
    with pytest.raises(httpx.HTTPStatusError) as caught:
        call()
    assert caught.value.response.status_code in (statuses or (403,))


def reply_to(question: Any, data: bytes = b"an answer") -> Message:
    """An honest answer, as Flower makes it."""
    asked = Message(RecordDict({}), metadata=metadata_from_proto(question.metadata))
    made = Message(
        RecordDict({carried.RECORD: ConfigRecord({carried.FIELD: data})}), reply_to=asked
    )
    made.metadata.__dict__["_message_id"] = made.object_id
    return made


def announced(message: Message) -> tuple[Any, Any]:
    tree = get_object_tree(message)
    return message_to_proto(remove_content_from_message(message)), tree


# ---------------------------------------------------------------------- at the link


def test_an_honest_answer_arrives(running: Link, bank: Caller) -> None:
    asked = running.ask(bank.id, b"a question")
    question, tree = bank.pull()
    assert question.metadata.message_id == asked
    last = carried.last_of(tree, asked)
    pulled = bank.client.PullObject(
        objects.PullObjectRequest(node=bank.node, run_id=running.run, object_id=last)
    )
    assert carried.open_record(pulled.object_content, last) == b"a question"
    made = reply_to(question)
    head, tree = announced(made)
    taken = bank.push(head, tree, clientapp_runtime_list=[0.1])
    held = made.content
    contents = {o.object_id: o.deflate() for o in (made, held, held[carried.RECORD])}
    assert set(taken.objects_to_push) == set(contents)
    for name, content in contents.items():
        assert bank.put(running.run, taken.session_id, name, content)
    bank.client.ConfirmMessageReceived(
        objects.ConfirmMessageReceivedRequest(
            node=bank.node, run_id=running.run, message_object_id=asked
        )
    )
    (reply,) = running.grid.pull_messages([asked])
    assert reply.content[carried.RECORD][carried.FIELD] == b"an answer"


def test_a_question_in_the_links_name_is_refused(running: Link, bank: Caller, shop: Caller) -> None:
    running.ask(bank.id)
    question, _ = bank.pull()
    for number, source in enumerate((1, bank.id, shop.id)):
        content = b"Message  7\x00garbag%d" % number
        name = hashlib.sha256(content).hexdigest()
        forged = type(question)()
        forged.metadata.CopyFrom(question.metadata)
        forged.metadata.message_id, forged.metadata.src_node_id = name, source
        forged.metadata.dst_node_id = shop.id
        forged.content.SetInParent()
        tree = objects.ObjectTree(object_id=name)
        refused(lambda forged=forged, tree=tree: bank.push(forged, tree))
    assert not shop.client.PullMessages(fleet.PullMessagesRequest(node=shop.node)).messages_list


def test_an_answer_to_anothers_question_is_refused(
    running: Link, bank: Caller, shop: Caller
) -> None:
    running.ask(shop.id)
    question, _ = shop.pull()
    made = reply_to(question)
    head, tree = announced(made)
    refused(lambda: bank.push(head, tree))  # in shop's name
    head.metadata.src_node_id = bank.id
    refused(lambda: bank.push(head, tree))
    assert shop.push(head_of(made), tree).objects_to_push  # its own goes through


def head_of(message: Message) -> Any:
    return announced(message)[0]


def _bent(question: Any, bend: Callable[[Any, Any], None]) -> tuple[Any, Any]:
    head, tree = announced(reply_to(question))
    bend(head, tree)
    return head, tree


BENT: dict[str, Callable[[Any, Any], None]] = {
    "to another node": lambda m, t: setattr(m.metadata, "dst_node_id", 7),
    "of another run": lambda m, t: setattr(m.metadata, "run_id", 7),
    "of another type": lambda m, t: setattr(m.metadata, "message_type", "train"),
    "to nothing": lambda m, t: setattr(m.metadata, "reply_to_message_id", ""),
    "without end": lambda m, t: setattr(m.metadata, "ttl", float("inf")),
    "at no time": lambda m, t: setattr(m.metadata, "created_at", float("nan")),
    "of another name": lambda m, t: setattr(m.metadata, "message_id", "a" * 64),
    "with content beside it": lambda m, t: m.content.CopyFrom(_numbers()),
    "with branches": lambda m, t: t.children[0].children.add(object_id="b" * 64),
    "with a deeper tree": lambda m, t: t.children[0].children[0].children.add(object_id="b" * 64),
    "with a hundred objects": lambda m, t: t.children.extend([t.children[0]] * 100),
    "with no object": lambda m, t: t.ClearField("children"),
    "with a name that is none": lambda m, t: setattr(t.children[0], "object_id", "../x"),
}  # fmt: skip


def _numbers() -> Any:
    return recorddict_to_proto(RecordDict({"r": ConfigRecord({"n": [1] * 10})}))


@pytest.mark.parametrize("how", BENT)
def test_an_answer_that_is_bent_is_refused(running: Link, bank: Caller, how: str) -> None:
    running.ask(bank.id)
    question, _ = bank.pull()
    head, tree = _bent(question, BENT[how])
    refused(lambda: bank.push(head, tree))


def test_a_second_answer_is_refused_and_the_first_may_be_told_again(
    running: Link, bank: Caller
) -> None:
    running.ask(bank.id)
    question, _ = bank.pull()
    first, other = announced(reply_to(question)), announced(reply_to(question, b"another"))
    bank.push(*first)
    refused(lambda: bank.push(*other))
    bank.push(*first)


def test_a_running_time_that_is_none_is_refused(running: Link, bank: Caller) -> None:
    running.ask(bank.id)
    question, _ = bank.pull()
    made = announced(reply_to(question))
    for value in (float("nan"), float("inf"), -1.0, 1e300):
        refused(lambda value=value: bank.push(*made, clientapp_runtime_list=[value]))


def _record(body: bytes) -> bytes:
    return carried.whole("ConfigRecord", "", body)


@pytest.mark.parametrize(
    "content",
    [
        b"Message  7\x00garbage",
        b"ConfigRecord  0\x00",
        b"Array " + b"9" * 64 + b" 0\x00",
        _record(b"\x0a\x02\x0a\x00" * 1000),
        _record(b"\x0a\x11\x0a\x08envelope\x12\x05\x1a\x03abc"),  # a list, not bytes
    ],
)
def test_an_object_that_no_reader_survives_is_not_taken(
    running: Link, bank: Caller, content: bytes
) -> None:
    running.ask(bank.id)
    question, _ = bank.pull()
    # A well-formed tree over an object that is none: only its content shows it.
    last = hashlib.sha256(content).hexdigest()
    middle = carried.dictionary(last)
    head = head_of(reply_to(question))
    plain = type(head)()
    plain.metadata.CopyFrom(head.metadata)
    plain.metadata.message_id = ""
    names = [hashlib.sha256(middle).hexdigest(), last]
    root = carried.whole("Message", names[0], plain.SerializeToString(deterministic=True))
    head.metadata.message_id = hashlib.sha256(root).hexdigest()
    leaf = objects.ObjectTree(object_id=last)
    tree = objects.ObjectTree(
        object_id=head.metadata.message_id,
        children=[objects.ObjectTree(object_id=names[0], children=[leaf])],
    )
    taken = bank.push(head, tree)
    assert bank.put(running.run, taken.session_id, names[0], middle)
    refused(lambda: bank.put(running.run, taken.session_id, last, content))


def test_objects_that_no_answer_announced_are_refused(
    running: Link, bank: Caller, shop: Caller
) -> None:
    running.ask(bank.id)
    question, _ = bank.pull()
    made = reply_to(question)
    taken = bank.push(*announced(made))
    record = made.content[carried.RECORD]
    content, name = record.deflate(), record.object_id
    refused(lambda: bank.put(7, taken.session_id, name, content))
    refused(lambda: bank.put(running.run, "", name, content))
    refused(lambda: bank.put(running.run, taken.session_id, "b" * 64, content))
    refused(lambda: bank.put(running.run, taken.session_id, name, content + b"x"))
    refused(lambda: bank.put(running.run, taken.session_id, made.object_id, b"x" * 100_000))
    refused(lambda: shop.put(running.run, taken.session_id, name, content))


def test_anothers_question_is_neither_read_nor_deleted(
    running: Link, bank: Caller, shop: Caller
) -> None:
    asked = running.ask(shop.id)
    _, tree = shop.pull()
    last = carried.last_of(tree, asked)
    read = objects.PullObjectRequest(node=bank.node, run_id=running.run, object_id=last)
    delete = objects.ConfirmMessageReceivedRequest(
        node=bank.node, run_id=running.run, message_object_id=asked
    )
    refused(lambda: bank.client.PullObject(read))
    refused(lambda: bank.client.ConfirmMessageReceived(delete))
    read.node.node_id = delete.node.node_id = shop.id
    assert shop.client.PullObject(read).object_available
    shop.client.ConfirmMessageReceived(delete)


def test_calls_in_anothers_name_are_refused(bank: Caller, shop: Caller) -> None:
    calls: list[Callable[[], object]] = [
        lambda: bank.client.PullMessages(fleet.PullMessagesRequest(node=shop.node)),
        lambda: bank.client.DeactivateNode(fleet.DeactivateNodeRequest(node_id=shop.id)),
        lambda: bank.client.UnregisterNode(fleet.UnregisterNodeFleetRequest(node_id=shop.id)),
        lambda: bank.client.UnregisterNode(fleet.UnregisterNodeFleetRequest(node_id=bank.id)),
        lambda: bank.client.ActivateNode(
            fleet.ActivateNodeRequest(public_key=shop.public, heartbeat_interval=60)
        ),
        lambda: bank.client.SendNodeHeartbeat(
            heartbeat.SendNodeHeartbeatRequest(node=shop.node, heartbeat_interval=60)
        ),
    ]
    for call in calls:
        refused(call, 401, 403)


@pytest.mark.parametrize("interval", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_an_interval_that_is_none_is_refused(bank: Caller, interval: float) -> None:
    request = heartbeat.SendNodeHeartbeatRequest(node=bank.node, heartbeat_interval=interval)
    refused(lambda: bank.client.SendNodeHeartbeat(request), 400)
    again = fleet.ActivateNodeRequest(public_key=bank.public, heartbeat_interval=interval)
    refused(lambda: bank.client.ActivateNode(again), 400)


def test_a_stranger_gets_nothing(running: Link) -> None:
    stranger = running.caller("", generate_key_pairs())
    refused(
        lambda: stranger.client.RegisterNode(
            fleet.RegisterNodeFleetRequest(public_key=stranger.public)
        ),
        401, 403,
    )  # fmt: skip
    refused(stranger.activate, 401, 403)
    stranger.client.close()


def test_a_captured_header_opens_no_second_call(running: Link, bank: Caller) -> None:
    bank.client.PullMessages(fleet.PullMessagesRequest(node=bank.node))
    captured = {k: v for k, v in bank.headers.seen.items() if k.lower() != "content-length"}
    with running.plain() as client:
        for call, request in (
            ("deactivate-node", fleet.DeactivateNodeRequest(node_id=bank.id)),
            ("pull-messages", fleet.PullMessagesRequest(node=bank.node)),
        ):
            answer = client.post(
                f"https://{running.address}/v1/fleet/{call}",
                headers=captured, content=request.SerializeToString(),
            )  # fmt: skip
            assert answer.status_code == 401
    bank.client.PullMessages(fleet.PullMessagesRequest(node=bank.node))


def test_what_is_refused_is_one_line_a_minute_and_a_line_of_the_call_log(
    running: Link, bank: Caller
) -> None:
    made = objects.PullObjectRequest(node=bank.node, run_id=running.run, object_id="c" * 64)
    before = running.home.calls.read_text().count("pull-object")
    for _ in range(5):
        refused(lambda: bank.client.PullObject(made))
    lines = [json.loads(line) for line in running.home.calls.read_text().splitlines()]
    calls = [line for line in lines if line["event"]["action"].endswith("pull-object")]
    assert len(calls) == before + 5
    assert {(line["actor"]["actor_id"], line["status"]) for line in calls[-5:]} == {
        (str(bank.id), "failed")
    }
    assert running.log.read_text().count("calls of nodes refused") <= 1


# ---------------------------------------------------------------------- at the node


def test_a_nodes_process_outlives_what_a_coordinator_sends(running: Link) -> None:
    """A real process; every one of these ended that of 0.3.0, or filled it."""
    home = running.alliance.partners["telecom"]
    home.prepare()
    log = home.state / "test-node.log"
    with log.open("wb") as target:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "client.node", str(home.root)],
            stdout=target, stderr=target,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not (home.state / "node.id").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        to = int((home.state / "node.id").read_text())
        deep = Array("float32", (1 << 40,), "numpy.ndarray", b"1234")
        process.send_signal(
            signal.SIGSTOP
        )  # or it has answered, and the link forgot, what is half pushed
        sent = [
            running.send(to, RecordDict({}), node.EXPECTED_TYPE),
            running.send(to, RecordDict({"other": ConfigRecord({"n": [7] * 100_000})}), "train"),
            running.send(to, RecordDict({carried.RECORD: ArrayRecord({"a": deep})}), "evaluate"),
            running.send(
                to,
                RecordDict({carried.RECORD: ConfigRecord({carried.FIELD: ["x"] * 1000})}),
                node.EXPECTED_TYPE,
            ),
        ]
        process.send_signal(signal.SIGCONT)
        replies: list[Message] = []
        deadline = time.monotonic() + 20
        while len(replies) < len(sent) and time.monotonic() < deadline:
            asked = {reply.metadata.reply_to_message_id for reply in replies}
            replies += running.grid.pull_messages(set(sent) - asked)
            time.sleep(0.1)
        assert [reply.error.reason for reply in replies] == ["not answered"] * len(sent)
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        process.send_signal(signal.SIGCONT)
        process.wait(20)
    assert "Traceback" not in log.read_text()


class HostileLink:
    """What a node's loop calls, answered by whoever likes."""

    def __init__(self, given: list[Any], contents: dict[str, bytes]) -> None:
        self.given, self.contents = given, contents
        self.sent: list[Message] = []
        self.confirmed: list[str] = []
        self.pulled: list[str] = []

    def receive(self) -> Any:
        if not self.given:
            return None
        found = self.given.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    def send(self, message: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
        self.sent.append(message)
        return set(), ""

    def pull(self, run: int, name: str) -> bytes:
        self.pulled.append(name)
        found = self.contents[name]
        if isinstance(found, BaseException):
            raise found
        return found

    def confirm(self, run: int, name: str) -> None:
        self.confirmed.append(name)

    def look(self, app: Any) -> bool:
        return node._goes_on(
            app, 2, self.receive, self.send, self.pull, lambda *_: None, self.confirm
        )


def echo(message: Message, context: Context) -> Message:
    record = message.content[carried.RECORD]
    return Message(RecordDict({carried.RECORD: record}), reply_to=message)


def question(data: bytes = b"asked", **said: Any) -> tuple[Message, Any, dict[str, bytes]]:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 3
    content = RecordDict({carried.RECORD: ConfigRecord({carried.FIELD: data})})
    made = Message(content, dst_node_id=2, message_type=node.EXPECTED_TYPE)
    for name, value in said.items():
        made.metadata.__dict__[f"_{name}"] = value
    made.metadata.__dict__["_message_id"] = made.object_id
    record = content[carried.RECORD]
    return made, get_object_tree(made), {record.object_id: record.deflate()}


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node, "PAUSE", 0.0)
    monkeypatch.setattr(node, "POLL", 0.0)
    monkeypatch.setattr(node, "OBJECT_PATIENCE", 0.1)


def _loops(tree: Any) -> Any:
    """A tree that is as deep as Flower's parser lets it be."""
    deepest = tree
    for _ in range(90):
        deepest = deepest.children.add(object_id="d" * 64)
    return tree


@pytest.mark.parametrize(
    ("said", "bend"),
    [
        ({}, lambda head, tree, contents: _loops(tree)),
        ({}, lambda head, tree, contents: tree.children.extend([tree.children[0]] * 100_000)),
        ({}, lambda head, tree, contents: tree.ClearField("children")),
        ({}, lambda head, tree, contents: setattr(tree, "object_id", "e" * 64)),
        ({}, lambda head, tree, contents: contents.update(dict.fromkeys(contents, b"Array  0\0"))),
        ({}, lambda head, tree, contents: contents.update(dict.fromkeys(contents, b""))),
        ({"message_type": "train"}, lambda head, tree, contents: None),
    ],
)
def test_what_is_no_envelope_gets_the_fixed_error_and_what_is_behind_it_its_answer(
    said: dict[str, Any], bend: Callable[..., Any]
) -> None:
    head, tree, contents = question(b"bad", **said)
    bend(head, tree, contents)
    good, good_tree, more = question(b"good")
    link = HostileLink([(head, tree), (good, good_tree)], contents | more)
    assert link.look(echo)
    assert link.look(echo)
    first, second = link.sent
    assert first.has_error()
    assert first.error.reason == "not answered"
    assert second.content[carried.RECORD][carried.FIELD] == b"good"
    assert link.confirmed == [head.metadata.message_id, good.metadata.message_id]
    assert len(link.pulled) <= 2


@pytest.mark.parametrize(
    "said", [{"src_node_id": 7}, {"dst_node_id": 3}, {"reply_to_message_id": "a" * 64}]
)
def test_what_is_not_the_links_is_dropped_unread(said: dict[str, Any]) -> None:
    head, tree, contents = question(**said)
    link = HostileLink([(head, tree)], contents)
    assert link.look(echo)
    assert (link.sent, link.pulled) == ([], [])
    assert link.confirmed == [head.metadata.message_id]


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("Invalid protobuf response payload"), IndexError(), RecursionError(),
        MemoryError(), responses.TooLargeError(), RunNotRunningException(), KeyError("x"),
    ],
)  # fmt: skip
def test_whatever_the_link_answers_the_loop_goes_on(raised: BaseException) -> None:
    good, tree, contents = question()
    link = HostileLink([raised, (good, tree), (good, tree)], dict.fromkeys(contents, raised))  # type: ignore[arg-type]
    assert link.look(echo)  # no message
    assert link.look(echo)  # a message whose object is none
    link.contents = contents
    assert link.look(echo)
    assert link.sent[-1].content[carried.RECORD][carried.FIELD] == b"asked"
    assert link.confirmed == [good.metadata.message_id] * 2


def test_a_link_that_knows_this_node_no_longer_is_left() -> None:
    gone = httpx.HTTPStatusError(
        "", request=httpx.Request("POST", "https://a"), response=httpx.Response(404)
    )
    assert not HostileLink([gone], {}).look(echo)


@pytest.mark.parametrize("packed", [False, True])
def test_an_answer_that_never_ends_is_cut_off(packed: bool) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            sent += 1 << 16
            yield bytes(1 << 16)

    def serve(request: httpx.Request) -> httpx.Response:
        headers = {"content-encoding": "gzip"} if packed else {}
        return httpx.Response(200, headers=headers, content=parts())

    client = FleetHttpClient.from_server_address("link:1", True, None, interceptors=[])
    client._client.close()
    client._client = httpx.Client(transport=httpx.MockTransport(serve))
    responses.bounded(client)
    with pytest.raises(responses.TooLargeError):
        client.PullMessages(fleet.PullMessagesRequest(node=Node(node_id=2)))
    assert sent <= responses.LARGEST_RESPONSE + (1 << 17)
    client.close()


def client_of(serve: Callable[[httpx.Request], httpx.Response]) -> FleetHttpClient:
    """Flower's client, as a node has it, on a link that answers so."""
    client = FleetHttpClient.from_server_address("link:1", True, None, interceptors=[])
    client._client.close()
    client._client = httpx.Client(transport=httpx.MockTransport(serve), follow_redirects=True)
    return responses.bounded(client)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
@pytest.mark.parametrize("to", ["http://inside:80/admin/delete", "/v1/fleet/deactivate-node", ""])
def test_a_redirect_leads_nowhere(status: int, to: str) -> None:
    """A link could have a node ask any host of its partner's network, with its signed headers."""
    asked: list[str] = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(str(request.url))
        return httpx.Response(status, headers={"location": to} if to else {})

    client = client_of(serve)
    with pytest.raises(responses.ElsewhereError):
        client.PullMessages(fleet.PullMessagesRequest(node=Node(node_id=2)))
    assert asked == ["http://link:1/v1/fleet/pull-messages"]
    client.close()


def test_no_address_but_the_links_is_asked() -> None:
    client = client_of(lambda request: httpx.Response(200))
    for url in ("http://inside:1/", "https://link:1/", "http://link:2/", "http://link/"):
        with pytest.raises(responses.ElsewhereError):
            client._client.post(url)
    assert client._client.post("http://link:1/v1/fleet/pull-messages").status_code == 200
    client.close()


def test_a_node_keeps_no_cookies() -> None:
    seen: list[str | None] = []

    def serve(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("cookie"))
        names = [("set-cookie", f"c{number}=x") for number in range(50)]
        return httpx.Response(200, headers=names)

    client = client_of(serve)
    for _ in range(3):
        client.PullMessages(fleet.PullMessagesRequest(node=Node(node_id=2)))
    assert seen == [None] * 3
    assert len(client._client.cookies) == 0
    client.close()


def test_the_token_of_a_supernode_beside_us_goes_through_no_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:1")
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    client = node._runtime("127.0.0.1:1", RuntimeVersionHttpInterceptor(component_name="x"))
    assert not client._client._mounts
    assert not client._client.follow_redirects
    client.close()


# ---------------------------------------------------------------------- what stays at the link


class Kept:
    """A link's layer over a store of names, with a node that answers more than anybody fetches."""

    def __init__(self, most: int) -> None:
        self.now, self.stored, self.forgotten = 100.0, set[str](), list[tuple[str, str]]()
        self.layer = pushes.Pushes(
            None,  # type: ignore[arg-type]
            lambda key: 2, self.stored.__contains__,
            lambda question, root: self.forgotten.append((question, root)),
            most, lambda: self.now,
        )  # fmt: skip
        self.held = pushes._Node()

    def answer(self, number: int, seconds: float) -> Any:
        """One more answer, to a question that is asked about for so many seconds."""
        root = f"root {number}"
        made = pushes._Answer(1, frozenset({"x"}), "", f"question {number}", root, 100.0 + seconds)
        self.held.answers[f"session {number}"] = made
        self.stored.add(root)
        return made

    def push(self, number: int, content: bytes) -> None:
        name = hashlib.sha256(content).hexdigest()
        made = self.held.answers[f"session {number}"]
        made.names |= {name}
        request = objects.PushObjectRequest(
            run_id=1, session_id=f"session {number}", object_id=name, object_content=content
        )
        asyncio.run(self.layer._check_content(self.held, request))


def test_answers_that_nobody_fetched_are_bounded_for_each_node() -> None:
    kept = Kept(most=2500)
    for number in range(3):
        kept.answer(number, 60.0)
    contents = [carried.whole("RecordDict", "", bytes([each]) * 900) for each in range(3)]
    kept.push(0, contents[0])
    kept.push(1, contents[1])
    kept.push(1, contents[1])  # again, after a lost answer: not counted twice
    with pytest.raises(pushes.NotAllowedError, match="nobody fetched"):
        kept.push(2, contents[2])
    kept.stored.remove("root 0")  # it was fetched
    kept.layer._tidy(kept.held)
    kept.push(2, contents[2])
    assert kept.forgotten == []


def test_an_answer_that_came_too_late_is_deleted() -> None:
    kept = Kept(most=10_000)
    kept.answer(0, 5.0)
    kept.answer(1, 60.0)
    for number in range(2):
        kept.push(number, carried.whole("RecordDict", "", bytes([number]) * 900))
    kept.now += 6.0
    kept.layer._tidy(kept.held)
    assert kept.forgotten == [("question 0", "root 0")]
    assert list(kept.held.answers) == ["session 1"]


@pytest.mark.parametrize(("timeout", "least", "most"), [(0.2, 5.0, 10.0), (30.0, 30.0, 31.0)])
def test_a_question_is_open_hardly_longer_than_its_answer_is_waited_for(
    timeout: float, least: float, most: float
) -> None:
    """What came in the minute after that stayed in the link's memory."""
    pushed: list[Message] = []

    class Grid:
        def push_messages(self, messages: list[Message]) -> list[str]:
            pushed.extend(messages)
            return [""]

    transport = GridTransport(Grid(), 1, lambda: {"bank": 2})
    assert transport.exchange({"bank": b"asked"}, timeout) == {}
    assert least <= pushed[0].metadata.ttl <= most


def test_a_run_that_is_over_leaves_nothing_at_the_link(running: Link, bank: Caller) -> None:
    """An answer that nobody fetched was kept for as long as the link ran."""
    asked = running.ask(bank.id)
    question, tree = bank.pull()
    name = carried.last_of(tree, asked)
    read = objects.PullObjectRequest(node=bank.node, run_id=running.run, object_id=name)
    assert bank.client.PullObject(read).object_available
    assert working._stop(running.home, running.run)
    with pytest.raises((httpx.HTTPStatusError, RunNotRunningException)):
        bank.push(*announced(reply_to(question)))
    assert not working._stop(running.home, running.run)
    running.grid.close()
    running.grid = running._grid()  # for whoever comes next

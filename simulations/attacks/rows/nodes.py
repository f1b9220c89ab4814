"""Row 29: messages that reach a node in the link's name, before an honest one."""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any
from unittest import mock

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.task_identity import TaskIdentity

from client import node
from protos import carried
from simulations.attacks.lab import Lab
from simulations.attacks.table import Attack

ME, LINK = 2, 1
GARBAGE = [b"", b"Message  7\0garbage", b"ConfigRecord  0\0", b"Array " + b"9" * 64 + b" 0\0", b"\xff" * 5000,
           b"ConfigRecord  9\0" + b"\x0a\x02\x0a\x00" * 1000]  # fmt: skip


def _question(data: bytes) -> tuple[Message, Any, dict[str, bytes]]:
    """A message of the link's, its tree, its objects."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, LINK, 3
    content = RecordDict({carried.RECORD: ConfigRecord({carried.FIELD: data})})
    made = Message(content, dst_node_id=ME, message_type=node.EXPECTED_TYPE)
    made.metadata.__dict__["_message_id"] = made.object_id
    record = content[carried.RECORD]
    return made, get_object_tree(made), {record.object_id: record.deflate()}


def _echo(message: Message, context: Context) -> Message:
    return Message(RecordDict({carried.RECORD: message.content[carried.RECORD]}), reply_to=message)


def _bend(head: Message, tree: Any, contents: dict[str, bytes], rng: Random) -> None:
    how = rng.randrange(6)
    if how == 0:
        field = rng.choice(["src_node_id", "dst_node_id", "run_id"])
        head.metadata.__dict__[f"_{field}"] = rng.choice([0, 7, (1 << 63) - 1])
    elif how == 1:
        field = rng.choice(["reply_to_message_id", "message_id", "message_type"])
        head.metadata.__dict__[f"_{field}"] = rng.choice(["", "a" * 64, "../x", "train", "\x1b[2J"])
    elif how == 2:
        deepest = tree
        for _ in range(rng.choice([3, 90])):
            deepest = deepest.children.add(object_id=rng.choice(["d" * 64, "", "../x"]))
    elif how == 3 and tree.children:
        tree.children.extend([tree.children[0]] * rng.choice([1, 10_000]))
    elif how == 4:
        tree.ClearField(rng.choice(["children", "object_id"]))
    else:
        content = rng.choice(GARBAGE)
        name = hashlib.sha256(content).hexdigest()
        for old in list(contents):
            contents[rng.choice([old, name])] = content


def _pushed(lab: Lab, rng: Random) -> bool:
    """One to four bent messages, or errors where one was looked for, then an honest one. Success: the loop
    ends, or the honest one gets no answer."""
    given: list[Any] = []
    contents: dict[str, bytes] = {}
    for _ in range(rng.randint(1, 4)):
        if rng.random() < 0.2:
            given.append(
                rng.choice([ValueError("x"), IndexError(), RecursionError(), MemoryError()])
            )
            continue
        head, tree, objects = _question(b"bent")
        for _ in range(rng.randint(1, 2)):
            _bend(head, tree, objects, rng)
        given.append((head, tree))
        contents |= objects
    head, tree, objects = _question(b"honest")
    given.append((head, tree))
    contents |= objects
    honest, sent = head.metadata.message_id, list[Message]()

    def receive() -> Any:
        found = given.pop(0)
        if isinstance(found, BaseException):
            raise found
        return found

    def send(message: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
        sent.append(message)
        return set(), ""

    def pull(run: int, name: str) -> bytes:
        return contents[name]

    with mock.patch.multiple(node, PAUSE=0.0, POLL=0.0, OBJECT_PATIENCE=0.1):
        while given:
            try:
                node._goes_on(_echo, ME, receive, send, pull, lambda *_: None, lambda *_: None)
            except Exception:
                return True
    answers = [m for m in sent if m.metadata.reply_to_message_id == honest and not m.has_error()]
    return not any(m.content[carried.RECORD][carried.FIELD] == b"honest" for m in answers)


ATTACKS = [
    Attack("29", "messages in the link's name", "partner", "the node ends, or is silent", _pushed,
           trials=100),
]  # fmt: skip

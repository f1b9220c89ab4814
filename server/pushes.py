"""What a partner's node may send through the link: answers to what it was asked, and nothing else.

Flower's Fleet API checks that a caller holds the key of the node that it says it is, and believes the rest.
A partner could push a *question* in the link's own name to any other partner's node (``push_messages`` stores
whatever names node 1 as its source), answer what another was asked, announce trees of any size and objects
that no reader survives, read or delete another's objects by their names, and leave answers that nobody waits
for any more in the link's memory until it ends.

This layer is the innermost: Flower has parsed the call and checked the key. It keeps, for each node, the last
questions that were delivered to it and the last answers that it announced, and lets through

    push-messages              one answer: from this node, to the link, to a question that was delivered to it
                               and has no other answer; same run and type; a tree of the one form
                               (:mod:`protos.carried`) whose root is this very metadata
    push-object                what such an answer announced, in its session, byte for byte of that form
    pull-object                objects of questions that were delivered to this node
    confirm-message-received   the same
    the others                 for a node of the contract; registering and unregistering for nobody

Flower deletes an answer when it was fetched, and keeps one that is never fetched. So what is still stored of
a node's answers is counted and bounded, and an answer whose question is too old to be asked about goes, with
its question.

Refused calls are 401 or 403, a line in the call log each, and one line a minute here.

*Not* handled here: how fast calls come, whether a header opens more than one, and how large bodies are before
they are parsed: :mod:`server.guard`. The envelopes and replies inside are signed on their own.

Source: flwr 1.41, ``superlink/routers/fleet`` and ``superlink/servicer/fleet/fleet_handlers.py``.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fastapi import HTTPException
from flwr.common.constant import SUPERLINK_NODE_ID
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware

from privacy.errors import WireError
from protos import carried

log = logging.getLogger("tallystick.link")

FLEET = "/v1/fleet/"
KINDS = {
    "activate-node": "ActivateNodeRequest",
    "deactivate-node": "DeactivateNodeRequest",
    "send-node-heartbeat": "SendNodeHeartbeatRequest",
    "pull-messages": "PullMessagesRequest",
    "push-messages": "PushMessagesRequest",
    "get-run": "GetRunRequest",
    "get-fab": "GetFabRequest",
    "push-object": "PushObjectRequest",
    "pull-object": "PullObjectRequest",
    "confirm-message-received": "ConfirmMessageReceivedRequest",
}
"""Calls that exist, and what Flower must have parsed: what is new in another version is refused."""
LARGEST_ANNOUNCEMENT = 4096
"""Bytes of a call that announces an answer: metadata, and a tree of three names."""
LONGEST_ERROR = 2048
LONGEST_RUNTIME = 86_400.0
MOST_HELD = 64
"""Questions and answers of a node that are remembered; a coordinator asks one thing at a time in each job."""
LARGE = 1 << 16
"""Bytes of content that are not looked at on the event loop."""
MINUTE = 60.0
TTL_SLACK = 2.0
"""Seconds behind the time of a question until it is over for certain."""


class NotAllowedError(Exception):
    """A call that is refused, and why; the caller learns the number only."""

    def __init__(self, why: str, status: int = 403) -> None:
        self.status = status
        super().__init__(why)


@dataclass
class _Question:
    """A message that was delivered to a node. ``answer``: the one that it announced."""

    run: int
    kind: str
    group: str
    names: frozenset[str]
    until: float
    answer: str = ""


@dataclass
class _Answer:
    """An answer that a node announced; ``last``: the object that carries it, empty for an error.
    ``sizes``: of what was pushed. ``until``: nobody fetches it later."""

    run: int
    names: frozenset[str]
    last: str
    question: str
    root: str
    until: float
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class _Node:
    questions: OrderedDict[str, _Question] = field(default_factory=OrderedDict)
    answers: OrderedDict[str, _Answer] = field(default_factory=OrderedDict)


class Pushes:
    """ASGI, innermost. ``node_of`` gives the node of a public key, if the contract names it. ``holds``: is an
    object stored? ``most_stored``: bytes of a node's answers. ``forget``: a question that is over, and the
    root of its answer."""

    def __init__(
        self,
        app: Callable[..., Any],
        node_of: Callable[[bytes], int | None],
        holds: Callable[[str], bool],
        forget: Callable[[str, str], None],
        most_stored: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._node_of, self._clock = app, node_of, clock
        self._holds, self._forget, self._most_stored = holds, forget, most_stored
        self._nodes: dict[int, _Node] = {}
        self._said, self._unsaid = -MINUTE, 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith(FLEET):
            await self._app(scope, receive, send)
            return
        request = scope.get("state", {}).get("protobuf_request")
        try:
            node = self._checked(path.removeprefix(FLEET), request)
            if path.endswith("/push-object"):
                await self._check_content(node, request)
        except NotAllowedError as refused:
            self._say(refused)
            raise HTTPException(refused.status, "not allowed") from None

        async def answering(message: Any) -> None:
            if message["type"] == "http.response.start":
                self._note(node, request, scope["state"].get("protobuf_response"))
            await send(message)

        await self._app(scope, receive, answering)

    # ------------------------------------------------------------------ before a call

    def _checked(self, call: str, request: Any) -> _Node:
        if KINDS.get(call) != type(request).__name__:
            raise NotAllowedError("a call that nodes do not make")
        node = self._caller(request)
        held = self._nodes.setdefault(node, _Node())
        if call in ("pull-messages", "push-messages"):
            self._tidy(held)
        if call == "push-messages":
            self._check_answer(node, held, request)
        elif call == "pull-object":
            question = self._question_with(held, request.object_id)
            if question is None or question.run != request.run_id:
                raise NotAllowedError("an object of nothing that this node was asked")
        elif call == "confirm-message-received":
            asked = held.questions.get(request.message_object_id)
            if asked is None or asked.run != request.run_id:
                raise NotAllowedError("a message that was not for this node")
        return held

    def _caller(self, request: Any) -> int:
        """The node that calls; Flower compared its number with its key, or its key with the call's."""
        if type(request).__name__ == "ActivateNodeRequest":
            node = self._node_of(request.public_key)
            if node is None:
                raise NotAllowedError("a key that the contract does not name")
            return node
        node = request.node.node_id if hasattr(request, "node") else request.node_id
        return int(node)

    def _check_answer(self, node: int, held: _Node, request: Any) -> None:
        if request.ByteSize() > LARGEST_ANNOUNCEMENT:
            raise NotAllowedError("an announcement that is too large")
        if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
            raise NotAllowedError("not one answer")
        if len(request.clientapp_runtime_list) > 1 or not all(
            0.0 <= seconds <= LONGEST_RUNTIME for seconds in request.clientapp_runtime_list
        ):
            raise NotAllowedError("a running time that is none")
        message, tree = request.messages_list[0], request.message_object_trees[0]
        said = message.metadata
        if said.src_node_id != node or said.dst_node_id != SUPERLINK_NODE_ID:
            raise NotAllowedError("a message in another's name, or to another node")
        question = held.questions.get(said.reply_to_message_id)
        if question is None:
            raise NotAllowedError("an answer to nothing that this node was asked")
        if question.answer not in ("", said.message_id):
            raise NotAllowedError("a second answer")
        if (said.run_id, said.message_type, said.group_id) != (
            question.run, question.kind, question.group,
        ):  # fmt: skip
            raise NotAllowedError("an answer of another run or kind")
        if not (math.isfinite(said.ttl) and math.isfinite(said.created_at)):
            raise NotAllowedError("a time that is none")
        if message.content.ByteSize() or len(message.error.reason) > LONGEST_ERROR:
            raise NotAllowedError("content beside the objects")
        try:
            middle = tree.children[0].object_id if tree.children else ""
            if not message.HasField("error"):
                carried.last_of(tree, said.message_id)
            elif middle or tree.object_id != said.message_id:
                raise WireError("objects: not the tree of an error")
            if carried.name_of(_root(message, middle)) != said.message_id:
                raise WireError("objects: a message of something else")
        except WireError as error:
            raise NotAllowedError(str(error)) from None

    async def _check_content(self, held: _Node, request: Any) -> None:
        answer = held.answers.get(request.session_id)
        if answer is None or answer.run != request.run_id or request.object_id not in answer.names:
            raise NotAllowedError("an object that no answer announced")
        is_last, content = request.object_id == answer.last, request.object_content
        if len(content) > (carried.LARGEST_ANSWER if is_last else LARGEST_ANNOUNCEMENT):
            raise NotAllowedError("an object that is too large")
        before = answer.sizes.pop(request.object_id, None)
        if _stored(held) + len(content) > self._most_stored:
            raise NotAllowedError("too many answers that nobody fetched", 429)
        answer.sizes[request.object_id] = max(len(content), before or 0)
        try:
            if not is_last:
                if carried.name_of(content) != request.object_id:
                    raise WireError("objects: not the object that was named")
            elif len(content) > LARGE:
                await run_in_threadpool(carried.open_record, content, request.object_id)
            else:
                carried.open_record(content, request.object_id)
        except WireError as error:
            raise NotAllowedError(str(error)) from None

    @staticmethod
    def _question_with(held: _Node, name: str) -> _Question | None:
        return next((q for q in reversed(held.questions.values()) if name in q.names), None)

    # ------------------------------------------------------------------ after a call

    def _tidy(self, held: _Node) -> None:
        """Answers that were fetched, and those that nobody fetches any more."""
        now = self._clock()
        for session, answer in list(held.answers.items()):
            if answer.until < now:
                self._drop(answer)
                del held.answers[session]
            elif not self._holds(answer.root):
                answer.sizes.clear()

    def _drop(self, answer: _Answer) -> None:
        self._forget(answer.question, answer.root)

    def _note(self, held: _Node, request: Any, response: Any) -> None:
        """What the link delivered, or took."""
        kind = type(response).__name__
        if kind == "PullMessagesResponse":
            for message, tree in zip(
                response.messages_list, response.message_object_trees, strict=False
            ):
                said = message.metadata
                if said.src_node_id == SUPERLINK_NODE_ID:
                    held.questions[said.message_id] = _Question(
                        said.run_id, said.message_type, said.group_id, frozenset(_names(tree)),
                        self._clock() + max(0.0, said.ttl) + TTL_SLACK,
                    )  # fmt: skip
            _shorten(held.questions)
        elif kind == "PushMessagesResponse":
            message, tree = request.messages_list[0], request.message_object_trees[0]
            said, names = message.metadata, list(_names(tree))
            question = held.questions.get(said.reply_to_message_id)
            if question is not None:
                question.answer = said.message_id
            last = "" if message.HasField("error") else names[-1]
            known = [each for each in held.answers.values() if each.root == said.message_id]
            held.answers[response.session_id] = _Answer(
                said.run_id, frozenset(names), last, said.reply_to_message_id, said.message_id,
                question.until if question is not None else self._clock() + TTL_SLACK,
                known[-1].sizes if known else {},
            )  # fmt: skip
            if len(held.answers) > MOST_HELD:
                self._drop(held.answers.popitem(last=False)[1])

    def _say(self, refused: NotAllowedError) -> None:
        now = self._clock()
        self._unsaid += 1
        if now - self._said >= MINUTE:
            log.warning("%d calls of nodes refused, the last: %s", self._unsaid, refused)
            self._said, self._unsaid = now, 0


def _root(message: Any, child: str) -> bytes:
    """The root object as it must be for a message that is announced so."""
    plain = type(message)()
    plain.metadata.CopyFrom(message.metadata)
    plain.metadata.message_id = ""
    if message.HasField("error"):
        plain.error.CopyFrom(message.error)
    return carried.whole("Message", child, plain.SerializeToString(deterministic=True))


def _names(tree: Any) -> list[str]:
    """Names in a tree, from the root. The link's own trees, and those that were checked."""
    found, left = [], [tree]
    while left:
        at = left.pop()
        found.append(at.object_id)
        left += at.children
    return found


def _stored(held: _Node) -> int:
    """Bytes of a node's answers that may be in the link's memory."""
    once = {id(answer.sizes): answer.sizes for answer in held.answers.values()}
    return sum(size for sizes in once.values() for size in sizes.values())


def _shorten(held: OrderedDict[str, Any]) -> None:
    while len(held) > MOST_HELD:
        held.popitem(last=False)


def guard(app: Any, most_stored: int) -> None:
    """Put the layer into Flower's application, behind its own checks."""
    state = app.state.linkstate_factory.state()
    store = state.object_store

    def forget(question: str, root: str) -> None:
        state.delete_messages({question})
        store.delete(root)

    app.user_middleware.append(
        Middleware(
            Pushes,
            node_of=state.get_node_id_by_public_key,
            holds=lambda name: name in store,
            forget=forget,
            most_stored=most_stored,
        )
    )

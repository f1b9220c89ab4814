"""The one form in which an envelope or a reply travels as Flower's objects, read without Flower's reader.

Flower sends a message as a tree of objects, each named by the SHA-256 of its bytes, and whoever receives one
inflates it by what its own headers say: a few bytes may ask for any number of objects, for nesting without
end, for lists of millions of numbers. Everything of ours has one form, so nothing else is read:

    Message        its metadata, or an error instead of content      one child
    RecordDict     {"tallystick": <the child>}                       one child
    ConfigRecord   {"envelope": bytes}                               none

The bytes of the middle object follow from the name of the last, so the tree alone says whether it is one of
ours; the last is the only one whose content has to be looked at, and it is read field by field: exactly one
item, exactly one value, of bytes. Nothing is made of it but a slice. Source: flwr 1.41,
``supercore/inflatable`` (``TYPE CHILDREN SIZE NUL BODY``) and ``recorddict.proto``; a test compares.

*Not* handled: whether the envelope inside is anybody's. That is for signatures.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from typing import Any

from privacy.errors import WireError
from protos.wire import LARGEST_MESSAGE, LARGEST_REQUEST

RECORD, FIELD = "tallystick", "envelope"
OVERHEAD = 4096
"""Bytes of headers around what is carried, at most."""
LARGEST_QUESTION, LARGEST_ANSWER = LARGEST_REQUEST + OVERHEAD, LARGEST_MESSAGE + OVERHEAD
"""Bytes of the object that carries an envelope, or a reply."""
_NAME = re.compile(r"[0-9a-f]{64}")
_ITEM = _KEY = 1 << 3 | 2
_VALUE = 2 << 3 | 2
_BYTES = 6 << 3 | 2
"""Tags of ConfigRecord.items, Item.key, Item.value, ConfigRecordValue.bytes."""


def name_of(content: bytes) -> str:
    """What Flower calls an object of these bytes."""
    return hashlib.sha256(content).hexdigest()


def is_name(text: str) -> bool:
    """Whether Flower could call an object that, in its one spelling."""
    return _NAME.fullmatch(text) is not None


def whole(kind: str, children: str, body: bytes) -> bytes:
    """The bytes of an object: header and body."""
    return f"{kind} {children} {len(body)}".encode() + b"\0" + body


def dictionary(last: str) -> bytes:
    """The bytes of the middle object, given the name of the last."""
    return whole("RecordDict", last, json.dumps({RECORD: last}).encode())


def last_of(tree: Any, message: str) -> str:
    """The name of the last object of a tree that has the one form and belongs to ``message``.

    ``tree``: an ObjectTree of Flower. Raises WireError for any other.
    """
    names = list(_down(tree))
    if len(names) != 3 or not all(map(is_name, names)) or names[0] != message:
        raise WireError("objects: not the tree of an envelope")
    if name_of(dictionary(names[2])) != names[1]:
        raise WireError("objects: a dictionary of something else")
    return names[2]


def _down(tree: Any) -> Iterator[str]:
    """Names from the root, down a tree without branches and not deeper than it may be."""
    for _ in range(4):
        yield tree.object_id
        if len(tree.children) != 1:
            if tree.children:
                yield ""  # a branch: no name
            return
        tree = tree.children[0]


def open_record(content: bytes, name: str) -> bytes:
    """What the last object carries. Raises WireError unless it is called ``name`` and has the one form."""
    if name_of(content) != name:
        raise WireError("objects: not the object that was named")
    start = content.find(b"\0", 0, 64) + 1
    body = content[start:]
    if content[:start] != f"ConfigRecord  {len(body)}".encode() + b"\0":
        raise WireError("objects: not a record")
    item = _only(body, 0, _ITEM)
    key, value = _next(body, item, _KEY)
    if body[key:value] != FIELD.encode():
        raise WireError("objects: a record of something else")
    data = _only(body, _only(body, value, _VALUE), _BYTES)
    return body[data:]


def _only(data: bytes, at: int, tag: int) -> int:
    """Where the content of the field at ``at`` begins, which must be this one and reach the end."""
    start, end = _next(data, at, tag)
    if end != len(data):
        raise WireError("objects: more than one value")
    return start


def _next(data: bytes, at: int, tag: int) -> tuple[int, int]:
    """Where the content of the field at ``at`` begins and ends, which must be of this tag."""
    if data[at : at + 1] != bytes([tag]):
        raise WireError("objects: a value of another kind")
    at, size, shift = at + 1, 0, 0
    while shift < 64 and at < len(data):
        byte = data[at]
        at, size, shift = at + 1, size | (byte & 127) << shift, shift + 7
        if byte < 128:
            if at + size > len(data):
                break
            return at, at + size
    raise WireError("objects: cut short")

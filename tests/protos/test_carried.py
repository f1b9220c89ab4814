"""The one form of an envelope as Flower's objects, beside Flower's own."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.inflatable.inflatable_object import get_object_tree
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from privacy.errors import WireError
from protos import carried


def message(content: RecordDict) -> Message:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 2, 3
    return Message(content, 2, "query.tallystick")


def carrying(data: bytes) -> tuple[Message, ConfigRecord]:
    record = ConfigRecord({carried.FIELD: data})
    return message(RecordDict({carried.RECORD: record})), record


@pytest.mark.parametrize("size", [0, 1, 127, 128, 40_000, 3_000_000])
def test_what_flower_makes_of_an_envelope_is_read(size: int) -> None:
    made, record = carrying(b"x" * size)
    name = carried.last_of(get_object_tree(made), made.object_id)
    assert name == record.object_id
    assert carried.open_record(record.deflate(), name) == b"x" * size
    assert carried.dictionary(name) == made.content.deflate()


@pytest.mark.parametrize(
    "content",
    [
        RecordDict({}),
        RecordDict({"other": ConfigRecord({carried.FIELD: b"x"})}),
        RecordDict({carried.RECORD: ConfigRecord({}), "b": ConfigRecord({"a": 1})}),
        RecordDict({carried.RECORD: ArrayRecord({"a": Array("float32", (1,), "x", b"1234")})}),
    ],
)
def test_no_other_tree_of_flowers_is_one(content: RecordDict) -> None:
    made = message(content)
    with pytest.raises(WireError):
        carried.last_of(get_object_tree(made), made.object_id)


@pytest.mark.parametrize(
    "record",
    [
        ConfigRecord({}),
        ConfigRecord({"envelopes": b"x"}),
        ConfigRecord({carried.FIELD: "x"}),
        ConfigRecord({carried.FIELD: [b"x"]}),
        ConfigRecord({carried.FIELD: [1.0] * 1000}),
        ConfigRecord({carried.FIELD: b"x", "more": b"y"}),
        MetricRecord({carried.FIELD: 1}),
    ],
)
def test_no_other_record_of_flowers_is_one(record: Any) -> None:
    with pytest.raises(WireError):
        carried.open_record(record.deflate(), record.object_id)


def test_an_error_and_a_tree_of_another_message_are_none() -> None:
    made, _ = carrying(b"x")
    failed = Message(Error(0, "no"), reply_to=made)
    with pytest.raises(WireError):
        carried.last_of(get_object_tree(failed), failed.object_id)
    with pytest.raises(WireError):
        carried.last_of(get_object_tree(made), failed.object_id)


@given(st.binary(max_size=64))
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    content = carried.whole("ConfigRecord", "", body)
    try:
        data = carried.open_record(content, hashlib.sha256(content).hexdigest())
    except WireError:
        return
    assert body.endswith(data)


@given(st.data(), st.integers(0, 60), st.integers(0, 255))
def test_an_envelope_with_one_byte_changed_is_another_or_none(
    data: Any, at: int, value: int
) -> None:
    _, record = carrying(data.draw(st.binary(max_size=20)))
    content = bytearray(record.deflate())
    content[at % len(content)] = value
    try:
        carried.open_record(bytes(content), hashlib.sha256(content).hexdigest())
        inflated = ConfigRecord.inflate(bytes(content))
        assert set(inflated) == {carried.FIELD}
        assert isinstance(inflated[carried.FIELD], bytes)
    except WireError:
        pass
    with pytest.raises(WireError):
        carried.open_record(bytes(content) + b"x", record.object_id)


@given(st.recursive(st.just([]), lambda inner: st.lists(inner, max_size=3), max_leaves=20))
def test_any_tree_is_read_or_refused(shape: Any) -> None:
    def grow(shape: Any) -> ObjectTree:
        return ObjectTree(object_id="a" * 64, children=[grow(each) for each in shape])

    with pytest.raises(WireError):
        carried.last_of(grow(shape), "a" * 64)

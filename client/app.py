"""Flower's ClientApp: hands an envelope to the gate, and its reply back.

It can do nothing else: the gate is another process, reached through a Unix socket, and checks
everything itself.
"""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.gate import Delivery
from client.service import GateClient

RECORD, FIELD = "tallystick", "envelope"
SOCKET_VARIABLE = "TALLYSTICK_GATE_SOCKET"

app = ClientApp()
_clients: dict[str, GateClient] = {}


@app.query("tallystick")  # type: ignore[untyped-decorator]
def query(message: Message, context: Context) -> Message:
    """One envelope to the gate. Raises nothing that carries data: Flower would ship the text."""
    record = message.content[RECORD]
    data = record.get(FIELD) if isinstance(record, ConfigRecord) else None
    envelope = data if isinstance(data, bytes) else b""
    path = os.environ[SOCKET_VARIABLE]
    if path not in _clients:
        _clients[path] = GateClient(Path(path))
    delivery = Delivery(
        message.metadata.run_id, message.metadata.message_id, message.metadata.dst_node_id
    )
    reply = _clients[path].handle(envelope, delivery)
    return Message(RecordDict({RECORD: ConfigRecord({FIELD: reply})}), reply_to=message)

"""An outsider, another user of the machine and a partner at the coordinator's ports: real processes and TLS.

What is held open, half open or sent without a key takes a bounded part of memory and descriptors, and whoever
has a key is served all the while.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
)
from flwr.proto.control_pb2 import ListRunsRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from client.exchange import METHOD, open_stream
from protos.supervise import Child, python
from server.guard import largest_answer
from server.http import LARGEST_HEAD
from server.link import PUBLIC
from server.store import Store
from server.working import control
from simulations.alliances import Alliance, create
from simulations.live import free_ports
from tests.conftest import data_settings, job, terms, write_csv

LINK, EXCHANGE, INTERNAL = range(3)
JOB = "a" * 32
MANY = 2 * PUBLIC.strangers
MB = 1 << 20


@dataclass
class Serving:
    """A coordinator's link and exchange, without its supervisor and partners."""

    alliance: Alliance
    ports: list[int]
    link: Child
    exchange: Child

    def connect(self, which: int, *, tls: bool = True) -> socket.socket:
        plain = socket.create_connection(("127.0.0.1", self.ports[which]), timeout=20)
        if not tls:
            return plain
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        return context.wrap_socket(plain)

    def ask(self, which: int, head: bytes, body: bytes = b"") -> int:
        """The status that a raw request gets; 0 if the connection was cut."""
        with self.connect(which) as line:
            with contextlib.suppress(OSError):
                line.sendall(head + b"\r\n\r\n")
                for start in range(0, len(body), MB):
                    line.sendall(body[start : start + MB])
            return _status(line)

    def fleet(self, name: str) -> FleetHttpClient:
        key = self.key(name)
        return FleetHttpClient.from_server_address(
            f"127.0.0.1:{self.ports[LINK]}",
            False,
            self.alliance.coordinator.key("ca.pem"),
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(key, key.public_key()),
            ],
        )

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        key = load_ssh_private_key(self.alliance.partners[name].key_file("node.key"), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    def signed(self, name: str) -> bytes:
        key, stamp = self.key(name), datetime.now(UTC).isoformat().encode()
        return b"flwr-public-key: %s\r\nflwr-signature: %s\r\nflwr-timestamp: %s\r\n" % (
            b64encode(public_key_to_bytes(key.public_key())),
            b64encode(key.sign(stamp, ec.ECDSA(hashes.SHA256()))),
            stamp,
        )

    def activate(self, name: str) -> int:
        """What an honest node does first; and it leaves again."""
        with self.fleet(name) as client:
            public = public_key_to_bytes(self.key(name).public_key())
            request = ActivateNodeRequest(public_key=public, heartbeat_interval=30)
            node = int(client.ActivateNode(request).node_id)
            client.DeactivateNode(DeactivateNodeRequest(node_id=node))
            return node

    def runs(self) -> int:
        """What the coordinator asks on its own port."""
        with control(self.alliance.coordinator) as client:
            return len(client.ListRuns(ListRunsRequest()).run_dict)


def _status(line: socket.socket) -> int:
    try:
        words = line.recv(200).split()
        return int(words[1]) if len(words) > 1 else 0
    except (OSError, ValueError):
        return 0


def memory(child: Child) -> int:
    """The most that a process ever had resident, bytes."""
    assert child.process is not None
    text = Path(f"/proc/{child.process.pid}/status").read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10


def descriptors(child: Child) -> int:
    assert child.process is not None
    return len(list(Path(f"/proc/{child.process.pid}/fd").iterdir()))


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    root, names, data = tmp_path_factory.mktemp("ports"), ("bank", "shop", "telecom"), {}
    for index, name in enumerate(names):
        path = root / f"{name}.csv"
        write_csv(path, range(200 * index, 200 * index + 300))
        data[name] = data_settings(path)
    ports = free_ports(3)
    wanted = terms(3, matching={"recipients": ["bank", "shop"]})
    alliance = create(root, names, wanted, data, ports=(ports[0], ports[1], ports[2]))
    home = alliance.coordinator
    match = {"identifier": "email", "parties": ["bank", "shop"], "result": "size"}
    store = Store(home.database, time.time)
    store.add(JOB, job(name="joint", kind="match", epsilon=1.0, match=match), bytes(16))
    store.close()
    found = Serving(
        alliance,
        ports,
        Child(
            "link",
            python("server.link", "serve", str(home.root)),
            home.state / "link.log",
        ),
        Child("exchange", python("server.exchange", str(home.root)), home.state / "exchange.log"),
    )
    found.link.start()
    found.exchange.start()
    deadline = time.monotonic() + 60
    for port in ports:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert time.monotonic() < deadline, found.link.log.read_text()
                time.sleep(0.1)
    yield found
    found.link.stop()
    found.exchange.stop()


POST = b"POST /v1/fleet/push-object HTTP/1.1\r\nhost: x\r\ncontent-type: application/protobuf\r\n"


@pytest.mark.parametrize("length", [b"content-length: 400000000", b"transfer-encoding: chunked"])
def test_a_body_without_a_key_is_not_taken(serving: Serving, length: bytes) -> None:
    before = memory(serving.link)
    for _ in range(3):
        assert serving.ask(LINK, POST + length, b"3000000\r\n" + bytes(48 * MB)) in (401, 0)
    assert serving.ask(LINK, POST + length) == 401
    assert memory(serving.link) - before < 16 * MB


def test_a_head_without_an_end_is_cut(serving: Serving) -> None:
    before = memory(serving.link)
    with serving.connect(LINK) as line:
        sent = 0
        with contextlib.suppress(OSError):
            line.sendall(POST)
            while sent < 64 * MB:
                line.sendall(b"x-more: " + b"a" * 1000 + b"\r\n")
                sent += 1010
        assert sent < 4 * MB
    assert memory(serving.link) - before < 16 * MB
    assert LARGEST_HEAD < 64 << 10


def test_a_pipeline_is_not_parsed_ahead(serving: Serving) -> None:
    before = memory(serving.link)
    for _ in range(8):
        with serving.connect(LINK) as line, contextlib.suppress(OSError):
            line.sendall(b"GET /health HTTP/1.1\r\n\r\n" * 40_000)
            line.recv(100)
    assert memory(serving.link) - before < 16 * MB


def _more_headers(serving: Serving, start: bytes, which: int = LINK) -> tuple[int, int]:
    """Headers without end behind a start: bytes that were taken, and by how much the link grew."""
    before, sent = memory(serving.link), 0
    piece = b"".join(b"x-%d: " % number + b"a" * 30_000 + b"\r\n" for number in range(8))
    with serving.connect(which) as line, contextlib.suppress(OSError):
        line.sendall(start)
        while sent < 64 * MB:
            line.sendall(piece)
            sent += len(piece)
    return sent, memory(serving.link) - before


@pytest.mark.parametrize("which", [LINK, INTERNAL])
def test_trailers_end_the_connection(serving: Serving, which: int) -> None:
    """They were kept as headers of a request that the guard had let through already, without end."""
    chunked = b"host: x\r\ntransfer-encoding: chunked\r\n"
    for start in (
        b"POST /health HTTP/1.1\r\n" + chunked,
        POST + serving.signed("telecom") + b"transfer-encoding: chunked\r\n",
    ):
        sent, grown = _more_headers(serving, start + b"\r\n0\r\n", which)
        assert sent < 8 * MB
        assert grown < 16 * MB
    no_body_is_waited_for = b"POST /health HTTP/1.1\r\n" + chunked.strip()
    assert serving.ask(which, no_body_is_waited_for) == 413
    assert serving.activate("bank")


def test_lines_between_chunks_are_counted_like_a_head(serving: Serving) -> None:
    before, sent = memory(serving.link), 0
    head = POST + serving.signed("telecom") + b"transfer-encoding: chunked\r\n\r\n"
    with serving.connect(LINK) as line, contextlib.suppress(OSError):
        line.sendall(head)
        while sent < 64 * MB:
            line.sendall(b"1;" + b"e" * 10_000 + b"\r\nx\r\n")
            sent += 10_000
    assert sent < 8 * MB
    assert memory(serving.link) - before < 16 * MB


def test_the_next_head_is_counted_while_an_answer_is_waited_for(serving: Serving) -> None:
    """The first request waits for a body that another of the same caller keeps from coming."""
    push = POST + serving.signed("telecom") + b"content-length: %d\r\n\r\n" % largest_answer(3)
    small = POST + serving.signed("telecom") + b"content-length: 70000\r\n\r\n" + bytes(70_000)
    with serving.connect(LINK) as first:
        first.sendall(push)
        sent, grown = _more_headers(serving, small + b"POST /health HTTP/1.1\r\n")
    assert sent < 8 * MB
    assert grown < 16 * MB


def test_a_signed_header_opens_one_call_whatever_comes_of_it(serving: Serving) -> None:
    """A wrong kind of body, or none at all, was refused before the signature counted: without end."""
    log, calls = serving.link.log, serving.alliance.coordinator.calls
    before = log.stat().st_size, calls.stat().st_size if calls.exists() else 0
    signed = serving.signed("telecom")
    head = b"POST /v1/fleet/get-run HTTP/1.1\r\nhost: x\r\n" + signed
    long = head + b"content-type: " + b"z" * 14_000 + b"\r\n"
    assert {serving.ask(LINK, long + b"content-length: 0") for _ in range(20)} == {415}
    plain = head + b"content-type: application/protobuf\r\ncontent-length: 3"
    assert [serving.ask(LINK, plain, b"\xff\xff\xff") for _ in range(3)] == [400, 401, 401]
    assert log.stat().st_size - before[0] < 5000
    assert (calls.stat().st_size if calls.exists() else 0) - before[1] < 1000


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/control/list-runs HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/control/get-login-details HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/runtime/acquire-task HTTP/1.1\r\nhost: x\r\n",
        b"POST /v1/runtime/push-object HTTP/1.1\r\nhost: x\r\nflwr-task-token: 0\r\n",
        b"POST /v1/responses HTTP/1.1\r\nhost: x\r\n",
    ],
)
def test_another_user_of_the_machine_is_a_stranger_on_the_internal_port(
    serving: Serving, head: bytes
) -> None:
    before = memory(serving.link)
    assert serving.ask(INTERNAL, head + b"content-length: 400000000", bytes(8 * MB)) in (401, 0)
    assert serving.ask(INTERNAL, head + b"content-length: 400000000") == 401
    assert serving.ask(LINK, head + b"content-length: 400000000") == 404
    assert memory(serving.link) - before < 16 * MB


def test_a_partners_bodies_come_one_at_a_time(serving: Serving) -> None:
    """A hundred of the largest, with a key: refused or waiting, but not in memory together."""
    before, size = memory(serving.link), largest_answer(3)
    done: list[int] = []

    def push() -> None:
        head = POST + serving.signed("telecom") + b"content-length: %d" % size
        with contextlib.suppress(OSError):
            done.append(serving.ask(LINK, head, bytes(size)))

    threads = [threading.Thread(target=push) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(done) <= {0, 400, 401, 403, 408, 503}
    assert memory(serving.link) - before < 12 * size
    assert serving.activate("bank")


def test_idle_and_half_open_connections_keep_nobody_out(serving: Serving) -> None:
    with contextlib.ExitStack() as stack:
        held: list[socket.socket] = []
        for number in range(MANY):
            held.append(stack.enter_context(serving.connect(LINK, tls=False)))
            if number < PUBLIC.strangers // 2:
                line = stack.enter_context(serving.connect(LINK))
                line.sendall(POST)
        for _ in range(64):
            stack.enter_context(serving.connect(INTERNAL, tls=False))
        assert serving.activate("bank") == serving.activate("bank")
        assert serving.runs() == 0
        assert descriptors(serving.link) < PUBLIC.strangers + 100
    assert serving.activate("shop")


def test_what_a_proxy_would_say_is_not_believed(serving: Serving) -> None:
    with serving.fleet("bank") as client:
        client._client.headers["x-forwarded-for"] = "203.0.113.9"
        with pytest.raises(httpx.HTTPStatusError):
            client.DeactivateNode(DeactivateNodeRequest(node_id=1))
    calls = [
        json.loads(line) for line in serving.alliance.coordinator.calls.read_text().splitlines()
    ]
    assert {"127.0.0.1"} >= {c["actor"]["ip_address"] for c in calls if "actor" in c}


# ---------------------------------------------------------------------- exchange


def meet(serving: Serving, one: str = "bank", other: str = "shop") -> list[bytes]:
    """Two parties of the open match exchange a frame."""
    left = open_stream(serving.alliance.partners[one], JOB, other)
    right = open_stream(serving.alliance.partners[other], JOB, one)
    left.send(b"from left")
    right.send(b"from right")
    got = [right.receive(), left.receive()]
    closing = threading.Thread(target=left.close)
    closing.start()
    right.close()
    closing.join(20)
    return got


def test_connections_without_a_certificate_do_not_reach_the_exchange(serving: Serving) -> None:
    before = memory(serving.exchange)
    with contextlib.ExitStack() as stack:
        for number in range(MANY):
            line = stack.enter_context(serving.connect(EXCHANGE, tls=False))
            if number % 8 == 0:
                with contextlib.suppress(OSError):
                    line.sendall(b"\x16\x03\x01\x02\x00\x01")  # half a handshake
        assert meet(serving) == [b"from left", b"from right"]
        assert descriptors(serving.exchange) < PUBLIC.strangers + 100
    with serving.connect(EXCHANGE) as line, contextlib.suppress(OSError):
        line.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")  # TLS 1.3 says no after the handshake
        assert line.recv(100) == b""
    assert memory(serving.exchange) - before < 64 * MB


def test_one_partys_streams_leave_the_others_theirs(serving: Serving) -> None:
    """300 streams of a party that is in the match, on one connection and on many."""
    partner = serving.alliance.partners["bank"]
    contract = serving.alliance.contract
    credentials = grpc.ssl_channel_credentials(
        contract.coordinator.authority.encode(),
        partner.key_file("tls.key"),
        contract.party("bank").certificate.encode(),
    )
    address = contract.coordinator.exchange
    stop = threading.Event()

    def frames() -> Iterator[bytes]:
        stop.wait(30)
        yield from ()

    channels, calls = [], []
    for number in range(300):
        if number % 10 == 0:
            channels.append(
                grpc.secure_channel(address, credentials, [("grpc.use_local_subchannel_pool", 1)])
            )
        metadata = (("tallystick-job", JOB), ("tallystick-peer", "shop"))
        calls.append(channels[-1].stream_stream(METHOD)(frames(), metadata=metadata, timeout=30))
    stranger = open_stream(serving.alliance.partners["telecom"], JOB, "shop")
    with pytest.raises(Exception, match="protocol"):
        stranger.receive()  # answered, at once: not a party of this match
    stranger.abort()
    for call in calls:
        call.cancel()
    stop.set()
    for channel in channels:
        channel.close()
    time.sleep(
        3.0
    )  # a stream that still joins takes the party's place, as one that comes back does
    assert meet(serving) == [b"from left", b"from right"]


def test_a_certificate_of_the_authority_for_another_key_is_nobodys(
    serving: Serving,
) -> None:
    """The name is the bank's and the authority signed it, but the contract pins another key."""
    from server import pki

    home, key = serving.alliance.coordinator, ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    made = pki.client_certificate(
        home.key("ca.key"), home.key("ca.pem"), "bank", public, datetime.now(UTC)
    )
    credentials = grpc.ssl_channel_credentials(home.key("ca.pem"), pki.key_pem(key), made.encode())
    with grpc.secure_channel(
        serving.alliance.contract.coordinator.exchange, credentials
    ) as channel:
        metadata = (("tallystick-job", JOB), ("tallystick-peer", "shop"))
        call = channel.stream_stream(METHOD)(iter(()), metadata=metadata, timeout=10)
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    assert caught.value.code() == grpc.StatusCode.UNAVAILABLE


def test_the_supervisor_holds_no_port(serving: Serving) -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "from server.home import Home; from server.service import Service\n"
        "service = Service(Home(Path(sys.argv[1]))); service.step(); service.close()\n"
        "print('grpc' in sys.modules or 'uvicorn' in sys.modules)"
    )
    command: list[Any] = [*python("x")[:2], "-c", code, serving.alliance.coordinator.root]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]

"""SIGKILL between any two statements of a match: the partner that is killed is charged once, what it answers
is one draw, and the other partner gets its answer too."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from client.gate import Delivery, Gate
from client.home import Home
from client.journal import verify
from client.store import Store
from client.stream import Stream, StreamLost
from protos import wire
from simulations.alliances import Alliance
from simulations.room import Room
from tests.attacks.hostile import Hostile, Opened
from tests.attacks.test_kill import Mortal
from tests.conftest import job


class SocketStream:
    """Frames with a length before each, over a Unix socket: a stream between two processes."""

    def __init__(self, end: socket.socket) -> None:
        self._socket, self._gone = end, False

    def send(self, frame: bytes) -> None:
        try:
            self._socket.sendall(len(frame).to_bytes(4, "big") + frame)
        except OSError:
            self._lose()

    def receive(self) -> bytes:
        return self._read(int.from_bytes(self._read(4), "big"))

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                part = self._socket.recv(size - len(data))
            except OSError:
                part = b""
            if not part:
                self._lose()
            data += part
        return data

    def _lose(self) -> None:
        self._gone = True
        raise StreamLost

    def close(self) -> None:
        self._gone = True
        self._socket.close()

    def abort(self) -> None:
        self._gone = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def lost(self) -> bool:
        return self._gone


def connecting(path: Path, job_id: str, peer: str) -> Stream:
    end = socket.socket(socket.AF_UNIX)
    for _ in range(200):
        try:
            end.connect(str(path))
            return SocketStream(end)
        except OSError:
            time.sleep(0.02)
    end.close()
    raise StreamLost


def accepting(listener: socket.socket, job_id: str, peer: str) -> Stream:
    try:
        end = listener.accept()[0]
        end.settimeout(None)
        return SocketStream(end)
    except OSError:
        raise StreamLost from None


def gate_of(home: Home, opener: Callable[[str, str], Stream], **more: object) -> Gate:
    return Gate(
        home, randomness=os.urandom, clock=time.time, open_stream=opener, patience=120.0,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def match_of(alliance: Alliance, gate: Gate, name: str, opened: Opened) -> wire.ReplyBody:
    return Hostile(alliance, {name: gate}).send(name, opened.id, match=wire.Match())


def lives_for(root: Path, envelope: bytes, path: Path, after: int) -> None:
    """The process that is killed: one gate that gets one envelope."""
    gate = gate_of(Home(root), partial(connecting, path), store=partial(Store, connection=Mortal))
    Mortal.left = after
    gate.handle(envelope, Delivery())
    os._exit(0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_match_that_is_killed_anywhere_is_charged_once_and_ends(
    make_alliance: Callable[..., Alliance], tmp_path: Path
) -> None:
    alliance = make_alliance(partners=2, matching={"engine": "ristretto255"})
    size = {"identifier": "email", "parties": ["bank", "shop"], "result": "size"}
    with Room(alliance) as room:
        hostile = Hostile(alliance, room.gates)
        opened = hostile.new(job(name="both", kind="match", epsilon=1.0, match=size))
        for name in room.gates:
            assert hostile.hello(name, opened).HasField("hello")
        price = sum(p[1] for p in opened.job.match.price(  # type: ignore[union-attr]
            alliance.contract, opened.job.mu2(alliance.contract)))  # fmt: skip
    saved = tmp_path / "saved"
    for name, home in alliance.partners.items():
        shutil.copytree(home.state, saved / name)
    killed, stages = 0, set()
    # Not by fork: polars' threads do not survive one.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([__name__])
    for after in range(400):
        for name, home in alliance.partners.items():
            shutil.rmtree(home.state)
            shutil.copytree(saved / name, home.state)
        path = tmp_path / "s"
        path.unlink(missing_ok=True)
        evil = Hostile(alliance, {"bank": None})  # type: ignore[dict-item]
        envelope = evil.envelope("bank", opened.id, match=wire.Match())
        child = processes.Process(
            target=lives_for, args=(alliance.partners["bank"].root, envelope, path, after)
        )
        child.start()
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(8)
        listener.settimeout(2.0)  # a peer that has all it needs does not come back
        shop = gate_of(alliance.partners["shop"], partial(accepting, listener))
        answers: list[wire.ReplyBody] = []
        asked = threading.Thread(
            target=lambda s=shop, a=answers: a.append(match_of(alliance, s, "shop", opened))
        )
        asked.start()
        child.join(120)
        assert child.exitcode in (0, -signal.SIGKILL)
        through = child.exitcode == 0
        bank = gate_of(alliance.partners["bank"], partial(connecting, path))
        charged = bank.ledger.total()[0]
        stages.add(charged > 0)
        assert charged in (0.0, pytest.approx(price))
        reply = match_of(alliance, bank, "bank", opened)
        asked.join(120)
        assert reply.HasField("match"), (after, reply)
        assert answers, after
        assert answers[0].HasField("match"), (after, answers)
        (figure,) = reply.match.figures
        assert abs(figure.value - 100) < 8 * figure.deviation
        assert bank.ledger.total()[0] == pytest.approx(price)
        assert shop.ledger.total()[0] == pytest.approx(price)
        again = match_of(alliance, bank, "bank", opened)
        assert again.match.figures == reply.match.figures  # one draw
        for gate in (bank, shop):
            verify(gate.store, gate.identity.public_key().public_bytes_raw())
            gate.close()
        listener.close()
        if through:
            break
        killed += 1
    assert killed > 10
    assert stages == {True, False}

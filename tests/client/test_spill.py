"""What a match keeps on disk: survives, is sealed, and says when it was altered."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest

from client.channel import Pins
from client.spill import DiskSpool
from privacy.errors import ProtocolError, Refused
from privacy.matching.storage import MemorySpool

KEY = bytes(range(32))


def spool(folder: Path) -> DiskSpool:
    return DiskSpool(folder, KEY, os.urandom)


def test_a_log_is_there_after_it_was_closed(tmp_path: Path) -> None:
    frames = [os.urandom(size) for size in (0, 1, 70_000, 12)]
    with spool(tmp_path / "m") as first:
        for frame in frames:
            first.log("a").append(frame)
    with spool(tmp_path / "m") as again:
        log = again.log("a")
        assert [log.read(i) for i in range(len(log))] == frames
        assert len(again.log("another")) == 0
    assert (tmp_path / "m").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "m" / "a").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("cut", [1, 20, 40, 75])
def test_a_frame_that_a_crash_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    with spool(tmp_path / "m") as first:
        for n in range(3):
            first.log("a").append(bytes([n]) * 50)
    path = tmp_path / "m" / "a"
    path.write_bytes(path.read_bytes()[:-cut])
    with spool(tmp_path / "m") as again:
        log = again.log("a")
        assert len(log) == 2
        log.append(b"new")
        assert [log.read(i) for i in range(3)] == [bytes(50), b"\1" * 50, b"new"]


def test_what_was_altered_or_moved_is_refused(tmp_path: Path) -> None:
    with spool(tmp_path / "m") as first:
        first.log("a").append(b"one")
        first.log("a").append(b"two")
        path = tmp_path / "m" / "a"
        data = path.read_bytes()
        size = len(data) // 2
        for altered in (data[:-1] + bytes([data[-1] ^ 1]), data[size:] + data[:size]):
            path.write_bytes(altered)
            with pytest.raises(Refused, match="altered"):
                first.log("a").read(1)
        path.write_bytes(data)
        buckets = first.buckets("b", 2)
        buckets.append(0, b"x" * 70_000)
        buckets.append(0, b"y")
        buckets.append(1, b"z")
        assert buckets.read(0) == b"x" * 70_000 + b"y"
        stored = tmp_path / "m" / "b" / "0"
        assert b"xxxxxxxx" not in stored.read_bytes()
        stored.write_bytes(stored.read_bytes()[:-1])
        with pytest.raises(Refused, match="altered"):
            buckets.read(0)
        first.destroy()
    assert not (tmp_path / "m").exists()


def test_a_disk_that_is_full_is_a_storage_refusal(tmp_path: Path) -> None:
    """The file size limit stands for the disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with spool(tmp_path / "m") as held:
        log = held.log("a")
        log.append(b"first")
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
            with pytest.raises(Refused, match="storage"):
                log.append(bytes(100_000))
            with pytest.raises(Refused, match="storage"):
                held.buckets("b", 1).append(0, bytes(100_000))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, ignored)
    with spool(tmp_path / "m") as again:  # what was whole still is
        assert len(again.log("a")) == 1
        assert again.log("a").read(0) == b"first"


def test_pins_hold_both_ways() -> None:
    pins = Pins(MemorySpool(), "shop")
    pins.pin("sent", 1, 0, b"one")
    pins.pin("sent", 1, 1, b"two")
    pins.pin("sent", 1, 0, b"one")  # the same again is fine
    with pytest.raises(ProtocolError):
        pins.pin("sent", 1, 1, b"other")
    with pytest.raises(ProtocolError):
        pins.pin("sent", 1, 3, b"too far")
    other = Pins(MemorySpool(), "bank")
    for index, data in enumerate((b"one", b"two")):
        other.pin("got", 1, index, data)
    assert pins.chain("sent", 1, 2) == other.chain("got", 1, 2)
    assert pins.chain("sent", 1, 1) != other.chain("got", 1, 2)
    with pytest.raises(ProtocolError):
        pins.chain("sent", 1, 3)

"""The call log: a chain over restarts, crashes and full disks, and an index that says only where to look."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from privacy.errors import ConfigError
from server.call_plugin import CallPlugin
from server.calls import GENESIS, STEP, BrokenLog, CallLog, Calls


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def write(path: Path, count: int) -> None:
    calls = CallLog(path)
    for number in range(count):
        calls.append({"call": number})
    calls.close()


def digest_of(path: Path, line: int) -> str:
    return hashlib.sha256(path.read_bytes().split(b"\n")[line - 1]).hexdigest()


def test_flowers_hooks_make_a_chain_over_restarts(path: Path) -> None:
    context = SimpleNamespace(client=SimpleNamespace(host="127.0.0.1"))
    for _ in range(2):
        calls = CallPlugin(path)
        for method in (
            "/v1/control/start-run",
            "/v1/fleet/pull-messages",
            "/v1/fleet/activate-node",
        ):
            calls.write_log(calls.compose_log_before_event(None, context, None, method))
            error = ValueError("jane@example.com")
            calls.write_log(calls.compose_log_after_event(None, context, None, method, error))
        calls.close()
    text = path.read_text()
    assert "jane" not in text
    found = Calls(path).verify()
    assert (found.lines, found.torn) == (8, 0)  # started and failed, failed poll, activation; twice
    assert json.loads(text.splitlines()[0])["event"]["action"] == "/v1/control/start-run"
    assert path.stat().st_mode & 0o777 == 0o600


def test_an_edit_is_found_at_the_line_behind_it(path: Path) -> None:
    write(path, 9)
    lines = path.read_bytes().splitlines(keepends=True)
    for edited in (
        [*lines[:3], lines[3].replace(b"3", b"7", 1), *lines[4:]],
        [*lines[:3], *lines[4:]],
        [*lines[:3], lines[4], lines[3], *lines[5:]],
        [*lines[:3], b"not json\n", *lines[3:]],
        [*lines[:3], b"[" * 5000 + b"\n", *lines[3:]],
    ):
        path.write_bytes(b"".join(edited))
        with pytest.raises(BrokenLog) as caught:
            Calls(path).verify()
        assert caught.value.line in (4, 5)


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_a_line_that_a_crash_cut_off_stays_and_the_next_says_so(path: Path, cut: int) -> None:
    write(path, 5)
    path.write_bytes(path.read_bytes()[:-cut])
    assert Calls(path).verify().unfinished
    write(path, 2)
    found = Calls(path).verify()
    assert found.unfinished is False
    assert found.lines == 8  # five, one of them cut off; the line that says so; two
    assert found.torn == (cut > 1)  # a line without its end is whole


def test_a_torn_line_vouches_for_what_is_before_it(path: Path) -> None:
    write(path, 5)
    path.write_bytes(path.read_bytes()[:-30])
    write(path, 2)
    torn_and_after = path.read_bytes().splitlines(keepends=True)[4:]
    path.unlink()
    write(path, 5)
    other = [line.replace(b"call", b"last") for line in path.read_bytes().splitlines(True)[:1]]
    path.write_bytes(b"".join(other + torn_and_after))
    with pytest.raises(BrokenLog):
        Calls(path).verify()
    path.write_bytes(b"".join(torn_and_after[:1]))
    with pytest.raises(BrokenLog):
        Calls(path).verify()


class Full:
    """A disk that takes so many bytes more."""

    def __init__(self, file: object, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        written = self.file.write(data[: self.room])  # type: ignore[attr-defined]
        self.room -= written
        return int(written)

    def close(self) -> None:
        self.file.close()  # type: ignore[attr-defined]


def test_a_full_disk_fails_the_call_and_the_chain_goes_on(path: Path) -> None:
    calls = CallLog(path)
    calls.append({"call": 0})
    whole = calls._file
    calls._file = Full(whole, 10)  # type: ignore[assignment]
    for number in (1, 2):
        with pytest.raises(OSError, match=r"call log|No space"):
            calls.append({"call": number})
    calls._file = whole
    calls.append({"call": 3})
    calls.close()
    found = Calls(path).verify()
    assert (found.lines, found.torn, found.unfinished) == (4, 1, False)
    assert Calls(path).has(4, digest_of(path, 4))


def test_heads_are_found_by_the_index_and_without_it(path: Path) -> None:
    for _ in range(3):  # over restarts
        write(path, STEP + 7)
    count = 3 * (STEP + 7)
    index = Path(f"{path}.index")
    assert index.stat().st_size == count // STEP * 8
    calls = Calls(path)
    for spoil in (lambda: None, lambda: index.write_bytes(b"\xff" * 16), index.unlink):
        spoil()  # type: ignore[operator]
        last = calls.last()
        assert last is not None
        assert (last.line, last.digest) == (count, digest_of(path, count))
        for line in (1, STEP, STEP + 1, 2 * STEP, count):
            assert calls.has(line, digest_of(path, line))
            assert not calls.has(line, digest_of(path, line - 1 or 2))
        assert not calls.has(count + 1, GENESIS)
        assert calls.has(0, GENESIS)
    assert calls.verify().lines == count


@pytest.mark.parametrize("keep", [STEP - 1, STEP, STEP + 1, 2 * STEP, 2 * STEP + 1])
def test_a_log_that_lost_its_end_goes_on_though_its_index_is_ahead(path: Path, keep: int) -> None:
    """As after a power cut: the index reached the disk and the lines did not."""
    write(path, 3 * STEP + 1)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:keep]))
    last = Calls(path).last()
    assert last is not None
    assert (last.line, last.digest) == (keep, digest_of(path, keep))
    write(path, STEP)
    assert Calls(path).verify().lines == keep + STEP
    assert Path(f"{path}.index").stat().st_size == (keep + STEP) // STEP * 8
    assert Calls(path).has(keep, hashlib.sha256(lines[keep - 1][:-1]).hexdigest())


def test_who_reads_sees_whole_lines_only(path: Path) -> None:
    calls = CallLog(path)
    calls.append({"call": 0})
    with path.open("ab") as file:
        file.write(b'{"call": 1, "prev')
    last = Calls(path).last()
    assert last is not None
    assert last.line == 1
    calls.close()


def test_a_log_has_one_writer_and_is_no_link(path: Path, tmp_path: Path) -> None:
    calls = CallLog(path)
    with pytest.raises(ConfigError, match="another link"):
        CallLog(path)
    calls.close()
    other = tmp_path / "other"
    other.symlink_to(path)
    with pytest.raises(ConfigError, match="cannot be written"):
        CallLog(other)
    other.unlink()
    other.hardlink_to(path)
    with pytest.raises(ConfigError, match="own"):
        CallLog(other)


def test_a_log_that_an_earlier_version_left_open_to_others_is_closed(path: Path) -> None:
    write(path, 3)
    path.chmod(0o664)
    write(path, 1)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Calls(path).verify().lines == 4


def test_stating_a_head_reads_the_end_of_the_log_only(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, 20 * STEP)
    hashed = 0
    real: Callable[..., object] = hashlib.sha256

    def counting(data: bytes = b"") -> object:
        nonlocal hashed
        hashed += 1
        return real(data)

    monkeypatch.setattr("server.calls.hashlib.sha256", counting)
    Calls(path).last()
    Calls(path).has(10 * STEP + 3, "0" * 64)
    assert hashed <= 2 * STEP + 3

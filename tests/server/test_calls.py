"""The call log: a chain over restarts, crashes and full disks, and numbers that only the chain gives."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from privacy.errors import ConfigError
from server.call_plugin import CallPlugin
from server.calls import GENESIS, TAIL, BrokenLog, CallLog, Calls


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
    # Five, one of them cut off; the line that says so; two. A line without its end is whole.
    assert (found.lines, found.torn) == ((8, 1) if cut > 1 else (7, 0))


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


@pytest.mark.parametrize("bytes_there", [b"\n", b'{"after": "0', b"\n{\n\n", b"\0" * 100_000])
def test_whatever_a_crash_left_at_the_end_is_one_torn_run(path: Path, bytes_there: bytes) -> None:
    """Also in the middle of saying so, and over the beginning of a log."""
    for before in (0, 5):
        write(path, before)
        path.write_bytes(path.read_bytes() + b'{"actor": {' + bytes_there)
        assert Calls(path).verify().unfinished
        last = Calls(path).last()
        assert last is not None
        assert last.line == before  # no head is signed over what is no entry
        write(path, 2)
        found, lines = Calls(path).verify(), path.read_bytes().split(b"\n")[:-1]
        assert found.unfinished is False
        assert found.lines == len(lines) == before + found.torn + 3
        for changed in range(before, before + found.torn):
            other = [*lines[:changed], lines[changed] + b" ", *lines[changed + 1 :]]
            path.write_bytes(b"\n".join(other) + b"\n")
            with pytest.raises(BrokenLog):
                Calls(path).verify()
        path.unlink()


def forged(path: Path, kept: int) -> None:
    """All lines are other ones, but line ``kept``: it stands in its place, as a torn one."""
    lines, made, previous = path.read_bytes().split(b"\n")[:-1], b"", GENESIS

    def add(**entry: object) -> None:
        nonlocal made, previous
        line = json.dumps(entry | {"prev": previous}, sort_keys=True).encode()
        made, previous = made + line + b"\n", hashlib.sha256(line).hexdigest()

    for number in range(kept - 1):
        add(other=number)
    before, torn = previous, lines[kept - 1]
    made, previous = made + torn + b"\n", hashlib.sha256(torn).hexdigest()
    add(torn=len(torn), after=before)
    add(other=kept)
    path.write_bytes(made)


def test_an_entry_cannot_stand_in_another_log_as_a_torn_line(path: Path) -> None:
    write(path, 9)
    signed = digest_of(path, 7)
    assert Calls(path).has(7, signed)
    forged(path, 7)
    assert digest_of(path, 7) == signed
    assert not Calls(path).has(7, signed)
    with pytest.raises(BrokenLog) as caught:
        Calls(path).verify()
    assert caught.value.line == 7
    with pytest.raises(BrokenLog):
        Calls(path).last()


def test_a_torn_line_has_no_digest_to_compare(path: Path) -> None:
    write(path, 3)
    path.write_bytes(path.read_bytes() + b'{"cal')
    write(path, 1)
    calls = Calls(path)
    assert calls.verify().torn == 1
    assert not calls.has(4, digest_of(path, 4))
    assert not calls.has(4, GENESIS)
    assert not calls.has(0, GENESIS)
    assert calls.has(5, digest_of(path, 5))


def test_a_line_in_a_broken_chain_is_not_there(path: Path) -> None:
    write(path, 9)
    digests = [digest_of(path, number) for number in range(1, 10)]
    path.write_bytes(path.read_bytes().replace(b'"call": 4', b'"call": 5'))
    calls = Calls(path)
    assert [calls.has(n, digest) for n, digest in enumerate(digests, 1)] == [True] * 4 + [False] * 5


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


@pytest.mark.parametrize("rooms", [(10, 1), (10, 1, 30, 0, 7), (10, 0, 95, 3), (1, 1, 1, 1)])
def test_a_disk_that_is_full_again_and_again_breaks_no_chain(
    path: Path, rooms: tuple[int, ...]
) -> None:
    calls = CallLog(path)
    calls.append({"call": 0})
    whole = calls._file
    for room in rooms:
        calls._file = Full(whole, room)  # type: ignore[assignment]
        with pytest.raises(OSError, match=r"call log|No space"):
            calls.append({"call": 1, "what": "x" * 300})
    calls._file = whole
    calls.append({"call": 2})
    calls.close()
    write(path, 2)
    found = Calls(path).verify()
    assert found.unfinished is False
    assert found.lines == len(path.read_bytes().splitlines()) == 5 + found.torn


def test_the_writer_finds_the_end_of_a_long_log_and_of_a_long_line(path: Path) -> None:
    write(path, 3)
    calls = CallLog(path)
    calls.append({"call": "x" * (3 * TAIL)})
    calls.close()
    write(path, 1)
    path.write_bytes(path.read_bytes() + b"x" * (3 * TAIL))
    write(path, 1)
    found = Calls(path).verify()
    assert (found.lines, found.torn, found.unfinished) == (8, 1, False)


def test_nothing_beside_the_log_says_which_number_a_line_has(path: Path) -> None:
    write(path, 600)
    first = path.read_bytes().index(b"\n") + 1
    Path(f"{path}.index").write_bytes(first.to_bytes(8, "big") * 100_000)
    for added in (0, 1):
        write(path, added)
        last = Calls(path).last()
        assert last is not None
        assert (last.line, last.digest) == (600 + added, digest_of(path, 600 + added))
    calls = Calls(path)
    for line in (1, 256, 257, 512, 601):
        assert calls.has(line, digest_of(path, line))
        assert not calls.has(line, digest_of(path, line - 1 or 2))
    assert not calls.has(602, digest_of(path, 601))


def test_a_head_of_a_line_that_came_since_is_found(path: Path) -> None:
    """Jobs run beside each other: a partner may hold what another job stated a moment ago."""
    write(path, 5)
    calls = Calls(path)
    assert calls.last() is not None
    write(path, 5)
    assert calls.has(8, digest_of(path, 8))
    write(path, 1)
    assert not calls.has(11, digest_of(path, 10))
    assert calls.has(11, digest_of(path, 11))


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

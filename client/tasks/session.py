"""The connections of one match: to every peer at once, made again after a break, ended in good order.

A party of more than two waits for one peer while another may be gone, so all of a match's connections
stand and fall together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager

from client.channel import DONE, MatchChannel, Pins
from client.context import Context
from client.spill import DiskSpool
from client.stream import SealedStream, Stream, StreamLost
from privacy.errors import ProtocolError
from protos import wire
from protos.addresses import JobId

Opener = Callable[[str, str], Stream]
"""Opens a job's stream to a peer at the exchange."""
WATCH = 0.2
"""Seconds between looks at the connections of more than two parties."""


class Session:
    """Connections of the match ``job`` to ``peers``; ``monotonic`` is the clock that deadlines are by."""

    def __init__(
        self,
        context: Context,
        job: JobId,
        peers: Sequence[str],
        open_stream: Opener,
        monotonic: Callable[[], float],
    ) -> None:
        self._at, self._job, self._peers = context, job, peers
        self._open, self._monotonic = open_stream, monotonic
        self._opened: dict[str, Stream] = {}
        self.channels: dict[str, MatchChannel] = {}

    def connect(self, spool: DiskSpool, deadline: float) -> None:
        """Shake hands with all peers. Raises StreamLost if one does not come by ``deadline``."""
        with ThreadPoolExecutor(len(self._peers), thread_name_prefix="shake") as pool:
            # all at once: each party waits for all others, in whatever order they come back
            waiting = {peer: pool.submit(self._shake_hands, peer, deadline) for peer in self._peers}
            first = wait(waiting.values(), return_when=FIRST_EXCEPTION)
            if first.not_done:
                self.abort()
        failures = [e for e in (f.exception() for f in waiting.values()) if e is not None]
        for peer, future in waiting.items():
            if future.exception() is None:
                self.channels[peer] = MatchChannel(future.result(), Pins(spool, peer))
        if failures:
            raise next((e for e in failures if not isinstance(e, StreamLost)), failures[0])

    def heads(self) -> dict[str, list[wire.Signed]]:
        """The journal heads that each peer stated."""
        return {peer: channel.heads for peer, channel in self.channels.items()}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Cut all connections when one of several is gone: a party that waits for the second would
        otherwise not see that the third has left, nor the second that waits for the third."""
        over = threading.Event()

        def watch() -> None:
            while not over.wait(WATCH):
                if any(stream.lost() for stream in list(self._opened.values())):
                    self.abort()
                    return

        self._opened.clear()
        thread = threading.Thread(target=watch, name="watch", daemon=True)
        if len(self._peers) > 1:
            thread.start()
        try:
            yield
        finally:
            over.set()
            if thread.ident is not None:
                thread.join()

    def _shake_hands(self, peer: str, deadline: float, *, over: bool = False) -> SealedStream:
        stream = self._opened[peer] = self._open(self._job, peer)
        timer = threading.Timer(max(0.5, deadline - self._monotonic()), stream.abort)
        timer.daemon = True
        timer.start()
        try:
            return SealedStream(
                stream,
                contract=self._at.contract,
                job=self._job,
                me=self._at.me,
                peer=peer,
                identity=self._at.identity,
                randomness=self._at.randomness,
                heads=() if over else self._at.heads.held(of=[self._at.me, peer]),
                over=over,
            )
        except BaseException:
            stream.abort()
            raise
        finally:
            timer.cancel()

    def tell_that_it_is_over(self, seconds: float) -> None:
        """A peer that finds its connection cut connects again: let it hear why, if it does so soon."""
        for peer in self._peers:
            try:
                self._shake_hands(peer, self._monotonic() + seconds, over=True).close()
            except ProtocolError:
                continue

    def farewell(self) -> None:
        """Both sides have all they need before either goes."""
        for channel in self.channels.values():
            channel.send(DONE, 0, b"")
        for channel in self.channels.values():
            kind, _, _ = channel.receive()
            if kind != DONE:
                raise ProtocolError("not the end of a match")
        for channel in self.channels.values():
            channel.close()

    def disconnect(self) -> None:
        """End all connections at once, each of them journalled."""
        channels, self.channels = self.channels, {}
        for peer, channel in channels.items():
            channel.abort()
            self._at.journal.record_digest(
                "match", self._job, channel.bytes_sent, channel.sent_digest(), peer
            )

    def abort(self) -> None:
        """Make every connection fail, wherever it is waited for."""
        for stream in list(self._opened.values()):
            stream.abort()

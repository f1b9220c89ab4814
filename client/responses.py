"""Answers of the link that are cut off at a size while they come, before anybody parses them.

Flower's client reads an answer whole, unpacks it if it says that it is packed, and has no limit for either:
a link could fill the memory of a node that only looked for messages. *Not* handled: an answer that never ends
but is never long; Flower waits 30 s for each part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx

from protos import carried

LARGEST_RESPONSE = 1 << 20
"""Bytes of an answer of the link, but for the one that holds an envelope."""
LARGEST_OBJECT = carried.LARGEST_QUESTION + carried.OVERHEAD


class TooLargeError(Exception):
    """An answer longer than any of its kind can be, or packed. Not retried: it is no fault of the network."""


class _Bounded(httpx.SyncByteStream):  # type: ignore[misc]
    """The bytes of an answer, up to a limit."""

    def __init__(self, stream: Any, limit: int) -> None:
        self._stream, self._left = stream, limit

    def __iter__(self) -> Iterator[bytes]:
        for part in self._stream:
            self._left -= len(part)
            if self._left < 0:
                raise TooLargeError
            yield part

    def close(self) -> None:
        self._stream.close()


def bounded(client: Any, limit: int = LARGEST_RESPONSE) -> Any:
    """The same client of Flower's, whose answers are no longer than they can be."""

    def hook(response: httpx.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooLargeError  # a few bytes could become any number
        is_object = response.request.url.path.endswith("/pull-object")
        response.stream = _Bounded(response.stream, LARGEST_OBJECT if is_object else limit)

    client._client.event_hooks = {"response": [hook]}
    return client

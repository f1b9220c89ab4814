"""Answers of the link that are cut off at a size while they come, before anybody parses them.

Flower's client reads an answer whole, unpacks it if it says that it is packed, and has no limit for either:
a link could fill the memory of a node that only looked for messages. And it goes wherever the link sends it:
a redirect would have the node ask any host of the partner's own network. So

    length     of an answer is bounded while it comes, and it is not packed
    elsewhere  is nowhere: a redirect is an error, and so is any request to another address than the link's
    cookies    are not kept
    proxies    of the environment are used for the link, on purpose: some partners get out by no other way,
               and TLS goes through them to the authority that the contract pins. Not for a
               ``flower-supernode`` beside us, which is plain HTTP with a token, on this machine

*Not* handled: an answer that never ends but is never long; Flower waits 30 s for each part.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpx

from protos import carried

LARGEST_RESPONSE = 1 << 20
"""Bytes of an answer of the link, but for the one that holds an envelope."""
LARGEST_OBJECT = carried.LARGEST_QUESTION + carried.OVERHEAD


class TooLargeError(Exception):
    """An answer longer than any of its kind can be, or packed. Not retried: it is no fault of the network."""


class ElsewhereError(Exception):
    """An answer that sends this node somewhere else, or a request that would go there."""


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


def bounded(client: Any, limit: int = LARGEST_RESPONSE, *, proxies: bool = True) -> Any:
    """The same client of Flower's, whose answers are no longer than they can be, and which asks its own
    server and nobody else. ``proxies``: may it go through the environment's?"""
    inner, home = client._client, _origin(httpx.URL(client._base_url))

    def asking(request: httpx.Request) -> None:
        if _origin(request.url) != home:
            raise ElsewhereError

    def hook(response: httpx.Response) -> None:
        if 300 <= response.status_code < 400:
            raise ElsewhereError
        if response.headers.get("content-encoding", "identity") != "identity":
            raise TooLargeError  # a few bytes could become any number
        is_object = response.request.url.path.endswith("/pull-object")
        response.stream = _Bounded(response.stream, LARGEST_OBJECT if is_object else limit)

    inner.event_hooks = {"request": [asking], "response": [hook]}
    inner.follow_redirects = False
    inner.cookies = CookieJar(DefaultCookiePolicy(allowed_domains=()))
    if not proxies:
        inner._mounts.clear()
    return client


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port

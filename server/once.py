"""A signature of a node opens one call.

Flower's nodes sign the time and not the call: one header would open any number of calls until it is too
old, and what Flower refuses early (a body that is none, say) it refuses again and again. So the first half of
each signature (r of ECDSA, the same in both forms of a signature) is kept for as long as Flower would take it
again.

*Not* handled: a signature is still not bound to its call. Who breaks TLS and holds a call back may spend its
header, once, on another call of the same node. What was spent is forgotten when the link restarts.
"""

from __future__ import annotations

import binascii
import time
from base64 import b64decode
from collections import OrderedDict
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from flwr.supercore.constant import FLEET_HTTP_SIGNATURE_HEADER

from server.guard import Headers

SIGNED_FOR = 320.0
"""Seconds for which Flower takes a signed time, and some."""
MOST_CALLS = 50_000
"""Of a caller in that time; :class:`server.guard.Pace` allows fewer."""
_NAME = FLEET_HTTP_SIGNATURE_HEADER.lower().encode()


class Once:
    """Signatures that opened a call, of each caller."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._spent: dict[str, OrderedDict[int, float]] = {}

    def __call__(self, who: str, headers: Headers) -> bool:
        """May these headers open a call of ``who``? Not twice."""
        given = [value for name, value in headers if name.lower() == _NAME]
        try:
            (signature,) = given
            mark, _ = decode_dss_signature(b64decode(signature, validate=True))
        except (ValueError, binascii.Error):
            return False
        spent, now = self._spent.setdefault(who, OrderedDict()), self._clock()
        while spent and next(iter(spent.values())) < now - SIGNED_FOR:
            spent.popitem(last=False)
        if mark in spent or len(spent) >= MOST_CALLS:
            return False
        spent[mark] = now
        return True

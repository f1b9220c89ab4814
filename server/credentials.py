"""Who calls the link, from a request's headers alone. Flower's own checks come after the body, and stay.

    /v1/fleet/*      a node: the contract's key signed a time that is now (Flower's ``NodeAuthMiddleware``)
    /v1/control/*    the coordinator: the control token
    /v1/runtime/*    a ServerApp process: the task's token; for a task, a mac under the runtime secret
    /health          anybody

A header that is there twice is none. What Flower's clients send is read here, and nothing is asked of them.
"""

from __future__ import annotations

import hmac
from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_HEADER, TIMESTAMP_TOLERANCE
from flwr.supercore.auth.superexec import compute_superexec_signature, derive_auth_secret
from flwr.supercore.constant import (
    FLEET_HTTP_PUBLIC_KEY_HEADER,
    FLEET_HTTP_SIGNATURE_HEADER,
    MAX_TIMESTAMP_DIFF_SECONDS,
    MIN_TIMESTAMP_DIFF_SECONDS,
    SUPEREXEC_AUTH_BODY_SHA256_HEADER,
    SUPEREXEC_AUTH_NONCE_HEADER,
    SUPEREXEC_AUTH_SIGNATURE_HEADER,
    SUPEREXEC_AUTH_TIMESTAMP_HEADER,
    TASK_TOKEN_HEADER,
)
from flwr.supercore.primitives.asymmetric import bytes_to_public_key, verify_signature

from server.firewall import FLEET, RUNTIME
from server.guard import Headers

INSIDERS = ("control", "runtime", "task")
"""Who calls on the internal port."""
HEALTH, CONTROL = "/health", "/v1/control/"
ACQUIRE = "/v1/runtime/acquire-task"
LONGEST = 1024
"""Bytes of a header that says who calls."""


def _one(headers: Headers, name: str) -> str | None:
    found = [value for key, value in headers if key == name.encode()]
    if len(found) != 1 or len(found[0]) > LONGEST:
        return None
    try:
        return found[0].decode("ascii")
    except UnicodeDecodeError:
        return None


class Nodes:
    """The public port: nodes of the contract. ``keys``: Flower's form of each node key, and whose it is.
    ``allows``: may this party call now, or was it revoked?"""

    def __init__(
        self,
        keys: Mapping[bytes, str],
        allows: Callable[[str], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._keys, self._allows, self._now = dict(keys), allows, now

    def __call__(self, path: str, headers: Headers) -> str | None:
        """Whose node calls; nobody in particular at ``/health``."""
        if path == HEALTH:
            return ""
        key, signature, stamp = (
            _one(headers, name)
            for name in (
                FLEET_HTTP_PUBLIC_KEY_HEADER,
                FLEET_HTTP_SIGNATURE_HEADER,
                TIMESTAMP_HEADER,
            )
        )
        if not path.startswith(FLEET) or key is None or signature is None or stamp is None:
            return None
        try:
            public, signed = b64decode(key, validate=True), b64decode(signature, validate=True)
            party = self._keys.get(public)
            age = self._now() - datetime.fromisoformat(stamp)
            early = timedelta(seconds=-SYSTEM_TIME_TOLERANCE)
            late = timedelta(seconds=TIMESTAMP_TOLERANCE + SYSTEM_TIME_TOLERANCE)
            if party is None or not self._allows(party) or not early < age < late:
                return None
            fits = verify_signature(bytes_to_public_key(public), stamp.encode("ascii"), signed)
        except (ValueError, TypeError, OverflowError, InvalidSignature, UnsupportedAlgorithm):
            return None
        return party if fits else None


class Insiders:
    """The internal port: the coordinator's own processes. ``is_task``: does this task token exist?"""

    def __init__(
        self,
        token: str,
        secret: bytes,
        is_task: Callable[[str], bool],
        now: Callable[[], datetime],
    ) -> None:
        self._token, self._secret = f"Bearer {token}", derive_auth_secret(secret)
        self._is_task, self._now = is_task, now

    def __call__(self, path: str, headers: Headers) -> str | None:
        """``control``, ``runtime`` or ``task``; nobody in particular at ``/health``."""
        if path == HEALTH:
            return ""
        if path.startswith(CONTROL):
            given = _one(headers, "authorization") or ""
            return "control" if hmac.compare_digest(given, self._token) else None
        if path == ACQUIRE:
            return "runtime" if self._signed(headers) else None
        if path.startswith(RUNTIME):
            token = _one(headers, TASK_TOKEN_HEADER)
            return "task" if token and self._is_task(token) else None
        return None

    def _signed(self, headers: Headers) -> bool:
        stamp, nonce, body, mac = (
            _one(headers, name)
            for name in (
                SUPEREXEC_AUTH_TIMESTAMP_HEADER,
                SUPEREXEC_AUTH_NONCE_HEADER,
                SUPEREXEC_AUTH_BODY_SHA256_HEADER,
                SUPEREXEC_AUTH_SIGNATURE_HEADER,
            )
        )
        if not stamp or not nonce or not body or not mac or not stamp.isdigit():
            return False
        age = self._now().timestamp() - int(stamp)
        if not MIN_TIMESTAMP_DIFF_SECONDS < age < MAX_TIMESTAMP_DIFF_SECONDS:
            return False
        wanted = compute_superexec_signature(
            auth_secret=self._secret,
            method="/flwr.proto.Runtime/AcquireTask",
            timestamp=int(stamp),
            nonce=nonce,
            body_sha256=body,
        )
        return hmac.compare_digest(wanted, mac)

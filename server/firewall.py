"""What of the link's HTTP interface exists for whom: ASGI layers before and around Flower's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.middleware import Middleware

from server.guard import refuse


class PathFirewall:
    """ASGI: what is not for partners does not exist on the public socket. ``public`` and ``internal``: who
    answers on which port."""

    def __init__(
        self, public: Callable[..., Any], internal: Callable[..., Any], internal_port: int
    ) -> None:
        self._public, self._internal, self._port = public, internal, internal_port

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        inside = (scope.get("server") or ("", 0))[1] == self._port
        if scope["type"] == "http":
            path = scope.get("path", "")
            allowed = (
                not path.startswith(("/docs", "/openapi"))
                if inside
                else path.startswith("/v1/fleet/") or path == "/health"
            )
            if not allowed:
                await refuse(send, 404)
                return
        await (self._internal if inside else self._public)(scope, receive, send)


class Unless:
    """ASGI: leaves a layer of middleware out for paths that it would only pass on."""

    def __init__(
        self, app: Callable[..., Any], layer: type[Any], skip: tuple[str, ...], **options: Any
    ) -> None:
        self._plain, self._layered, self._skip = app, layer(app, **options), skip

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        passed_on = scope["type"] == "http" and scope.get("path", "").startswith(self._skip)
        await (self._plain if passed_on else self._layered)(scope, receive, send)


FLEET, RUNTIME = "/v1/fleet/", "/v1/runtime/"
SKIPPED = {
    "ControlSensitiveResponseMiddleware": (FLEET, RUNTIME),
    "ControlAuthenticationMiddleware": (FLEET, RUNTIME),
    "ControlLicenseMiddleware": (FLEET, RUNTIME),
    "ControlEventLogMiddleware": (FLEET, RUNTIME),
    "RuntimeTracingMiddleware": (FLEET,),
    "NodeAuthMiddleware": (RUNTIME,),
    "FleetEventLogMiddleware": (RUNTIME,),
}
"""Each of Flower's nine layers costs every request half a millisecond, and looks at the path only to
find that it is not concerned. A layer is left out for other people's paths, never for its own."""


def shorten(app: Any) -> None:
    """Wrap Flower's middleware so that a request passes only the layers that concern it."""
    app.user_middleware = [
        Middleware(Unless, layer=layer.cls, skip=SKIPPED[layer.cls.__name__], **layer.kwargs)
        if layer.cls.__name__ in SKIPPED
        else layer
        for layer in app.user_middleware
    ]

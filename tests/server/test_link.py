"""Flower's private parts, as ``server/link.py`` uses them: fails when Flower moves them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import inspect

import pytest
from flwr.supercore.inflatable.inflatable_utils import pull_objects
from flwr.supercore.interceptors import SuperExecAuthHttpInterceptor
from flwr.superlink.config_loader import SuperLinkLifespanConfig
from flwr.superlink.grid import HttpGrid, http_grid
from flwr.superlink.main import _get_middleware, create_app

from server import firewall, link


def test_the_version_is_the_one_that_was_read() -> None:
    assert importlib.metadata.version("flwr").startswith("1.41.")


def test_the_launchers_configuration() -> None:
    assert {f.name for f in dataclasses.fields(SuperLinkLifespanConfig)} == {
        "control_address", "health_server_address", "host", "port", "insecure", "certificates",
        "superexec_auth_secret", "authn_plugin", "event_log_plugin", "fleet_event_log_plugin",
        "enable_event_log", "artifact_provider", "enable_supernode_auth", "fleet_api_type",
        "fleet_api_address", "simulation", "ssl_ca_certfile", "ssl_certfile", "ssl_keyfile",
        "database", "isolation", "runtime_dependency_install",
    }  # fmt: skip
    assert list(inspect.signature(create_app).parameters) == ["config", "superlink_lifespan_class"]


def test_the_layers_that_are_skipped_look_at_the_path_themselves() -> None:
    layers = {layer.cls.__name__: layer.cls for layer in _get_middleware()}
    assert set(firewall.SKIPPED) <= set(layers)
    for name, skipped in firewall.SKIPPED.items():
        own = {"Control": "/v1/control/", "Fleet": firewall.FLEET, "NodeAuth": firewall.FLEET,
               "Runtime": firewall.RUNTIME}[next(k for k in ("Control", "Fleet", "NodeAuth", "Runtime")
                                             if name.startswith(k))]  # fmt: skip
        assert not own.startswith(skipped), f"{name} must never be skipped for its own path"


def test_the_grid_and_its_pauses() -> None:
    assert {"initial_backoff", "backoff_cap", "max_time"} <= set(
        inspect.signature(pull_objects).parameters
    )
    assert http_grid.pull_objects is pull_objects
    assert {"runtime_api_address", "insecure", "root_certificates", "token"} <= set(
        inspect.signature(HttpGrid.__init__).parameters
    )
    assert {"master_secret", "protected_methods"} <= set(
        inspect.signature(SuperExecAuthHttpInterceptor.__init__).parameters
    )


def test_tokens() -> None:
    authn = link.TokenAuthn("right")
    assert authn.validate_tokens_in_metadata([("flwr-oidc-access-token", "right")])[0]
    for wrong in ("", "Right", "rightright"):
        assert authn.validate_tokens_in_metadata([("flwr-oidc-access-token", wrong)]) == (
            False,
            None,
        )
    assert authn.validate_tokens_in_metadata([]) == (False, None)
    assert link.TokenAuthn("").validate_tokens_in_metadata([]) == (False, None)


@pytest.mark.parametrize(
    ("path", "port", "served"),
    [
        ("/v1/fleet/pull-messages", 1, True),
        ("/health", 1, True),
        ("/v1/control/start-run", 1, False),
        ("/v1/runtime/acquire-task", 1, False),
        ("/docs", 1, False),
        ("/", 1, False),
        ("/v1/fleetx", 1, False),
        ("/v1/control/start-run", 2, True),
        ("/docs", 2, False),
        ("/openapi.json", 2, False),
    ],
)
def test_the_path_firewall(path: str, port: int, served: bool) -> None:
    reached, sent = [], []

    async def inner(scope, receive, send):  # type: ignore[no-untyped-def]
        reached.append(scope["path"])

    async def send(message):  # type: ignore[no-untyped-def]
        sent.append(message)

    import asyncio

    scope = {"type": "http", "path": path, "server": ("127.0.0.1", port)}
    asyncio.run(firewall.PathFirewall(inner, inner, 2)(scope, None, send))
    assert bool(reached) == served
    assert bool(sent) != served

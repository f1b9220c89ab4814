"""The bill of materials that CI writes beside the wheel: complete, licensed, and without an address."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def sbom() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sbom", ROOT / ".ci" / "sbom.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def component(name: str = "numpy", **changes: Any) -> dict[str, Any]:
    """As the library writes it."""
    plain: dict[str, Any] = {
        "type": "library",
        "bom-ref": f"{name}==2.1",
        "name": name,
        "version": "2.1",
        "purl": f"pkg:pypi/{name}@2.1",
        "licenses": [{"license": {"acknowledgement": "declared", "id": "MIT"}}],
        "description": "see https://somewhere.example/",
        "externalReferences": [{"type": "distribution", "url": "file:///home/me/dist/x.whl"}],
        "properties": [{"name": "index", "value": "https://mirror.example/simple"}],
    }
    return {key: value for key, value in {**plain, **changes}.items() if value is not None}


def bill(*components: dict[str, Any]) -> dict[str, Any]:
    itself, tool = component("tallystick", purl=None), component("cyclonedx-py", purl=None)
    return {
        "metadata": {"component": itself, "tools": {"components": [tool]}},
        "components": list(components),
        "dependencies": [],
    }


def test_links_folders_and_properties_are_left_out(sbom: ModuleType) -> None:
    made = sbom.bare(bill(component(), component("protobuf", licenses=None)))
    sbom.check(made, [Requirement("numpy>=2,<3"), Requirement("protobuf")])
    text = json.dumps({**made, "$schema": ""})
    assert not any(word in text for word in ("://", "file:", "/home", "mirror", "description"))


@pytest.mark.parametrize(
    ("components", "what"),
    [
        ([], "not listed"),
        ([component(version="1.9")], "is not <3,>=2"),
        ([component(), component("other", version=None)], "no version"),
        ([component(), component("other", licenses=None)], "no licence"),
        ([component(), component("other", licenses=[{"license": {}}])], "no licence"),
        ([component(), component("other", version="1 @ file:///x")], "an address or a path"),
        ([component(purl="pkg:pypi/numpy@2.1?repository_url=mirror.example")], "an address"),
        ([component(licenses=[{"license": {"name": "see /srv/x/LICENSE"}}])], "a path"),
        ([component(licenses=[{"license": {"name": r"see C:\x\LICENSE"}}])], "a path"),
    ],
)
def test_a_bill_that_says_too_little_or_too_much_is_not_written(
    sbom: ModuleType, components: list[dict[str, Any]], what: str
) -> None:
    with pytest.raises(sbom.Unfit, match=what):
        sbom.check(sbom.bare(bill(*components)), [Requirement("numpy>=2,<3")])


@pytest.mark.slow
def test_the_bill_of_this_environment_lists_what_tallystick_needs(sbom: ModuleType) -> None:
    pytest.importorskip("cyclonedx_py", reason="extra `release`")
    made = sbom.bare(sbom.make(sys.executable))
    made["components"] = [each for each in made["components"] if each.get("licenses")]
    sbom.check(made, sbom.runtime())
    sbom.validate(json.dumps(made))
    assert made["metadata"]["component"]["name"] == "tallystick"


def test_the_audit_and_the_bill_are_commands_of_ci() -> None:
    assert "sbom.py" in (ROOT / ".ci" / "run").read_text()
    assert "audit" not in (ROOT / ".ci" / "run").read_text()  # green without a network
    assert "--strict" in (ROOT / ".ci" / "audit").read_text()

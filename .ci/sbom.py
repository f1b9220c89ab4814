"""Write a software bill of materials (CycloneDX 1.6) of an environment, and check what it says.

    sbom.py PYTHON OUT.cdx.json

PYTHON: the interpreter of an environment in which the wheel was installed and nothing else, so that the bill
lists what a user gets. Made by cyclonedx-bom (extra ``release``) from the metadata of what is installed:
nothing is asked of a network. Names, versions, licences, package URLs and what needs what are kept; links,
descriptions and properties are not, because they carry folders of the machine that built it and the address
of the index that it installed from. What it does not say: hashes of files, the Python underneath, libraries
of the operating system, what is compiled into a wheel.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
KEPT = ("type", "bom-ref", "group", "name", "version", "purl", "licenses")
UNDECLARED = {"protobuf": "BSD-3-Clause"}
"""Licences of what names none in a form that is read: protobuf says ``3-Clause BSD License``."""
SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
FOREIGN = re.compile(r"://|file:|\?|(?:^|[\s\"'=(])(?:/|[A-Za-z]:\\)\w")
"""What begins an address or an absolute path, and what carries one in a package URL."""


class Unfit(Exception):
    """A bill that must not be given to anybody; says why."""


def make(python: str) -> dict[str, Any]:
    """The bill of an environment as the library writes it."""
    asked = ["environment", "--output-reproducible", "--short-PURLs", "--sv", "1.6"]
    done = subprocess.run(
        [sys.executable, "-m", "cyclonedx_py", *asked, "--pyproject", ROOT / "pyproject.toml", python],
        check=True, capture_output=True,
    )  # fmt: skip
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def bare(bill: dict[str, Any]) -> dict[str, Any]:
    """The same without what is nobody's business."""
    itself = _component(bill["metadata"]["component"])
    tools = [_component(each) for each in bill["metadata"]["tools"]["components"]]
    found = [_component(each) for each in bill["components"]]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": itself, "tools": {"components": tools}},
        "components": [each for each in found if each["name"] != itself["name"]],
        "dependencies": bill["dependencies"],
    }


def _component(plain: dict[str, Any]) -> dict[str, Any]:
    kept = {key: plain[key] for key in KEPT if key in plain}
    known = UNDECLARED.get(kept["name"])
    if known and not kept.get("licenses"):
        kept["licenses"] = [{"license": {"id": known}}]
    return kept


def check(bill: dict[str, Any], needed: list[Requirement]) -> None:
    """Raise Unfit unless all that is ``needed`` is listed, and each line says version and licence and no
    address."""
    listed = {canonicalize_name(each["name"]): each for each in bill["components"]}
    for requirement in needed:
        found = listed.get(canonicalize_name(requirement.name))
        if found is None:
            raise Unfit(f"{requirement.name} is not listed")
        if not requirement.specifier.contains(found.get("version", "0"), prereleases=True):
            raise Unfit(f"{requirement.name} is not {requirement.specifier}")
    for each in [bill["metadata"]["component"], *bill["components"]]:
        if not each.get("version") or not any(_words(each.get("licenses"))):
            raise Unfit(f"{each['name']} names no version or no licence")
    if any(FOREIGN.search(text) for text in _words({**bill, "$schema": ""})):
        raise Unfit("an address or a path is in it")


def _words(value: Any) -> list[str]:
    """Every string in a value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    return [value] if isinstance(value, str) else []


def validate(text: str) -> None:
    """Raise Unfit unless it is what CycloneDX's schema says."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if error is not None:
        raise Unfit(f"not CycloneDX: {error}")


def runtime() -> list[Requirement]:
    """What pyproject.toml says that Tallystick needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [Requirement(line) for line in project["dependencies"]]


def main() -> None:
    """See the module."""
    python, out = sys.argv[1:]
    bill = bare(make(python))
    try:
        check(bill, runtime())
        text = json.dumps(bill, indent=2, ensure_ascii=False) + "\n"
        validate(text)
    except Unfit as error:
        sys.exit(f"the bill of materials: {error}")
    Path(out).write_text(text, encoding="utf-8")
    sys.stdout.write(f"{Path(out).name}: {len(bill['components'])} components\n")


if __name__ == "__main__":
    main()

"""Everything that a job or an invitation asks for, line by line, before anybody says yes.

The file comes from somebody else. Each text of it is escaped, and nothing is left out: every key that is set
is shown under its name, whatever it is, so that one that comes later is shown too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from cryptography.hazmat.primitives import hashes

from protos import identity
from protos.console import LONGEST_MESSAGE, shown
from protos.jobs import Job
from protos.joining import Invitation
from protos.toml import canonical

ITEMS = 50
"""Items of a list that are shown; of a longer one, the number of all and a digest besides."""


def of_job(job: Job) -> Iterator[str]:
    """A job's kind, purpose and price, and every clause of it."""
    said = job.model_dump(mode="json", exclude_none=True)
    yield f"job: {shown(said.pop('name'))}"
    for key, value in said.items():
        if isinstance(value, dict):
            yield f"  {shown(key)}:"
            for inner, item in value.items():
                yield f"    {shown(inner)}: {_said(item)}"
        else:
            yield f"  {shown(key)}: {_said(value)}"
    if job.match and job.match.recipients:
        receivers = _said(list(job.match.recipients))
        yield f"  EXACT results about single people, without noise, go to: {receivers}"


def of_invitation(invitation: Invitation) -> Iterator[str]:
    """Who invites, to what, where it is reached, and by which authority it is known."""
    found = invitation.coordinator
    authority = invitation.authority().fingerprint(hashes.SHA256())
    yield f"alliance: {shown(invitation.alliance)}, for {shown(invitation.party)}"
    yield f"coordinator: {shown(found.name)}, link {shown(found.link)}, exchange {shown(found.exchange)}"
    yield f"  certificate authority, SHA-256: {identity.groups(authority)}"


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return (
            ", ".join(f"{shown(key)} = {_said(item)}" for key, item in value.items()) or "nothing"
        )
    if not isinstance(value, list):
        return f"'{_quoted(value)}'" if isinstance(value, str) else shown(value)
    few = ", ".join(map(_said, value[:ITEMS])) or "nothing"
    if len(value) <= ITEMS:
        return few
    digest = hashlib.sha256(canonical(value)).hexdigest()
    return f"{few} and {len(value) - ITEMS} more; SHA-256 of all as JSON {digest}"


def _quoted(text: str) -> str:
    """Within quotes of ours that it cannot leave."""
    return shown(text, LONGEST_MESSAGE).replace("'", "\\x27")

"""Names that come from outside, parsed into types of their own before they reach a path, an SQL text, a
log line or a terminal. Unknown means refused, and nothing is touched."""

from __future__ import annotations

import re
from typing import NewType

from privacy.errors import WireError

JobId = NewType("JobId", str)
"""32 lower-case hexadecimal digits: 128 bits of a digest over contract, specification and salt."""
_JOB = re.compile(r"[0-9a-f]{32}")


def job_id(text: str) -> JobId:
    """Parse a job's id. Raises WireError, which does not quote it."""
    if not _JOB.fullmatch(text):
        raise WireError("job id: not 32 hexadecimal digits")
    return JobId(text)

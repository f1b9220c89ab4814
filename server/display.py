"""What a coordinator that plays fair shows: no cell of fewer people than the contract's smallest cohort.

Judged by *noisy* counts, after the fact: a rule of display, not a protection. Against a coordinator that
does not play fair only the noise protects (docs/security.md); gates do not look at how many people a
question selects, because a refusal by that number would be an exact answer."""

from __future__ import annotations

from typing import Any

from protos.jobs import Job

REASON = "fewer people than the contract's smallest cohort, by a noisy count"


def shown(job: Job, result: dict[str, Any], smallest: int) -> dict[str, Any]:
    """``result`` of a query without what is too small to show; other results as they are."""
    if job.query is None:
        return result
    count = result.get("count", {}).get("value")
    if count is not None and count < smallest:
        return {name: _hidden(figure) for name, figure in result.items()}
    return {name: _cells(name, figure, smallest) for name, figure in result.items()}


def _cells(name: str, figure: dict[str, Any], smallest: int) -> dict[str, Any]:
    if not name.startswith("histogram("):
        return figure
    kept = [value if value >= smallest else None for value in figure["value"]]
    if None not in kept:
        return figure
    return {**figure, "value": kept, "suppressed": REASON}


def _hidden(figure: dict[str, Any]) -> dict[str, Any]:
    value = [None] * len(figure["value"]) if isinstance(figure["value"], list) else None
    return {**figure, "value": value, "suppressed": REASON}

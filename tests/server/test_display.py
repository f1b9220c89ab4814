from __future__ import annotations

from server.display import REASON, shown
from tests.conftest import QUERY, SEGMENT, job

RESULT = {
    "count": {"value": 120.0, "deviation": 5.0},
    "mean(age)": {"value": 44.0, "deviation": 1.0},
    "histogram(region)": {"labels": ["n", "s", "e"], "value": [80.0, 49.9, -3.0], "deviation": 5.0},
}


def test_small_cells_are_not_shown_and_large_ones_are() -> None:
    found = shown(job(**QUERY), RESULT, 50)
    assert found["histogram(region)"]["value"] == [80.0, None, None]
    assert found["histogram(region)"]["suppressed"] == REASON
    assert found["count"] == RESULT["count"]
    assert found["mean(age)"] == RESULT["mean(age)"]


def test_nothing_of_a_small_selection_is_shown() -> None:
    found = shown(job(**QUERY), {**RESULT, "count": {"value": 12.0, "deviation": 5.0}}, 50)
    assert [figure["value"] for figure in found.values()] == [None, None, [None] * 3]


def test_other_results_are_as_they_are() -> None:
    assert shown(job(**SEGMENT), {"sizes": [1.0]}, 50) == {"sizes": [1.0]}

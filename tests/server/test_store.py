"""The coordinator's database."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from server.store import Store
from tests.conftest import job


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[tuple[Store, Store]]:
    """One database, as the coordinator's service and as ``watch`` hold it."""
    ticks = count()
    pair = [Store(tmp_path / "store.db", lambda: float(next(ticks))) for _ in range(2)]
    query = job(query={"measures": ["count"]}, kind="query", name="q", epsilon=0.5)
    pair[0].add("0" * 32, query, b"salt")
    yield pair[0], pair[1]
    for store in pair:
        store.close()


def test_nobody_sees_more_done_than_planned(stores: tuple[Store, Store]) -> None:
    """Progress of a match, read between any two statements that its writer makes."""
    writer, reader = stores
    job_id = "0" * 32
    seen: list[tuple[int, int]] = []

    def look(_statement: str) -> None:
        row = reader.job(job_id)
        seen.append((row.done, row.planned))

    writer.start(job_id, 0)
    writer._db.set_trace_callback(look)
    writer.progress(job_id, 300, 1000)
    writer.progress(job_id, 700)
    writer._db.set_trace_callback(None)
    look("")
    assert seen == [(0, 0), (300, 1000), (700, 1000)]

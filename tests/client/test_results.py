"""Files that a match leaves."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from client.audience import Audience
from client.results import csv_cells, write_people
from client.spill import DiskSpool

CELLS = st.lists(st.text('a1,"\r\n 张', min_size=1, max_size=5), min_size=1, max_size=8)


@given(CELLS)
def test_cells_are_read_back(texts: list[str]) -> None:
    line = ",".join(csv_cells(texts)) + "\r\n"
    assert next(csv.reader(io.StringIO(line, newline=""))) == texts


def test_the_chosen_people_in_order(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    with DiskSpool(tmp_path / "spool", bytes(32), os.urandom) as spool:
        for part in ('["C1", "C2", "C,3"]', '["C4"]', '["C5", "C6"]'):
            spool.log("people").append(part.encode())
        audience = Audience(spool, ())
        write_people(tmp_path / "all.csv", audience, np.array([1, 0, 1, 0, 0, 1], np.bool_))
        write_people(tmp_path / "none.csv", audience, np.zeros(6, np.bool_))
    assert (tmp_path / "all.csv").read_bytes() == b'person\nC1\n"C,3"\nC6\n'
    assert (tmp_path / "none.csv").read_bytes() == b"person\n"

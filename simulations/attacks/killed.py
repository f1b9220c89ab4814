"""A process that is killed while it reads a table, and a search for what it left.

A child reads a table with marked keys and e-mail addresses, in a folder and with a folder for temporary
files that hold nothing else, and is ended by SIGKILL at some moment. Then no file of these folders may hold a
mark.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import client
from privacy.errors import RoundFailed

PLACE = str(Path(client.__file__).parents[1])
ROWS = 300_000
MARKS = (b"CUSTOMER-", b"secret.person")
SELECT = (
    "SELECT 'CUSTOMER-' || hash(i)::VARCHAR AS id, i % 100 AS spend, 'n, ' || i AS note,"
    " 'secret.person' || i || '@example.com' AS mail FROM range({}) t(i)"
)

CHILD = """
import os, sys
from pathlib import Path
from client import spill, table
from client.table import Report, Source, batches, read
from privacy.programs.columns import Number
location, name, how, folder = sys.argv[1:]
source = Source(location, "id", {"spend": "spend"}, {"email": "mail"}, name or None)
columns, real = {"spend": Number("spend", 0.0, 100.0)}, table.parts
def parts(*given, **more):
    for part in real(*given, **more):
        print("part", flush=True)
        yield part
table.parts = parts
if how == "read":
    snapshot, _ = read(source, columns, ["spend"], keys=True)
    print("done", flush=True)
else:
    if how == "planted":
        spill.DiskSpool.seal = lambda self, name, data: spill._HEAD.pack(len(data)) + data
        spill.DiskSpool.open = lambda self, name, frame: frame
    spool = spill.DiskSpool(Path(folder) / "matches", os.urandom(32), os.urandom)
    for batch in batches(source, columns, ["spend"], identifiers=["email"], rows_per_person=1,
                         report=Report(), spool=spool):
        print("batch", flush=True)
    print("done", flush=True)
"""


def killed(
    place: Path, location: str, table: str, how: str, moment: str, count: int, after: float = 0.02
) -> None:
    """Start the child and kill it when it has said ``moment`` so often."""
    folders = [place / name for name in ("cwd", "temporary", "state")]
    for folder in folders:
        folder.mkdir(parents=True)
    environment = {**os.environ, "TMPDIR": str(folders[1]), "PYTHONPATH": PLACE}
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", CHILD, location, table, how, str(folders[2])],
        cwd=folders[0], env=environment, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    said = 0
    for line in child.stdout or ():
        said += line.strip() == moment
        if said == count:
            time.sleep(after)  # into the middle of what follows
            break
    child.send_signal(signal.SIGKILL)
    child.wait(20)
    (child.stdout or sys.stdin).close()
    if said != count:
        raise RoundFailed("the reader ended before it could be killed")


def clear(place: Path) -> list[Path]:
    """Files that hold a mark."""
    return [
        path
        for path in place.rglob("*")
        if path.is_file() and any(mark in path.read_bytes() for mark in MARKS)
    ]

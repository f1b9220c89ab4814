"""A PostgreSQL server of the tests' own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

POSTGRES = Path("/usr/lib/postgresql/15/bin")


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Its location. As an unprivileged user: ``initdb`` refuses root."""
    if not (POSTGRES / "initdb").exists():
        pytest.skip("PostgreSQL 15's server binaries are not installed")
    psycopg = pytest.importorskip("psycopg")
    prefix: list[str] = []
    root = Path(tempfile.mkdtemp(prefix="pg-"))
    if os.geteuid() == 0:
        user = "postgres" if "postgres" in {p.pw_name for p in pwd.getpwall()} else "nobody"
        shutil.chown(root, user)
        prefix = [
            "setpriv",
            f"--reuid={user}",
            f"--regid={pwd.getpwnam(user).pw_gid}",
            "--clear-groups",
        ]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data = root / "data"
    run = {"check": True, "capture_output": True, "cwd": root}
    subprocess.run(
        [*prefix, str(POSTGRES / "initdb"), "-D", str(data), "-U", "tally", "-A", "trust"], **run
    )  # type: ignore[call-overload]
    server = subprocess.Popen(
        [*prefix, str(POSTGRES / "postgres"), "-D", str(data), "-p", str(port), "-k", str(root),
         "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"],
        cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        location = f"postgresql://tally@127.0.0.1:{port}/postgres"
        for _ in range(100):
            with contextlib.suppress(psycopg.OperationalError), psycopg.connect(location):
                break
            time.sleep(0.1)
        yield location
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(root, ignore_errors=True)


def load(location: str, table: str, file: Path, columns: str) -> None:
    """A new ``table``, with ``columns`` as SQL declares them, from a CSV file with a heading."""
    import psycopg

    with psycopg.connect(location) as connection, connection.cursor() as cursor:
        cursor.execute(f"DROP TABLE IF EXISTS {table}")
        cursor.execute(f"CREATE TABLE {table} ({columns})")
        with cursor.copy(f"COPY {table} FROM STDIN WITH (FORMAT csv, HEADER)") as copy:
            copy.write(file.read_bytes())

"""Rows 25, 26 and 32: folders that shadow code, outputs over inputs and links, formulas in tables."""

from __future__ import annotations

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from client.masking.outputs import created
from client.results import write_people
from protos.files import write_private
from simulations.attacks.killed import PLACE
from simulations.attacks.lab import Lab
from simulations.attacks.rows.papers import Office
from simulations.attacks.table import Attack

SHADOW = "import pathlib\npathlib.Path({!r}).write_text('ran')\n"
STARTED = 6.0
STRICT = ("-P",)
"""As the installed commands begin: the current folder is not searched. What they start must do the same."""
FORMULA = re.compile(r"^[=+\-@\t\r]")
STARTS = [
    "=",
    "@",
    "+",
    "-",
    "\t=",
    "\r=",
    "=cmd|' /C calc'!A",
    "@SUM(1+1)*cmd|",
    "+1+cmd|",
    "-2+3+cmd|",
]


def _shadowed(lab: Lab, rng: Random) -> bool:
    """``start`` typed in a folder that holds modules of our names; success: they ran."""
    side = rng.choice(["client", "server"])
    with lab.world("two") as world, lab.folder() as evil:
        mark = evil / "mark"
        for name in ("protos", "privacy", "client", "server", "flwr", "sitecustomize"):
            (evil / name).mkdir()
            (evil / name / "__init__.py").write_text(SHADOW.format(str(mark)))
        home = world.bank.root if side == "client" else world.alliance.coordinator.root
        typed = f"from {side}.cli import main; main()"
        with (evil / "log").open("wb") as log:
            child = subprocess.Popen(
                [sys.executable, *STRICT, "-c", typed, "start", "--home", str(home)],
                cwd=evil, env={**os.environ, "PYTHONPATH": PLACE}, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        ends, logs = time.monotonic() + STARTED, home / "state"
        while time.monotonic() < ends and not mark.exists() and child.poll() is None:
            time.sleep(0.1)
            if (
                any(path.stat().st_size for path in logs.glob("*.log"))
                or (logs / "gate.sock").exists()
            ):
                ends = min(ends, time.monotonic() + 2.0)
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait(20)
        return mark.exists()


def _overwritten(lab: Lab, rng: Random) -> bool:
    """An output on an input, through a link to one, or through a link to somebody's file; success: what was
    there has other bytes, or the output can be read by others."""
    with lab.folder() as root:
        office = Office(root)
        office.open_up(["Berlin", "Paris"])
        precious = {
            root / name: (root / name).read_bytes() for name in ("c.csv", "policy.toml", "m.key")
        }
        (root / "hers").write_text("hers")
        precious[root / "hers"] = b"hers"
        target = rng.choice(list(precious))
        out = target
        if rng.random() < 0.5 or target.name == "hers":
            out = root / rng.choice(["out.csv", "out.parquet"])
            link = os.symlink if rng.random() < 0.5 or target.name == "hers" else os.link
            link(target, out)
        how = rng.randrange(4)
        if how == 0:
            office.mask(out.name)
        elif how == 1:
            office.run("keys", "new", f"file:{out}", home="")
        elif how == 2:
            office.run("reveal", "new-approver", "x", "--out", str(out), home="")
        else:
            office.run("scan", str(root / "c.csv"), "--out", str(out), home="")
            try:
                write_private(
                    out, b"ours", inputs=[root / "c.csv", root / "policy.toml", root / "m.key"]
                )
            except Exception:  # refused: what counts is what is there
                out = target
        changed = any(path.read_bytes() != data for path, data in precious.items())
        readable = out.exists() and out not in precious and not out.is_symlink()
        same = any(out.exists() and out.samefile(path) for path in precious)
        return changed or (readable and not same and bool(out.stat().st_mode & 0o077))


def _formula(lab: Lab, rng: Random) -> bool:
    """A customer's cell in a masked table, a list or a heading; success: a spreadsheet would run it."""
    cells = [rng.choice(STARTS) + rng.choice(["", "1", "A0", "cmd"]) for _ in range(5)] + [
        "Ann",
        "-5",
    ]
    with lab.folder() as root:
        out = root / "out.csv"
        if rng.random() < 0.5:
            import polars as pl

            with created(out, None, None) as writer:
                writer.write(
                    pl.DataFrame({rng.choice(cells[:5]): cells, "n": list(range(len(cells)))})
                )
        else:
            _list(root, out, cells)
        with out.open(newline="", encoding="utf-8") as file:
            found = [cell for row in csv.reader(file) for cell in row]
        return any(FORMULA.match(cell) and not _is_number(cell) for cell in found)


def _list(root: Path, out: Path, cells: list[str]) -> None:
    import json

    import numpy as np

    from client.audience import Audience
    from client.spill import DiskSpool

    with DiskSpool(root / "spool", bytes(32), os.urandom) as spool:
        spool.log("people").append(json.dumps(cells).encode())
        write_people(out, Audience(spool, ()), np.ones(len(cells), np.bool_))


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "."))
    except ValueError:
        return False
    return True


ATTACKS = [
    Attack("25", "start in a folder that shadows code", "local user", "its code runs", _shadowed, trials=10),
    Attack("26", "outputs on inputs and through links", "local user, owner's slip", "a file is lost",
           _overwritten, trials=40),
    Attack("32", "cells that begin a formula", "a customer", "a spreadsheet runs it", _formula, trials=100),
]  # fmt: skip

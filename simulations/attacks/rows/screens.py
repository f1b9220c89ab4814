"""Rows 12 and 13: files of others that rewrite a screen, or are deep, huge and slow."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import time
import unicodedata
from pathlib import Path
from random import Random
from typing import Any

import tomli_w

from client.cli import app as partner_app
from privacy.errors import TallystickError
from protos import alliance, console, jobs, joining, toml
from protos.toml import read_toml
from simulations.attacks.lab import Lab, World
from simulations.attacks.table import Attack

INVENTED = "epsilon: 1 in 365 days for a customer here"
NASTY = [
    "\x1b[2J", "\x1b]0;x\x07", "\x9b2J", "\r", "\n", "\b\b\b", "\x7f", "\x85", "\u202e", "\u2066",
    "\u200b", "\ufeff", "\u2028", "\u2029", "\xad", "\ue000", "\U000e0041", "\u3164", " " * 200,
]  # fmt: skip
SECONDS = 10.0
"""CPU that a file of at most 1 MB may take; without limits it is minutes."""


def _text(rng: Random) -> str:
    """A name that would hide what follows it."""
    parts = [rng.choice(["retail", "bank", INVENTED, "Zürich", "北京"]) for _ in range(3)]
    return "".join(part + rng.choice(NASTY) for part in parts)


def _harmless(screen: str) -> bool:
    """Letters, marks, signs and spaces in lines of ours."""
    return all(
        c in " \n" or unicodedata.category(c)[0] in ("L", "M", "N", "P", "S") for c in screen
    ) and INVENTED not in {line.strip() for line in screen.split("\n")}


def shown_by(app: Any, arguments: list[str], answers: str = "n\n") -> str:
    """What a command writes."""
    seen = io.StringIO()
    stdin, sys.stdin = sys.stdin, io.StringIO(answers)
    try:
        with contextlib.redirect_stdout(seen), contextlib.redirect_stderr(seen):
            console.run(app, arguments)
    finally:
        sys.stdin = stdin
    return seen.getvalue()


def _signing(lab: Lab, rng: Random) -> bool:
    """A contract full of escapes, shown to who is to sign it."""
    world: World = lab.once("sign", lambda: lab.stays("two").world)
    plain = read_toml(world.alliance.coordinator.contract_file)
    plain.pop("signatures", None)
    plain["name"] = _text(rng)
    for place in rng.sample(range(4), rng.randint(0, 4)):
        if place == 0:
            plain["purposes"]["p" + _text(rng)] = {"kinds": ["query"]}
        elif place == 1:
            plain["columns"]["region"]["values"] = ["north" + _text(rng), "south"]
        elif place == 2:
            plain["parties"][1]["residency"] = "EU" + _text(rng)
        else:
            plain[_text(rng)] = _text(rng)
    plain["privacy"]["epsilon"] = 99.0
    with lab.folder() as folder:
        file = folder / "alliance.toml"
        file.write_text(tomli_w.dumps(plain), encoding="utf-8")
        home = str(world.bank.root)
        screen = shown_by(partner_app, ["sign", str(file), "--home", home])
        screen += shown_by(partner_app, ["check", str(file), "--home", home])
    return not _harmless(screen)


def _spending(lab: Lab, rng: Random) -> bool:
    """Deep, long or repeated TOML and JSON of up to 1 MB; success: another exception than ours, or long."""
    size = rng.randint(1 << 16, (1 << 20) - 100)
    n = rng.choice([2, 3, 17, 40, 1000])
    text = rng.choice([
        "a = " + "[" * size, "a = " + "{a=" * (size // 3), ".".join(["a"] * (size // 2)) + " = 1",
        "[" + ".".join(["a"] * (size // 2)) + "]", "a = " + "9" * size, "[[a]]\n" * (size // 6),
        "a = [" + "1," * (size // 2) + "]", 'a = """' + '" ' * (size // 2), "'''" * (size // 3),
        "\n".join(f"[t{i}.{'.'.join(f'a{k}' for k in range(n))}]" for i in range(size // (3 * n + 9))),
        "\n".join(f"k{i % n} = 1" for i in range(size // 12)), "a = 0x" + "f" * size,
        "a = [" + "{a=1}," * (size // 6) + "]", "#\n" * (size // 2), 'a = "\\u' + "d800" * n + '"',
    ])  # fmt: skip
    if rng.random() < 0.3:
        text = text[: rng.randrange(len(text))] + rng.choice(["\0", "\ud800", '"', "]", "\n="])
    started = time.process_time()
    with lab.folder() as folder:
        file = folder / "x.toml"
        file.write_text(text, encoding="utf-8", errors="surrogatepass")
        for read in (joining.load_application, alliance.load, jobs.load, _json):
            try:
                read(file)
            except TallystickError:
                continue
            except Exception:
                return True
    return time.process_time() - started > SECONDS


def _json(file: Path) -> object:
    """The same depth as a specification that travels."""
    text = file.read_text(encoding="utf-8", errors="replace")
    return jobs.from_canonical(text.replace("=", ":").encode()), toml.canonical(json.dumps(text))


ATTACKS = [
    Attack("12", "escapes in a contract's texts", "coordinator", "a raw control, a false line",
           _signing, trials=60),
    Attack("13", "deep, long, repeated TOML and JSON", "coordinator, partner", "a crash, or 10 s CPU",
           _spending, trials=60),
]  # fmt: skip

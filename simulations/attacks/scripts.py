"""An endless script of messages, honest and hostile, from a seed; what comes next follows from what was
answered in the first world alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from privacy import accounting
from privacy.errors import TallystickError
from privacy.noisy_sum import encoding
from privacy.programs.program import LARGEST_FIGURE, Program, Release
from privacy.programs.propensity import LARGEST_PLATT, LARGEST_VELOCITY, LARGEST_WEIGHT
from protos import jobs
from protos.alliance import Contract
from protos.jobs import model_bytes
from protos.toml import canonical
from simulations.attacks import specs

KINDS = ("hello", "prepare", "release", "unmask", "match", "status", "finish", "cancel")
SEALS = (
    "unsigned", "mutated", "cut", "contract", "partner", "late", "early", "nonce", "replayed", "path",
    "other job", "digits", "empty",
)  # fmt: skip
TWISTS: dict[str, tuple[str, ...]] = {
    "hello": ("heads", "rubbish", "salt", "spelling"),
    "prepare": (
        "leave out", "twice", "stranger", "behind", "clocks", "low order", "plan", "again",
    ),
    "release": ("low order", "other cohort", "few keys", "leave out", "no shares", "bare"),
    "unmask": ("one left out", "locked", "few", ""),
    "finish": ("planted", "heads", "totals", "rubbish"),
}  # fmt: skip
BOUNDS = (LARGEST_WEIGHT, LARGEST_VELOCITY, LARGEST_PLATT, LARGEST_FIGURE, 1.0, 0.02)
ODD = (
    5e-324, -5e-324, 2.2250738585072014e-308, -0.0, 0.0, -1.0, 1e-300, 1e300, 1e308, -1e308, np.nan,
    np.inf, -np.inf, 2.0**53, 1e12, *BOUNDS, *(-b for b in BOUNDS),
    *(float(np.nextafter(b, np.inf)) for b in BOUNDS),
)  # fmt: skip
MOST_OPEN = 8
KEPT = 16
"""Jobs that are still sent messages."""


@dataclass(frozen=True)
class Step:
    """One message. ``seal``: how its envelope is bent, ``twist``: how its body is."""

    number: int
    kind: str
    slot: int
    seal: str = ""
    twist: str = ""
    spec: bytes = b""
    indexes: tuple[int, ...] = ()
    state: bytes = b""
    model: bytes = b""
    totals: tuple[bytes, ...] = ()

    def __str__(self) -> str:
        parts = [f"{self.number}: {self.kind} of job {self.slot}"]
        parts += [text for text in (self.seal, self.twist) if text]
        if self.kind == "hello":
            parts.append(self.spec.decode(errors="replace"))
        if self.indexes:
            parts.append(f"releases {list(self.indexes)}")
        if self.state:
            parts.append(f"state {_shown(self.state)}")
        return ", ".join(parts)


def _shown(state: bytes) -> str:
    whole = np.frombuffer(state[: len(state) // 8 * 8], "<f8")
    return f"{[float(v) for v in whole[:80]]} of {len(state)} bytes"


@dataclass
class Slot:
    """A job as the script sees it. ``walk``: its program, fed with made-up totals."""

    number: int
    spec: bytes
    job: jobs.Job | None
    walk: Program | None = None
    plan: tuple[Release, ...] = ()
    phase: str = "new"
    stage: int = 0
    totals: dict[int, bytes] = field(default_factory=dict)
    spoiled: bool = False


class Script:
    """``contract``: whose columns and rules are asked about; ``kinds``: of jobs, as often as named."""

    def __init__(self, seed: str, contract: Contract, first: int, kinds: Sequence[str]) -> None:
        self._rng, self._contract, self._kinds = Random(seed), contract, kinds
        self._slots: list[Slot] = []
        self._number, self._made, self._models = first, 0, list[str]()

    # ------------------------------------------------------------------ what comes next

    def next(self) -> Step:
        """The next message."""
        self._number += 1
        slot, rng = self._slot(), self._rng
        kind, chance = self._natural(slot), rng.random()
        if chance < 0.16:
            kind = rng.choice(KINDS)
        step = self._step(slot, kind, twisted=chance > 0.84)
        if rng.random() < 0.06:
            step = self._with(step, seal=rng.choice(SEALS))
        return step

    def _slot(self) -> Slot:
        rng = self._rng
        running = [s for s in self._slots if s.phase not in ("closed", "refused")]
        if len(running) >= MOST_OPEN and rng.random() < 0.9:
            return running[0] if rng.random() < 0.5 else rng.choice(running)
        if self._slots and rng.random() < 0.05:
            return rng.choice(self._slots)
        if running and rng.random() < 0.75:
            return rng.choice(running)
        self._made += 1
        made = self._new(self._made)
        self._slots = [*self._slots, made][-KEPT:]
        return made

    def _new(self, number: int) -> Slot:
        spec = canonical(specs.any_job(self._rng, self._contract, self._models, self._kinds))
        slot = Slot(number, spec, None)
        try:
            slot.job = jobs.from_canonical(spec)
            if not slot.job.match:
                slot.walk = slot.job.program(self._contract)
                slot.plan = tuple(slot.walk.plan())
        except TallystickError:
            pass  # what a gate has to refuse
        return slot

    def _natural(self, slot: Slot) -> str:
        """The message that an honest coordinator would send."""
        if slot.phase == "new":
            return "hello"
        if slot.phase in ("closed", "refused"):
            return self._rng.choice(KINDS[:1] + KINDS[5:])
        if slot.job is not None and slot.job.match:
            return "match" if slot.phase == "open" else "finish"
        if slot.phase == "open":
            return "prepare"
        if slot.phase == "done" or (slot.spoiled and self._rng.random() < 0.4):
            return "finish"
        return "unmask" if slot.totals and self._rng.random() < 0.1 else "release"

    def _step(self, slot: Slot, kind: str, *, twisted: bool) -> Step:
        twist = self._rng.choice(TWISTS.get(kind, ("",))) if twisted else ""
        plain = Step(self._number, kind, slot.number, twist=twist, spec=slot.spec)
        if kind == "release":
            return self._release(slot, plain, twisted)
        if kind == "unmask":
            least = [*slot.totals] or [0]
            return self._with(plain, indexes=(self._rng.choice([*least, 999]),))
        if kind == "finish":
            return self._finish(slot, plain)
        return plain

    def _with(self, step: Step, **changes: Any) -> Step:
        return Step(**{**step.__dict__, **changes})

    # ------------------------------------------------------------------ releases

    def _release(self, slot: Slot, plain: Step, twisted: bool) -> Step:
        rng = self._rng
        stages = sorted({r.stage for r in slot.plan}) or [0]
        if slot.walk is None or not slot.plan:
            return self._with(plain, indexes=(0,), state=b"")
        state = slot.walk.state()
        stage = stages[min(slot.stage, len(stages) - 1)]
        indexes = tuple(i for i, r in enumerate(slot.plan) if r.stage == stage)
        if rng.random() < 0.15 and len(indexes) > 1:
            indexes = tuple(rng.sample(indexes, rng.randint(1, len(indexes))))
        if twisted and rng.random() < 0.7:
            plain = self._with(plain, twist="")
            if rng.random() < 0.4:
                indexes = self._odd_indexes(slot)
            if rng.random() < 0.8:
                return self._with(plain, indexes=indexes, state=self._odd_state(state))
        elif rng.random() < 0.1 and slot.plan:  # out of order, under whatever state there is
            indexes = (rng.randrange(len(slot.plan)),)
        return self._with(plain, indexes=indexes, state=state.astype("<f8").tobytes())

    def _odd_indexes(self, slot: Slot) -> tuple[int, ...]:
        last = len(slot.plan)
        return self._rng.choice([(), (0, 0), (last,), (2**32 - 1,), (last - 1, 0), (0,)])

    def _odd_state(self, state: encoding.Floats) -> bytes:
        """At a bound, beyond one, of a wrong shape: one entry or all."""
        rng, odd, size = self._rng, state.copy(), len(state)
        what = rng.random()
        if what < 0.15:
            return odd.astype("<f8").tobytes()[: rng.randint(0, 8 * size)] + b"\x01" * rng.randint(
                0, 9
            )
        if what < 0.25:
            odd[:] = rng.choice(ODD)
        elif what < 0.35 and size:
            odd[:] = [rng.choice((-1.0, 1.0, -0.0, 5e-324, 0.5)) for _ in range(size)]
        elif size:
            for _ in range(rng.choice([1, 1, 2, 5])):
                odd[rng.randrange(size)] = rng.choice(ODD)
        return odd.astype("<f8").tobytes()

    def note(self, step: Step, word: str) -> None:
        """What the first world's bank said."""
        slot = next((s for s in self._slots if s.number == step.slot), None)
        if slot is None or step.seal:
            return
        if step.kind == "hello" and slot.phase == "new":
            slot.phase = "open" if word == "hello" else "refused"
        elif word == "prepared" and slot.phase == "open":
            slot.phase = "prepared"
        elif word == "masked":
            self._absorb(slot, step)
        elif step.kind == "match" and slot.phase == "open":
            slot.phase = "done"
        elif word == "finish" and step.kind in ("finish", "cancel"):
            slot.phase = "closed"
            if step.kind == "finish" and step.model and slot.job is not None:
                self._models = [*self._models, slot.job.name][-4:]
        elif step.kind == "release":
            slot.spoiled = True

    def _absorb(self, slot: Slot, step: Step) -> None:
        """Go on by totals that the coordinator makes up: no gate can tell (client.outcomes)."""
        walk = slot.walk
        if walk is None or step.state != walk.state().astype("<f8").tobytes():
            slot.spoiled = True
            return
        fresh = [i for i in step.indexes if i not in slot.totals]
        for index in fresh:
            release = slot.plan[index]
            slot.totals[index] = self._made_up(release)
        stages = sorted({r.stage for r in slot.plan})
        of_stage = [i for i, r in enumerate(slot.plan) if r.stage == stages[slot.stage]]
        if not all(i in slot.totals for i in of_stage) or not fresh:
            return
        for index in of_stage:
            total = np.frombuffer(slot.totals[index], "<f8").astype(np.float64)
            walk.absorb(index, total, self._deviation(slot.plan[index]))
        slot.stage += 1
        if slot.stage >= len(stages):
            slot.stage, slot.phase = len(stages) - 1, "done"

    def _made_up(self, release: Release) -> bytes:
        scale = self._rng.choice([0.0, 1.0, 50.0]) * release.clip
        values = [self._rng.gauss(0.0, scale) for _ in range(release.length)]
        return np.array(values).astype("<f8").tobytes()

    def _deviation(self, release: Release) -> float:
        roster = self._contract.roster()
        variance = accounting.share_variance(encoding.SENSITIVITY, release.mu2, roster.honest)
        many = len(roster.parties) * variance
        return float(many**0.5) * release.clip / encoding.SENSITIVITY

    # ------------------------------------------------------------------ the end of a job

    def _finish(self, slot: Slot, plain: Step) -> Step:
        rng = self._rng
        if plain.twist == "rubbish":
            return self._with(plain, model=rng.choice([b"{}", b"\xff", b"[" * 5000]))
        model: dict[str, Any] | None = None
        if (
            slot.walk is not None
            and slot.job is not None
            and slot.job.kind in ("propensity", "segment")
        ):
            model = slot.walk.result().get("model")
        if model and plain.twist == "planted":
            model = specs.planted(rng, model)
        elif not model or (slot.phase != "done" and not plain.twist):
            return self._with(plain, model=b"")
        totals = tuple(slot.totals.get(i, b"") for i in range(len(slot.plan)))
        if plain.twist == "totals":
            totals = rng.choice([(), totals[:-1], (*totals, b"12345678"), totals[::-1]])
        return self._with(plain, model=model_bytes(model), totals=totals)

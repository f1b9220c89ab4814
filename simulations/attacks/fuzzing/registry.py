"""All targets. Most inputs go to the gate: it is what a coordinator and all other partners can reach."""

from __future__ import annotations

from simulations.attacks.fuzzing.drives import DriveTarget
from simulations.attacks.fuzzing.files import FileTarget
from simulations.attacks.fuzzing.gates import GateTarget
from simulations.attacks.fuzzing.matches import MatchTarget
from simulations.attacks.fuzzing.sheets import SheetTarget
from simulations.attacks.fuzzing.target import Kind

TARGETS: dict[str, Kind] = {
    "gate": Kind(GateTarget, 0.60, 2000, door=True),
    "match": Kind(MatchTarget, 0.01, 100, door=True),
    "coordinator": Kind(DriveTarget, 0.02, 200, door=True),
    "file": Kind(FileTarget, 0.34, 5000),
    "table": Kind(SheetTarget, 0.03, 1000),
}

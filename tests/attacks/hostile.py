"""The lab's hostile coordinator, for tests."""

from __future__ import annotations

from simulations.attacks.hostile import Hostile, Opened, count

__all__ = ["Hostile", "Opened", "count"]

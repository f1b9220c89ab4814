"""What others may make this gate do: messages, work before a charge, releases and matches, each in a window.

Every limit is a number that the partner set, every count a fact that the coordinator knows as well: a
refusal by a limit says nothing of a row. Work *after* a charge is not limited here; each piece of it has
its price."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from client.home import Limits
from privacy.errors import Refused
from protos.refusal import Code

HOUR, DAY = 3600.0, 86_400.0


class Rate:
    """An amount that may be used in a window of ``seconds``."""

    def __init__(self, most: float, seconds: float, name: str) -> None:
        self._most, self._seconds, self._name = most, seconds, name
        self._used: deque[tuple[float, float]] = deque()
        self._sum = 0.0

    def check(self, now: float, amount: float = 0.0) -> None:
        """Refused(BUSY), naming the limit for the owner, unless ``amount`` more fits."""
        while self._used and self._used[0][0] <= now - self._seconds:
            self._sum -= self._used.popleft()[1]
        if self._used and self._sum + amount > self._most:
            raise Refused(
                Code.BUSY, f"partner.toml: limits.{self._name} ({self._most:g}) is reached"
            )

    def add(self, now: float, amount: float) -> None:
        """Note what was used."""
        if self._used and now - self._used[-1][0] < self._seconds / 3600:  # bounded memory
            self._used[-1] = (self._used[-1][0], self._used[-1][1] + amount)
        else:
            self._used.append((now, amount))
        self._sum += amount


class Bounds:
    """The rates of one gate. ``monotonic`` gives seconds; ``cpu`` seconds of this thread's work."""

    def __init__(
        self, limits: Limits, monotonic: Callable[[], float], cpu: Callable[[], float]
    ) -> None:
        self._monotonic, self._cpu = monotonic, cpu
        self._messages = Rate(limits.messages_per_hour, HOUR, "messages_per_hour")
        self._work = Rate(limits.cpu_seconds_per_hour, HOUR, "cpu_seconds_per_hour")
        self._releases = Rate(limits.releases_per_hour, HOUR, "releases_per_hour")
        self._matches = Rate(limits.matches_per_day, DAY, "matches_per_day")
        self._jobs = Rate(limits.jobs_per_day, DAY, "jobs_per_day")

    def message(self) -> None:
        """One signed message. Refused(BUSY) if there were too many, or they took too much work."""
        now = self._monotonic()
        self._messages.check(now, 1)
        self._work.check(now)
        self._messages.add(now, 1)

    def release(self, count: int) -> None:
        """That many fresh releases, or Refused(BUSY) before they are charged."""
        self._releases.check(self._monotonic(), count)
        self._releases.add(self._monotonic(), count)

    def job(self) -> None:
        """One new job, or Refused(BUSY)."""
        self._jobs.check(self._monotonic(), 1)
        self._jobs.add(self._monotonic(), 1)

    def match(self) -> None:
        """One match, or Refused(BUSY)."""
        self._matches.check(self._monotonic(), 1)
        self._matches.add(self._monotonic(), 1)

    def started(self) -> float:
        """Mark the start of work that nothing was charged for."""
        return self._cpu()

    def worked(self, started: float) -> None:
        """Note that work."""
        self._work.add(self._monotonic(), max(0.0, self._cpu() - started))

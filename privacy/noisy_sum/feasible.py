"""Whether a plan can be carried out: judged when it is quoted, before anything is charged.

Nothing here depends on rows. A release that only its first use shows to be impossible would be paid
for and never answered.
"""

from __future__ import annotations

from collections.abc import Sequence

from privacy import accounting
from privacy.errors import ParameterError
from privacy.noisy_sum.encoding import SENSITIVITY, check_range
from privacy.noisy_sum.noise import LARGEST_VARIANCE
from privacy.programs.program import Release

MOST_PEOPLE = 1 << 40
"""A public bound for the overflow check; the true number would make a refusal an output."""


def check_variance(what: str, variance: int) -> None:
    """Raises ParameterError, naming ``what``, if the sampler cannot draw this variance."""
    if variance > LARGEST_VARIANCE:
        raise ParameterError(
            f"{what}: its share of epsilon asks for more noise than can be drawn; raise epsilon, or ask "
            "for fewer steps, measures or columns"
        )


def check_feasible(plan: Sequence[Release], honest: int, parties: int) -> None:
    """Every release's noise share can be drawn and no total wraps, or ParameterError that says what
    to change.

    ``honest`` = K - c - d, ``parties`` = K. Variances are of one partner's share, in grid units.
    """
    for release in plan:
        try:
            variance = accounting.share_variance(SENSITIVITY, release.mu2, honest)
            check_variance("noise", variance)
            check_range(MOST_PEOPLE, float(parties * variance) ** 0.5)
        except ParameterError as error:
            raise ParameterError(f"release {release.name}: {error}") from None

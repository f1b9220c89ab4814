"""Programs are total: no state that they accept and no row makes an error, a warning or a value that is
not finite. (A radius of 5e-324 told whether somebody's values were exactly a centre's.)"""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from privacy.errors import ParameterError
from privacy.noisy_sum import encoding
from privacy.programs.columns import Floats, Number, index_of, one_hot
from privacy.programs.evaluate import Evaluate
from privacy.programs.program import LARGEST_FIGURE, Release
from privacy.programs.propensity import Propensity
from privacy.programs.query import Measure, Query
from privacy.programs.segment import Segment
from tests.privacy.whole import COLUMNS, NUMBERS, Table, exact_sum, programs, some_table

STRANGE = [np.nan, np.inf, -np.inf, 1e308, -1e308, 5e-324, -5e-324, 1e19, -7.5]


@pytest.mark.parametrize("seed", range(40))
def test_contributions_are_finite_for_every_accepted_state_and_allowed_row(seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = some_table(rng, int(rng.integers(1, 40)), 3)
    for name, program in programs(rng):
        for index, release in enumerate(program.plan()):
            with warnings.catch_warnings(), np.errstate(all="raise", under="ignore"):
                warnings.simplefilter("error")
                block = program.contribution(index, table.rows)
            assert block.shape == (len(table.keys), release.length), name
            assert np.isfinite(block).all(), (name, release.name)


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_no_table_should_hold_are_no_error_either(seed: int) -> None:
    rng = np.random.default_rng(seed)
    good = some_table(rng, 30, 2)
    rows = dict(good.rows)
    for name in (*NUMBERS, "c", "y", "fold"):
        at = rng.random(len(good.keys)) < 0.3
        rows[name] = np.where(at, rng.choice(STRANGE, len(good.keys)), rows[name])
    for name, program in programs(rng):
        for index, release in enumerate(program.plan()):
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                block = program.contribution(index, rows)
                grid = encoding.quantise(block, release.clip)
            assert block.shape == (len(good.keys), release.length), name
            assert (np.sum(grid.astype(object) ** 2, axis=1) <= encoding.SENSITIVITY**2).all()


def test_a_person_who_is_not_finite_is_zero_and_nobody_else_changes() -> None:
    block = np.array([[1.0, 2.0], [np.nan, 1.0], [0.5, -np.inf], [np.inf, np.nan], [0.1, 0.2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        grid = encoding.quantise(block, 3.0)
    assert not grid[1:4].any()
    assert (grid[[0, 4]] == encoding.quantise(block[[0, 4]], 3.0)).all()


def test_quantise_is_total_for_every_double_and_clip() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        block = rng.integers(0, 1 << 64, (20, 7), dtype=np.uint64, endpoint=False).view(np.float64)
        clip = float(10.0 ** rng.uniform(-100, 100))
        with warnings.catch_warnings(), np.errstate(all="raise"):
            warnings.simplefilter("error")
            grid = encoding.quantise(block, clip)
        finite = np.isfinite(block).all(axis=1)
        assert (np.sum(grid.astype(object) ** 2, axis=1) <= encoding.SENSITIVITY**2).all()
        assert not grid[~finite].any()
        far = finite & (np.abs(block).max(axis=1) > 100 * clip)
        # a long vector keeps its direction and nearly all of the norm that it may have
        assert (np.sqrt(np.sum(grid[far].astype(float) ** 2, axis=1)) > 0.9999 * 2**18).all()
        assert (np.sign(grid) * np.sign(np.where(np.isfinite(block), block, 0)) >= 0).all()


@pytest.mark.parametrize("clip", [0.0, -1.0, np.nan, np.inf, 1.4e-303, 9e-101, 1.1e100])
def test_clips_whose_scale_would_wrap_are_refused_everywhere(clip: float) -> None:
    with pytest.raises(ParameterError, match="clip"):
        encoding.quantise(np.ones((1, 1)), clip)
    with pytest.raises(ParameterError, match="clip"):
        Release("r", 0, 1, clip, 0.1)


@pytest.mark.parametrize(
    ("low", "high", "scale"),
    [
        (0.0, 1e-303, "linear"),
        (0.0, 9e-101, "linear"),
        (-1e101, 0.0, "linear"),
        (0.0, 1.8e308, "linear"),
        (1e99, float(np.nextafter(1e99, 1e100)), "log"),  # one logarithm for both
        (float("nan"), 1.0, "linear"),
    ],
)
def test_columns_without_a_unit_are_refused(low: float, high: float, scale: str) -> None:
    with pytest.raises(ParameterError, match="column z"):
        Number("z", low, high, scale)  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_units_are_within_bounds_for_all_bounds_and_values(scale: str) -> None:
    rng = np.random.default_rng(1)
    made = 0
    for _ in range(3000):
        ends = rng.choice([-1.0, 1.0, 0.0], 2) * 10.0 ** rng.uniform(-100, 100, 2)
        if rng.random() < 0.3:  # next to each other
            ends[1] = ends[0] + abs(ends[0]) * 10.0 ** rng.uniform(-16, -1)
        try:
            column = Number("z", float(min(ends)), float(max(ends)), scale)  # type: ignore[arg-type]
        except ParameterError:
            continue
        made += 1
        middle = column.low + rng.random(20) * (column.high / 2 - column.low / 2) * 2
        values = np.array([*middle, column.low, column.high, np.inf, -np.inf, 1e308, 5e-324])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            unit = column.unit(values)
            assert np.isfinite(column.value(np.linspace(0, 1, 5))).all()
        assert ((unit >= 0) & (unit <= 1)).all()
        assert unit[20] == 0.0
        assert unit[21] == 1.0
    assert made > 1500


def test_indices_stay_in_range() -> None:
    values = np.array([*STRANGE, 0.0, 0.9, 2.0, 3.0])
    assert index_of(values, 3).tolist() == [0, 2, 0, 2, 0, 0, 0, 2, 0, 0, 0, 2, 2]
    block = one_hot(values, 3, np.ones(len(values)))
    assert block.sum(axis=1).tolist() == [0.0] + [1.0] * (len(values) - 1)


def _segment(radius: float = 0.5, centre: float = 0.0, size: float = 0.0) -> Floats:
    return np.array([*[centre] * 4, radius, size, size])


@pytest.mark.parametrize(
    "state",
    [
        _segment(5e-324), _segment(0.0199), _segment(0.0), _segment(-1.0), _segment(6.0),
        _segment(centre=1.0001), _segment(size=1.1e15), _segment(size=-1.0),
        _segment(radius=np.inf), _segment(centre=np.nan),
    ],
)  # fmt: skip
def test_segment_states_out_of_bounds_are_refused(state: Floats) -> None:
    with pytest.raises(ParameterError):
        Segment(COLUMNS, ("a", "b"), 2, 0.1).restore(state)


@pytest.mark.parametrize(
    ("place", "value"), [(0, 51.0), (3, 1.1e12), (6, -50.1), (9, -1.0), (9, 2e15), (10, 21.0)]
)
def test_propensity_states_out_of_bounds_are_refused(place: int, value: float) -> None:
    program = Propensity(COLUMNS, ("a", "b"), "y", 0.1)
    state = program.state()
    state[place] = value
    with pytest.raises(ParameterError, match="out of range"):
        program.restore(state)


@pytest.mark.parametrize("value", [1e308, -1.1e6, np.nan])
@pytest.mark.parametrize("place", [0, -1])
def test_evaluations_of_huge_weights_are_refused(place: int, value: float) -> None:
    program = Evaluate(COLUMNS, ("a", "b"), "y", 0.2, 0.1)
    state = program.state()
    state[place] = value
    with pytest.raises(ParameterError):
        program.restore(state)


@pytest.mark.parametrize("seed", range(20))
def test_whatever_the_totals_the_next_state_is_accepted_and_the_result_is_finite(seed: int) -> None:
    """Totals anywhere in 64 bits, as many dropped or hostile partners could make them."""
    rng = np.random.default_rng(seed)
    names, k = [(("a",), 50), (("a", "b", "n"), 3), (tuple(NUMBERS), 5)][seed % 3]
    made = [
        Query(COLUMNS, [Measure("mean", "h"), Measure("histogram", "g", 5)], None, 0.1),
        Segment(COLUMNS, names, k, 0.1),
        Propensity(COLUMNS, ("a", "b", "c"), "y", 0.1, steps=7),
        Evaluate(COLUMNS, ("a",), "y", 0.2, 0.1),
    ]
    for program in made:
        for index, release in enumerate(program.plan()):
            program.restore(program.state())
            width = float(2.0 ** rng.uniform(0, 45))
            total = rng.uniform(-width, width, release.length) * release.clip
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                program.absorb(index, total, float(2.0 ** rng.uniform(0, 30)) * release.clip)
        program.restore(program.state())
        flat = str(program.result())
        assert "nan" not in flat
        assert "inf" not in flat


def test_the_first_state_of_every_program_is_accepted() -> None:
    for d in range(1, 8):
        for k in range(2, 51):
            program = Segment(COLUMNS, NUMBERS[:d], k, 0.1)
            program.restore(program.state())
    assert LARGEST_FIGURE > 2.0**45 / 0.4**0.5


def test_answers_have_the_plans_length_whatever_the_rows() -> None:
    rng = np.random.default_rng(3)
    tables = [some_table(rng, people, 4) for people in (1, 7, 60)]
    for table in [*tables, Table({n: v[:0] for n, v in tables[0].rows.items()}, [])]:
        for _, program in programs(rng):
            for index, release in enumerate(program.plan()):
                ring = encoding.to_ring(exact_sum(program, index, table))
                assert len(encoding.ring_bytes(ring)) == 8 * release.length

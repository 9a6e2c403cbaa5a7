"""Sizes in, sizes out: integers only, checked against trying every size."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetcli.geometry import Geometry

CLASSIC = Geometry(step=16, smallest=188, margin=92)


@st.composite
def geometries(draw) -> Geometry:
    step = 2 ** draw(st.integers(0, 6))
    margin = draw(st.integers(0, 200))
    smallest = 2 * margin + draw(st.integers(1, 70))
    return Geometry(step=step, smallest=smallest, margin=margin, context=step * draw(st.integers(0, 9)))


def legal_sizes(geometry: Geometry, up_to: int) -> list[int]:
    return [size for size in range(up_to + 1) if geometry.is_legal(size)]


def test_the_classic_network_by_the_book():
    assert [CLASSIC.output_size(size) for size in (188, 252, 380, 572, 700)] == [4, 68, 196, 388, 516]
    assert legal_sizes(CLASSIC, 240) == [188, 204, 220, 236]
    assert CLASSIC.border == 92


def test_a_572_tile_writes_384_because_388_is_not_a_multiple_of_16():
    assert CLASSIC.core_of(572) == 384
    assert CLASSIC.input_for(384) == 572
    assert CLASSIC.input_for(388) == 572
    assert CLASSIC.input_for(389) == 588
    assert [CLASSIC.core_of(size) for size in (0, 187, 188, 203, 204, 587, 588)] == [0, 0, 0, 0, 16, 384, 400]


def test_a_padded_network_may_be_trained_on_less_than_its_context_cuts_off():
    padded = Geometry(step=16, smallest=32, margin=0, context=96)
    assert padded.output_size(48) == 48
    assert [padded.core_of(size) for size in (16, 32, 192, 207, 208, 256)] == [0, 0, 0, 0, 16, 64]
    assert padded.input_for(1) == 208


@pytest.mark.parametrize("size", [-1, 0, 187, 189, 196, 571])
def test_an_illegal_size_is_refused(size: int):
    assert not CLASSIC.is_legal(size)
    with pytest.raises(ValueError, match="not a legal input size"):
        CLASSIC.output_size(size)


@pytest.mark.parametrize("values", [{"step": 0, "smallest": 9, "margin": 1}, {"step": 2, "smallest": 8, "margin": 4}])
def test_an_impossible_geometry_is_refused(values: dict[str, int]):
    with pytest.raises(AssertionError):
        Geometry(**values)


@given(geometries(), st.integers(-50, 1200))
def test_nearest_legal_is_the_nearest_the_larger_of_two(geometry: Geometry, size: int):
    candidates = legal_sizes(geometry, 1200 + geometry.smallest + 2 * geometry.step)
    assert geometry.nearest_legal(size) == min(candidates, key=lambda legal: (abs(legal - size), -legal))


@given(geometries(), st.integers(1, 600))
def test_input_for_is_the_smallest_that_covers_the_core(geometry: Geometry, core: int):
    exact = {size: geometry.output_size(size) - 2 * geometry.context for size in legal_sizes(geometry, 3000)}
    assert geometry.input_for(core) == min(size for size, left in exact.items() if left >= core)


@given(geometries(), st.integers(0, 1500))
def test_core_of_is_the_largest_multiple_of_the_step_that_fits(geometry: Geometry, size: int):
    exact = [geometry.output_size(legal) - 2 * geometry.context for legal in legal_sizes(geometry, size)]
    largest = max([0, *exact])
    core = geometry.core_of(size)
    assert core % geometry.step == 0
    assert core <= largest < core + geometry.step
    if core:
        assert geometry.input_for(core) <= size


@given(geometries(), st.integers(0, 1000))
def test_rounded_up_is_the_next_multiple_of_the_step(geometry: Geometry, size: int):
    assert geometry.rounded_up(size) == next(n for n in range(size, size + geometry.step) if n % geometry.step == 0)

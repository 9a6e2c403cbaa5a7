"""From classes to objects, drawn as text."""

import numpy as np
import pytest

from unetcli.inference.instances import find_objects


def drawn(*rows):
    """Return the digits of the rows, "." for 0."""
    return np.array([[0 if sign == "." else int(sign) for sign in row] for row in rows], np.int32)


def objects(*rows, ridges=False, **options):
    return find_objects(drawn(*rows).astype(np.uint8), give_back_ridges=ridges, **options)


def test_objects_are_numbered_as_they_come_and_by_class():
    found = objects("..1.", "2.1.", "2..2")
    np.testing.assert_array_equal(found, drawn("..1.", "2.1.", "2..3"))
    assert found.dtype == np.int32
    assert not objects("....").any()


def test_objects_that_meet_at_a_corner_are_two():
    np.testing.assert_array_equal(objects("11..", "..11"), drawn("11..", "..22"))


@pytest.mark.parametrize(("min_size", "left"), [(0, 3), (1, 3), (2, 2), (3, 1), (4, 0)])
def test_small_objects_are_left_out(min_size, left):
    assert objects("1.11.111", min_size=min_size).max() == left


def test_ridges_go_to_the_nearest_object():
    """Two pixels between two objects go to one of them each; open background goes to none."""
    rows = [".11..11.", ".11..11.", "........"]
    np.testing.assert_array_equal(objects(*rows), drawn(".11..22.", ".11..22.", "........"))
    ridged = objects(*rows, ridges=True)
    np.testing.assert_array_equal(ridged[:2], drawn(".111222.", ".111222."))
    assert not ridged[:, [0, 7]].any()
    alone = drawn(".11.....", ".11.....").astype(np.uint8)
    np.testing.assert_array_equal(find_objects(alone), alone)


def test_holes_are_filled_where_one_object_encloses_them():
    rows = ["1111.", "1..1.", "1111.", "....1"]
    np.testing.assert_array_equal(objects(*rows, fill_holes=True), drawn("1111.", "1111.", "1111.", "....2"))
    np.testing.assert_array_equal(objects("111", "1.1", "1.1", fill_holes=True), drawn("111", "1.1", "1.1"))

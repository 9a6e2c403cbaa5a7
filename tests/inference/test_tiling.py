"""Write regions cover an image once and start at multiples of the step."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetcli.geometry import Geometry
from unetcli.inference.tiling import cut


def unet_geometry(depth):
    """The valid U-Net: 572 -> 388 at depth 4."""
    margin = 6 * 2**depth - 4
    return Geometry(step=2**depth, smallest=4 + 2 * margin, margin=margin)


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), tile=st.integers(1, 1200), depth=st.integers(1, 5))
def test_write_regions_partition_the_image(height, width, tile, depth):
    geometry = unet_geometry(depth)
    grid = cut(height, width, geometry, tile)
    tops, lefts = set(), set()
    area = 0
    for row in grid.rows():
        for write in row:
            assert write.top % geometry.step == 0
            assert write.left % geometry.step == 0
            assert 0 <= write.top < write.bottom <= height
            assert 0 <= write.left < write.right <= width
            read = grid.read_region(write, geometry)
            assert geometry.is_legal(read.height)
            assert geometry.is_legal(read.width)
            assert read.top == write.top - geometry.border
            assert read.bottom - geometry.border >= write.bottom
            assert max(read.height, read.width) <= max(tile, geometry.input_for(geometry.step))
            tops.add(write.top)
            lefts.add(write.left)
            area += write.height * write.width
    assert area == height * width
    assert len(tops) * len(lefts) == sum(len(row) for row in grid.rows())


def test_each_pixel_is_written_once():
    geometry = unet_geometry(3)
    written = np.zeros((301, 257), int)
    for row in cut(301, 257, geometry, 200).rows():
        for write in row:
            written[write.top : write.bottom, write.left : write.right] += 1
    assert (written == 1).all()


def test_the_classic_tile_writes_384():
    geometry = unet_geometry(4)
    grid = cut(4 * 384, 4 * 384, geometry, 572)
    assert (grid.core_height, grid.core_width) == (384, 384)
    first = next(grid.rows())[0]
    read = grid.read_region(first, geometry)
    assert (read.top, read.bottom) == (-92, 480)


@pytest.mark.parametrize("size", [1, 5, 15, 16, 17])
def test_small_images_take_the_smallest_tile_that_holds_them(size):
    grid = cut(size, size, unet_geometry(4), 572)
    assert grid.core_height == -(-size // 16) * 16


def test_a_rest_of_the_image_can_be_cut_anew():
    geometry = unet_geometry(4)
    grid = cut(1000, 500, geometry, 380, top=384)
    assert next(grid.rows())[0].top == 384
    assert list(grid.rows())[-1][-1].bottom == 1000

"""The overlap-tile strategy (paper, section 2 and figure 2): which regions to read, and which to write.

Write regions start at multiples of the network's step and cover the image exactly once; read regions follow from
them. Stepping by the output size instead (388 is not a multiple of 16) would shift the pooling grid from tile to
tile and leave seams.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from unetcli.geometry import Geometry


@dataclass(frozen=True)
class Region:
    """Rows ``top .. bottom - 1`` and columns ``left .. right - 1``; a read region may reach outside the image."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows of the region."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns of the region."""
        return self.right - self.left


@dataclass(frozen=True)
class TileGrid:
    """The rows of an image from `top` on, cut into tiles of one size.

    Parameters
    ----------
    top : first row that is still to be written, a multiple of the step.
    height, width : of the image, in pixels; the height of a part of it is where its last row ends.
    core_height, core_width : what a tile writes, multiples of the step (less at the image's end).
    """

    top: int
    height: int
    width: int
    core_height: int
    core_width: int

    def rows(self) -> Iterator[list[Region]]:
        """Yield the write regions row by row, each row from left to right."""
        for top in range(self.top, self.height, self.core_height):
            bottom = min(top + self.core_height, self.height)
            yield [
                Region(top, bottom, left, min(left + self.core_width, self.width))
                for left in range(0, self.width, self.core_width)
            ]

    def read_region(self, write: Region, geometry: Geometry) -> Region:
        """Return what a network must read for a write region; all tiles of a grid have the same, legal size."""
        top, left = write.top - geometry.border, write.left - geometry.border
        return Region(top, top + geometry.input_for(self.core_height), left, left + geometry.input_for(self.core_width))


def cut(height: int, width: int, geometry: Geometry, largest_tile: int, *, top: int = 0) -> TileGrid:
    """Return the grid of equal tiles of at most `largest_tile` pixels a side that covers the rows from `top` on.

    The tiles are no larger than the image needs, and as equal as the step allows: 1000 pixels are cut into two
    halves rather than into a full tile and a rest. A `largest_tile` too small to write one step is raised to the
    smallest that can.
    """
    largest_core = max(geometry.step, geometry.core_of(largest_tile))

    def equal_parts(size: int) -> int:
        parts = -(-size // largest_core)
        return geometry.rounded_up(-(-size // parts))

    return TileGrid(top, height, width, equal_parts(height - top), equal_parts(width))

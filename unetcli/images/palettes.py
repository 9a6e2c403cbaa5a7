"""Tables of colors."""

import numpy as np

Colormap = tuple[tuple[int, int, int], ...]


def is_gray_ramp(table: np.ndarray) -> bool:
    """Whether a table (n, 3) of colors says no more than that the indices are gray values."""
    levels = len(table)
    ramp = (np.arange(levels) * 255 // max(1, levels - 1)).astype(np.uint8)
    return bool(levels in (2, 4, 16, 256) and (table == ramp[:, None]).all())

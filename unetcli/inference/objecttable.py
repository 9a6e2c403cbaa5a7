"""A table with a row per object, in pixels and in the image's unit."""

import csv
from typing import TYPE_CHECKING, TextIO

from unetcli.images import PixelSize

if TYPE_CHECKING:
    from unetcli.inference.outputs import PageResult
    from unetcli.inference.predict import Band

COLUMNS = ("page", "id", "class", "area", "centroid_y", "centroid_x", "top", "left", "bottom", "right")


class ObjectsOutput:
    """CSV, written page by page; without objects it has its header only.

    Parameters
    ----------
    pixel_size : None where the image states none; the columns in its unit are then left out.
    classes : names of the classes, background first.
    """

    wants_objects = True
    keeps_objects = wants_probabilities = False

    def __init__(self, file: TextIO, pixel_size: PixelSize | None, classes: tuple[str, ...]) -> None:
        self.table = csv.writer(file, lineterminator="\n")
        self.pixel_size = pixel_size
        self.classes = classes
        unit = () if pixel_size is None else (pixel_size.unit,)
        in_unit = (column for name in unit for column in (f"area_{name}2", f"centroid_y_{name}", f"centroid_x_{name}"))
        self.table.writerow((*COLUMNS, *in_unit))

    def write_band(self, band: "Band") -> None:
        """Do nothing: objects are known when their page is done."""

    def write_page(self, result: "PageResult") -> None:
        """Write the page's objects, their ids in order."""
        measures, size = result.objects.measures, self.pixel_size
        places = (measures.area, *measures.center, measures.top, measures.left, measures.bottom, measures.right)
        entries = zip(result.objects.classes.tolist(), *(column.tolist() for column in places), strict=True)
        for number, (index, area, y, x, *box) in enumerate(entries, start=1):
            row = [result.page, number, self.classes[index], area, round(y, 3), round(x, 3), *box]
            if size is not None:
                row += [float(f"{value:.9g}") for value in (area * size.y * size.x, y * size.y, x * size.x)]
            self.table.writerow(row)

"""Images: read by region, written row by row, brought to one scale.

with open_image("scan.tif") as image:
    image.info.shape, image.info.axes, image.info.notes
    image.page(0)[0:512, 0:512]  # (512, 512, channels); only this region is decoded
"""

from unetcli.images.atomic import atomic_path, check_writable
from unetcli.images.info import ImageInfo, PixelSize
from unetcli.images.memory import check_memory, readable_size, usable_memory
from unetcli.images.normalization import IntensityRange, intensity_range, normalize
from unetcli.images.reader import Image, open_image
from unetcli.images.source import PageSource, array_source
from unetcli.images.writer import ImageWriter, check_format

__all__ = [
    "Image",
    "ImageInfo",
    "ImageWriter",
    "IntensityRange",
    "PageSource",
    "PixelSize",
    "array_source",
    "atomic_path",
    "check_format",
    "check_memory",
    "check_writable",
    "intensity_range",
    "normalize",
    "open_image",
    "readable_size",
    "usable_memory",
]

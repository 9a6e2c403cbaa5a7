"""Pictures that are to be shown otherwise than they are stored."""

from pathlib import Path

from unetcli.errors import warn

_UPRIGHT = 1  # the first row at the top, the first column to the left


def warn_of_turned(orientation: object, path: Path) -> None:
    """Say where a picture is shown turned or mirrored by others: its pixels are read, and its mask written, as stored.

    Parameters
    ----------
    orientation : the number that EXIF and TIFF give the eight ways to hold a camera; anything else says nothing.
    """
    if isinstance(orientation, int) and _UPRIGHT < orientation <= 8:
        warn(
            f"is to be shown turned or mirrored (orientation {int(orientation)}), but read as it is stored: "
            "its mask must lie on the stored pixels",
            path=path,
        )

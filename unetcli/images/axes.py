"""Which axes of a file are the image, its channels and its pages."""

from dataclasses import dataclass
from math import prod
from pathlib import Path

from unetcli.errors import InputError, UsageError

CHANNEL_AXES = "CS"
PAGE_AXES = "TZQI"
MAX_CHANNELS = 1024
_MEANING = {"T": "time points", "Z": "slices"}


@dataclass(frozen=True)
class Layout:
    """Axes with their sizes, and what they are used for.

    Parameters
    ----------
    axes : one letter per axis, slowest first; Y and X are among them, C and S are channels, others pages.
    shape : the sizes.
    stated : whether the file's metadata or the user named the axes; False where a rule had to.
    """

    axes: str
    shape: tuple[int, ...]
    stated: bool

    def size(self, letter: str) -> int:
        """Return the size of an axis; 1 where it is absent."""
        return self.shape[self.axes.index(letter)] if letter in self.axes else 1

    @property
    def page_axes(self) -> str:
        """The axes whose planes are taken one by one as pages."""
        return "".join(letter for letter in self.axes if letter not in "YX" + CHANNEL_AXES)

    @property
    def page_shape(self) -> tuple[int, ...]:
        """Sizes of `page_axes`."""
        return tuple(self.size(letter) for letter in self.page_axes)

    @property
    def pages(self) -> int:
        """Number of pages."""
        return prod(self.page_shape)

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.size("C") * self.size("S")

    def described(self) -> tuple[str, ...]:
        """Return what the user should be told: how many pages along which axes, and the channels."""
        told = []
        if self.pages > 1:
            names = "/".join(self.page_axes)
            sizes = "x".join(map(str, self.page_shape))
            if self.page_axes in ("Q", "I"):
                told.append(f"{self.pages} pages along an axis of unknown meaning ({self.axes}); --axes names it")
            elif "Q" in self.page_axes:
                told.append(f"{self.pages} pages along axes of unknown meaning ({self.axes}); --axes names them")
            else:
                told.append(f"{self.pages} pages as {names}" + (f" ({sizes})" if len(self.page_axes) > 1 else ""))
        if self.size("C") > 1:
            told.append(f"{self.channels} channels as {''.join(a for a in self.axes if a in CHANNEL_AXES)}")
        return tuple(told)


def check_axes(axes: str) -> str:
    """Return the axes that a user named, in capitals.

    Raises
    ------
    UsageError : unknown, repeated or missing letters.
    """
    letters = axes.upper()
    unknown = sorted(set(letters) - set("YX" + CHANNEL_AXES + PAGE_AXES))
    hint = "for example --axes ZYX for a stack of slices, --axes YXC for channels last"
    if unknown:
        raise UsageError(f"--axes {axes}: unknown letter {unknown[0]}; Y, X, C, S, Z, T and Q are known", hint=hint)
    if len(set(letters)) < len(letters):
        raise UsageError(f"--axes {axes}: a letter stands there twice", hint=hint)
    if not {"Y", "X"} <= set(letters):
        raise UsageError(f"--axes {axes}: Y and X must be among them", hint=hint)
    return letters


def apply_axes(axes: str, found: Layout, path: Path) -> Layout:
    """Return the layout with the axes that the user named in place of those found.

    Raises
    ------
    InputError : the file has another number of axes.
    """
    letters, shape = check_axes(axes), found.shape
    if len(letters) < len(shape):  # axes of length one need not be named
        kept = [i for i, size in enumerate(shape) if size > 1]
        if len(kept) <= len(letters):
            while len(kept) < len(letters):
                kept = sorted([*kept, max(set(range(len(shape))) - set(kept))])
            shape = tuple(shape[i] for i in kept)
    elif len(letters) > len(shape) and len(letters.replace("C", "").replace("S", "")) == len(shape):
        letters = letters.replace("C", "").replace("S", "")
    if len(letters) != len(shape):
        sizes = "x".join(map(str, found.shape))
        raise InputError(
            f"has {len(found.shape)} axes ({found.axes} {sizes}), --axes {axes} names {len(letters)}",
            path=path,
            hint=f"name {len(found.shape)} axes, as in --axes {found.axes}",
        )
    return Layout(letters, shape, stated=True)


def check_layout(layout: Layout, path: Path) -> None:
    """Raise where the layout cannot be what was meant.

    Raises
    ------
    InputError : no pixels, too many channels, or channels last that were taken for columns.
    """
    height, width = layout.size("Y"), layout.size("X")
    if 0 in layout.shape:
        raise InputError(f"has no pixels ({width}x{height})", path=path, hint="save the image again")
    if layout.channels > MAX_CHANNELS:
        raise InputError(
            f"has {layout.channels} channels, at most {MAX_CHANNELS} can be read",
            path=path,
            hint="save the channels that matter, or name the axes with --axes",
        )
    # An array (height, width, 2) that was saved without metadata reads as `height` pages of `width` x 2 pixels.
    narrow = 2 <= width <= 8
    if narrow and not layout.stated and height >= 4 * width and layout.pages >= 4 * width:
        sizes = "x".join(map(str, layout.shape))
        raise InputError(
            f"axes {layout.axes} {sizes} look wrong: {layout.pages} pages of {width}x{height} pixels",
            path=path,
            hint=f"--axes YXC reads {width} channels; --axes {layout.axes} keeps the pages",
        )

"""What a layout found: images, masks, and what the folder says about them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unetcli.dataset.listing import LeftOut
from unetcli.dataset.matching import Entry
from unetcli.dataset.names import plain_key, split_extension
from unetcli.errors import UnetError


@dataclass(frozen=True)
class Group:
    """Images and masks among which partners are looked for."""

    images: tuple[Entry, ...]
    masks: tuple[Entry, ...]
    split: str | None = None


@dataclass(frozen=True)
class Arrangement:
    """What is an image and what a mask in a data set.

    Parameters
    ----------
    layout : what was recognized, in words.
    root : the folder that was named; None for files and globs.
    groups : images with their masks.
    rule : how names belong together, where the layout itself says it.
    left_out : files that are neither, and why.
    task : for which the layout is used, "instances", or None.
    declared : value and name of each class, where a file of the data set states them.
    ignore : the mask value to leave out that it states.
    problems : what keeps the data set from being used.
    """

    layout: str
    root: Path | None
    groups: tuple[Group, ...]
    rule: str | None = None
    left_out: tuple[LeftOut, ...] = ()
    task: str | None = None
    declared: tuple[tuple[int, str], ...] | None = None
    ignore: int | None = None
    problems: tuple[UnetError, ...] = ()


def entries_of(paths: Sequence[Path], optional: str | None = None) -> tuple[Entry, ...]:
    """Return files as entries, named by their stems; by their paths where all files of several folders share stems."""
    names = [stem_of(path) for path in paths]
    folders = {os.path.dirname(path) for path in paths}  # noqa: PTH120 - a path object each would take a second
    if len(folders) > 1 and len({plain_key(name) for name in names}) < len(names):
        top = os.path.commonpath(folders)
        names = ["_".join((*path.parent.relative_to(top).parts, stem_of(path))) for path in paths]
    return tuple(Entry(name, (path,), optional=optional) for name, path in zip(names, paths, strict=True))


def stem_of(path: Path) -> str:
    """Return a file's name without the extension; a folder's name, which may hold points, as it is."""
    stem, extension = split_extension(path.name)
    return stem if extension or path.is_dir() else path.stem

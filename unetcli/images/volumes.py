"""Volumes that stay open from one page to the next."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unetcli.images.files import is_zarr
from unetcli.images.reader import Image

_MANY_PAGES = 16  # of a file, that make it one to keep open


@dataclass(eq=False)
class _Volume:
    """An image, once it is open, and how many threads read it."""

    image: Image | None = None
    users: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


class OpenVolumes:
    """Files that are read page by page, of which those that take long to open stay open for a while.

    A compressed NIfTI is unpacked whole, of a DICOM series all headers are read, whatever page is wanted, and of a TIFF
    stack all directories (it stays open from the second time on, when its pages are known). Such an image is shared by
    all threads: it is read from memory or by place in the file, so that a forked process may go on with it too. All
    others are closed at once.

    Parameters
    ----------
    limit : images that may stay open; more where more are read at once. The one that was not read for the longest time
        is closed before another is opened, and 0 keeps none.
    """

    def __init__(self, limit: int = 0) -> None:
        self._limit = limit
        self._volumes: dict[tuple[Any, ...], _Volume] = {}  # the one that was read last comes last
        self._stacks: set[tuple[Any, ...]] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:  # another process opens its own
        return OpenVolumes, (self._limit,)

    def __del__(self) -> None:
        self.close()

    @contextmanager
    def open(self, opener: Callable[..., Image], path: Path, *said: str | range | None) -> Iterator[Image]:
        """Lend the image that `opener` makes of a path and of what is `said` of it; a changed file is opened anew."""
        key = (opener, path, *said, _state_of(path))
        if not (_opens_slowly(path) or key in self._stacks):
            with opener(path, *said) as image:
                if image.info.format == "tiff" and image.info.pages >= _MANY_PAGES:
                    self._stacks.add(key)
                yield image
            return
        with self._lock:
            volume = self._volumes[key] = self._volumes.pop(key, _Volume())
            volume.users += 1
            self._close_unused(self._limit)
        try:
            with volume.lock:
                if volume.image is None:
                    volume.image = opener(path, *said)
            yield volume.image
        finally:
            with self._lock:
                volume.users -= 1
                self._close_unused(self._limit)

    def close(self) -> None:
        """Close all that nobody reads."""
        with self._lock:
            self._close_unused(0)

    def _close_unused(self, limit: int) -> None:
        unused = [key for key, volume in self._volumes.items() if not volume.users]
        for key in unused[: max(0, len(self._volumes) - limit)]:
            image = self._volumes.pop(key).image
            if image is not None:
                image.close()


def _opens_slowly(path: Path) -> bool:
    return path.name.lower().endswith(".nii.gz") or (path.is_dir() and not is_zarr(path))


def _state_of(path: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Return what tells a file, or one of a folder's, from another that took its place."""
    try:
        if not path.is_dir():
            return (_file_state(path.name, path.stat()),)
        with os.scandir(path) as entries:
            return tuple(sorted(_file_state(entry.name, entry.stat()) for entry in entries if entry.is_file()))
    except OSError:  # opening it says what is wrong
        return ()


def _file_state(name: str, found: os.stat_result) -> tuple[str, int, int, int]:
    return name, found.st_ino, found.st_size, found.st_mtime_ns

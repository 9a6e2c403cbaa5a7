"""Folders that are there completely, or not at all: an image in many files."""

import contextlib
import errno
import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from unetcli.images.atomic import check_target, writing_failed

KEY = ".unet"  # a folder in the part: what the part belongs to, and what else a restart needs; not in the result


@contextlib.contextmanager
def atomic_folder(target: Path, *, key: str | None = None, needed: int | None = None) -> Iterator[Path]:
    """Yield a folder ``NAME.part`` beside `target`, which takes the target's place when the block ends well.

    On any error, interruptions included, the target stays as it was. Several processes may write the same target:
    each has a part of its own, and the last to end wins.

    Parameters
    ----------
    key : what the part belongs to. With a key the part stays after an error, and the next one with the same key finds
        what was written. Without, it is removed, and what others left is not looked at.
    needed : bytes the folder will have, for the message when the disk is full.

    Raises
    ------
    OutputError : the folder cannot be written, the disk is full, or the target is something else than an OME-Zarr.
    """
    check_target(target)
    try:
        part, lock = _claim(target)
        if key is None or read_key(part) != key:
            _empty(part)
        if key is not None:
            (part / KEY).mkdir(exist_ok=True)
            (part / KEY / "key").write_text(key, encoding="utf-8")
    except OSError as error:
        raise writing_failed(error, target, needed) from error
    try:
        yield part
        try:
            _clean(part)
            _swap(part, target)
        except OSError as error:
            raise writing_failed(error, target, needed) from error
    except BaseException:
        if key is None:
            shutil.rmtree(part, ignore_errors=True)
        raise
    finally:
        os.close(lock)


def read_key(part: Path) -> str | None:
    """Return the key of what an interrupted run left; None where it left nothing."""
    try:
        return (part / KEY / "key").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def part_of(target: Path, number: int = 0) -> Path:
    """Return where a target is written; numbers above 0 where others write the same target meanwhile."""
    return target.with_name(f"{target.name}.part{f'-{number}' if number else ''}")


def _claim(target: Path) -> tuple[Path, int]:
    """Return a part that no other process writes, and its lock, which is held until closed."""
    number = 0
    while True:
        part = part_of(target, number)
        with contextlib.suppress(FileExistsError):
            part.mkdir()
        try:
            lock = os.open(part, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:  # swapped away by its owner at this moment
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number += 1
        except OSError:  # some file systems know no locks
            return part, lock
        else:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), part.stat()):  # not swapped away meanwhile
                    return part, lock
        os.close(lock)


def _empty(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()


def _clean(part: Path) -> None:
    """Remove what is no part of the result, among it what killed processes did not finish."""
    if (part / KEY).is_dir():
        shutil.rmtree(part / KEY)
        for unfinished in part.rglob("*.partial"):
            unfinished.unlink()


def _swap(part: Path, target: Path) -> None:
    """Put the part in the target's place; what was there is moved aside first, as a folder cannot be renamed over."""
    prefix = f".{target.name}.old-"
    while True:
        try:
            part.rename(target)
            break
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
        with contextlib.suppress(FileNotFoundError):  # another process moved it
            target.rename(target.with_name(f"{prefix}{uuid.uuid4().hex}"))
    for entry in os.scandir(target.parent):
        if entry.name.startswith(prefix):
            shutil.rmtree(entry.path, ignore_errors=True)

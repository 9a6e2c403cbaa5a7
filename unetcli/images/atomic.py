"""Files that are there completely, or not at all."""

import contextlib
import errno
import io
import os
import socket
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from unetcli.errors import OutputError, UsageError
from unetcli.images.files import ZARR_FILES
from unetcli.images.memory import readable_size

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_SPOOL = 16 << 20  # bytes of a scratch file kept in memory before a disk takes them
_LONGEST = 60  # characters of the name that the temporary name repeats


@contextlib.contextmanager
def atomic_path(target: Path | str, *, needed: int | None = None) -> Iterator[Path]:
    """Yield the path of an empty file beside `target`, which takes the target's place when the block ends well.

    On any error, interruptions included, the file is removed and the target stays as it was. A symbolic link at the
    target is replaced, not followed. Permissions are those of any new file. What killed processes left for the same
    target is removed.

    Parameters
    ----------
    needed : bytes the file will have, for the message when the disk is full.

    Raises
    ------
    OutputError : the file cannot be written, the disk is full, or the target is a folder or a device.
    """
    target = Path(target)
    check_target(target)
    _remove_leftovers(target)
    try:
        descriptor, name = tempfile.mkstemp(prefix=_temporary_prefix(target), suffix=_suffix(target), dir=target.parent)
    except OSError as error:
        raise writing_failed(error, target, needed) from error
    temporary = Path(name)
    try:
        with contextlib.suppress(OSError):  # some file systems know no permissions
            os.fchmod(descriptor, 0o666 & ~_umask())
        os.close(descriptor)
        try:
            yield temporary
        except OSError as error:
            if error.errno in (*_FULL, errno.EROFS):
                raise writing_failed(error, target, needed) from error
            raise
        try:
            _synchronize(temporary)
            temporary.replace(target)
        except OSError as error:
            raise writing_failed(error, target, needed) from error
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # folders cannot be synchronized everywhere
        _synchronize(target.parent)


def scratch_file(folder: Path | None = None) -> BinaryIO:
    """Return a file without a name, gone when it is closed; in memory while it is small, or where no disk allows one.

    Parameters
    ----------
    folder : where it lies; by default where temporary files do.
    """
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError:
        return io.BytesIO()
    return tempfile.SpooledTemporaryFile(_SPOOL, dir=folder)  # type: ignore[return-value, arg-type]


class InputPaths:
    """Files that no output may replace, and images that are folders, into which nothing must be written.

    What is looked at for each output does not grow with their number.
    """

    def __init__(self, paths: Iterable[Path | str] = ()) -> None:
        self._names = set(map(Path, paths))
        self._files: set[tuple[int, int]] = set()
        self._folders: dict[Path, Path] = {}
        self._around: set[Path] = set()  # them and all folders above
        for path in self._names:
            with contextlib.suppress(OSError, ValueError, RuntimeError):  # absent, or a name that no file can have
                found, place = path.stat(), path.resolve()
                self._files.add((found.st_dev, found.st_ino))
                self._around.update((place, *place.parents))
                if stat.S_ISDIR(found.st_mode):
                    self._folders[place] = path

    def check(self, target: Path) -> None:
        """Raise unless an output may be written to a path.

        Raises
        ------
        UsageError : it is one of these files, or lies in one.
        """
        place = target.absolute()
        with contextlib.suppress(OSError, RuntimeError):  # links in a circle
            place = target.resolve()
        same = target.suffix.lower() == ".zarr" and place in self._around
        with contextlib.suppress(OSError):
            found = target.stat()
            same = same or (found.st_dev, found.st_ino) in self._files
        if same or target in self._names:
            raise UsageError("the output would replace this input", path=target, hint="name another file with -o")
        inside = next((self._folders[folder] for folder in place.parents if folder in self._folders), None)
        if inside is not None:
            raise UsageError(f"the output would lie inside the input {inside}", path=target, hint="name another place")


def check_writable(target: Path | str, *, inputs: InputPaths | None = None, dry_run: bool = False) -> None:
    """Raise unless a file or an OME-Zarr can be written to a path; creates its folder. To be called before any work.

    Parameters
    ----------
    inputs : what must not be replaced.
    dry_run : whether to leave a folder that is absent, and only look whether it may be made.

    Raises
    ------
    UsageError : the path is that of an input.
    OutputError : a folder, a device, a read-only place, missing permission; says which.
    """
    target = Path(target)
    try:
        target.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # a name that is too long, a file where a folder should be
        raise writing_failed(error, target.parent if error.errno == errno.ENOTDIR else target) from error
    if inputs is not None:
        inputs.check(target)
    if dry_run and not target.parent.exists():
        there = next(folder for folder in target.parents if folder.exists())
        if not os.access(there, os.W_OK | os.X_OK):
            raise writing_failed(PermissionError(errno.EACCES, "permission denied"), target.parent)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise writing_failed(error, target.parent) from error
    check_target(target)
    try:
        descriptor, name = tempfile.mkstemp(prefix=_temporary_prefix(target), dir=target.parent)
        os.close(descriptor)
        Path(name).unlink()
    except OSError as error:
        raise writing_failed(error, target) from error


def writing_failed(error: OSError, target: Path | str, needed: int | None = None) -> OutputError:
    """Return the error of this package for an error of the system while `target` was written."""
    target = Path(target)
    if error.errno in _FULL:
        size = f" (needs {readable_size(needed)})" if needed is not None else ""
        return OutputError(f"disk full{size}", path=target, hint="free some space, or write to another disk with -o")
    reason = {
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied",
        errno.EPERM: "permission denied",
        errno.ENOENT: "its folder takes no files" if target.parent.is_dir() else "its folder does not exist",
        errno.ENOTDIR: "a file stands where its folder should be",
        errno.EEXIST: "a file stands where a folder should be",
        errno.ENAMETOOLONG: "the name is too long",
    }.get(error.errno or 0, (error.strerror or str(error)).lower())
    return OutputError(f"cannot be written: {reason}", path=target, hint="name another place with -o")


def check_target(target: Path) -> None:
    """Raise unless what is at a path may be replaced: nothing, a file, or an OME-Zarr by another.

    Raises
    ------
    OutputError : a folder, a device.
    """
    try:
        found = target.stat()
    except OSError:
        return  # absent, or a link to nothing, which is replaced
    if target.suffix.lower() == ".zarr":
        if not stat.S_ISDIR(found.st_mode):
            raise OutputError("is not a folder, as an OME-Zarr is", path=target, hint="name a new folder with -o")
        with contextlib.suppress(FileNotFoundError):  # replaced at this moment
            names = os.listdir(target)  # noqa: PTH208 - one look, as other processes may write here
            if not names or any(name in ZARR_FILES for name in names):
                return
            if target.stat().st_ino != found.st_ino:  # the list was of a folder that another process has just replaced
                return
            raise OutputError("is a folder with other files", path=target, hint="name a new folder with -o")
        return
    if stat.S_ISDIR(found.st_mode):
        raise OutputError("is a directory", path=target, hint="name a file in it")
    if not stat.S_ISREG(found.st_mode):
        raise OutputError("is a device or a pipe", path=target, hint="name a file, or - for stdout")


def _remove_leftovers(target: Path) -> None:
    """Remove temporary files of this target whose process on this machine is gone."""
    prefix = f"{_leftover_prefix(target)}{_host()}-"
    with contextlib.suppress(OSError):
        for entry in os.scandir(target.parent):
            if not entry.name.startswith(prefix):
                continue
            process = entry.name[len(prefix) :].partition("-")[0]
            if process.isdigit() and not is_alive(int(process)):
                with contextlib.suppress(OSError):
                    Path(entry.path).unlink()


def is_alive(process: int) -> bool:
    """Return whether a process of this machine runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass
    return True


def _leftover_prefix(target: Path) -> str:
    name = os.fsencode(target.name)[:_LONGEST]
    return f".{os.fsdecode(name)}.tmp-"


def _temporary_prefix(target: Path) -> str:
    return f"{_leftover_prefix(target)}{_host()}-{os.getpid()}-"


def _suffix(target: Path) -> str:
    """Return the extension, for libraries that choose a format by it."""
    return ".nii.gz" if target.name.endswith(".nii.gz") else target.suffix[:10]


def _host() -> str:
    return "".join(c for c in socket.gethostname() if c.isalnum())[:12] or "host"


def _umask() -> int:
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    except OSError:
        pass
    mask = os.umask(0o077)  # without /proc it can only be read by setting it
    os.umask(mask)
    return mask


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

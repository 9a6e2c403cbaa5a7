"""An input file as bytes that can be read at any place, and what its first bytes say it is."""

import errno
import io
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

from unetcli.errors import InputError, ResourceError, warn
from unetcli.images.memory import check_memory, readable_size

_MAGIC = {
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"II+\0": "tiff",
    b"MM\0+": "tiff",
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"BM": "bmp",
    b"GIF8": "gif",
}
# Extensions by which a file claims a format; others (.lsm, .svs, .dat) claim nothing.
EXTENSIONS = {
    ".tif": "tiff",
    ".tiff": "tiff",
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".bmp": "bmp",
    ".gif": "gif",
}
_READABLE = "TIFF, PNG, JPEG, BMP, GIF, NIfTI, DICOM and OME-Zarr can be read"
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP)
ZARR_FILES = ("zarr.json", ".zattrs", ".zgroup", ".zarray")


class InputFile:
    """A file, or the bytes of a stream, that several threads may read at once.

    Parameters
    ----------
    file : an open binary file.
    path : its path, or the name shown for a stream.
    size : its bytes.
    content : all of it, where it lies in memory.
    """

    def __init__(self, file: BinaryIO, path: Path, size: int, content: bytes | None = None) -> None:
        self.file = file
        self.path = path
        self.size = size
        self._content = None if content is None else memoryview(content)

    def read(self, offset: int, count: int) -> bytes | memoryview:
        """Return exactly `count` bytes from `offset`; does not move the file's position.

        Raises
        ------
        InputError : the file ends before.
        """
        if self._content is not None:
            data: bytes | memoryview = self._content[offset : offset + count]
        else:
            data = self._pread(offset, count)
        if len(data) < count:
            raise truncated(self.path, offset + count, offset + len(data))
        return data

    def _pread(self, offset: int, count: int) -> bytes:
        descriptor = self.file.fileno()
        data = os.pread(descriptor, count, offset)
        if len(data) == count or not data:
            return data
        parts = [data]  # the system returns at most 2 GiB at once
        while data and (missing := count - sum(map(len, parts))) > 0:
            data = os.pread(descriptor, missing, offset + count - missing)
            parts.append(data)
        return b"".join(parts)

    def stream(self) -> io.BufferedReader:
        """Return the bytes as a stream with a position of its own, which reads a small buffer ahead."""
        return io.BufferedReader(_Stream(self))

    def close(self) -> None:
        """Close the file."""
        self._content = None
        self.file.close()


class _Stream(io.RawIOBase):
    def __init__(self, file: InputFile) -> None:
        self.name = str(file.path)
        self._file = file
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._file.size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        count = max(0, min(len(buffer), self._file.size - self._position))
        buffer[:count] = self._file.read(self._position, count)
        self._position += count
        return count


def truncated(path: Path, expected: int, present: int) -> InputError:
    """Return the error of a file that ends too early."""
    return InputError(
        f"is truncated: {expected} bytes expected, {present} present",
        path=path,
        hint="copy the file again from its source",
    )


def open_input(source: Path | str | BinaryIO, name: str | None = None) -> InputFile:
    """Return the file at a path, or the content of a binary stream, ready to be read at any place.

    Raises
    ------
    InputError : absent, unreadable, empty, a folder, or not a regular file.
    ResourceError : a stream that does not fit the memory, or too many open files.
    """
    if not isinstance(source, str | os.PathLike):
        opened = _open_stream(source, Path(name or "stdin"))
    else:
        opened = _open_path(Path(source))
    if opened.size == 0:
        opened.close()
        raise InputError("is empty (0 bytes)", path=opened.path, hint="copy the file again from its source")
    return opened


def _open_path(path: Path) -> InputFile:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputError("is a directory, not an image", path=path, hint="name the files in it, or use a glob")
        if not stat.S_ISREG(mode):
            raise InputError("is not a regular file", path=path, hint="pass data through a pipe with - as the input")
        file = path.open("rb")
    except OSError as error:
        raise reading_failed(error, path) from error
    return InputFile(file, path, os.fstat(file.fileno()).st_size)


def _open_stream(stream: BinaryIO, path: Path) -> InputFile:
    content = stream.getvalue() if isinstance(stream, io.BytesIO) else read_stream(stream, path)
    return InputFile(io.BytesIO(content), path, len(content), content)


def read_stream(stream: BinaryIO, path: Path) -> bytes:
    """Return all bytes of a stream.

    Raises
    ------
    InputError : it cannot be read.
    ResourceError : it does not fit the memory.
    """
    parts: list[bytes] = []
    count = 0
    try:
        while part := stream.read(1 << 20):
            parts.append(part)
            count += len(part)
            if len(parts) % 64 == 0:
                check_memory(count, f"{readable_size(count)} read from the stream so far", path=path)
    except OSError as error:
        raise reading_failed(error, path) from error
    return b"".join(parts)


def reading_failed(error: OSError, path: Path) -> InputError | ResourceError:
    """Return the error of this package for an error of the system."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return ResourceError(f"too many open files ({limit})", path=path, hint="ulimit -n 4096, or --workers 0")
    if error.errno == errno.ENOENT:
        return InputError("does not exist", path=path, hint="check the name; was it removed or renamed meanwhile?")
    if error.errno in (errno.EACCES, errno.EPERM):
        return InputError("permission denied", path=path, hint="make the file readable: chmod +r")
    reason = (error.strerror or str(error)).lower()
    return InputError(f"cannot be read: {reason}", path=path, hint="check the disk or the network share")


def detect_format(file: InputFile) -> str:
    """Return the format that the first bytes show; warns where the extension claims another.

    Raises
    ------
    InputError : the bytes are of no format that can be read.
    """
    head = bytes(file.read(0, min(file.size, 352)))
    found = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    suffix = file.path.suffix.lower()
    if found is None:
        found = _medical_format(head, file.path)
    if found is None:
        raise InputError(
            f"is not an image (starts with {head[:5]!r})",
            path=file.path,
            hint=f"{_READABLE}; convert the file to TIFF",
        )
    if suffix in EXTENSIONS and EXTENSIONS[suffix] != found:
        article = "an" if found == "nifti" else "a"
        warn(f"is {article} {found.upper()} despite {file.path.suffix}", path=file.path)
    return found


def is_there(path: Path) -> bool:
    """Whether there is something at a path that is to be read; a name that no file can have is not there.

    Raises
    ------
    InputError : it must not be looked at, or into.
    """
    try:
        found = path.stat()
    except OSError as error:
        if error.errno in _ABSENT:
            return False
        raise reading_failed(error, path) from error
    if stat.S_ISDIR(found.st_mode) and not os.access(path, os.R_OK | os.X_OK):
        raise InputError("permission denied", path=path, hint="make the folder readable: chmod +rx")
    return True


def is_zarr(path: Path) -> bool:
    """Whether a path is a folder that holds an image, or should: a zarr by its name or by its files."""
    return path.is_dir() and (path.suffix.lower() == ".zarr" or any((path / name).is_file() for name in ZARR_FILES))


def _medical_format(head: bytes, path: Path) -> str | None:
    if head[128:132] == b"DICM":
        return "dicom"
    if head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0"):
        return "nifti"
    if head.startswith(b"\x1f\x8b") and path.name.lower().endswith(".nii.gz"):
        return "nifti"
    return None

"""How much memory this process may use, and the check made before something large is decoded."""

import ctypes
import os
from pathlib import Path

from unetcli.errors import ResourceError

_UNLIMITED = 1 << 60
_RESERVE = 64 << 20  # bytes left to the interpreter and to other small things
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def usable_memory() -> int:
    """Return the bytes this process may still allocate: the least that system, container and ulimit leave."""
    return max(0, min(_system(), _container(), _address_space())) + _kept()


def keep_freed_memory() -> None:
    """Let the C library keep what is freed for what comes next, where it is glibc.

    By default it gives blocks of more than 32 MB back at once and asks for them anew, and the system hands them out
    page by page, cleared: for the layers of a network that takes a fifth of the time.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, -1)


def held_memory() -> int:
    """Return the bytes of memory that this process holds."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    return pages * os.sysconf("SC_PAGE_SIZE")


def check_memory(needed: int, what: str, *, path: Path | str | None = None, hint: str | None = None) -> None:
    """Raise unless `needed` bytes fit the memory that this process may use.

    Raises
    ------
    ResourceError : they do not fit; says both sizes.
    """
    if needed <= _RESERVE:
        return
    usable = usable_memory()
    if needed + _RESERVE > usable:
        raise ResourceError(
            f"{what} needs {readable_size(needed)} of memory, {readable_size(usable)} may be used",
            path=path,
            hint=hint or "save the image as a tiled TIFF, which is read in parts, or use a machine with more memory",
        )


def readable_size(count: int) -> str:
    """Return a number of bytes as a person reads it: ``4.0 MB``, ``858 MiB`` style with powers of 1024."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if size < 1024 or unit == "EiB":
            break
        size /= 1024
    if unit == "bytes":
        return f"{count} bytes"
    return f"{size:.1f} {unit}" if size < 10 else f"{size:.0f} {unit}"


class _MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = [("others", ctypes.c_size_t * 8), ("fordblks", ctypes.c_size_t), ("keepcost", ctypes.c_size_t)]


def _kept() -> int:
    """Return the bytes that were freed but not given back, see `keep_freed_memory`."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError, TypeError):
        return 0
    mallinfo.restype = _MallocInfo
    return int(mallinfo().fordblks)


def _system() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return _UNLIMITED


def _container() -> int:
    """Return what the control groups of this process, version 2 or 1, leave to it."""
    left = _UNLIMITED
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return left
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            root, limit_name, used_name = Path("/sys/fs/cgroup"), "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            root, limit_name, used_name = (
                Path("/sys/fs/cgroup/memory"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
        else:
            continue
        folder = root / name.lstrip("/")
        for place in (folder, *folder.parents):  # a limit may stand on any group above
            left = min(left, _group_left(place, limit_name, used_name))
            if place == root:
                break
    return left


def _group_left(folder: Path, limit_name: str, used_name: str) -> int:
    try:
        limit = (folder / limit_name).read_text().strip()
        if limit == "max" or int(limit) >= _UNLIMITED:
            return _UNLIMITED
        used = int((folder / used_name).read_text())
        cache = 0
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(("inactive_file ", "total_inactive_file ")):
                cache = max(cache, int(line.split()[1]))  # file cache is given back under pressure
        return max(0, int(limit) - used + cache)
    except (OSError, ValueError):
        return _UNLIMITED


def _address_space() -> int:
    """Return what ``ulimit -v`` and ``ulimit -d`` leave."""
    try:
        import resource
    except ImportError:
        return _UNLIMITED
    limit = min(
        (soft for soft, _ in map(resource.getrlimit, (resource.RLIMIT_AS, resource.RLIMIT_DATA)) if soft >= 0),
        default=_UNLIMITED,
    )
    if limit >= _UNLIMITED:
        return _UNLIMITED
    try:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        used = 0
    return max(0, limit - used)

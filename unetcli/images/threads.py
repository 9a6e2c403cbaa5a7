"""How many threads this process may compute with: said once, asked by whatever starts some."""

import os

_limit: int | None = None


def cores() -> int:
    """Return the cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes_here() -> int:
    """Return how many processes of one training share this machine; `torchrun` starts several."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def limit_threads(limit: int | None) -> int:
    """Set the compute threads of this process and return their number.

    Parameters
    ----------
    limit : at least 1; None for ``OMP_NUM_THREADS``, or where that is not set for the cores this process may use.
    """
    global _limit
    _limit = limit
    os.environ["ZARR_THREADING__MAX_WORKERS"] = str(compute_threads())  # zarr, imported later, reads it
    return compute_threads()


def compute_threads() -> int:
    """Return how many threads may compute, or code and decode images, side by side."""
    if _limit is not None:
        return _limit
    wished = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, int(wished)) if wished.isdecimal() else cores()

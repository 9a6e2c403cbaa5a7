"""Batches from the data loader, and what is done when its processes fail."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from unetcli.dataset.patches import PatchDataset
from unetcli.errors import UnetError, warn

Key = tuple[int, int]
Batch = tuple[Tensor, Tensor, Tensor]  # images (N, C, n, n), targets (N, m, m), weights (N, m, m)


def batches(
    dataset: PatchDataset,
    keys: Callable[[], Iterator[list[Key]]],
    *,
    workers: int,
    pinned: bool,
    precision: torch.dtype,
) -> Generator[Batch]:
    """Yield a batch for each list of keys, its images in the precision of the arithmetic, which halves the way.

    Where shared memory or processes run out, a word is said and the patches are made in this process: they are the
    same.

    Raises
    ------
    UnetError : what a file did wrong, wherever its patch was made.
    """
    done = 0
    while True:
        try:
            for batch in _loader(dataset, keys, done, workers, pinned, precision):
                if isinstance(batch, UnetError):
                    raise batch
                yield batch
                done += 1
            return
        except (OSError, RuntimeError) as error:
            cause = _cause(error)
            if not workers or cause is None:
                raise
            warn(f"{cause}: patches are made without --workers from here on")
            workers = 0


def _loader(
    dataset: PatchDataset,
    keys: Callable[[], Iterator[list[Key]]],
    done: int,
    workers: int,
    pinned: bool,
    precision: torch.dtype,
) -> torch.utils.data.DataLoader[Any]:
    return torch.utils.data.DataLoader(
        _Caught(dataset),
        batch_sampler=_Keys(keys, done),
        num_workers=workers,
        collate_fn=partial(_collate, precision),
        worker_init_fn=_quiet_worker if workers else None,
        pin_memory=pinned,
    )


def _cause(error: Exception) -> str | None:
    """Return why patches can be made in this process only; None where that would not help."""
    text = str(error)
    if "Bus error" in text or "shared memory" in text or "No space left" in text:
        return "shared memory ran out (/dev/shm)"
    if isinstance(error, BlockingIOError):  # EAGAIN: no more processes for this user
        return "no process could be started"
    return None


class _Keys:
    """A batch sampler over keys made by a function, but for the first `done` lists."""

    def __init__(self, make: Callable[[], Iterator[list[Key]]], done: int) -> None:
        self.make = make
        self.done = done

    def __iter__(self) -> Iterator[list[Key]]:
        lists = self.make()
        for _ in range(self.done):
            next(lists, None)
        return lists


class _Caught(torch.utils.data.Dataset[Any]):
    """A data set that returns errors, which then come out of a worker as they are."""

    def __init__(self, dataset: PatchDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, key: Key) -> Any:
        try:
            return self.dataset[key]
        except UnetError as error:
            return error


def _collate(precision: torch.dtype, patches: list[Any]) -> Any:
    failed = [patch for patch in patches if isinstance(patch, UnetError)]
    if failed:
        return failed[0]
    images, *others = zip(*patches, strict=True)
    return torch.stack([image.to(precision) for image in images]), *map(torch.stack, others)


def _quiet_worker(number: int) -> None:
    """Leave signals to the main process, and its cores to it too.

    Terminals and clusters send signals to all processes at once, and the main one still needs these: of SIGTERM its own
    alone counts. The thread that hands patches over complains when the main process ends while it fetches one: nobody
    needs to know.
    """
    import cv2

    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_when_told, daemon=True).start()
    sys.excepthook = lambda *_: None  # errors of patches do not come here, they go to the main process
    torch.set_num_threads(1)
    cv2.setNumThreads(0)


def _end_when_told() -> None:
    """Wait for a SIGTERM of the main process, and end this one."""
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)

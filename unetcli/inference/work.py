"""What each process of a cluster does: predict some rows of an image, write them, and record that they are done."""

import functools
import os
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unetcli.errors import ModelFileError, OutputError
from unetcli.images import IntensityRange, normalize
from unetcli.images.atomic_folder import KEY, read_key
from unetcli.images.omezarr_encoder import Level
from unetcli.inference.infer import Segmenter
from unetcli.inference.predict import Band, TileSize, predict_bands
from unetcli.inference.records import InferConfig
from unetcli.inference.scan import Scan, open_scan
from unetcli.inference.tiling import TileGrid
from unetcli.models.device import choose_device, set_threads

_loading = threading.Lock()
_of_thread = threading.local()  # the image that a thread has open


@dataclass(frozen=True)
class Work:
    """What a process needs to predict any rows of an image.

    Parameters
    ----------
    models : paths, and the SHA-256 of the weights that the client has read there.
    device, precision, threads : as chosen by the user, and the precision by the client; threads None are dask's.
    sources, stamp : the files of the image, and their state, by which an open file is known to be current.
    config, intensity : how to read and predict, and the range of the whole image.
    tile, batch : the largest to use.
    part, key : the folder in which done bands are recorded, and what it belongs to; None where nothing is.
    keep_probabilities : whether the client wants them.
    rows, level : what to write of a band, and where; None where the client writes.
    """

    models: tuple[tuple[Path, str], ...]
    device: str
    precision: str
    threads: int | None
    sources: tuple[Path, ...]
    stamp: str
    config: InferConfig
    intensity: IntensityRange
    tile: int
    batch: int
    part: Path | None
    key: str
    keep_probabilities: bool = False
    rows: Callable[[Band], NDArray[Any]] | None = None
    wants_probabilities: bool = False
    level: Level | None = None


def predict_rows(work: Work, page: int, part: TileGrid) -> Band:
    """Return the prediction for some rows of a page; runs in the processes of the cluster."""
    segmenter = _segmenter(work)
    image = _image(work)
    prepare = functools.partial(normalize, intensity=work.intensity)
    bands = list(
        predict_bands(
            segmenter.ensemble(work.config),
            image.page(page),
            prepare,
            TileSize(work.tile, work.batch),
            keep_probabilities=work.keep_probabilities or work.wants_probabilities,
            grid=part,
        )
    )
    probabilities = None if bands[0].probabilities is None else np.concatenate([b.probabilities for b in bands], axis=1)
    band = Band(part.top, np.concatenate([b.classes for b in bands]), probabilities)
    if work.part is not None and read_key(work.part) != work.key:
        raise OutputError("was taken by another run meanwhile", path=work.part, hint="write to another place with -o")
    if work.level is not None and work.rows is not None:
        rows = work.rows(band)
        work.level.write(page, band.top, rows if rows.ndim == 3 else rows[:, :, None])
    band = band if work.keep_probabilities else replace(band, probabilities=None)
    if work.part is not None:
        _save_record(work, page, part, band)
    return band


def _segmenter(work: Work) -> Segmenter:
    with _loading:
        return _load(work.models, _own_device(work.device), work.precision, work.threads)


@functools.lru_cache(maxsize=1)
def _load(models: tuple[tuple[Path, str], ...], device: str, precision: str, threads: int | None) -> Segmenter:
    if threads is not None:
        set_threads(threads)
    segmenter = Segmenter([path for path, _ in models], choose_device(device, precision))
    for (path, found), (_, expected) in zip(segmenter.files, models, strict=True):
        if found != expected:
            raise ModelFileError(
                "is another model than the client has", path=path, hint="copy the same file everywhere"
            )
    return segmenter


def _own_device(device: str) -> str:
    """Return the card of a local process: each has its own."""
    import torch
    from distributed import get_worker

    name, cards = get_worker().name, torch.cuda.device_count()
    return f"cuda:{name % cards}" if device in ("auto", "cuda") and cards > 1 and isinstance(name, int) else device


def _image(work: Work) -> Scan:
    state = (work.sources, work.stamp, work.config.axes, work.config.pages)
    if getattr(_of_thread, "state", None) != state:
        if hasattr(_of_thread, "stack"):
            _of_thread.stack.close()
        _of_thread.stack, _of_thread.state = ExitStack(), None
        opened = open_scan(work.sources, axes=work.config.axes, pages=work.config.pages)
        _of_thread.image, _of_thread.state = _of_thread.stack.enter_context(opened), state
    image: Scan = _of_thread.image
    return image


def record_path(work: Work, page: int, part: TileGrid) -> Path:
    """Return where a done band is kept."""
    assert work.part is not None
    return work.part / KEY / f"{page}-{part.top}.npz"


def _save_record(work: Work, page: int, part: TileGrid, band: Band) -> None:
    path = record_path(work, page, part)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
    with temporary.open("wb") as file:
        if band.probabilities is None:
            np.savez_compressed(file, classes=band.classes)
        else:
            np.savez_compressed(file, classes=band.classes, probabilities=band.probabilities)
    temporary.replace(path)


def read_record(work: Work, page: int, part: TileGrid) -> Band:
    """Return what an earlier run predicted."""
    with np.load(record_path(work, page, part)) as pixels:
        return Band(part.top, pixels["classes"], pixels.get("probabilities"))

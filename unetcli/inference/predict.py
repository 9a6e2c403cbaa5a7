"""Run networks over an image of any size, tile by tile, with a result that does not depend on the tiles."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from unetcli.errors import ResourceError, tells_lack_of_memory, warn
from unetcli.geometry import Geometry
from unetcli.images.mirror import Source, read_mirrored
from unetcli.inference.tiling import Region, TileGrid, cut
from unetcli.models import geometry_of
from unetcli.models.device import Device

Prepare = Callable[[NDArray[Any]], NDArray[np.float32]]  # raw pixels (h, w, C) -> normalized pixels (h, w, C)
Turn = tuple[int, bool]  # quarter turns, then mirrored or not

EIGHT_TURNS: tuple[Turn, ...] = tuple((quarters, mirrored) for mirrored in (False, True) for quarters in range(4))
UNTURNED = EIGHT_TURNS[:1]

T = TypeVar("T")
Downloading = Callable[[], list[NDArray[Any]]]
Uploaded = tuple[Tensor, torch.cuda.Event | None]  # tiles on the device, and what says when they are there


@dataclass(frozen=True)
class Band:
    """The prediction for full-width rows of an image, from `top` on.

    Parameters
    ----------
    top : first row.
    classes : class index of each pixel, uint8 (h, W).
    probabilities : of each class, float32 (K, h, W); None unless asked for.
    """

    top: int
    classes: NDArray[np.uint8]
    probabilities: NDArray[np.float32] | None


@dataclass
class TileSize:
    """The largest tile and batch to use; both shrink when memory runs out, and stay so for what follows."""

    tile: int
    batch: int = 1

    def shrink(self, geometry: Geometry) -> None:
        """Halve the batch, then the tile.

        Raises
        ------
        ResourceError : a single smallest tile is already in use.
        """
        smallest = geometry.input_for(geometry.step)
        if self.batch > 1:
            self.batch //= 2
        elif self.tile > smallest:
            self.tile = max(smallest, geometry.nearest_legal(self.tile // 2))
        else:
            raise ResourceError(
                f"out of memory with one tile of {self.tile} pixels", hint="use a model with fewer --features"
            )
        warn(f"out of memory: going on with tiles of {self.tile} pixels, {self.batch} at once")


@dataclass(frozen=True)
class Ensemble:
    """Networks whose probabilities are averaged, and how to feed them.

    Parameters
    ----------
    networks : in evaluation mode, on the device.
    device : where they are.
    turns : quarter turns and mirrorings of each tile whose predictions are averaged too.
    threshold : probability above which a two-class network sees foreground; with more classes the likeliest wins.
    """

    networks: Sequence[nn.Module]
    device: Device
    turns: Sequence[Turn] = UNTURNED
    threshold: float = 0.5

    @property
    def geometry(self) -> Geometry:
        """The geometry that decides where tiles may start: the coarsest of the networks'."""
        return max(map(geometry_of, self.networks), key=lambda geometry: (geometry.step, geometry.border))

    def probabilities(self, batches: Sequence[Tensor], core: tuple[int, int]) -> Tensor:
        """Return class probabilities (N, K, *core) of a batch of tiles, on the device as each network reads them."""
        total: Tensor | None = None
        for network, tiles in zip(self.networks, batches, strict=True):
            cut_off = geometry_of(network).context
            for turn in self.turns:
                with torch.inference_mode(), self.device.arithmetic():
                    logits = turned_back(network(turned(tiles, turn)), turn)
                exact = logits[..., cut_off : cut_off + core[0], cut_off : cut_off + core[1]]
                part = exact.float().softmax(dim=1)
                total = part if total is None else total.add_(part)
        assert total is not None
        return total / (len(self.networks) * len(self.turns))

    def classes(self, probabilities: Tensor) -> Tensor:
        """Return the class index (N, H, W) of probabilities (N, K, H, W)."""
        if probabilities.shape[1] == 2:
            return (probabilities[:, 1] > self.threshold).to(torch.uint8)
        return probabilities.argmax(dim=1).to(torch.uint8)


def turned(tiles: Tensor, turn: Turn) -> Tensor:
    """Return tiles (N, C, H, W) turned by quarters, then mirrored."""
    quarters, mirrored = turn
    result = torch.rot90(tiles, quarters, (-2, -1))
    return result.flip(-1) if mirrored else result


def turned_back(tiles: Tensor, turn: Turn) -> Tensor:
    """Return what `turned` did undone."""
    quarters, mirrored = turn
    return torch.rot90(tiles.flip(-1) if mirrored else tiles, -quarters, (-2, -1))


def predict_bands(
    ensemble: Ensemble,
    source: Source,
    prepare: Prepare,
    size: TileSize,
    *,
    keep_probabilities: bool = False,
    grid: TileGrid | None = None,
) -> Iterator[Band]:
    """Yield the prediction for an image from top to bottom, one row of tiles at a time.

    Parameters
    ----------
    source : raw pixels (H, W, C), read by region while the network computes.
    prepare : the normalization, applied to each region after mirroring.
    size : tile and batch to use; shrunk in place when memory runs out, after which the band is computed again.
    grid : the tiles of some rows; by default those of the whole image.

    Raises
    ------
    ResourceError : not even one smallest tile fits the memory.
    """
    height, width = source.shape[:2]
    grid = grid or cut(height, width, ensemble.geometry, size.tile)
    top = grid.top
    while top < grid.height:
        try:
            for band in _bands_of(ensemble, source, prepare, grid, size.batch, keep_probabilities):
                yield band
                top = band.top + band.classes.shape[0]
        except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
            if not is_out_of_memory(error):
                raise
            size.shrink(ensemble.geometry)
            grid = cut(grid.height, width, ensemble.geometry, size.tile, top=top)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or tells_lack_of_memory(error)


def _bands_of(
    ensemble: Ensemble, source: Source, prepare: Prepare, grid: TileGrid, batch: int, keep_probabilities: bool
) -> Iterator[Band]:
    core = (grid.core_height, grid.core_width)
    geometries = [geometry_of(network) for network in ensemble.networks]
    transfers = _Transfers(ensemble.device)
    rows = list(grid.rows())
    batches = [row[first : first + batch] for row in rows for first in range(0, len(row), batch)]

    def read(writes: list[Region]) -> tuple[list[Region], list[Uploaded]]:
        return writes, [
            transfers.upload(_read_batch(source, prepare, grid, writes, geometry)) for geometry in geometries
        ]

    def computed() -> Iterator[tuple[list[Region], Downloading]]:
        for writes, tiles in _one_ahead(read, batches):
            probabilities = ensemble.probabilities([transfers.awaited(each) for each in tiles], core)
            kept = [probabilities] if keep_probabilities else []
            yield writes, transfers.download([ensemble.classes(probabilities), *kept])

    for writes, downloading in _one_behind(computed()):
        if writes[0].left == 0:
            shape = (writes[0].height, grid.width)
            classes = np.empty(shape, np.uint8)
            probabilities: NDArray[np.float32] | None = None
        classes_of_tiles, *kept = downloading()
        if kept and probabilities is None:
            probabilities = np.empty((kept[0].shape[1], *shape), np.float32)
        for number, write in enumerate(writes):
            inside = np.s_[..., : write.height, : write.width]
            classes[:, write.left : write.right] = classes_of_tiles[number][inside]
            if probabilities is not None:
                probabilities[:, :, write.left : write.right] = kept[0][number][inside]
        if writes[-1].right == grid.width:
            yield Band(writes[0].top, classes, probabilities)


def _read_batch(source: Source, prepare: Prepare, grid: TileGrid, writes: list[Region], geometry: Geometry) -> Tensor:
    tiles = []
    for write in writes:
        read = grid.read_region(write, geometry)
        tiles.append(prepare(read_mirrored(source, read.top, read.bottom, read.left, read.right)))
    return torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2)  # (N, h, w, C) -> (N, C, h, w), channels last


class _Transfers:
    """Moves tiles to the device and predictions back, on CUDA beside what the device computes meanwhile."""

    def __init__(self, device: Device) -> None:
        self.device = device.torch
        self.streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None  # up and down
        if device.kind == "cuda":
            self.streams = (torch.cuda.Stream(self.device), torch.cuda.Stream(self.device))  # type: ignore[no-untyped-call]

    def upload(self, tiles: Tensor) -> Uploaded:
        """Return tiles on the device, and the event after which they are there."""
        if self.streams is None:
            return tiles.to(self.device, memory_format=torch.channels_last), None
        with torch.cuda.stream(self.streams[0]):
            moved = tiles.pin_memory().to(self.device, non_blocking=True, memory_format=torch.channels_last)
            return moved, self.streams[0].record_event()

    def awaited(self, uploaded: Uploaded) -> Tensor:
        """Return tiles that the computing stream will find complete."""
        tiles, event = uploaded
        if event is not None:
            computing = torch.cuda.current_stream(self.device)
            computing.wait_event(event)
            tiles.record_stream(computing)
        return tiles

    def download(self, tensors: Sequence[Tensor]) -> Downloading:
        """Return what waits until tensors, which may still be computed, are in memory, and returns them there."""
        if self.streams is None:
            arrays = [tensor.cpu().numpy() for tensor in tensors]
            return lambda: arrays
        down = self.streams[1]
        down.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(down):
            moved = [tensor.to("cpu", non_blocking=True) for tensor in tensors]  # into pinned memory
            event = down.record_event()
        for tensor in tensors:
            tensor.record_stream(down)

        def wait() -> list[NDArray[Any]]:
            event.synchronize()
            return [tensor.numpy() for tensor in moved]

        return wait


def _one_ahead(work: Callable[[list[Region]], T], items: Sequence[list[Region]]) -> Iterator[T]:
    """Yield ``work(item)`` for each item, the next one being worked on in a thread meanwhile."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        upcoming = thread.submit(work, items[0])
        for item in [*items[1:], None]:
            current = upcoming.result()
            if item is not None:
                upcoming = thread.submit(work, item)
            yield current


def _one_behind(items: Iterable[T]) -> Iterator[T]:
    """Yield each item once the next one has begun, so that the device has work while this one is used."""
    waiting: list[T] = []
    for item in items:
        waiting.append(item)
        if len(waiting) > 1:
            yield waiting.pop(0)
    yield from waiting

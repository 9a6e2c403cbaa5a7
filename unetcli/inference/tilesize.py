"""Choose tiles by the memory the process may use, and by how little arithmetic they waste."""

import copy
import math

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from unetcli.images.memory import usable_memory
from unetcli.inference.predict import TileSize
from unetcli.models import geometry_of
from unetcli.models.device import PRECISIONS, Device
from unetcli.models.fusion import operation_counts

WASTE_WORTH_GROWING = 0.10  # tiles stop growing where overlap costs less of the arithmetic, see tests/bench/README.md
MEMORY_SHARE = 0.5  # of what is free; the rest is left to images, outputs and the convolutions' work space
LARGEST_BATCH = 16
GROWTH = 1.25


def overlap_arithmetic(network: nn.Module, channels: int, tile: int) -> float:
    """Return the share of a tile's arithmetic that is spent on overlap: 0.28 for the classic tile of 572.

    The arithmetic is counted on a copy without data; the ideal is that of one endless tile.
    """
    geometry = geometry_of(network)
    counted = _without_data(network)
    endless = geometry.input_for(64 * geometry.border + 1024 * geometry.step)
    per_pixel = _operations(counted, channels, endless) / geometry.core_of(endless) ** 2
    return 1 - per_pixel * geometry.core_of(tile) ** 2 / _operations(counted, channels, tile)


def _without_data(network: nn.Module) -> nn.Module:
    return copy.deepcopy(network).to("meta", torch.float32).eval()


def _operations(network: nn.Module, channels: int, tile: int) -> int:
    with FlopCounterMode(display=False, custom_mapping=operation_counts()) as counter, torch.inference_mode():
        network(torch.empty(1, channels, tile, tile, device="meta"))
    return int(counter.get_total_flops())


def bytes_per_pixel(network: nn.Module, channels: int, device: Device) -> float:
    """Return an upper bound of the memory a tile needs for each of its pixels.

    It counts the values that leave every layer, as if none were freed before the end.
    """
    geometry = geometry_of(network)
    tile = geometry.input_for(8 * geometry.step)
    counted = _without_data(network)
    values = 0

    def count(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
        nonlocal values
        if not getattr(module, "inplace", False):
            values += output.numel()

    hooks = [module.register_forward_hook(count) for module in counted.modules() if not list(module.children())]
    with torch.inference_mode():
        counted(torch.empty(1, channels, tile, tile, device="meta"))
    for hook in hooks:
        hook.remove()
    return values * PRECISIONS[device.precision].itemsize / tile**2


def free_memory(device: Device) -> int:
    """Return the bytes that may still be allocated where the network runs."""
    if device.kind == "cuda":
        free, _ = torch.cuda.mem_get_info(device.torch)
        cached = torch.cuda.memory_reserved(device.torch) - torch.cuda.memory_allocated(device.torch)
        return int(free) + cached
    return usable_memory()


def choose_tile(network: nn.Module, channels: int, device: Device, *, tile: int = 0, batch: int = 0) -> TileSize:
    """Return the tile and batch to use; a `tile` or `batch` that is not 0 is taken as it is, made legal.

    A tile grows until overlap costs less than 10 % of the arithmetic or the memory is full, and always writes at
    least one step; the batch is 1 on a CPU, where it gains nothing, and what the memory holds on a GPU.
    """
    geometry = geometry_of(network)
    smallest = geometry.input_for(geometry.step)
    cost = bytes_per_pixel(network, channels, device)
    memory = free_memory(device) * MEMORY_SHARE
    if tile:
        chosen = max(smallest, geometry.nearest_legal(tile))
    else:
        fitting = math.isqrt(int(memory / cost))
        chosen = smallest
        while overlap_arithmetic(network, channels, chosen) > WASTE_WORTH_GROWING:
            larger = geometry.nearest_legal(int(chosen * GROWTH) + geometry.step)
            if larger > fitting:
                break
            chosen = larger
    if not batch:
        batch = 1 if device.kind == "cpu" else max(1, min(LARGEST_BATCH, int(memory / (cost * chosen**2))))
    return TileSize(chosen, batch)

"""Which rows of a network's output saw nothing but real pixels, read off the network's own forward pass.

A tile is seam-free where its output saw no padding, and what saw padding is cut off. How much that is follows from
kernels, strides and paddings alone. So instead of an image a `Rows` is sent through the network: it answers the
functions of `torch` with arithmetic on row numbers, computes no pixel, and comes out as the rows that are exact.
Both image axes are treated alike.

A layer without a rule here is refused. A normalization by group or instance will not get one: it computes statistics
per tile, and then the prediction depends on the tile.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetcli.geometry import Geometry
from unetcli.models.blocks import unpool

Size = int | tuple[int, ...]


@dataclass(frozen=True)
class Rows:
    """The rows of a feature map, as a stand-in for its tensor.

    Parameters
    ----------
    count : how many there are.
    first, stop : rows ``first .. stop - 1`` depend on real pixels only, the others on padding too.
    """

    count: int
    first: int
    stop: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("nothing is left of the image")

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of the tensor stood in for; images and channels are not followed and read as 1."""
        return (1, 1, self.count, self.count)

    def dim(self) -> int:
        """Return the number of axes of the tensor stood in for."""
        return 4

    def size(self, axis: int) -> int:
        """Return the length of one axis of the tensor stood in for."""
        return self.shape[axis]

    def __getitem__(self, index: tuple[Any, ...]) -> "Rows":
        start, stop, stride = index[-1].indices(self.count)
        if stride != 1:
            raise ValueError("only crops have a rule")
        return Rows(stop - start, max(0, self.first - start), min(stop, self.stop) - start)

    def __add__(self, other: "Rows") -> "Rows":
        return joined([self, other])

    def __truediv__(self, divisor: float) -> "Rows":
        return self

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function in POINTWISE:
            return args[0]
        if function not in RULES:
            raise TypeError(f"no rule for the rows behind {getattr(function, '__name__', function)}")
        return RULES[function](*args, **(kwargs or {}))


def measure(network: nn.Module, *, step: int, smallest: int) -> Geometry:
    """Return the geometry of a network in evaluation mode, margin and context being read off its forward pass.

    Parameters
    ----------
    step : the shift in pixels under which the network is equivariant.
    smallest : the smallest legal input.
    """
    size = smallest + 64 * step  # large enough to keep exact rows in the middle
    was_training = network.training
    network.eval()
    rows = network(Rows(size, 0, size))
    network.train(was_training)
    assert rows.first < rows.stop, "the receptive field is larger than 64 steps"
    assert (size - rows.count) % 2 == 0
    context = max(rows.first, rows.count - rows.stop)
    return Geometry(step=step, smallest=smallest, margin=(size - rows.count) // 2, context=-(-context // step) * step)


def joined(maps: Sequence[Rows], dim: int = 1) -> Rows:
    """Return the rows of feature maps that are concatenated or summed: exact where all of them are."""
    if len({rows.count for rows in maps}) > 1:
        raise ValueError(f"feature maps of {', '.join(str(rows.count) for rows in maps)} rows do not fit together")
    return Rows(maps[0].count, max(rows.first for rows in maps), min(rows.stop for rows in maps))


def convolved(
    rows: Rows,
    weight: Tensor,
    bias: Any = None,
    stride: Size = 1,
    padding: Size = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Rows:
    """Return the rows behind a convolution: row o sees ``o * stride - padding`` and ``reach`` rows from there on."""
    return _swept(rows, (weight.shape[-1] - 1) * _one(dilation) + 1, _one(stride), _one(padding))


def pooled(rows: Rows, kernel_size: Size, stride: Size | None = None, padding: Size = 0, **others: Any) -> Rows:
    """Return the rows behind a maximum pooling, whose windows must fit the rows exactly."""
    reach = _one(kernel_size)
    stride = reach if stride is None else _one(stride)
    if (rows.count + 2 * _one(padding) - reach) % stride:
        raise ValueError(f"pooling by {stride} drops a row of {rows.count}")
    return _swept(rows, reach, stride, _one(padding))


def up_convolved(
    rows: Rows, weight: Tensor, bias: Any = None, stride: Size = 1, padding: Size = 0, *others: Any, **more: Any
) -> Rows:
    """Return the rows behind a transposed convolution; one that a missing row would have fed is not exact."""
    kernel, stride, padding = weight.shape[-1], _one(stride), _one(padding)
    size = (rows.count - 1) * stride + kernel - 2 * padding
    first = (rows.first - 1) * stride + kernel - padding
    stop = rows.stop * stride - padding
    return Rows(size, max(0, first), min(size, stop))


def interpolated(
    rows: Rows, size: Any = None, scale_factor: float | None = None, mode: str = "nearest", **others: Any
) -> Rows:
    """Return the rows behind an up-sampling; the bilinear one clamps half a row at each edge."""
    scale = int(scale_factor or 0)
    if not scale or scale != scale_factor or mode not in ("nearest", "bilinear") or others.get("align_corners"):
        raise TypeError("only nearest and bilinear up-sampling by a whole number, corners not aligned, have a rule")
    if mode == "nearest":
        return Rows(scale * rows.count, scale * rows.first, scale * rows.stop)
    # output row o lies between the input rows i and i + 1, i = floor((o + 1/2) / scale - 1/2)
    first = scale * rows.first + scale // 2
    return Rows(scale * rows.count, first, scale * rows.stop - scale // 2)


def unpooled(values: Rows, indices: Rows) -> Rows:
    """Return the rows behind a 2x2 unpooling, exact where both the values and their places are."""
    rows = joined([values, indices])
    return Rows(2 * rows.count, 2 * rows.first, 2 * rows.stop)


def _swept(rows: Rows, reach: int, stride: int, padding: int) -> Rows:
    size = (rows.count + 2 * padding - reach) // stride + 1
    first = -(-(rows.first + padding) // stride)
    stop = (rows.stop + padding - reach) // stride + 1
    return Rows(size, first, min(size, stop))


def _one(size: Size) -> int:
    if isinstance(size, int):
        return size
    if len(set(size)) > 1:
        raise ValueError(f"the two image axes must be alike, not {size}")
    return size[0]


RULES: dict[Any, Callable[..., Any]] = {
    torch.conv2d: convolved,
    torch.conv_transpose2d: up_convolved,
    torch.cat: joined,
    functional.max_pool2d: pooled,
    functional.max_pool2d_with_indices: lambda *args, **kwargs: (pooled(*args, **kwargs),) * 2,
    functional.interpolate: interpolated,
    unpool: unpooled,
}
POINTWISE = {
    functional.batch_norm,
    functional.dropout,
    functional.dropout2d,
    functional.elu,
    functional.gelu,
    functional.hardtanh,
    functional.leaky_relu,
    functional.relu,
    functional.relu6,
    functional.silu,
}

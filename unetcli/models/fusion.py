"""Networks as inference runs them on a CPU: convolutions that apply their ReLU while they write."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from unetcli.images.memory import keep_freed_memory
from unetcli.models.device import PRECISIONS, Device, move_network


class ConvolutionReLU(nn.Module):
    """A convolution and its ReLU in one pass over the memory, with the values that the two give one after the other.

    Parameters
    ----------
    convolution : whose weights it takes, in the precision `dtype`.
    """

    def __init__(self, convolution: nn.Conv2d, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = nn.Parameter(convolution.weight.detach().to(dtype), requires_grad=False)
        self.bias: nn.Parameter | None = None
        if convolution.bias is not None:
            self.bias = nn.Parameter(convolution.bias.detach().to(dtype), requires_grad=False)
        assert not isinstance(convolution.padding, str)
        self.padding, self.stride = list(convolution.padding), list(convolution.stride)
        self.dilation, self.groups = list(convolution.dilation), convolution.groups

    def forward(self, image: Tensor) -> Tensor:
        """Return features (N, C, H', W') of at least 0, in the precision of the weights."""
        features: Tensor = torch.ops.mkldnn._convolution_pointwise(
            image.to(self.weight.dtype),
            self.weight,
            self.bias,
            self.padding,
            self.stride,
            self.dilation,
            self.groups,
            "relu",
            [],
            "",
        )
        return features


def ready(network: nn.Module, device: Device) -> nn.Module:
    """Return the network on the device, as fast as it gets there; it is changed, and can no longer be trained."""
    network = move_network(network, device)
    if device.kind == "cpu":
        keep_freed_memory()
        if _can_fuse(device.precision):
            _fuse(network, PRECISIONS[device.precision])
    return network


def operation_counts() -> dict[Any, Callable[..., int]]:
    """Return how `torch.utils.flop_counter.FlopCounterMode` is to count a `ConvolutionReLU`."""
    return {torch.ops.mkldnn._convolution_pointwise: _operations} if _has_onednn() else {}


def _operations(*shapes: torch.Size, out_shape: torch.Size, **_: object) -> int:
    return 2 * math.prod(out_shape) * math.prod(shapes[1][1:])  # a product and a sum per weight of a filter


def _has_onednn() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _can_fuse(precision: str) -> bool:
    return _has_onednn() and (precision == "fp32" or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _fuse(network: nn.Module, dtype: torch.dtype) -> None:
    """Put one module in place of every convolution that a ReLU follows directly in a sequence."""
    for sequence in [module for module in network.modules() if isinstance(module, nn.Sequential)]:
        for first, second in pairwise(list(sequence._modules)):
            convolution = sequence._modules[first]
            if _is_plain(convolution) and isinstance(sequence._modules[second], nn.ReLU):
                sequence._modules[second] = ConvolutionReLU(convolution, dtype)
                del sequence._modules[first]


def _is_plain(module: nn.Module | None) -> TypeGuard[nn.Conv2d]:
    return type(module) is nn.Conv2d and module.padding_mode == "zeros" and not isinstance(module.padding, str)

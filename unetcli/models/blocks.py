"""Parts that several networks are made of, and how their weights start."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import handle_torch_function, has_torch_function


def convolution(channels_in: int, channels_out: int, *, padding: int = 1, batch_norm: bool = False) -> nn.Sequential:
    """Return a 3x3 convolution and a ReLU, with batch normalization between them (which has the bias then) or not."""
    first = nn.Conv2d(channels_in, channels_out, 3, padding=padding, bias=not batch_norm)
    if not batch_norm:
        return RectifiedConvolution(OrderedDict(convolution=first, relu=nn.ReLU(inplace=True)))
    return nn.Sequential(OrderedDict(convolution=first, norm=nn.BatchNorm2d(channels_out), relu=nn.ReLU(inplace=True)))


class RectifiedConvolution(nn.Sequential):
    """A convolution with a bias, and its ReLU.

    In bf16 and fp16 on CUDA, cuDNN adds the bias and clips while it writes: as operations of their own these two take
    as long as the convolutions of a wide level.
    """

    def forward(self, image: Tensor) -> Tensor:
        """Return features (N, C, H', W') of at least 0."""
        if isinstance(image, Tensor) and image.is_cuda and torch.version.cuda:
            precision = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else image.dtype
            if precision in (torch.bfloat16, torch.float16):
                convolution: Any = self.convolution
                parts = [part.to(precision) for part in (image, convolution.weight, convolution.bias)]
                rectified: Tensor = _OnePass.apply(*parts, convolution.padding)  # type: ignore[no-untyped-call]
                return rectified
        features: Tensor = super().forward(image)  # type: ignore[no-untyped-call]
        return features


class _OnePass(torch.autograd.Function):
    """A 3x3 convolution, its bias and its ReLU by cuDNN; the way back needs the result alone to undo the ReLU."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, weight: Tensor, bias: Tensor, padding: tuple[int, int]) -> Tensor:
        features: Tensor = torch.cudnn_convolution_relu(image, weight, bias, (1, 1), padding, (1, 1), 1)
        ctx.save_for_backward(image, weight, features)
        ctx.padding = padding
        return features

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        image, weight, features = ctx.saved_tensors
        below = torch.ops.aten.threshold_backward(gradient, features, 0)
        parts: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
            below, image, weight, [len(weight)], [1, 1], ctx.padding, [1, 1], False, [0, 0], 1, ctx.needs_input_grad[:3]
        )
        return *parts, None


def centre_crop(features: Tensor, like: Tensor) -> Tensor:
    """Return the centre of `features` (N, C, H, W) with the size of `like`; an odd rest falls to the end."""
    top = (features.shape[-2] - like.shape[-2]) // 2
    left = (features.shape[-1] - like.shape[-1]) // 2
    rows, columns = slice(top, top + like.shape[-2]), slice(left, left + like.shape[-1])
    if isinstance(features, Tensor) and features.requires_grad:
        cropped: Tensor = _Crop.apply(features, rows, columns)  # type: ignore[no-untyped-call]
        return cropped
    return features[..., rows, columns]


class _Crop(torch.autograd.Function):
    """A crop whose gradient keeps the memory layout: torch's own comes back channels first, to be copied once more."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, rows: slice, columns: slice) -> Tensor:
        height, width = features.shape[-2:]
        ctx.around = (columns.start, width - columns.stop, rows.start, height - rows.stop)
        return features[..., rows, columns]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return functional.pad(gradient, ctx.around), None, None


def unpool(pooled: Tensor, indices: Tensor) -> Tensor:
    """Return zeros (N, C, 2H, 2W) with the values of a 2x2 maximum pooling (N, C, H, W) back where they stood.

    Unlike `torch.nn.functional.max_unpool2d` it is deterministic for torch too, since no place is written twice.

    Parameters
    ----------
    indices : (N, C, H, W), as the pooling returned them: positions in the flattened (2H, 2W).
    """
    if has_torch_function((pooled, indices)):
        return handle_torch_function(unpool, (pooled, indices), pooled, indices)
    images, channels, height, width = pooled.shape
    zeros = pooled.new_zeros(images, channels, 4 * height * width)
    return zeros.scatter(2, indices.flatten(2), pooled.flatten(2)).view(images, channels, 2 * height, 2 * width)


def initialize_he(network: nn.Module) -> None:
    """Draw weights from a Gaussian of standard deviation sqrt(2/N), N the incoming nodes of one neuron (section 3).

    For a 3x3 convolution on 64 channels N = 9 * 64 = 576; for a 2x2 up-convolution with stride 2 each output pixel
    sees one input pixel, so N is the number of its input channels. Biases start at zero.
    """
    for module in network.modules():
        if isinstance(module, nn.ConvTranspose2d):
            overlap = math.prod(k / s for k, s in zip(module.kernel_size, module.stride, strict=True))
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.in_channels * overlap)))
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)

"""Parts that several networks are made of, and how their weights start."""

import math
from collections import OrderedDict

from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function


def convolution(channels_in: int, channels_out: int, *, padding: int = 1, batch_norm: bool = False) -> nn.Sequential:
    """Return a 3x3 convolution and a ReLU, with batch normalization between them (which has the bias then) or not."""
    parts: list[tuple[str, nn.Module]] = [
        ("convolution", nn.Conv2d(channels_in, channels_out, 3, padding=padding, bias=not batch_norm))
    ]
    if batch_norm:
        parts.append(("norm", nn.BatchNorm2d(channels_out)))
    parts.append(("relu", nn.ReLU(inplace=True)))
    return nn.Sequential(OrderedDict(parts))


def centre_crop(features: Tensor, like: Tensor) -> Tensor:
    """Return the centre of `features` (N, C, H, W) with the size of `like`; an odd rest falls to the end."""
    top = (features.shape[-2] - like.shape[-2]) // 2
    left = (features.shape[-1] - like.shape[-1]) // 2
    return features[..., top : top + like.shape[-2], left : left + like.shape[-1]]


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

"""A U-Net on the convolutions of MobileNetV1 (arXiv 1704.04861), as the family of Keras models has it.

The contracting path costs little: it filters each channel on its own (depthwise) and mixes them with 1x1
convolutions (pointwise). The expanding path ends at half the resolution, from where logits are interpolated.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetcli.models.arguments import Channels, Classes, Features
from unetcli.models.blocks import initialize_he
from unetcli.models.receptive_field import measure


class MobileNetUNet(nn.Module):
    """Four stages of MobileNetV1, each at half the resolution of the one before, and an expanding path with skips.

    Parameters
    ----------
    channels : image channels.
    classes : classes out, background included.
    features : channels of the first convolution (32 in MobileNetV1).
    first_skip : whether the finest stage is joined to the expanding path.
    """

    def __init__(self, channels: int, classes: int, *, features: int, first_skip: bool) -> None:
        super().__init__()
        f1, f2, f3, f4 = (features * factor for factor in (2, 4, 8, 16))  # 64, 128, 256, 512
        self.contracting = nn.ModuleList(
            [
                nn.Sequential(first_convolution(channels, features), separable(features, f1)),
                nn.Sequential(separable(f1, f2, stride=2), separable(f2, f2)),
                nn.Sequential(separable(f2, f3, stride=2), separable(f3, f3)),
                nn.Sequential(separable(f3, f4, stride=2), *(separable(f4, f4) for _ in range(5))),
            ]
        )
        self.bottom = normalized_convolution(f4, f4)
        self.first_skip = first_skip
        self.expanding = nn.ModuleList(
            [
                normalized_convolution(f4 + f3, f3),
                normalized_convolution(f3 + f2, f2),
                normalized_convolution(f2 + f1 if first_skip else f2, f1),
            ]
        )
        self.classifier = nn.Conv2d(f1, classes, 3, padding=1)
        initialize_he(self)
        self.geometry = measure(self, step=16, smallest=32)  # batch normalization cannot learn from a single pixel

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) of an image (N, channels, H, W)."""
        skips = []
        features = image
        for stage in self.contracting:
            features = stage(features)
            skips.append(features)  # H/2, H/4, H/8, H/16
        features = self.bottom(skips.pop())
        for block in self.expanding:
            features = functional.interpolate(features, scale_factor=2, mode="nearest")
            skip = skips.pop()
            features = block(torch.cat([features, skip], dim=1) if skips or self.first_skip else features)
        half = self.classifier(features)  # (N, classes, H/2, W/2)
        return functional.interpolate(half, scale_factor=2, mode="bilinear", align_corners=False)


def first_convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return a 3x3 convolution with stride 2, normalized, with ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(inplace=True),
    )


def separable(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise 1x1 convolution, each normalized, with ReLU6."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_in, 3, stride=stride, padding=1, groups=channels_in, bias=False),
        nn.BatchNorm2d(channels_in),
        nn.ReLU6(inplace=True),
        nn.Conv2d(channels_in, channels_out, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU6(inplace=True),
    )


def normalized_convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return a 3x3 convolution, a ReLU, and batch normalization after it, in the order of the original."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(channels_out)
    )


def mobilenet_unet(
    channels: Channels, classes: Classes, *, features: Features = 32, first_skip: bool = True
) -> MobileNetUNet:
    """Return the U-Net with a MobileNetV1 contracting path."""
    return MobileNetUNet(channels, classes, features=features, first_skip=first_skip)

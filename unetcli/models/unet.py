"""The U-Net of Ronneberger, Fischer and Brox (2015), section 2 and figure 1."""

import math

import torch
from torch import Tensor, nn

from unetcli.geometry import Geometry


def unet_geometry(depth: int) -> Geometry:
    """Return the geometry of the valid U-Net with `depth` poolings: 572 -> 388 at depth 4.

    Two 3x3 convolutions lose 2 pixels a side at each level, and a pixel of level k is 2^k pixels wide, on the way
    down, at the bottom and on the way up: ``margin = 6 * 2^depth - 4``. The smallest input keeps one pixel at the
    bottom after both convolutions and has even sizes at every pooling.
    """
    step = 2**depth
    margin = 6 * step - 4
    return Geometry(step=step, smallest=4 + 2 * margin, margin=margin)


def centre_crop(features: Tensor, like: Tensor) -> Tensor:
    """Return the centre of `features` (N, C, H, W) with the height and width of `like`; an odd rest falls to the end."""
    top = (features.shape[-2] - like.shape[-2]) // 2
    left = (features.shape[-1] - like.shape[-1]) // 2
    return features[..., top : top + like.shape[-2], left : left + like.shape[-1]]


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


def double_convolution(channels_in: int, channels_out: int) -> nn.Sequential:
    """Two valid 3x3 convolutions, each followed by a ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels_out, channels_out, 3),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """The valid U-Net: a contracting path, a bottom, and an expanding path joined by cropped skip connections.

    Parameters
    ----------
    channels : image channels.
    classes : classes out, background included (at least 2).
    features : channels of the first level, doubled at each level (64 in the paper).
    depth : poolings (4 in the paper).
    dropout : probability of dropping a value at the end of the contracting path, that is after the last level
        before the bottom and after the bottom (section 3.1; 0.5 in the authors' released network).
    """

    def __init__(self, channels: int, classes: int, *, features: int = 64, depth: int = 4, dropout: float = 0.5) -> None:
        super().__init__()
        self.geometry = unet_geometry(depth)
        widths = [features * 2**level for level in range(depth + 1)]
        self.contracting = nn.ModuleList(
            double_convolution(before, after) for before, after in zip([channels, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottom = double_convolution(widths[-2], widths[-1])
        self.pool = nn.MaxPool2d(2)
        self.dropout = nn.Dropout(dropout)
        self.up_convolutions = nn.ModuleList(
            nn.ConvTranspose2d(below, level, 2, stride=2) for level, below in zip(widths[-2::-1], widths[:0:-1], strict=True)
        )
        self.expanding = nn.ModuleList(double_convolution(2 * width, width) for width in widths[-2::-1])
        self.classifier = nn.Conv2d(features, classes, 1)
        initialize_he(self)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, H - 2 * margin, W - 2 * margin) of an image (N, channels, H, W)."""
        skips = []
        features = image
        for level, convolutions in enumerate(self.contracting):
            features = convolutions(features)
            if level == len(self.contracting) - 1:
                features = self.dropout(features)
            skips.append(features)
            features = self.pool(features)
        features = self.dropout(self.bottom(features))
        for up_convolution, convolutions in zip(self.up_convolutions, self.expanding, strict=True):
            upsampled = up_convolution(features)
            skip = centre_crop(skips.pop(), upsampled)  # (N, C, 64, 64) -> (N, C, 56, 56), ...
            features = convolutions(torch.cat([skip, upsampled], dim=1))
        logits: Tensor = self.classifier(features)
        return logits

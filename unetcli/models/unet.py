"""The U-Net of Ronneberger, Fischer and Brox (arXiv 1505.04597), section 2 and figure 1, and its variants.

`unet` builds the network of the figure and what others made of it; `unet_2015` the one its authors released.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from unetcli.models.arguments import Channels, Classes, Depth, Dropout, Features, Temperature
from unetcli.models.blocks import centre_crop, convolution, initialize_he
from unetcli.models.receptive_field import measure


class UNet(nn.Module):
    """A contracting path, a bottom, and an expanding path joined to it by cropped skip connections.

    Parameters
    ----------
    contracting : one block per level, from the full resolution down.
    bottom : the block of the lowest level.
    up_samplings, expanding : double the rows and columns, then a block, per level from the bottom up.
    classifier : the 1x1 convolution to logits.
    smallest : the smallest legal input.
    temperature : divides the logits, so that the soft-max is flatter (above 1) or steeper (below 1).
    """

    def __init__(
        self,
        *,
        contracting: Sequence[nn.Module],
        bottom: nn.Module,
        up_samplings: Sequence[nn.Module],
        expanding: Sequence[nn.Module],
        classifier: nn.Module,
        smallest: int,
        temperature: float = 1.0,
    ) -> None:
        super().__init__()
        self.contracting = nn.ModuleList(contracting)
        self.pool = nn.MaxPool2d(2)
        self.bottom = bottom
        self.up_samplings = nn.ModuleList(up_samplings)
        self.expanding = nn.ModuleList(expanding)
        self.classifier = classifier
        self.temperature = temperature
        initialize_he(self)
        self.geometry = measure(self, step=2 ** len(contracting), smallest=smallest)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, H - 2 * margin, W - 2 * margin) of an image (N, channels, H, W)."""
        skips = []
        features = image
        for block in self.contracting:
            features = block(features)
            skips.append(features)
            features = self.pool(features)
        features = self.bottom(features)
        for up_sampling, block in zip(self.up_samplings, self.expanding, strict=True):
            features = up_sampling(features)
            features = join(features, skips.pop())
            features = block(features)
        logits: Tensor = self.classifier(features) / self.temperature
        return logits


def join(upsampled: Tensor, skip: Tensor) -> Tensor:
    """Return both (N, C + C', H, W), the skip connection cropped: (N, C, 64, 64) -> (N, C, 56, 56), and so on."""
    return torch.cat([upsampled, centre_crop(skip, upsampled)], dim=1)


def unet(
    channels: Channels,
    classes: Classes,
    *,
    features: Features = 64,
    depth: Depth = 4,
    padding: Literal["valid", "same", "valid-same"] = "valid",
    upsampling: Literal["transposed", "bilinear"] = "transposed",
    batch_norm: bool = False,
    dropout: Dropout = 0.5,
    block_dropout: Dropout = 0.0,
    temperature: Temperature = 1.0,
) -> UNet:
    """Return the U-Net of the paper (the defaults: 572 -> 388) or a variant.

    Parameters
    ----------
    channels : image channels.
    classes : classes out, background included.
    features : channels of the first level, doubled at each level.
    depth : poolings.
    padding : "valid" as in the paper; "same" pads every 3x3 convolution, so that nothing is lost; "valid-same" pads
        those of the expanding path only (572 -> 448).
    upsampling : "transposed" as in the paper, or "bilinear" after a 1x1 convolution that halves the channels.
    batch_norm : between each 3x3 convolution and its ReLU.
    dropout : probability of dropping a value at the end of the contracting path (section 3.1, which gives no rate),
        that is after the last level before the bottom and after the bottom.
    block_dropout : the same between the two convolutions of every block.
    temperature : divides the logits.
    """
    down_padding = 1 if padding == "same" else 0
    up_padding = 0 if padding == "valid" else 1
    widths = level_widths(features, depth)

    def block(channels_in: int, channels_out: int, *, padding: int, dropout: float = 0.0) -> nn.Sequential:
        return double_convolution(
            channels_in,
            channels_out,
            padding=padding,
            batch_norm=batch_norm,
            inner_dropout=block_dropout,
            outer_dropout=dropout,
        )

    def up_sampling(channels_in: int, channels_out: int) -> nn.Module:
        if upsampling == "transposed":
            return nn.ConvTranspose2d(channels_in, channels_out, 2, stride=2)
        return bilinear_up_sampling(channels_in, channels_out, trimmed=up_padding == 0)

    trimmed = 2 if upsampling == "bilinear" else 0
    return UNet(
        contracting=[
            block(above, width, padding=down_padding, dropout=dropout if width == widths[-2] else 0.0)
            for above, width in zip([channels, *widths[:-2]], widths[:-1], strict=True)
        ],
        bottom=block(widths[-2], widths[-1], padding=down_padding, dropout=dropout),
        up_samplings=[up_sampling(2 * width, width) for width in widths[-2::-1]],
        expanding=[block(2 * width, width, padding=up_padding) for width in widths[-2::-1]],
        classifier=nn.Conv2d(features, classes, 1),
        smallest=smallest_input(depth, bottom=4 + trimmed if padding == "valid" else 2, lost=4 - 4 * down_padding),
        temperature=temperature,
    )


def unet_2015(
    channels: Channels, classes: Classes, *, features: Features = 64, depth: Depth = 4, dropout: Dropout = 0.5
) -> UNet:
    """Return the network that the authors released in October 2015, which differs from the paper's figure.

    A ReLU follows each up-convolution too, the last of which keeps its channels (128) instead of halving them, and
    up-convolutions start from a smaller Gaussian: Caffe's filler takes their N as output channels times kernel size.
    """
    widths = level_widths(features, depth)
    kept = [*widths[-2:0:-1], widths[1]]  # channels out of the up-convolutions
    network = UNet(
        contracting=[
            double_convolution(above, width, outer_dropout=dropout if width == widths[-2] else 0.0)
            for above, width in zip([channels, *widths[:-2]], widths[:-1], strict=True)
        ],
        bottom=double_convolution(widths[-2], widths[-1], outer_dropout=dropout),
        up_samplings=[
            nn.Sequential(nn.ConvTranspose2d(2 * width, out, 2, stride=2), nn.ReLU(inplace=True))
            for width, out in zip(widths[-2::-1], kept, strict=True)
        ],
        expanding=[double_convolution(width + out, width) for width, out in zip(widths[-2::-1], kept, strict=True)],
        classifier=nn.Conv2d(features, classes, 1),
        smallest=smallest_input(depth, bottom=4, lost=4),
    )
    for module in network.up_samplings.modules():
        if isinstance(module, nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=math.sqrt(2 / (module.out_channels * math.prod(module.kernel_size))))
    return network


def level_widths(features: int, depth: int) -> list[int]:
    """Return the channels of each level, the bottom last: 64, 128, 256, 512, 1024."""
    return [features * 2**level for level in range(depth + 1)]


def smallest_input(depth: int, *, bottom: int, lost: int) -> int:
    """Return the input size that leaves `bottom` rows at the bottom when each block loses `lost` rows.

    From 4 rows at the bottom a valid network keeps 4 at the end (188 -> 4), from 6 one with trimmed up-samplings 6;
    fewer would not come through. A padded bottom has 2, because batch normalization cannot learn from a single pixel.
    """
    size = bottom + lost
    for _ in range(depth):
        size = 2 * size + lost
    return size


def double_convolution(
    channels_in: int,
    channels_out: int,
    *,
    padding: int = 0,
    batch_norm: bool = False,
    inner_dropout: float = 0.0,
    outer_dropout: float = 0.0,
) -> nn.Sequential:
    """Return two 3x3 convolutions, each followed by a ReLU, with dropout between and after them."""
    return nn.Sequential(
        OrderedDict(
            first=convolution(channels_in, channels_out, padding=padding, batch_norm=batch_norm),
            inner_dropout=nn.Dropout(inner_dropout),
            second=convolution(channels_out, channels_out, padding=padding, batch_norm=batch_norm),
            outer_dropout=nn.Dropout(outer_dropout),
        )
    )


def bilinear_up_sampling(channels_in: int, channels_out: int, *, trimmed: bool) -> nn.Sequential:
    """Return a 1x1 convolution and bilinear doubling, which commute, so that the cheaper order is taken.

    Bilinear up-sampling has no neighbour beyond the edge and repeats the edge row instead. A valid network trims
    the row this spoils on each side; a padded one counts it among what its context cuts off.
    """
    parts: list[nn.Module] = [
        nn.Conv2d(channels_in, channels_out, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    ]
    return nn.Sequential(*parts, Trim(1)) if trimmed else nn.Sequential(*parts)


class Trim(nn.Module):
    """Cuts `rows` rows and columns off each side."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, features: Tensor) -> Tensor:
        """Return (N, C, H - 2 * rows, W - 2 * rows)."""
        return features[..., self.rows : -self.rows, self.rows : -self.rows]

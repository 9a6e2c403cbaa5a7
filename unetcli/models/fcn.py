"""The fully convolutional networks of Shelhamer, Long and Darrell (arXiv 1605.06211): FCN-32s, FCN-16s, FCN-8s.

A VGG-16 body gives class scores at a 32nd of the resolution. FCN-32s brings them to full size at once; FCN-16s and
FCN-8s first add the scores of finer poolings. Convolutions are padded to keep sizes instead of the 100 pixels that
the original pads in front. Weights start at random: nothing is downloaded.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from unetcli.models.arguments import Channels, Classes, Features
from unetcli.models.blocks import initialize_he
from unetcli.models.receptive_field import measure
from unetcli.models.vgg import stage_widths, vgg16_stages

UpSampling = Literal["bilinear", "transposed"]


class FCN(nn.Module):
    """A VGG-16 body, scores on some of its poolings, and sums of scores from coarse to fine.

    Parameters
    ----------
    channels : image channels.
    classes : classes out, background included.
    features : channels of the first stage (64 in VGG-16); the fully connected layers have 64 times as many.
    finer : numbers of the poolings whose scores are added, from coarse to fine: (), (4,) or (4, 3).
    upsampling : "bilinear" keeps the kernels fixed; "transposed" starts from the same ones and learns them.
    """

    def __init__(
        self, channels: int, classes: int, *, features: int, finer: Sequence[int], upsampling: UpSampling
    ) -> None:
        super().__init__()
        widths = stage_widths(features)
        self.stages = vgg16_stages(channels, features)
        self.pool = nn.MaxPool2d(2)
        self.fully_connected = nn.Sequential(
            nn.Conv2d(widths[-1], 64 * features, 7, padding=3),  # fc6
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Conv2d(64 * features, 64 * features, 1),  # fc7
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
        )
        self.finer = tuple(finer)
        self.score = nn.Conv2d(64 * features, classes, 1)
        self.finer_scores = nn.ModuleList(nn.Conv2d(widths[number - 1], classes, 1) for number in finer)
        learned = upsampling == "transposed"
        self.doublings = nn.ModuleList(BilinearUpConvolution(classes, 2, learned=learned) for _ in finer)
        self.to_full_size = BilinearUpConvolution(classes, 2 ** (5 - len(finer)), learned=learned)
        initialize_he(self)
        for score in (self.score, *self.finer_scores):
            nn.init.zeros_(score.weight)  # the original's choice: a net starts undecided, a finer one as the coarser
        self.geometry = measure(self, step=32, smallest=32)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) of an image (N, channels, H, W)."""
        poolings = []
        features = image
        for stage in self.stages:
            features = self.pool(stage(features))
            poolings.append(features)  # H/2, H/4, H/8, H/16, H/32
        scores = self.score(self.fully_connected(features))
        for number, finer_score, double in zip(self.finer, self.finer_scores, self.doublings, strict=True):
            scores = double(scores) + finer_score(poolings[number - 1])
        logits: Tensor = self.to_full_size(scores)
        return logits


class BilinearUpConvolution(nn.Module):
    """A transposed convolution per class whose kernel interpolates bilinearly, for good or to begin with.

    Parameters
    ----------
    classes : channels in and out.
    factor : by how much rows and columns grow; the kernel has twice as many.
    learned : whether the kernel is a parameter; a fixed one is a buffer that no file needs to hold.
    """

    def __init__(self, classes: int, factor: int, *, learned: bool) -> None:
        super().__init__()
        self.factor = factor
        ramp = 1 - (torch.arange(2 * factor) - (factor - 0.5)).abs() / factor  # 1/4 3/4 3/4 1/4 for a factor of 2
        kernel = torch.outer(ramp, ramp).repeat(classes, 1, 1, 1)  # (classes, 1, 2 * factor, 2 * factor)
        if learned:
            self.kernel = nn.Parameter(kernel)
        else:
            self.register_buffer("kernel", kernel, persistent=False)

    def forward(self, scores: Tensor) -> Tensor:
        """Return (N, classes, factor * H, factor * W)."""
        classes = self.kernel.shape[0]
        return functional.conv_transpose2d(
            scores, self.kernel, stride=self.factor, padding=self.factor // 2, groups=classes
        )


def fcn32s(
    channels: Channels, classes: Classes, *, features: Features = 64, upsampling: UpSampling = "bilinear"
) -> FCN:
    """Return the FCN whose logits come from the last layer alone, up-sampled 32 times."""
    return FCN(channels, classes, features=features, finer=(), upsampling=upsampling)


def fcn16s(
    channels: Channels, classes: Classes, *, features: Features = 64, upsampling: UpSampling = "bilinear"
) -> FCN:
    """Return the FCN that adds the scores of the fourth pooling and up-samples 16 times."""
    return FCN(channels, classes, features=features, finer=(4,), upsampling=upsampling)


def fcn8s(channels: Channels, classes: Classes, *, features: Features = 64, upsampling: UpSampling = "bilinear") -> FCN:
    """Return the FCN that adds the scores of the fourth and the third pooling and up-samples 8 times."""
    return FCN(channels, classes, features=features, finer=(4, 3), upsampling=upsampling)

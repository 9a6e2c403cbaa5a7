"""The convolutions of VGG-16 (arXiv 1409.1556, configuration D), which the FCNs and SegNet start with."""

from torch import nn

DEPTHS = (2, 2, 3, 3, 3)  # convolutions per stage; a 2x2 pooling follows each stage


def stage_widths(features: int) -> list[int]:
    """Return the channels of the five stages: 64, 128, 256, 512, 512."""
    return [features * factor for factor in (1, 2, 4, 8, 8)]


def stage(channels_in: int, channels_out: list[int], *, batch_norm: bool = False) -> nn.Sequential:
    """Return padded 3x3 convolutions to the given channels one after the other, each followed by a ReLU.

    With batch normalization the convolutions keep their bias, as in SegNet's definition.
    """
    layers: list[nn.Module] = []
    for before, after in zip([channels_in, *channels_out[:-1]], channels_out, strict=True):
        layers.append(nn.Conv2d(before, after, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(after))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def vgg16_stages(channels: int, features: int, *, batch_norm: bool = False) -> nn.ModuleList:
    """Return the five stages of VGG-16 without their poolings."""
    widths = stage_widths(features)
    return nn.ModuleList(
        stage(before, [width] * depth, batch_norm=batch_norm)
        for before, width, depth in zip([channels, *widths[:-1]], widths, DEPTHS, strict=True)
    )

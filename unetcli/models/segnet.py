"""SegNet of Badrinarayanan, Kendall and Cipolla (arXiv 1511.00561): no skip connections but the pooling indices.

Each pooling remembers where its maxima stood, and the mirrored half puts the values back there.
"""

from torch import Tensor, nn
from torch.nn import functional

from unetcli.models.arguments import Channels, Classes, Features
from unetcli.models.blocks import initialize_he, unpool
from unetcli.models.receptive_field import measure
from unetcli.models.vgg import DEPTHS, stage, stage_widths, vgg16_stages


class SegNet(nn.Module):
    """The convolutions of VGG-16 with batch normalization, and their mirror image, the last one to logits.

    Parameters
    ----------
    channels : image channels.
    classes : classes out, background included.
    features : channels of the first stage (64 in VGG-16).
    """

    def __init__(self, channels: int, classes: int, *, features: int) -> None:
        super().__init__()
        widths = stage_widths(features)
        self.encoder = vgg16_stages(channels, features, batch_norm=True)
        self.decoder = nn.ModuleList(
            stage(widths[level], [widths[level]] * (DEPTHS[level] - 1) + [widths[level - 1]], batch_norm=True)
            for level in (4, 3, 2, 1)  # 512 512 512 | 512 512 256 | 256 256 128 | 128 64
        )
        self.decoder.append(stage(features, [features], batch_norm=True))
        self.classifier = nn.Conv2d(features, classes, 3, padding=1)
        initialize_he(self)
        self.geometry = measure(self, step=32, smallest=32)

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes, H, W) of an image (N, channels, H, W)."""
        places = []
        features = image
        for block in self.encoder:
            features, indices = functional.max_pool2d(block(features), 2, return_indices=True)
            places.append(indices)
        for block in self.decoder:
            features = block(unpool(features, places.pop()))
        logits: Tensor = self.classifier(features)
        return logits


def segnet(channels: Channels, classes: Classes, *, features: Features = 64) -> SegNet:
    """Return SegNet, which has VGG-16 as its encoder."""
    return SegNet(channels, classes, features=features)

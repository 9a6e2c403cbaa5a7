"""A model made by hand: what is brighter than half of the range is foreground."""

import torch

from unetcli.dataset.labels import LabelCoding
from unetcli.images.normalization import rule
from unetcli.models import build_network
from unetcli.models.modelfile import ModelDescription, save_model

CODINGS = {
    "mask": LabelCoding("semantic", (0, 255), ("background", "cell")),
    "instances": LabelCoding("instances", (0,), ("background", "object")),
}


def write_model(path, kind="mask", *, training=None):
    """Write a network that hands the image through its first skip connection and compares it with 0.5.

    Parameters
    ----------
    kind : of the training masks, an entry of `CODINGS`.
    training : what the model file says about its training.
    """
    arguments = {"features": 4, "depth": 2}
    network = build_network("unet", channels=1, classes=2, **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for name in ("contracting.0.first", "contracting.0.second", "expanding.1.second"):
            network.get_submodule(name).convolution.weight[0, 0, 1, 1] = 1
        network.get_submodule("expanding.1.first").convolution.weight[0, [0, 4], 1, 1] = 1  # whichever comes first
        network.classifier.weight[1, 0] = 20
        network.classifier.bias[1] = -10
    coding = CODINGS[kind].to_json()
    save_model(path, network, ModelDescription("unet", arguments, 1, 2, rule(), "YX", coding, None, 60, training or {}))
    return path

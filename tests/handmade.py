"""Model files made by hand: any network with a description, and one whose foreground is the brighter half."""

import json

import torch

from unetcli.dataset.labels import LabelCoding
from unetcli.images.normalization import rule
from unetcli.models import build_network
from unetcli.models.modelfile import ModelDescription, save_model

CODINGS = {
    "mask": LabelCoding("semantic", (0, 255), ("background", "cell")),
    "instances": LabelCoding("instances", (0,), ("background", "object")),
}


def describe(arguments, *, architecture="unet", coding=CODINGS["mask"], **changes):
    """Return the description of a network for gray images and two classes, or with what is changed."""
    usual = {
        "channels": 1, "classes": 2, "normalization": rule(), "axes": "YX", "pixel_size": None, "patch_size": 60,
        "training": {},
    }  # fmt: skip
    read_back = json.loads(json.dumps(coding.to_json()))  # what a model file returns
    return ModelDescription(architecture, dict(arguments), coding=read_back, **{**usual, **changes})


def write_model(path, kind="mask", *, features=4, depth=2, training=None):
    """Write a network that hands the image through its first skip connection and compares it with 0.5.

    Parameters
    ----------
    kind : of the training masks, an entry of `CODINGS`.
    training : what the model file says about its training.
    """
    arguments = {"features": features, "depth": depth}
    last = f"expanding.{depth - 1}"
    network = build_network("unet", channels=1, classes=2, **arguments)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        for name in ("contracting.0.first", "contracting.0.second", f"{last}.second"):
            network.get_submodule(name).convolution.weight[0, 0, 1, 1] = 1
        network.get_submodule(f"{last}.first").convolution.weight[0, [0, features], 1, 1] = 1  # whichever comes first
        network.classifier.weight[1, 0] = 20
        network.classifier.bias[1] = -10
    save_model(path, network, describe(arguments, coding=CODINGS[kind], training=training or {}))
    return path

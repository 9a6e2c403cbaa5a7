"""The networks, behind one interface, and the file they are kept in.

A new architecture is one file with a builder and one line in `ARCHITECTURES`. A builder is a function of the image
channels, the classes and further keywords, whose annotations bound them (`unetcli.models.arguments`); it returns a
module that maps an image (N, channels, H, W) to logits and states its `geometry`.
"""

from collections.abc import Mapping
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from unetcli.errors import UsageError
from unetcli.geometry import Geometry
from unetcli.models import fcn, mobilenet_unet, segnet, unet
from unetcli.models.arguments import Builder, arguments_of, problems_of


class Network(Protocol):
    """What the rest of the program relies on: logits (N, classes, H', W') for an image (N, channels, H, W)."""

    geometry: Geometry

    def __call__(self, image: Tensor) -> Tensor:
        """Return the logits of a batch."""


ARCHITECTURES: dict[str, Builder] = {
    "unet": unet.unet,
    "unet-2015": unet.unet_2015,
    "mobilenet-unet": mobilenet_unet.mobilenet_unet,
    "fcn32s": fcn.fcn32s,
    "fcn16s": fcn.fcn16s,
    "fcn8s": fcn.fcn8s,
    "segnet": segnet.segnet,
}
MOST_PARAMETERS = 2**31  # 8 GiB of float32; the paper's network has 31 million


def build_network(architecture: str, *, channels: int, classes: int, **arguments: Any) -> nn.Module:
    """Return a freshly initialized network of the registry.

    Raises
    ------
    UsageError : the architecture is not in the registry, or an argument is unknown or out of bounds.
    """
    check_arguments(architecture, channels, classes, arguments)
    return ARCHITECTURES[architecture](channels, classes, **arguments)


def check_arguments(architecture: str, channels: int, classes: int, arguments: Mapping[str, Any]) -> None:
    """Refuse what `build_network` must not build, without allocating anything.

    Raises
    ------
    UsageError : the architecture is not in the registry, an argument is unknown or out of bounds, or the network
        would have more than `MOST_PARAMETERS` parameters.
    """
    build = _builder(architecture)
    complete = {**arguments, "channels": channels, "classes": classes}
    problems = problems_of(build, complete)
    if problems:
        raise UsageError(f"{architecture}: {'; '.join(problems)}", hint="see 'unet train --help'")
    with torch.device("meta"):  # shapes without memory
        parameters = sum(parameter.numel() for parameter in build(**complete).parameters())
    if parameters > MOST_PARAMETERS:
        raise UsageError(
            f"{architecture} would have {parameters:,} parameters, more than {MOST_PARAMETERS:,}",
            hint="take fewer --features, or less --depth",
        )


def default_arguments(architecture: str) -> dict[str, Any]:
    """Return the keyword arguments that an architecture takes, with their defaults.

    Raises
    ------
    UsageError : the architecture is not in the registry.
    """
    declared = arguments_of(_builder(architecture)).values()
    return {argument.name: argument.default for argument in declared if argument.default is not None}


def geometry_of(network: nn.Module) -> Geometry:
    """Return the geometry that a network states about itself."""
    return cast(Geometry, network.geometry)


def _builder(architecture: str) -> Builder:
    if architecture not in ARCHITECTURES:
        raise UsageError(f"unknown architecture {architecture!r}", hint=f"--arch takes {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture]

"""The networks, behind one interface, and the file they are kept in.

A new architecture is one file with a builder and one line in `ARCHITECTURES`.
"""

from collections.abc import Callable
from typing import Any, Protocol, cast

from torch import Tensor, nn

from unetcli.errors import UsageError
from unetcli.geometry import Geometry
from unetcli.models.unet import UNet


class Network(Protocol):
    """What the rest of the program relies on: logits (N, classes, H', W') for an image (N, channels, H, W)."""

    geometry: Geometry

    def __call__(self, image: Tensor) -> Tensor: ...


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "unet": UNet,
}


def build_network(architecture: str, *, channels: int, classes: int, **arguments: Any) -> nn.Module:
    """Return a freshly initialized network of the registry.

    Raises
    ------
    UsageError : the architecture is not in the registry.
    """
    if architecture not in ARCHITECTURES:
        raise UsageError(f"unknown architecture {architecture!r}", hint=f"--arch takes {', '.join(ARCHITECTURES)}")
    return ARCHITECTURES[architecture](channels, classes, **arguments)


def geometry_of(network: nn.Module) -> Geometry:
    """Return the geometry that a network states about itself."""
    return cast(Geometry, network.geometry)

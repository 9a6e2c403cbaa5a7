"""The model file: one `.safetensors` with the weights, and in its header everything that inference needs.

It may come from a stranger: beyond the checks of its container, names and shapes must match exactly what it describes,
before any memory is taken for them.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unetcli import __version__
from unetcli.errors import ModelFileError, UsageError
from unetcli.models import build_network
from unetcli.models.container import read_container, read_header, write_container

FORMAT = 1  # raised when a reader of the old format could not understand the new one
HEADER_KEY = "unet"


@dataclass(frozen=True)
class ModelDescription:
    """What a model file says about its network.

    Parameters
    ----------
    architecture, arguments : the entry of the registry and its keyword arguments.
    channels, classes : of the images in and of the logits out, background included.
    normalization : the rule by which intensities were scaled.
    axes : of the training images, as understood.
    coding : how the training masks said their labels (`unetcli.dataset.labels`), as JSON.
    pixel_size : (y, x, unit) of the training images, or None where they say none.
    patch_size : side of the training patches, in pixels.
    training : where the model comes from: pairing rule, fingerprint of the data, epochs, score, options.
    version : of the program that wrote the file.
    """

    architecture: str
    arguments: dict[str, Any]
    channels: int
    classes: int
    normalization: dict[str, Any]
    axes: str
    coding: dict[str, Any]
    pixel_size: tuple[float, float, str] | None
    patch_size: int
    training: dict[str, Any]
    version: str = __version__


def save_model(path: Path, network: nn.Module, description: ModelDescription) -> str:
    """Write a model file beside its place, then rename it there, and return the SHA-256 of the weights.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    return write_container(path, HEADER_KEY, {"format": FORMAT, **asdict(description)}, network.state_dict())


def read_description(path: Path) -> ModelDescription:
    """Return the description in a model file's header, without reading the weights.

    Raises
    ------
    UsageError : the file is absent.
    ModelFileError : it is not a model file of this program, damaged, or of a newer format.
    """
    return _description(path, read_header(path, HEADER_KEY))


def load_model(path: Path) -> tuple[nn.Module, ModelDescription, str]:
    """Return the network in evaluation mode on the CPU, its description, and the SHA-256 of its weights.

    Raises
    ------
    UsageError : the file is absent.
    ModelFileError : it is damaged, or its weights do not fit the network it describes.
    """
    header, tensors = read_container(path, HEADER_KEY)
    description = _description(path, header)
    try:
        with torch.device("meta"):  # without memory: the network that is described may be far larger than the file
            _match(path, _network(description).state_dict(), tensors)
    except (UsageError, TypeError, ValueError, AssertionError) as error:
        raise ModelFileError(f"describes an impossible network: {error}", path=path, hint="train a new model") from None
    network = _network(description)
    network.load_state_dict(tensors, strict=True)
    for name, tensor in network.state_dict().items():  # as they are used: numbers may have been too large for that
        if not torch.isfinite(tensor).all():
            raise ModelFileError(
                f"weights contain NaN or infinity ({name}): training diverged", path=path, hint="train again"
            )
    return network.eval(), description, str(header["sha256"])


def _network(description: ModelDescription) -> nn.Module:
    return build_network(
        description.architecture, channels=description.channels, classes=description.classes, **description.arguments
    )


def _match(path: Path, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    for name in sorted(expected.keys() | found.keys()):
        wanted = tuple(expected[name].shape) if name in expected else "absent"
        present = tuple(found[name].shape) if name in found else "absent"
        if wanted != present:
            raise ModelFileError(
                f"{name} is {present}, the network needs {wanted}", path=path, hint="train a new model"
            )
        if expected[name].is_floating_point() != found[name].is_floating_point():
            raise ModelFileError(
                f"{name} holds {found[name].dtype}, the network {expected[name].dtype}",
                path=path,
                hint="train a new model",
            )


def _description(path: Path, header: dict[str, Any]) -> ModelDescription:
    newest = header.get("format")
    if not isinstance(newest, int) or newest > FORMAT:
        raise ModelFileError(
            f"made by unet {header.get('version')}, format {newest}; this is {__version__}, format {FORMAT}",
            path=path,
            hint="pip install --upgrade unetcli",
        )
    expected: dict[str, type | tuple[type, ...]] = {
        "architecture": str, "arguments": dict, "channels": int, "classes": int, "normalization": dict, "axes": str,
        "coding": dict, "pixel_size": (list, type(None)), "patch_size": int, "training": dict, "version": str,
    }  # fmt: skip
    assert set(expected) == {field.name for field in fields(ModelDescription)}
    for name, kind in expected.items():
        if name not in header or not isinstance(header[name], kind) or isinstance(header[name], bool):
            raise ModelFileError(
                f"its header has no valid {name!r}", path=path, hint="copy the file again, or train a model"
            )
    values = {name: header[name] for name in expected}
    if values["pixel_size"] is not None:
        size = values["pixel_size"]
        if (
            len(size) != 3
            or not all(isinstance(side, int | float) for side in size[:2])
            or not isinstance(size[2], str)
        ):
            raise ModelFileError(
                "its header has no valid 'pixel_size'", path=path, hint="copy the file again, or train a model"
            )
        values["pixel_size"] = tuple(size)
    images = values["training"].get("images", [])
    if not (isinstance(images, list) and all(isinstance(digits, str) for digits in images)):
        raise ModelFileError(
            "its header lists no hashes as images of the training", path=path, hint="copy the file again"
        )
    if not (1 <= values["channels"] <= 1024 and 2 <= values["classes"] <= 255):
        raise ModelFileError(
            f"declares {values['channels']} channels and {values['classes']} classes",
            path=path,
            hint="train a new model",
        )
    return ModelDescription(**values)

"""The model file: one `.safetensors` with the weights, and in its header everything that inference needs.

It may come from a stranger, so nothing in it is believed before it is checked: the header is bounded, no pickle is
ever loaded, names and shapes must match exactly, and a SHA-256 over the tensors guards against silent damage
(a flipped byte in a safetensors file loads without complaint).
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from unetcli import __version__
from unetcli.errors import ModelFileError, UsageError
from unetcli.images.atomic import atomic_path
from unetcli.models import build_network

FORMAT = 1  # raised when a reader of the old format could not understand the new one
HEADER_KEY = "unet"
LARGEST_HEADER = 16 * 2**20  # bytes

FOREIGN = (
    (b"PK", "a zip archive, as torch.save writes it: a pickle, which can run code"),
    (b"\x80", "a pickle, which can run code"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x08", "probably an ONNX model"),
)


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


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_model(path: Path, network: nn.Module, description: ModelDescription) -> str:
    """Write a model file beside its place, then rename it there, and return the SHA-256 of the weights.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    sha256 = tensors_sha256(tensors)
    header = {"format": FORMAT, "sha256": sha256, **asdict(description)}
    document = save_tensors(tensors, metadata={HEADER_KEY: json.dumps(header, sort_keys=True)})
    with atomic_path(path) as temporary:
        temporary.write_bytes(document)
    return sha256


def read_description(path: Path) -> ModelDescription:
    """Return the description in a model file's header, without reading the weights.

    Raises
    ------
    UsageError : the file is absent.
    ModelFileError : it is not a model file of this program, damaged, or of a newer format.
    """
    with _opened(path) as file:
        return _description(path, _header(path, file))


def load_model(path: Path) -> tuple[nn.Module, ModelDescription, str]:
    """Return the network in evaluation mode on the CPU, its description, and the SHA-256 of its weights.

    Raises
    ------
    UsageError : the file is absent.
    ModelFileError : it is damaged, or its weights do not fit the network it describes.
    """
    with _opened(path) as file:  # once: a training may put another file in its place meanwhile
        header = _header(path, file)
        description = _description(path, header)
        file.seek(0)
        content = file.read()
    try:
        tensors = load_tensors(content)
    except Exception as error:  # safetensors raises its own class, and ValueError, TypeError, KeyError
        raise _damaged(path, str(error)) from None
    sha256 = tensors_sha256(tensors)
    if sha256 != header.get("sha256"):
        raise ModelFileError(
            "checksum mismatch: the weights were changed after saving", path=path, hint="copy the file again"
        )
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ModelFileError(
                f"weights contain NaN or infinity ({name}): training diverged", path=path, hint="train again"
            )
    try:
        with torch.device("meta"):  # without memory: the network that is described may be far larger than the file
            _match(path, _network(description).state_dict(), tensors)
    except (UsageError, TypeError, ValueError, AssertionError) as error:
        raise ModelFileError(f"describes an impossible network: {error}", path=path, hint="train a new model") from None
    network = _network(description)
    network.load_state_dict(tensors, strict=True)
    return network.eval(), description, sha256


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


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if not path.exists():
        raise UsageError(
            "no such model file", path=path, hint="train one with 'unet train FOLDER', or name another with -m"
        )
    if not path.is_file():
        raise ModelFileError(
            "not a model of this tool (not a regular file)", path=path, hint="-m takes a .safetensors file"
        )
    try:
        file = path.open("rb")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ModelFileError(f"cannot be read: {reason}", path=path, hint="make the file readable: chmod +r") from None
    with file:
        yield file


def _header(path: Path, file: BinaryIO) -> dict[str, Any]:
    size = os.fstat(file.fileno()).st_size
    start = file.read(8)
    length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
    text = file.read(length) if 2 <= length <= min(LARGEST_HEADER, size) else b""
    if not text.startswith(b"{"):
        for magic, kind in FOREIGN:
            if start.startswith(magic) and length > LARGEST_HEADER:
                raise ModelFileError(
                    f"is {kind}; this tool loads only .safetensors", path=path, hint="train a model with 'unet train'"
                )
        what = f"{size} bytes" if len(start) < 8 or not size else f"starts with {start!r}"
        raise ModelFileError(
            f"not a model of this tool, or incomplete ({what})", path=path, hint="copy the file again, or train a model"
        )
    try:
        document = json.loads(text)
        metadata = document.get("__metadata__", {})
        ends = [entry["data_offsets"][1] for name, entry in document.items() if name != "__metadata__"]
        header = json.loads(metadata[HEADER_KEY]) if HEADER_KEY in metadata else None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(header, dict):
        raise ModelFileError(
            "not a model of this tool: its header has no description", path=path, hint="train a model with 'unet train'"
        )
    expected = 8 + length + max([0, *(end for end in ends if isinstance(end, int))])
    if size != expected:
        raise _damaged(path, f"{expected} bytes expected, {size} present")
    return header


def _damaged(path: Path, what: str) -> ModelFileError:
    return ModelFileError(
        f"incomplete or damaged model file ({what})", path=path, hint="copy it again, or use the one in the run folder"
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
    if not (1 <= values["channels"] <= 1024 and 2 <= values["classes"] <= 255):
        raise ModelFileError(
            f"declares {values['channels']} channels and {values['classes']} classes",
            path=path,
            hint="train a new model",
        )
    return ModelDescription(**values)

"""A `.safetensors` file with a JSON header of this program, written whole and read with suspicion.

It may come from a stranger, so nothing in it is believed before it is checked: the header is bounded, no pickle is
ever loaded, and a SHA-256 over the tensors guards against silent damage (a flipped byte in a safetensors file loads
without complaint).
"""

import hashlib
import json
import os
import stat
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from unetcli.errors import ModelFileError, UsageError
from unetcli.images.atomic import atomic_path

LARGEST_HEADER = 16 * 2**20  # bytes

FOREIGN = (
    (b"PK", "a zip archive, as torch.save writes it: a pickle, which can run code"),
    (b"\x80", "a pickle, which can run code"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x08", "probably an ONNX model"),
)


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def write_container(path: Path, key: str, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    """Write tensors and, under `key`, their header as one file, and return the SHA-256 of the tensors.

    Raises
    ------
    OutputError : the file cannot be written.
    """
    kept = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    sha256 = tensors_sha256(kept)
    document = save_tensors(kept, metadata={key: json.dumps({**header, "sha256": sha256}, sort_keys=True)})
    with atomic_path(path, needed=len(document)) as temporary:
        temporary.write_bytes(document)
    return sha256


def read_header(path: Path, key: str) -> dict[str, Any]:
    """Return the header of a file, without reading the tensors.

    Raises
    ------
    UsageError : the file is absent.
    ModelFileError : it is not a file of this program, or damaged.
    """
    with _opened(path) as file:
        return _header(path, key, file)


def read_container(path: Path, key: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a file.

    Raises
    ------
    UsageError : the file is absent.
    ModelFileError : it is not a file of this program, or damaged.
    """
    with _opened(path) as file:  # once: a training may put another file in its place meanwhile
        header = _header(path, key, file)
        file.seek(0)
        content = file.read()
    try:
        tensors = load_tensors(content)
    except Exception as error:  # safetensors raises its own class, and ValueError, TypeError, KeyError
        raise _damaged(path, str(error)) from None
    if tensors_sha256(tensors) != header.get("sha256"):
        raise ModelFileError(
            "checksum mismatch: the weights were changed after saving", path=path, hint="copy the file again"
        )
    return header, tensors


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ModelFileError(
                "not a model of this tool (not a regular file)", path=path, hint="-m takes a .safetensors file"
            )
        file = path.open("rb")
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            "no such model file", path=path, hint="train one with 'unet train FOLDER', or name another with -m"
        ) from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ModelFileError(f"cannot be read: {reason}", path=path, hint="make the file readable: chmod +r") from None
    with file:
        yield file


def _header(path: Path, key: str, file: BinaryIO) -> dict[str, Any]:
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
        header = json.loads(metadata[key]) if key in metadata else None
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

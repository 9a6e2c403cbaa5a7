"""Bad model files through ``unet infer`` and ``unet evaluate`` (FAULTS, B3; SEC01)."""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import tifffile
import torch
from faults.conftest import discs
from faults.harness import FAST, Case, perform
from safetensors.torch import load, save

from unetcli.cli import run
from unetcli.models.container import tensors_sha256
from unetcli.models.modelfile import HEADER_KEY

NAN = float("nan")


class Canary:
    """A pickle that, when it is loaded, leaves a file behind."""

    def __reduce__(self):
        return open, ("canary", "w")


def changed(content, *, tensors=None, sign=True, **header):
    """The bytes of a model file with other tensors and another header; None takes something away."""
    length = struct.unpack("<Q", content[:8])[0]
    described = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][HEADER_KEY])
    weights = load(content)
    for name, value in (tensors(weights) if tensors else {}).items():
        weights[name] = value
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    described |= {"sha256": tensors_sha256(weights)} if sign else {}
    described |= header
    described = {name: value for name, value in described.items() if value is not None or name == "pixel_size"}
    return save(weights, metadata={HEADER_KEY: json.dumps(described)})


def flipped(content):
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def with_nan(weights):
    name = sorted(weights)[0]
    return {name: torch.full_like(weights[name], NAN)}


def cut_first(weights):
    name = sorted(weights)[0]
    return {name: weights[name][:1].clone()}


def saved_by_torch(content):
    torch.save({"weights": Canary()}, "temporary.pt")
    with open("temporary.pt", "rb") as file:  # noqa: PTH123
        return file.read()


def onnx(content):
    return b"\x08\x08\x12\x07pytorch\x1a\x052.8.0:" + bytes(200)


BAD = {
    "CK01-empty": (lambda content: b"", "not a model of this tool"),
    "CK01-text": (lambda content: b"hello, this is a text", r"not a model of this tool.*starts with b'hello, t'"),
    "CK02-half": (lambda content: content[: len(content) // 2], r"incomplete or damaged.* bytes expected, \d+ present"),
    "CK02-header": (lambda content: struct.pack("<Q", 2**63) + content[8:], "incomplete"),
    "CK02-large": (lambda content: struct.pack("<Q", 10**8) + content[8:], "incomplete"),
    "CK02-cut": (lambda content: content[:300], "incomplete"),
    "CK03": (flipped, "checksum mismatch"),
    "CK04-pickle": (lambda content: pickle.dumps(Canary()), r"is a pickle, which can run code; .*only \.safetensors"),
    "CK04-torch": (saved_by_torch, r"a pickle, which can run code; this tool loads only \.safetensors"),
    "CK06-newer": (lambda content: changed(content, format=99, version="9.9"), r"made by unet 9\.9, format 99"),
    "CK07-none": (lambda content: save(load(content)), "no description"),
    "CK07-broken": (lambda content: save(load(content), metadata={HEADER_KEY: "{"}), "damaged"),
    "CK07-list": (lambda content: save(load(content), metadata={HEADER_KEY: "[1]"}), "no description"),
    "CK07-missing": (lambda content: changed(content, axes=None), "no valid 'axes'"),
    "CK07-type": (lambda content: changed(content, channels="1"), "no valid 'channels'"),
    "CK07-depth": (lambda content: changed(content, arguments={"features": 4, "depth": 10**6}), "depth"),
    "CK07-features": (lambda content: changed(content, arguments={"features": 1024, "depth": 7}), "would have 509"),
    "CK07-architecture": (lambda content: changed(content, architecture="os.system"), "os.system"),
    "CK07-coding": (lambda content: changed(content, coding={"task": "semantic"}), "coding"),
    "CK07-width": (lambda content: changed(content, arguments={"features": 512, "depth": 4}), "the network needs"),
    "CK07-classes": (lambda content: changed(content, classes=3, tensors=lambda weights: {
        name: torch.zeros(3, *tensor.shape[1:]) for name, tensor in weights.items() if len(tensor) == 2
    }), "coding has 2 classes, its network 3"),
    "CK07-normalization": (lambda content: changed(content, normalization={"name": "magic"}), "normalization"),
    "CK08-shape": (lambda content: changed(content, tensors=cut_first), r"is \(1,.*\), the network needs \(\d+,"),
    "CK08-missing": (lambda content: changed(content, tensors=lambda w: {sorted(w)[0]: None}), "is absent, the"),
    "CK08-extra": (lambda content: changed(content, tensors=lambda w: {"extra": torch.zeros(1)}), "extra is .*absent"),
    "CK09": (lambda content: changed(content, tensors=with_nan), r"weights contain NaN or infinity .*diverged"),
    "CK09-large": (lambda content: changed(content, tensors=lambda w: {
        sorted(w)[0]: torch.full_like(w[sorted(w)[0]], 1e300, dtype=torch.float64)
    }), "weights contain NaN or infinity"),
    "CK08-complex": (lambda content: changed(content, tensors=lambda w: {
        sorted(w)[0]: w[sorted(w)[0]].to(torch.complex64)
    }), r"holds torch\.complex64, the network torch\.float32"),
    "CK07-images": (lambda content: changed(content, training={"images": None}), "no hashes as images"),
    "CK07-image": (lambda content: changed(content, training={"images": [5]}), "no hashes as images"),
    "CK12-onnx": (onnx, "ONNX"),
}  # fmt: skip


ROWS = [(name, "infer") for name in BAD] + [
    (f"CK{row}", command) for row in ("01-text", "03", "04-pickle", "04-torch") for command in ("evaluate", "init")
]


@pytest.mark.parametrize(("name", "command"), ROWS)
def test_refused(name, command, place, home, models, capsys):
    make, words = BAD[name]
    content = make((home / "gray.safetensors").read_bytes())
    (place / "temporary.pt").unlink(missing_ok=True)
    arguments = {
        "infer": ["infer", str(home / "cells/images/c0.tif"), "-o", "m.tif", "-m", "x.safetensors"],
        "evaluate": ["evaluate", str(home / "cells"), "-m", "x.safetensors"],
        "init": ["train", str(home / "cells"), "-o", "new.safetensors", *FAST, "--init", "x.safetensors"],
    }[command]

    def build(folder):
        (folder / "x.safetensors").write_bytes(content)

    perform(Case(name, build, arguments, 4, [rf"error: x\.safetensors: .*{words}"], seconds=5), place, models, capsys)
    assert not (place / "canary").exists()


OTHER = [
    Case("CK01-absent", lambda place: None, ["infer", "{gray}", "-o", "m.tif", "-m", "x.safetensors"], 2,
         [r"error: x\.safetensors: no such model file", "hint: .*unet train"]),
    Case("CK01-folder", lambda place: (place / "x.safetensors").mkdir(),
         ["infer", "{scan}", "-o", "m.tif", "-m", "x.safetensors"], 4, ["not a model of this tool"]),
]  # fmt: skip


@pytest.mark.parametrize("case", OTHER, ids=lambda case: case.id)
def test_no_file(case, place, home, models, capsys):
    perform(case, place, {**models, "scan": str(home / "cells/images/c0.tif")}, capsys)


def test_a_state_dict_of_another_program(place, home, models, capsys):
    """CK05, CK12: what torch.save and torch.jit write."""
    torch.save({"inc.double_conv.0.weight": torch.zeros(64, 3, 3, 3)}, place / "x.pt")
    with zipfile.ZipFile(place / "y.pt", "w") as archive:
        archive.writestr("model/code/__torch__.py", "")
        archive.writestr("model/data.pkl", b"\x80\x02.")
    scan = str(home / "cells/images/c0.tif")
    for name in "xy":
        perform(Case("", lambda place: None, ["infer", scan, "-o", "m.tif", "-m", f"{name}.pt"], 4,
                     [rf"{name}\.pt: is a zip archive.*loads only \.safetensors"]), place, models, capsys)  # fmt: skip


def test_weights_in_bfloat16(place, home, models):
    """CK11: half as many bits, the same mask nearly everywhere; tests marked gpu bring models from CUDA to the CPU."""
    content = (home / "gray.safetensors").read_bytes()
    (place / "x.safetensors").write_bytes(
        changed(content, tensors=lambda weights: {name: tensor.bfloat16() for name, tensor in weights.items()})
    )
    masks = []
    for model in ("x.safetensors", models["gray"]):
        assert run(["infer", str(home / "cells/images/c0.tif"), "-o", "m.tif", "-m", model, "--precision", "fp32",
                    "--output-kind", "probabilities", "-q"]) == 0  # fmt: skip
        masks.append(tifffile.imread("m.tif"))
    np.testing.assert_allclose(*masks, atol=0.05)


def test_unreadable_model(zygote, place_of_all):
    """A model that may not be read is a bad model, not an output that cannot be written."""
    tifffile.imwrite(place_of_all / "a.tif", discs(0)[0])
    (place_of_all / "x.safetensors").write_bytes(b"secret")
    (place_of_all / "x.safetensors").chmod(0)
    running = zygote.start(["infer", "a.tif", "-o", "m.tif", "-m", "x.safetensors"], place_of_all, nobody=True)
    assert running.wait() == 4, (place_of_all / "err").read_text()
    assert "error: x.safetensors: cannot be read: permission denied" in (place_of_all / "err").read_text()

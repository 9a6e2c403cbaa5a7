"""The model file: what it keeps, and what it refuses."""

import json
import pickle
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save

from unetcli.errors import ModelFileError, UsageError
from unetcli.models import build_network
from unetcli.models.container import tensors_sha256
from unetcli.models.modelfile import (
    FORMAT,
    HEADER_KEY,
    ModelDescription,
    load_model,
    read_description,
    save_model,
)

DESCRIPTION = ModelDescription(
    architecture="unet",
    arguments={"features": 2, "depth": 1},
    channels=1,
    classes=2,
    normalization={"name": "percentile"},
    axes="YX",
    coding={"task": "semantic"},
    pixel_size=(0.5, 0.5, "µm"),
    patch_size=36,
    training={"score": 0.9},
)


def network(**changes):
    torch.manual_seed(0)
    return build_network("unet", channels=1, classes=2, **{**DESCRIPTION.arguments, **changes})


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "unet.safetensors"
    save_model(path, network(), DESCRIPTION)
    return path


def rewritten(path, *, header=None, tensors=None, sign=True):
    """Write the file again with changes in its header and its tensors."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    description = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][HEADER_KEY])
    weights = {**load(content), **(tensors or {})}
    weights = {name: tensor for name, tensor in weights.items() if tensor is not None}
    description.update(header or {})
    if sign and "sha256" not in (header or {}):
        description["sha256"] = tensors_sha256(weights)
    description = {name: value for name, value in description.items() if value is not None or name == "pixel_size"}
    path.write_bytes(save(weights, metadata={HEADER_KEY: json.dumps(description)}))


def test_round_trip(model):
    loaded, description, sha256 = load_model(model)
    assert description == DESCRIPTION
    assert read_description(model) == DESCRIPTION
    assert not loaded.training
    assert sha256 == tensors_sha256(network().state_dict())
    for name, tensor in network().state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_other_weights_have_another_hash(model):
    other = network()
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    assert tensors_sha256(other.state_dict()) != load_model(model)[2]


def test_no_pixel_size(model, tmp_path):
    path = tmp_path / "other.safetensors"
    save_model(path, network(), replace(DESCRIPTION, pixel_size=None))
    assert load_model(path)[1].pixel_size is None


def test_absent(tmp_path):
    with pytest.raises(UsageError, match="no such model"):
        load_model(tmp_path / "absent.safetensors")


@pytest.mark.parametrize("content", [b"", b"hello, this is some text", b"\0" * 40])
def test_not_a_model(tmp_path, content):
    path = tmp_path / "m.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match="not a model of this tool"):
        load_model(path)


def test_a_folder(tmp_path):
    with pytest.raises(ModelFileError, match="not a model"):
        load_model(tmp_path)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated(model, share):
    content = model.read_bytes()
    model.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelFileError, match=r"incomplete|damaged"):
        load_model(model)


@pytest.mark.parametrize("length", [2**63, 10**8])
def test_huge_header(tmp_path, length):
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{}" * 50)
    with pytest.raises(ModelFileError):
        load_model(path)


def test_one_flipped_byte(model):
    content = bytearray(model.read_bytes())
    content[-5] ^= 1
    model.write_bytes(content)
    with pytest.raises(ModelFileError, match="checksum mismatch"):
        load_model(model)


class Canary:
    def __reduce__(self):
        return (open, ("canary", "w"))


@pytest.mark.parametrize("save_as", ["pickle", "torch"])
def test_pickles_are_not_loaded(tmp_path, monkeypatch, save_as):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "model.pt"
    if save_as == "pickle":
        path.write_bytes(pickle.dumps(Canary()))
    else:
        torch.save({"weights": Canary()}, path)
    with pytest.raises(ModelFileError, match="pickle, which can run code"):
        load_model(path)
    assert not (tmp_path / "canary").exists()


def test_safetensors_of_another_program(tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(save({"weight": torch.zeros(3)}))
    with pytest.raises(ModelFileError, match="no description"):
        load_model(path)


def test_newer_format(model):
    rewritten(model, header={"format": 99, "version": "9.9"})
    with pytest.raises(ModelFileError, match=r"made by unet 9\.9, format 99"):
        load_model(model)


@pytest.mark.parametrize(
    "header",
    [
        {"arguments": {"features": 2, "depth": 10**6}},
        {"arguments": {"features": 10**6, "depth": 4}},
        {"arguments": {"nonsense": 1}},
        {"arguments": {"features": "many"}},
        {"architecture": "os.system"},
        {"channels": 0},
        {"channels": True},
        {"classes": 10**6},
        {"axes": 5},
        {"normalization": None},
        {"pixel_size": [1, 2]},
        {"pixel_size": ["a", 2, "µm"]},
        {"format": "1"},
    ],
)
def test_impossible_descriptions(model, header):
    rewritten(model, header=header)
    with pytest.raises(ModelFileError):
        load_model(model)


def test_weights_that_do_not_fit(model):
    names = sorted(network().state_dict())
    for tensors in ({names[0]: torch.zeros(5)}, {names[0]: None}, {"extra": torch.zeros(1)}):
        save_model(model, network(), DESCRIPTION)
        rewritten(model, tensors=tensors)
        with pytest.raises(ModelFileError, match="the network needs"):
            load_model(model)


def test_weights_that_are_not_finite(model):
    name = sorted(network().state_dict())[0]
    broken = network().state_dict()[name].clone()
    broken.view(-1)[0] = float("nan")
    rewritten(model, tensors={name: broken})
    with pytest.raises(ModelFileError, match="NaN"):
        load_model(model)


def test_a_failed_save_keeps_the_old_file(model, monkeypatch):
    before = model.read_bytes()

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(Exception, match="disk full"):
        save_model(model, network(), DESCRIPTION)
    assert model.read_bytes() == before
    assert [path.name for path in model.parent.iterdir()] == [model.name]


FORMATS = Path(__file__).parent / "formats"  # a small model as each version of the format has stored it


@pytest.mark.parametrize("version", range(1, FORMAT + 1))
def test_every_format_is_still_read(version):
    """CK06: a model of an older program says and computes what it did then."""
    loaded, description, sha256 = load_model(FORMATS / f"{version}.safetensors")
    assert sha256 == "e828315e3131fda74ea1d7d5330ca39e369de0409263baa05dc9ca1883459329"
    assert (description.architecture, description.arguments["features"], description.arguments["depth"]) == (
        "unet",
        2,
        1,
    )
    assert (description.channels, description.classes, description.axes) == (1, 2, "YX")
    assert description.pixel_size == (0.5, 0.5, "µm")
    assert description.coding["values"] == [0, 255]
    assert description.normalization["name"] == "percentile"
    assert description.training["epoch"] == 2
    probe = torch.linspace(-1, 1, 400, dtype=torch.float64).reshape(1, 1, 20, 20).sin().float()
    with torch.no_grad():
        logits = loaded(probe)
    assert logits.shape == (1, 2, 4, 4)
    torch.testing.assert_close(logits[0, :, 0, 0], torch.tensor([0.00476, -0.00476]), atol=2e-5, rtol=0)
    torch.testing.assert_close(logits[0, :, 3, 2], torch.tensor([-0.24320, 0.45615]), atol=2e-5, rtol=0)

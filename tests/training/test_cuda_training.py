"""Training on a CUDA device: `make gpu`."""

import gc
import json

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

from unetcli.cli import run
from unetcli.models import build_network
from unetcli.models.blocks import RectifiedConvolution
from unetcli.models.device import Device, move_network

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
SMALL = ["--features", "16", "--depth", "2", "--device", "cuda", "-q"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with five pairs of squares to find."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(5):
        mask = np.kron(rng.integers(0, 2, (12, 12)), np.ones((16, 16))).astype(np.uint8)
        for kind, pixels in (("images", mask * 100 + rng.integers(0, 60, mask.shape)), ("masks", mask * 255)):
            (tmp_path / kind).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / kind / f"{number}.tif", pixels.astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
def test_training_learns(place, precision):
    assert run(["train", ".", *SMALL, "--epochs", "4", "--precision", precision]) == 0
    assert run(["evaluate", ".", "-m", "unet.safetensors", "--fail-under", "dice=0.9", "-q"]) == 0


def test_batches_and_epochs_are_larger(place):
    options = ["--features", "64", "--device", "cuda", "-q", "--dry-run", "--json", "plan.json"]
    assert run(["train", ".", *options, "--patch-size", "572"]) == 0
    decided = json.loads((place / "plan.json").read_text())
    assert (decided["batch_size"], decided["patches_per_epoch"]) == (12, 64 * 12)


@pytest.mark.filterwarnings("ignore:Setting the shape:DeprecationWarning")  # of tifffile with numpy 2.5
def test_the_cpu_predicts_what_cuda_does(place):
    assert run(["train", ".", *SMALL, "--epochs", "2"]) == 0
    for device in ("cpu", "cuda"):
        options = ["--device", device, "--precision", "fp32", "--output-kind", "probabilities", "-q"]
        assert run(["infer", "images/0.tif", "-o", f"{device}.tif", *options]) == 0
    cpu, cuda = (tifffile.imread(f"{device}.tif").astype(float) for device in ("cpu", "cuda"))
    assert np.ptp(cpu) > 0.5
    assert np.abs(cpu - cuda).max() < 1e-3


def test_deterministic_repeats_itself_with_any_workers(place):
    hashes = set()
    for workers in ("0", "2"):
        options = ["--epochs", "1", "--deterministic", "--workers", workers, "--json", "said.json", "--overwrite"]
        assert run(["train", ".", *SMALL, *options]) == 0
        hashes.add(json.loads((place / "said.json").read_text())["weights_sha256"])
    torch.use_deterministic_algorithms(False)
    assert len(hashes) == 1


def test_out_of_memory_computes_batches_in_parts(place, capsys):
    gc.collect()
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved() + (700 << 20)
    torch.cuda.set_per_process_memory_fraction(held / torch.cuda.get_device_properties(0).total_memory)
    try:
        options = ["--features", "32", "--batch-size", "16", "--epochs", "1", "--device", "cuda"]
        assert run(["train", ".", *options, "--patch-size", "380"]) == 0, capsys.readouterr().err
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "out of memory: a batch of 16 patches is now computed in" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_one_pass_is_as_near_to_float32_as_three(precision, monkeypatch):
    """Convolution, bias and ReLU at once: logits and gradients of a network."""
    image = torch.rand(2, 1, 252, 252, device="cuda")

    def computed(precision):
        torch.manual_seed(0)
        device = Device("cuda:0", precision, "test")
        network = move_network(build_network("unet", channels=1, classes=2, features=16, dropout=0), device)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.1)
        with device.arithmetic():
            logits = network(image)
        logits.float().square().mean().backward()
        return torch.cat([logits.detach().flatten().float(), *(p.grad.flatten() for p in network.parameters())])

    exact, one_pass = computed("fp32"), computed(precision)
    monkeypatch.setattr(RectifiedConvolution, "forward", nn.Sequential.forward)
    three = computed(precision)
    assert not torch.equal(one_pass, three)
    assert (one_pass - exact).norm() < 1.1 * (three - exact).norm()

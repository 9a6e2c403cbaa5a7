"""Fused networks give what their parts give one after the other."""

import copy

import pytest
import torch
from torch import nn

from unetcli.inference.tilesize import bytes_per_pixel, overlap_arithmetic
from unetcli.models import ARCHITECTURES, build_network, geometry_of
from unetcli.models.device import Device, move_network
from unetcli.models.fusion import ConvolutionReLU, ready

WIDTHS = {name: {"features": 8} if name.startswith("unet") else {} for name in ARCHITECTURES}


def pair_of(architecture, precision, **arguments):
    """A network as it is trained, and the same as inference runs it."""
    device = Device("cpu", precision, "test")
    torch.manual_seed(0)
    network = build_network(architecture, channels=1, classes=2, **WIDTHS[architecture], **arguments).eval()
    for parameter in network.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)  # biases begin at zero
    return move_network(copy.deepcopy(network), device), ready(network, device), device


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", ["unet", "mobilenet-unet"])
def test_fused_equals_unfused(architecture, precision):
    plain, fused, device = pair_of(architecture, precision)
    side = geometry_of(plain).input_for(64)
    tiles = torch.rand(2, 1, side, side)
    with torch.inference_mode(), device.arithmetic():
        expected, found = plain(tiles).float().softmax(1), fused(tiles).float().softmax(1)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-5 if precision == "fp32" else 2e-2, rtol=0)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch without oneDNN")
def test_every_relu_after_a_convolution_is_fused():
    _, fused, _ = pair_of("unet", "fp32")
    assert sum(isinstance(module, ConvolutionReLU) for module in fused.modules()) == 18
    assert not any(isinstance(module, nn.ReLU) for module in fused.modules())
    _, normalized, _ = pair_of("unet", "fp32", batch_norm=True)
    assert not any(isinstance(module, ConvolutionReLU) for module in normalized.modules())


def test_tiles_are_chosen_as_without_fusion():
    plain, fused, device = pair_of("unet", "bf16")
    assert overlap_arithmetic(fused, 1, 572) == pytest.approx(overlap_arithmetic(plain, 1, 572))
    assert bytes_per_pixel(fused, 1, device) == bytes_per_pixel(plain, 1, device)

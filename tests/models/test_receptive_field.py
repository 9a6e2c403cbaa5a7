"""Which rows of an output are exact: the arithmetic on row numbers against pixels."""

import pytest
import torch
from oracles import redraw, rows_without_padding
from torch import nn

from unetcli.models import ARCHITECTURES, build_network, default_arguments
from unetcli.models.blocks import unpool
from unetcli.models.receptive_field import Rows, measure

LAYERS = {
    "valid": nn.Conv2d(1, 1, 3),
    "same": nn.Conv2d(1, 1, 3, padding=1),
    "wide": nn.Conv2d(1, 1, 7, padding=3),
    "dilated": nn.Conv2d(1, 1, 3, padding=2, dilation=2),
    "pointwise": nn.Conv2d(1, 1, 1),
    "halving convolution": nn.Conv2d(1, 1, 3, stride=2, padding=1),
    "pooling": nn.MaxPool2d(2),
    "overlapping pooling": nn.MaxPool2d(3, stride=1, padding=1),
    "up-convolution": nn.ConvTranspose2d(1, 1, 2, stride=2),
    "overlapping up-convolution": nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1),
    "by four": nn.ConvTranspose2d(1, 1, 8, stride=4, padding=2),
    "bilinear": nn.Upsample(scale_factor=2, mode="bilinear"),
    "bilinear by three": nn.Upsample(scale_factor=3, mode="bilinear"),
    "nearest": nn.Upsample(scale_factor=2, mode="nearest"),
}


def spoil(pixels: torch.Tensor, rows: Rows) -> torch.Tensor:
    """Add noise to the rows that are not exact."""
    spoiled = pixels.clone()
    spoiled[..., : rows.first, :] += torch.rand_like(spoiled[..., : rows.first, :])
    spoiled[..., rows.stop :, :] += torch.rand_like(spoiled[..., rows.stop :, :])
    return spoiled


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS.keys())
@pytest.mark.parametrize(("first", "spoiled_behind"), [(0, 0), (1, 0), (0, 1), (3, 2), (4, 5)])
def test_each_layer_spoils_the_rows_its_rule_says(layer: nn.Module, first: int, spoiled_behind: int):
    """Compared with the same layer in the middle of a larger image, and with noise in the rows already spoiled."""
    torch.manual_seed(0)
    size, room = 24, 12
    given = Rows(size, first, size - spoiled_behind)
    image = torch.rand(1, 1, size + 2 * room, size + 2 * room, dtype=torch.float64)
    layer = layer.double()
    with torch.no_grad():
        window = spoil(image[..., room : room + size, room : room + size], given)
        alone, within = layer(window), layer(image)
    rows = layer(given)
    assert rows.count == alone.shape[-1]
    offset = within.shape[-1] // 2 - alone.shape[-1] // 2
    if alone.shape[-1] * 2 == size:
        offset = room // 2
    within = within[..., offset : offset + rows.count, offset : offset + rows.count]
    middle = rows.count // 2
    agree = ((alone - within).abs()[0, 0, :, middle - 1 : middle + 1] < 1e-12).all(1)
    assert agree[rows.first : rows.stop].all()
    assert not agree[: rows.first].any() or isinstance(layer, nn.MaxPool2d)  # a maximum may hide what is spoiled
    assert not agree[rows.stop :].any() or isinstance(layer, nn.MaxPool2d)


def test_crops_and_sums():
    rows = Rows(20, 3, 18)
    assert rows[..., 2:17, 2:17] == Rows(15, 1, 15)
    assert rows[..., 5:-5, 5:-5] == Rows(10, 0, 10)
    assert torch.cat([rows, Rows(20, 5, 20)], dim=1) == rows + Rows(20, 5, 20) == Rows(20, 5, 18)
    assert unpool(Rows(5, 1, 4), Rows(5, 0, 3)) == Rows(10, 2, 6)
    assert rows.shape == (1, 1, 20, 20)


@pytest.mark.parametrize("layer", [nn.MaxPool2d(2), nn.MaxPool2d(2, return_indices=True)])
def test_pooling_an_odd_number_of_rows_is_refused(layer: nn.Module):
    with pytest.raises(ValueError, match="drops a row of 7"):
        layer(Rows(7, 0, 7))


def test_maps_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="4, 5 rows do not fit"):
        torch.cat([Rows(4, 0, 4), Rows(5, 0, 5)], dim=1)


def test_an_image_that_is_used_up_is_refused():
    with pytest.raises(ValueError, match="nothing is left"):
        nn.Conv2d(1, 1, 3)(Rows(2, 0, 2))


@pytest.mark.parametrize(
    "layer",
    [
        nn.InstanceNorm2d(1, affine=True),
        nn.GroupNorm(1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Upsample(scale_factor=2, mode="bicubic"),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
        nn.Upsample(size=30),
    ],
    ids=lambda layer: str(layer),
)
def test_a_layer_without_a_rule_is_refused(layer: nn.Module):
    """Those that compute statistics per tile never get one."""
    with pytest.raises(TypeError, match="rule"):
        layer(Rows(8, 0, 8))


def test_axes_that_differ_are_refused():
    with pytest.raises(ValueError, match="must be alike"):
        nn.Conv2d(1, 1, 3, padding=(1, 0))(Rows(8, 0, 8))


def test_measuring_leaves_the_mode_and_the_weights_alone():
    network = build_network("unet", channels=1, classes=2, features=2, depth=1, batch_norm=True)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert network.training
    measure(network, step=2, smallest=20)
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert measure(network.eval(), step=2, smallest=20).margin == 8
    assert not network.training


NETWORKS = {
    **{name: (name, {}) for name in ARCHITECTURES},
    **{
        f"unet {padding} {upsampling} {depth}": (
            "unet",
            {"padding": padding, "upsampling": upsampling, "depth": depth, "batch_norm": depth == 2},
        )
        for padding in ("valid", "same", "valid-same")
        for upsampling in ("transposed", "bilinear")
        for depth in (1, 2, 3)
    },
    "mobilenet-unet without the first skip": ("mobilenet-unet", {"first_skip": False}),
}


@pytest.mark.parametrize(("architecture", "arguments"), NETWORKS.values(), ids=NETWORKS.keys())
def test_the_rows_of_a_network_are_exact_and_no_more_than_those(architecture: str, arguments: dict):
    """Replacing padding by real pixels changes each row that is cut off for it, and no row that is kept."""
    small = {"features": 4} if "features" in default_arguments(architecture) else {}
    network = redraw(build_network(architecture, channels=1, classes=2, **small, **arguments))
    geometry = network.geometry
    size = geometry.input_for(64)
    claimed = network.eval()(Rows(size, 0, size))
    first, stop, rows = rows_without_padding(network, size, 2 * geometry.step)
    assert claimed.count == rows
    assert first <= claimed.first
    assert claimed.stop <= stop
    assert (first, stop) == (claimed.first, claimed.stop), "more is cut off than the padding spoils"

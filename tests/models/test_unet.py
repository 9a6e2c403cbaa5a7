"""The classic network by the book (paper, section 2 and figure 1), and its variants."""

import math

import pytest
import torch
from torch import nn

from unetcli.models import build_network, geometry_of
from unetcli.models.blocks import centre_crop, initialize_he
from unetcli.models.unet import UNet, smallest_input, unet, unet_2015

PADDINGS = ("valid", "same", "valid-same")
UPSAMPLINGS = ("transposed", "bilinear")


def on_meta(build=unet, channels: int = 1, classes: int = 2, **arguments) -> UNet:
    """Build a network whose tensors have shapes but no memory: a forward pass only follows the shapes."""
    with torch.device("meta"):
        return build(channels, classes, **arguments).eval()


def shapes_seen(network: nn.Module, kind: type[nn.Module], size: int) -> list[tuple[int, int]]:
    """Return (channels, rows) behind every module of a kind, in the order of the forward pass."""
    seen: list[tuple[int, int]] = []
    for module in network.modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda _, __, out: seen.append((out.shape[1], out.shape[-1])))
    network(torch.empty(1, 1, size, size, device="meta"))
    return seen


def parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_572_in_388_out_with_the_sizes_of_figure_1():
    assert shapes_seen(on_meta(), nn.Conv2d, 572) == [
        (64, 570), (64, 568), (128, 282), (128, 280), (256, 138), (256, 136), (512, 66), (512, 64),
        (1024, 30), (1024, 28), (512, 54), (512, 52), (256, 102), (256, 100), (128, 198), (128, 196), (64, 390),
        (64, 388), (2, 388),
    ]  # fmt: skip
    assert shapes_seen(on_meta(), nn.ConvTranspose2d, 572) == [(512, 56), (256, 104), (128, 200), (64, 392)]
    assert shapes_seen(on_meta(), nn.MaxPool2d, 572) == [(64, 284), (128, 140), (256, 68), (512, 32)]


def test_it_has_23_convolutional_layers():
    kinds = [type(m) for m in on_meta().modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert (len(kinds), kinds.count(nn.ConvTranspose2d)) == (23, 4)


@pytest.mark.parametrize(("channels", "classes", "count"), [(1, 2, 31_030_658), (3, 2, 31_031_810), (1, 1, 31_030_593)])
def test_parameters(channels: int, classes: int, count: int):
    assert parameters(on_meta(channels=channels, classes=classes)) == count


def test_skips_are_cropped_by_88_40_16_and_4_per_side(monkeypatch: pytest.MonkeyPatch):
    crops = []

    def spy(features, like):
        crops.append((features.shape[-1] - like.shape[-1]) / 2)
        return centre_crop(features, like)

    network = on_meta()
    monkeypatch.setattr("unetcli.models.unet.centre_crop", spy)
    network(torch.empty(1, 1, 572, 572, device="meta"))
    assert crops == [4, 16, 40, 88]


@pytest.mark.parametrize(("rest_y", "rest_x"), [(0, 0), (1, 2), (3, 1), (88, 7)])
def test_centre_crop_leaves_an_odd_rest_at_the_end(rest_y: int, rest_x: int):
    like = torch.zeros(1, 1, 6, 5)
    rows, columns = torch.meshgrid(torch.arange(6 + rest_y), torch.arange(5 + rest_x), indexing="ij")
    cropped = centre_crop(torch.stack([rows, columns])[None], like)
    assert cropped.shape[-2:] == like.shape[-2:]
    assert cropped[0, :, 0, 0].tolist() == [rest_y // 2, rest_x // 2]
    assert cropped[0, :, -1, -1].tolist() == [rest_y // 2 + 5, rest_x // 2 + 4]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("rest_y", "rest_x"), [(0, 0), (1, 2), (3, 1)])
def test_the_gradient_of_a_crop_keeps_the_memory_layout(rest_y: int, rest_x: int, layout: torch.memory_format):
    features = torch.rand(2, 3, 6 + rest_y, 5 + rest_x).contiguous(memory_format=layout).requires_grad_()
    cropped = centre_crop(features, torch.zeros(1, 1, 6, 5))
    given = torch.rand(2, 3, 6, 5).contiguous(memory_format=layout)
    (gradient,) = torch.autograd.grad(cropped, features, given)
    assert gradient.is_contiguous(memory_format=layout)
    expected = torch.zeros_like(features)
    expected[..., rest_y // 2 : rest_y // 2 + 6, rest_x // 2 : rest_x // 2 + 5] = given
    assert torch.equal(gradient, expected)


def test_the_skip_lies_over_the_upsampled_map_pixel_for_pixel():
    """With weights that copy, an impulse comes out where it went in, through the skips and through the bottom."""
    network = unet(1, 1, features=1, depth=2, dropout=0.0).eval()
    image = torch.zeros(1, 1, 60, 60)
    image[..., 29, 32] = 1
    for way in ("skip", "bottom"):
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.zero_()
                    module.bias.zero_()
                    centre = module.kernel_size[0] // 2
                    module.weight[0, 0, centre, centre] = 1
                elif isinstance(module, nn.ConvTranspose2d):
                    module.weight.zero_()
                    module.weight[0, 0] = 1
                    module.bias.zero_()
            for block in network.expanding:  # the concatenation has the up-sampled map first, then the skip
                block.first.convolution.weight.zero_()
                block.first.convolution.weight[0, 0 if way == "bottom" else 1, 1, 1] = 1
            output = network(image)[0, 0]
        margin = network.geometry.margin
        rows, columns = torch.nonzero(output, as_tuple=True)
        if way == "skip":
            assert (rows.tolist(), columns.tolist()) == ([29 - margin], [32 - margin])
        else:  # the 4 x 4 pixels that were pooled into one; two convolutions a level put their grid at 6 + 4k
            assert sorted(set((rows + margin).tolist())) == [26, 27, 28, 29]
            assert sorted(set((columns + margin).tolist())) == [30, 31, 32, 33]


def test_weights_start_with_he_s_standard_deviation():
    torch.manual_seed(0)
    network = unet(3, 2, features=32)
    checked = 0
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            incoming = module.in_channels * math.prod(module.kernel_size)
        elif isinstance(module, nn.ConvTranspose2d):
            incoming = module.in_channels  # each output pixel sees one input pixel
        else:
            continue
        weight = module.weight.detach()
        expected = math.sqrt(2 / incoming)
        assert abs(weight.std().item() / expected - 1) < 5 / math.sqrt(2 * weight.numel()), name
        assert abs(weight.mean().item()) < 5 * expected / math.sqrt(weight.numel()), name
        assert not module.bias.any()
        checked += 1
    assert checked == 23


def test_activations_keep_their_size_from_layer_to_layer():
    """What the initialization is for: neither a vanishing nor an exploding forward pass."""
    torch.manual_seed(0)
    network = unet(1, 2, features=16, depth=3, dropout=0.0)
    with torch.no_grad():
        logits = network(torch.randn(2, 1, 140, 140))
    assert 0.2 < logits.std() < 5


def test_he_counts_the_input_pixels_that_an_overlapping_up_convolution_sees():
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(64, 64, 4, stride=2)
    initialize_he(layer)
    assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / (64 * 4)), rel=0.02)


def test_dropout_stands_at_the_end_of_the_contracting_path_only():
    network = on_meta(dropout=0.4)
    active = {name for name, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p > 0}
    assert active == {"contracting.3.outer_dropout", "bottom.outer_dropout"}
    assert {m.p for m in network.modules() if isinstance(m, nn.Dropout) and m.p > 0} == {0.4}


def test_block_dropout_stands_in_every_block():
    network = on_meta(dropout=0.0, block_dropout=0.2)
    active = [name for name, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p > 0]
    assert len(active) == 9
    assert all(name.endswith("inner_dropout") for name in active)


def test_dropout_drops_in_training_and_not_in_evaluation():
    torch.manual_seed(0)
    network = unet(1, 2, features=4, depth=1, dropout=0.5)
    image = torch.randn(1, 1, 20, 20)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


def test_dropout_and_temperature_do_not_change_the_names_of_the_weights():
    plain, other = on_meta(), on_meta(dropout=0.0, block_dropout=0.5, temperature=3.0)
    assert plain.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 7])
def test_geometry_is_true_for_all_legal_sizes(padding: str, upsampling: str, depth: int):
    network = on_meta(depth=depth, padding=padding, upsampling=upsampling, features=1)
    geometry = geometry_of(network)
    assert geometry.step == 2**depth
    sizes = range(geometry.smallest, geometry.smallest + 8 * geometry.step, geometry.step)
    for height, width in zip(sizes, reversed(sizes), strict=True):
        shape = network(torch.empty(1, 1, height, width, device="meta")).shape
        assert shape == (1, 2, geometry.output_size(height), geometry.output_size(width))


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 7])
def test_margins_follow_their_formulas(depth: int):
    def margin(**arguments) -> int:
        return geometry_of(on_meta(depth=depth, features=1, **arguments)).margin

    assert margin() == 6 * 2**depth - 4  # two pixels a side and level, down, at the bottom and up
    assert margin(upsampling="bilinear") == 7 * 2**depth - 5  # one more at every up-sampling
    assert margin(padding="valid-same") == 4 * 2**depth - 2  # nothing lost on the way up
    assert margin(padding="same") == margin(padding="same", upsampling="bilinear") == 0


@pytest.mark.parametrize(("arguments", "after"), [
    ({}, 388),
    ({"upsampling": "bilinear"}, 358),
    ({"padding": "valid-same"}, 448),
    ({"padding": "valid-same", "upsampling": "bilinear"}, 448),
])  # fmt: skip
def test_what_becomes_of_572_pixels(arguments: dict[str, str], after: int):
    network = on_meta(**arguments)
    assert network(torch.empty(1, 1, 572, 572, device="meta")).shape[-1] == after
    assert network.geometry.output_size(572) == after


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("upsampling", UPSAMPLINGS)
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_smaller_than_the_smallest_is_no_input(padding: str, upsampling: str, depth: int):
    """One step less leaves nothing, or a bottom of one pixel, which batch normalization cannot learn from."""
    geometry = geometry_of(on_meta(depth=depth, padding=padding, upsampling=upsampling, features=1))
    if padding == "valid":
        assert geometry.output_size(geometry.smallest) == (4 if upsampling == "transposed" else 6)
    else:
        assert geometry.output_size(geometry.smallest) == 2 * 2**depth
    assert smallest_input(4, bottom=4, lost=4) == 188


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5, 6, 7])
def test_the_context_of_the_padded_net_is_its_receptive_field(depth: int):
    geometry = geometry_of(on_meta(depth=depth, padding="same", features=1))
    true = 6 * 2**depth - 2 if depth > 1 else 8
    assert geometry.context == geometry.rounded_up(true)
    assert geometry.context <= 6 * 2**depth


def test_the_context_of_a_bilinear_padded_net_is_more_than_that():
    assert geometry_of(on_meta(padding="same", upsampling="bilinear")).context == 112


@pytest.mark.parametrize(("channels", "classes"), [(1, 2), (3, 4), (7, 1), (2, 255)])
@pytest.mark.parametrize(("features", "depth"), [(1, 1), (3, 2), (64, 5)])
def test_any_channels_classes_features_and_depth(channels: int, classes: int, features: int, depth: int):
    network = on_meta(channels=channels, classes=classes, features=features, depth=depth)
    size = network.geometry.smallest
    assert network(torch.empty(2, channels, size, size, device="meta")).shape == (2, classes, 4, 4)


def test_temperature_divides_the_logits():
    torch.manual_seed(0)
    sharp = unet(1, 3, features=2, depth=1).eval()
    flat = unet(1, 3, features=2, depth=1, temperature=4.0).eval()
    flat.load_state_dict(sharp.state_dict())
    image = torch.randn(1, 1, 20, 20)
    torch.testing.assert_close(flat(image), sharp(image) / 4)
    assert flat(image).softmax(1).amax() < sharp(image).softmax(1).amax()


def test_batch_normalization_stands_between_convolution_and_relu_and_has_the_bias():
    network = on_meta(batch_norm=True)
    kinds = [type(m).__name__ for m in network.bottom.modules() if not list(m.children())]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU", "Dropout", "Conv2d", "BatchNorm2d", "ReLU", "Dropout"]
    assert sum(isinstance(m, nn.BatchNorm2d) for m in network.modules()) == 18
    assert network.bottom.first.convolution.bias is None
    relative = parameters(network) - parameters(on_meta())
    assert relative == sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))  # 2 - 1 each


def test_bilinear_up_sampling_halves_the_channels_with_a_1x1_convolution():
    network = on_meta(upsampling="bilinear")
    assert not any(isinstance(m, nn.ConvTranspose2d) for m in network.modules())
    up_convolutions = sum(4 * 2 * w * w - 2 * w * w for w in (64, 128, 256, 512))
    assert parameters(network) == 31_030_658 - up_convolutions


def test_convolving_first_and_up_sampling_first_are_the_same():
    torch.manual_seed(0)
    convolution, up_sampling = nn.Conv2d(6, 3, 1), nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    features = torch.randn(2, 6, 7, 7)
    torch.testing.assert_close(up_sampling(convolution(features)), convolution(up_sampling(features)))


class TestReleasedNetwork:
    """phseg_v5 of October 2015 differs from figure 1."""

    def test_parameters(self):
        assert parameters(on_meta(unet_2015)) == 31_100_354

    def test_the_last_up_convolution_keeps_128_channels(self):
        seen = shapes_seen(on_meta(unet_2015), nn.ConvTranspose2d, 572)
        assert seen == [(512, 56), (256, 104), (128, 200), (128, 392)]

    def test_a_relu_follows_each_up_convolution(self):
        network = on_meta(unet_2015)
        assert sum(isinstance(m, nn.ReLU) for m in network.modules()) == 18 + 4
        assert all(isinstance(up[1], nn.ReLU) for up in network.up_samplings)

    def test_the_upsampled_map_comes_before_the_skip(self):
        network = unet_2015(1, 1, features=1, depth=1, dropout=0.0).eval()
        inputs = []
        network.expanding[0].register_forward_hook(lambda _, given, __: inputs.append(given[0]))
        with torch.no_grad():
            network.up_samplings[0][0].weight.zero_()
            network.up_samplings[0][0].bias.fill_(7)
            network(torch.rand(1, 1, 20, 20))
        assert inputs[0].shape[1] == 3
        assert (inputs[0][:, :2] == 7).all()
        assert (inputs[0][:, 2] != 7).all()

    def test_dropout_stands_behind_both_last_blocks_of_the_contracting_path(self):
        network = on_meta(unet_2015)
        active = {name for name, m in network.named_modules() if isinstance(m, nn.Dropout) and m.p > 0}
        assert active == {"contracting.3.outer_dropout", "bottom.outer_dropout"}

    def test_up_convolutions_start_as_caffe_counts_their_inputs(self):
        torch.manual_seed(0)
        network = unet_2015(1, 2, features=16)
        for up in network.up_samplings:
            expected = math.sqrt(2 / (up[0].out_channels * 4))
            assert up[0].weight.std().item() == pytest.approx(expected, rel=5 / math.sqrt(2 * up[0].weight.numel()))

    def test_geometry_is_that_of_the_paper(self):
        assert geometry_of(on_meta(unet_2015)) == geometry_of(on_meta())
        assert build_network("unet-2015", channels=1, classes=2, features=2).geometry.output_size(572) == 388

"""The networks that U-Net is compared with, layer by layer as their definitions have them."""

import pytest
import torch
from oracles import redraw
from torch import nn
from torch.nn import functional

from unetcli.models.blocks import unpool
from unetcli.models.fcn import BilinearUpConvolution, fcn8s, fcn16s, fcn32s
from unetcli.models.mobilenet_unet import mobilenet_unet
from unetcli.models.segnet import segnet


def layers_of(network: nn.Module, size: int) -> list[tuple[str, int, int]]:
    """Return (kind, channels, rows) of every convolution in the order of the forward pass."""
    seen: list[tuple[str, int, int]] = []

    def note(module: nn.Module, _, out: torch.Tensor) -> None:
        kind = f"{'depthwise ' if module.groups > 1 else ''}{module.kernel_size[0]}"
        seen.append((kind, out.shape[1], out.shape[-1]))

    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(note)
    network.eval()(torch.empty(1, 1, size, size, device="meta"))
    return seen


def on_meta(build, classes: int = 2, **arguments) -> nn.Module:
    with torch.device("meta"):
        return build(1, classes, **arguments)


VGG16 = [
    *[("3", 64, 64)] * 2, *[("3", 128, 32)] * 2, *[("3", 256, 16)] * 3, *[("3", 512, 8)] * 3, *[("3", 512, 4)] * 3,
]  # fmt: skip


class TestFCN:
    @pytest.mark.parametrize(("build", "finer"), [
        (fcn32s, []), (fcn16s, [("1", 5, 4)]), (fcn8s, [("1", 5, 4), ("1", 5, 8)]),
    ])  # fmt: skip
    def test_layers(self, build, finer: list):
        head = [("7", 4096, 2), ("1", 4096, 2), ("1", 5, 2)]
        assert layers_of(on_meta(build, classes=5), 64) == VGG16 + head + finer

    def test_dropout_stands_behind_both_fully_connected_layers(self):
        assert [m.p for m in on_meta(fcn8s).fully_connected if isinstance(m, nn.Dropout)] == [0.5, 0.5]

    def test_scores_start_at_zero_and_nothing_else_does(self):
        network = fcn8s(1, 2, features=2)
        zero = {name for name, p in network.named_parameters() if name.endswith("weight") and not p.any()}
        assert zero == {"score.weight", "finer_scores.0.weight", "finer_scores.1.weight"}

    @pytest.mark.parametrize("factor", [2, 8, 16, 32])
    def test_the_kernel_interpolates_bilinearly(self, factor: int):
        scores = torch.randn(2, 3, 6, 6)
        up = BilinearUpConvolution(3, factor, learned=False)(scores)
        expected = functional.interpolate(scores, scale_factor=factor, mode="bilinear", align_corners=False)
        inner = slice(factor, -factor)
        assert up.shape == expected.shape
        torch.testing.assert_close(up[..., inner, inner], expected[..., inner, inner])

    def test_a_fixed_kernel_is_a_buffer_and_a_learned_one_a_parameter(self):
        fixed, learned = fcn16s(1, 2, features=1), fcn16s(1, 2, features=1, upsampling="transposed")
        names = {"doublings.0.kernel", "to_full_size.kernel"}
        assert names <= dict(fixed.named_buffers()).keys()
        assert learned.state_dict().keys() - fixed.state_dict().keys() == names
        assert names <= dict(learned.named_parameters()).keys()

    def test_learned_up_sampling_starts_as_the_fixed_one(self):
        fixed, learned = fcn8s(1, 2, features=2), fcn8s(1, 2, features=2, upsampling="transposed")
        redraw(fixed)
        learned.load_state_dict(fixed.state_dict(), strict=False)
        image = torch.randn(1, 1, 64, 64)
        assert torch.equal(learned.eval()(image), fixed.eval()(image))

    def test_scores_are_summed_from_coarse_to_fine(self):
        """With the finer scores silent, FCN-8s is FCN-32s with its up-sampling in three steps instead of one."""
        fine, coarse = redraw(fcn8s(1, 2, features=2)).eval(), fcn32s(1, 2, features=2).eval()
        coarse.load_state_dict(fine.state_dict(), strict=False)
        image = torch.randn(1, 1, 192, 192)
        with torch.no_grad():
            for score in fine.finer_scores:
                score.weight.zero_()
                score.bias.zero_()
            apart = fine(image) - coarse(image)
            assert 0 < apart[..., 64:128, 64:128].std() < 0.2 * coarse(image).std()
            fine.finer_scores[1].bias.fill_(3.0)
            torch.testing.assert_close(
                (fine(image) - coarse(image) - apart)[..., 64:128, 64:128], torch.full((1, 2, 64, 64), 3.0)
            )


class TestSegNet:
    def test_layers(self):
        mirrored = [
            *[("3", 512, 4)] * 3, *[("3", 512, 8)] * 2, ("3", 256, 8), *[("3", 256, 16)] * 2, ("3", 128, 16),
            ("3", 128, 32), ("3", 64, 32), ("3", 64, 64), ("3", 5, 64),
        ]  # fmt: skip
        assert layers_of(on_meta(segnet, classes=5), 64) == VGG16 + mirrored

    def test_a_relu_and_batch_normalization_follow_all_but_the_last(self):
        network = on_meta(segnet)
        count = {
            kind: sum(isinstance(m, kind) for m in network.modules()) for kind in (nn.Conv2d, nn.BatchNorm2d, nn.ReLU)
        }
        assert list(count.values()) == [26, 25, 25]
        normalized = [m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        assert 2 * sum(normalized) == 15_872

    def test_unpooling_is_that_of_torch_and_its_gradient_too(self):
        image = torch.randn(2, 3, 8, 12, requires_grad=True)
        gradients = []
        for undo in (unpool, lambda values, indices: functional.max_unpool2d(values, indices, 2)):
            result = undo(*functional.max_pool2d(image, 2, return_indices=True))
            gradients.append(torch.autograd.grad((result**3).sum(), image)[0])
            assert torch.equal(result, torch.where(result != 0, image, 0))
            assert (result != 0).sum() == image.numel() // 4
        assert torch.equal(*gradients)

    def test_values_go_back_where_they_stood(self):
        image = torch.tensor([[1.0, 2, 8, 5], [4, 3, 6, 7]])[None, None]
        result = unpool(*functional.max_pool2d(image, 2, return_indices=True))
        assert result[0, 0].tolist() == [[0, 0, 8, 0], [4, 0, 0, 0]]


class TestMobileNetUNet:
    def test_layers(self):
        def separable(before: int, after: int, rows: int) -> list[tuple[str, int, int]]:
            return [(f"{'depthwise ' if before > 1 else ''}3", before, rows), ("1", after, rows)]

        expected = [
            ("3", 32, 32), *separable(32, 64, 32),
            *separable(64, 128, 16), *separable(128, 128, 16),
            *separable(128, 256, 8), *separable(256, 256, 8),
            *separable(256, 512, 4), *separable(512, 512, 4) * 5,
            ("3", 512, 4), ("3", 256, 8), ("3", 128, 16), ("3", 64, 32), ("3", 5, 32),
        ]  # fmt: skip
        assert layers_of(on_meta(mobilenet_unet, classes=5), 64) == expected

    def test_the_expanding_path_normalizes_after_the_relu(self):
        network = on_meta(mobilenet_unet)
        for block in (network.bottom, *network.expanding):
            assert [type(layer) for layer in block] == [nn.Conv2d, nn.ReLU, nn.BatchNorm2d]

    @pytest.mark.parametrize("first_skip", [True, False])
    def test_the_first_skip_is_optional(self, first_skip: bool):
        network = redraw(mobilenet_unet(1, 2, features=4, first_skip=first_skip)).eval()
        assert network.expanding[-1][0].in_channels == (16 + 8 if first_skip else 16)
        assert network(torch.randn(1, 1, 48, 48)).shape == (1, 2, 48, 48)

"""The optimizers: Muon against PyTorch's own, and which learning rate comes with which."""

import pytest
import torch
from torch import nn

from unetcli.training.config import TrainConfig
from unetcli.training.optimization import LEARNING_RATES, OPTIMIZERS, Muon, orthogonal


def gradients(shape, steps):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def moved(optimizer, parameter, steps=4):
    """Return where steps along fixed gradients take a parameter that begins at zero."""
    for gradient in gradients((parameter.numel(),), steps):
        parameter.grad = gradient.view_as(parameter).contiguous(memory_format=layout(parameter))
        optimizer.step()
    return parameter.detach()


def layout(parameter):
    return torch.channels_last if parameter.ndim == 4 else torch.contiguous_format


def zeros(*shape):
    return nn.Parameter(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 12)])
def test_muon_is_that_of_torch_for_matrices(shape):
    expected = zeros(*shape)
    as_ours = {"ns_steps": 3, "adjust_lr_fn": "match_rms_adamw"}
    moved(torch.optim.Muon([expected], lr=0.1, weight_decay=2.0, **as_ours), expected)
    parameter, undecayed = zeros(*shape), zeros(*shape)
    with torch.autocast("cpu", torch.bfloat16):
        moved(Muon([parameter], lr=0.1, weight_decay=2.0), parameter)
        moved(Muon([undecayed], lr=0.1, weight_decay=0.0), undecayed)
    assert (undecayed - expected).norm() > 0.1 * expected.norm()
    assert expected.abs().max() > 0.02
    assert (parameter - expected).norm() < 0.05 * expected.norm()  # 18 products in bf16, whose rounding differs


def test_kernels_move_as_matrices_in_any_memory_layout():
    matrix, kernel = zeros(6, 36), zeros(6, 4, 3, 3)
    channels_last = nn.Parameter(torch.zeros(6, 4, 3, 3).contiguous(memory_format=torch.channels_last))
    expected = moved(Muon([matrix], lr=0.1), matrix)
    for parameter in (kernel, channels_last):
        torch.testing.assert_close(moved(Muon([parameter], lr=0.1), parameter).flatten(1), expected)


@pytest.mark.parametrize("shape", [(6, 40), (40, 6), (12, 48), (1, 9)])
def test_all_directions_count_alike(shape):
    matrix = gradients(shape, 1)[0]
    matrix[0] *= 10
    left, before, right = torch.linalg.svd(matrix, full_matrices=False)
    assert len(before) == 1 or before[0] > 2 * before[1]
    found = left.mT @ orthogonal(matrix) @ right.mT
    after = found.diagonal()
    assert 0.6 < after.min() <= after.max() < 1.3
    assert (found - after.diag()).abs().max() < 1e-3


def test_a_vector_moves_along_its_gradient():
    parameter = zeros(16)
    (gradient,) = gradients((16,), 1)
    step = moved(Muon([parameter], lr=0.1), parameter, steps=1)
    torch.testing.assert_close(step, -0.2 * 0.1 * gradient / gradient.square().mean().sqrt())


def test_what_has_no_gradient_stays():
    without, zero = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    zero.grad = torch.zeros(3, 4)
    Muon([without, zero], lr=0.1, weight_decay=0.5).step()
    assert torch.equal(without, torch.ones(3, 4))
    assert torch.equal(zero, torch.full((3, 4), 0.95))


def test_another_optimizer_comes_with_its_learning_rate(tmp_path):
    def recipe(**options):
        return TrainConfig(tmp_path / "unet.safetensors", **options).steps_recipe

    assert recipe().learning_rate == LEARNING_RATES[recipe().optimizer]
    assert LEARNING_RATES.keys() == OPTIMIZERS.keys()
    for optimizer, rate in LEARNING_RATES.items():
        assert recipe(optimizer=optimizer).learning_rate == rate
        assert recipe(optimizer=optimizer, learning_rate=0.5).learning_rate == 0.5

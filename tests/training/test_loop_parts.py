"""Loss, schedules, averaged weights, splits."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unetcli.training.loss import soft_dice_loss, weighted_cross_entropy
from unetcli.training.optimization import SCHEDULES, AveragedWeights


def test_loss_equals_the_definition():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.randint(0, 3, (2, 4, 5), generator=generator)
    weights = torch.rand(2, 4, 5, generator=generator)
    expected = 0.0
    for n in range(2):
        for y in range(4):
            for x in range(5):
                scores = np.exp(logits[n, :, y, x].double().numpy())
                expected -= float(weights[n, y, x]) * np.log(scores[target[n, y, x]] / scores.sum())
    assert float(weighted_cross_entropy(logits, target, weights)) == pytest.approx(expected / 40, rel=1e-5)


def test_soft_dice_equals_the_definition():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, generator=generator)
    target = torch.randint(0, 3, (2, 4, 5), generator=generator)
    weights = torch.randint(0, 3, (2, 4, 5), generator=generator).float()
    shares = []
    for n in range(2):
        for index in (1, 2):
            overlap = found = there = 0.0
            for y, x in (weights[n] > 0).nonzero().tolist():
                scores = np.exp(logits[n, :, y, x].double().numpy())
                probability, truth = scores[index] / scores.sum(), int(target[n, y, x]) == index
                overlap, found, there = overlap + probability * truth, found + probability, there + truth
            shares.append(2 * overlap / (found + there + 1))
    assert float(soft_dice_loss(logits, target, weights)) == pytest.approx(1 - np.mean(shares), rel=1e-5)


def test_soft_dice_is_small_where_all_is_found_and_flat_where_nothing_is():
    target = torch.ones(1, 30, 30, dtype=torch.int64)
    logits = torch.stack([-20 * target, 20 * target], dim=1).float().requires_grad_()
    assert float(soft_dice_loss(logits.detach(), target, torch.ones(1, 30, 30))) < 1e-3
    (gradient,) = torch.autograd.grad(soft_dice_loss(logits, torch.zeros_like(target), torch.ones(1, 30, 30)), logits)
    assert not gradient.any()


LOSSES = pytest.mark.parametrize("loss_of", [weighted_cross_entropy, soft_dice_loss])


@LOSSES
def test_ignored_pixels_change_nothing(loss_of):
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    weights = torch.ones(1, 3, 3)
    weights[0, 0] = 0
    losses = []
    for ignored in (-1, 0, 1):
        target = torch.ones(1, 3, 3, dtype=torch.int64)
        target[0, 0] = ignored
        loss = loss_of(logits, target, weights)
        losses.append(float(loss.detach()))
        (gradient,) = torch.autograd.grad(loss, logits)
        assert not gradient[0, :, 0].any()
    assert losses[0] == losses[1] == losses[2]


def test_a_batch_that_is_ignored_altogether_has_a_finite_loss():
    logits = torch.randn(1, 2, 3, 3)
    assert float(weighted_cross_entropy(logits, torch.full((1, 3, 3), -1), torch.zeros(1, 3, 3))) == 0


def test_a_batch_that_is_ignored_altogether_has_no_dice_to_learn_from():
    logits = torch.randn(1, 2, 3, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_dice_loss(logits, torch.full((1, 3, 3), -1), torch.zeros(1, 3, 3)), logits)
    assert not gradient.any()


@LOSSES
def test_halves_of_a_batch_add_up(loss_of):
    logits, target, weights = torch.randn(4, 2, 3, 3), torch.randint(0, 2, (4, 3, 3)), torch.rand(4, 3, 3)
    whole = loss_of(logits, target, weights)
    halves = [loss_of(logits[i : i + 2], target[i : i + 2], weights[i : i + 2]) / 2 for i in (0, 2)]
    assert float(sum(halves)) == pytest.approx(float(whole), rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@given(progress=st.floats(0, 1.5))
def test_schedules_stay_between_zero_and_one(name, progress):
    assert 0 <= SCHEDULES[name](progress) <= 1


def test_the_cosine_ends_at_zero_and_warms_up():
    cosine = SCHEDULES["cosine"]
    assert cosine(1.0) == pytest.approx(0, abs=1e-12)
    assert cosine(0.0) < 0.05 < cosine(0.02) < cosine(0.03) == pytest.approx(1)
    values = [cosine(progress) for progress in np.linspace(0.03, 1, 50)]
    assert values == sorted(values, reverse=True)


def test_averaged_weights_follow():
    network, average = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    follower = AveragedWeights(network, average, decay=0.5)
    with torch.no_grad():
        average.weight.zero_()
        network.weight.fill_(8.0)
    for _ in range(3):
        follower.update()
    assert 0 < float(8 - average.weight[0, 0].detach()) < 1
    follower_of_nothing = AveragedWeights(network, average, decay=0.0)
    follower_of_nothing.update()
    assert torch.equal(average.weight, network.weight)

"""The threshold that is learned from held-out images."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetcli.training.validation import THRESHOLDS, ImageScore, ValidationScore, _dice_at_thresholds


@given(seed=st.integers(0, 1000), pixels=st.integers(1, 50), share=st.floats(0, 1))
def test_dice_at_every_threshold(seed, pixels, share):
    """What is added up by thresholds is what comes of comparing with each."""
    rng = np.random.default_rng(seed)
    truth = rng.random(pixels) < share
    probabilities = rng.choice([0.0, 0.25, 0.5, 0.505, 1.0], pixels).astype(np.float32)
    counts = np.zeros((2, len(THRESHOLDS) + 1), np.int64)
    np.add.at(counts, (truth.astype(int), np.searchsorted(THRESHOLDS, probabilities)), 1)
    for threshold, dice in zip(THRESHOLDS, _dice_at_thresholds(counts), strict=True):
        predicted = probabilities > threshold
        both = predicted.sum() + truth.sum()
        assert dice == pytest.approx(2 * (predicted & truth).sum() / both) if both else math.isnan(dice)


def score_of(*curves):
    return ValidationScore(tuple(ImageScore(str(i), 0.0, (0.5,), 0.1, curve) for i, curve in enumerate(curves)), ())


def curve(**dice):
    """Dice 0.5 but at the thresholds named, in hundredths."""
    return tuple(dice.get(f"at{round(100 * float(threshold))}", 0.5) for threshold in THRESHOLDS)


def test_the_best_mean_wins_and_of_equals_the_nearest_to_a_half():
    assert score_of(curve(at30=0.9), curve(at30=0.7, at80=0.8)).threshold == 0.3
    assert score_of(curve(at30=0.9, at60=0.9)).threshold == 0.6
    assert score_of(curve()).threshold == 0.5
    nowhere = (math.nan,) * len(THRESHOLDS)
    assert score_of(curve(at70=0.9), nowhere).threshold == 0.7
    assert score_of(nowhere).threshold is None
    assert score_of(()).threshold is None

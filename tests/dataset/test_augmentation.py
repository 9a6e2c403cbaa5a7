"""The one resampling, its draws and the gray values."""

import dataclasses
import itertools
import json
import pickle
import random
import subprocess
import sys
from pathlib import Path

import albumentations as A
import cv2
import numpy as np
import oracles
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unetcli.dataset.augmentation import (
    LARGEST_ELASTIC,
    NO_AUGMENTATION,
    Augmentation,
    AugmentationSettings,
    GrayNoise,
    GrayValues,
    Warp,
    build_map,
    displacement_sigma,
    resample,
    sample_seed,
    spline_basis,
    turn,
)
from unetcli.errors import UsageError
from unetcli.images import intensity_range, normalize

PACKAGE = Path(__file__).resolve().parents[2] / "unetcli"
WARP_ONLY = AugmentationSettings(scale=0.2, intensity=0)
NO_DISPLACEMENT = np.zeros((2, 3, 3))


def places(height, width):
    """An image (H, W, 2) whose pixels hold their own position."""
    return np.stack(np.mgrid[:height, :width], axis=-1).astype(np.float32)


def numbered(height, width):
    """Labels whose values say where they stand."""
    return np.arange(height * width, dtype=np.int32).reshape(height, width)


def mirrored_crop(image, top, left, size):
    edges = zip((top, left), image.shape[:2], strict=True)
    before = [(max(0, -start), max(0, start + size - length)) for start, length in edges]
    padded = np.pad(image, before + [(0, 0)] * (image.ndim - 2), mode="reflect")
    top, left = top + before[0][0], left + before[1][0]
    return padded[top : top + size, left : left + size]


def old_opencv():
    """Whether positions are rounded to 1/32 pixel."""
    return int(cv2.__version__.split(".")[0]) < 5


def seed_all(augmentation, seed):
    augmentation.compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
    return augmentation.compose.transforms


def positions_of(warp, centre=(0, 0)):
    return warp.get_params_dependent_on_data({}, {"centre": centre})["positions"]


class Scan:
    """A scan of 20,000 x 20,000 pixels that is no array and remembers how much was asked of it."""

    def __init__(self, *channels, dtype=np.float32):
        self.shape, self.dtype, self.asked = (20_000, 20_000, *channels), np.dtype(dtype), 0

    def __getitem__(self, key):
        sides = [side.stop - side.start for side in key]
        self.asked = max(self.asked, *sides)
        return np.zeros((*sides, *self.shape[2:]), self.dtype)


class TestMap:
    @given(st.integers(0, 10_000), st.sampled_from([3, 4, 64, 101, 188]))
    def test_displaces_along_the_spline_through_the_control_points(self, seed, size):
        grids = np.random.default_rng(seed).normal(0, 10, (2, 3, 3))
        positions = build_map(size, (50, 70), grids, np.eye(2))
        pixels = np.mgrid[:size, :size] + np.array([50 - size // 2, 70 - size // 2])[:, None, None]
        expected = [oracles.displacement_field(grid, size) for grid in grids]
        np.testing.assert_allclose(positions - pixels, expected, atol=1e-4)

    def test_spline_takes_the_published_values(self):
        known = [[1, 0, 0], [0.59375, 0.5, -0.09375], [0, 1, 0], [-0.09375, 0.5, 0.59375], [0, 0, 1]]
        np.testing.assert_allclose(spline_basis(5), known, atol=1e-12)

    @given(st.integers(0, 10_000))
    def test_image_follows_the_spline_definition(self, seed):
        draw = np.random.default_rng(seed)
        image, grids = draw.random((90, 80, 1)), draw.normal(0, 2, (2, 3, 3))
        positions = build_map(40, (45, 40), grids, turn(float(draw.uniform(-180, 180))))
        patch = resample(image, positions.astype(np.float32))
        np.testing.assert_allclose(patch, oracles.cubic_at(image, positions), atol=3e-2 if old_opencv() else 1e-4)

    @pytest.mark.parametrize("size", [64, 188, 380, 572])
    @pytest.mark.parametrize("elastic", [10.0, LARGEST_ELASTIC])
    def test_never_folds(self, size, elastic):
        draw = np.random.default_rng(size)
        for _ in range(20):
            grids = draw.normal(0, displacement_sigma(elastic, size), (2, 3, 3))
            y, x = build_map(size, (0, 0), grids, np.eye(2))
            jacobian = np.diff(y, axis=0)[:, 1:] * np.diff(x, axis=1)[1:]
            jacobian -= np.diff(y, axis=1)[1:] * np.diff(x, axis=0)[:, 1:]
            assert jacobian.min() > 0

    def test_folds_without_scaling_the_displacements(self):
        draw = np.random.default_rng(0)
        smallest = []
        for _ in range(20):
            y, _x = build_map(64, (0, 0), draw.normal(0, 10, (2, 3, 3)), np.eye(2))
            smallest.append(np.diff(y, axis=0).min())
        assert min(smallest) < 0  # so the test above can fail

    def test_displacements_have_the_strength_of_the_paper(self):
        assert displacement_sigma(10, 572) == 10
        warp = Warp(572, 388, elastic=10, rotate=0, flip=False, scale=0)
        warp.set_random_seed(0)
        shown = [positions_of(warp)[:, ::571, ::571] for _ in range(40)]
        corners = np.array(shown) - np.mgrid[-286:286:571, -286:286:571]
        assert 8.5 < corners.std() < 11.5

    def test_takes_a_position_to_the_nearest_pixels(self):
        for centre in ((10, 20), (9.5, 19.5), (9.2, 19.9)):
            positions = build_map(8, centre, NO_DISPLACEMENT, np.eye(2))
            np.testing.assert_array_equal(positions[:, 0, 0], [6, 16])
        np.testing.assert_array_equal(build_map(7, (10, 20), NO_DISPLACEMENT, np.eye(2))[:, 0, 0], [7, 17])


class TestIdentity:
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(-3, 43), st.integers(-3, 43), st.integers(0, 99))
    def test_without_variation_the_patch_is_the_mirrored_crop(self, height, width, y, x, seed):
        image = np.random.default_rng(seed).normal(0, 1, (height, width, 2)).astype(np.float32)
        labels = numbered(height, width)
        augmentation = Augmentation(NO_AUGMENTATION, patch_size=28, output_size=12)
        patch, target = augmentation(image, labels, (y, x), seed)
        np.testing.assert_array_equal(patch, mirrored_crop(image, y - 14, x - 14, 28))
        np.testing.assert_array_equal(target, mirrored_crop(labels, y - 6, x - 6, 12))

    def test_holds_for_a_small_image_in_the_classic_patch(self):
        image, labels = places(120, 120), numbered(120, 120)
        patch, target = Augmentation(NO_AUGMENTATION, patch_size=572, output_size=388)(image, labels, (60, 60), 0)
        np.testing.assert_array_equal(patch, mirrored_crop(image, -226, -226, 572))
        np.testing.assert_array_equal(target, mirrored_crop(labels, -134, -134, 388))
        assert (patch.dtype, target.dtype) == (np.float32, np.int32)

    @pytest.mark.parametrize("quarter", [-1, 1, 2, 3])
    @pytest.mark.parametrize("size", [20, 21])
    def test_quarter_turns_are_exact(self, quarter, size):
        image = np.random.default_rng(0).random((size, size, 3), dtype=np.float32)
        middle = ((size - 1) / 2, (size - 1) / 2)
        positions = build_map(size, middle, NO_DISPLACEMENT, turn(90 * quarter))
        np.testing.assert_array_equal(positions, np.rint(positions))
        np.testing.assert_array_equal(resample(image, positions.astype(np.float32)), np.rot90(image, -quarter))

    def test_mirroring_is_exact(self):
        image = places(16, 16)
        for flip_y, flip_x in ((True, False), (False, True), (True, True)):
            positions = build_map(16, (7.5, 7.5), NO_DISPLACEMENT, turn(0, flip_y=flip_y, flip_x=flip_x))
            expected = image[:: -1 if flip_y else 1, :: -1 if flip_x else 1]
            np.testing.assert_array_equal(resample(image, positions.astype(np.float32)), expected)

    def test_scale_enlarges(self):
        positions = build_map(11, (50, 50), NO_DISPLACEMENT, turn(0, scale=2))
        assert np.ptp(positions[0]) == 5  # eleven pixels show six of the image


class TestTogether:
    @given(st.integers(0, 10_000))
    def test_image_and_labels_move_together(self, seed):
        image, labels = places(300, 280), numbered(300, 280)
        patch, target = Augmentation(WARP_ONLY, patch_size=100, output_size=60)(image, labels, (150, 140), seed)
        shown = np.stack(np.divmod(target, 280), axis=-1)
        assert np.abs(patch[20:80, 20:80] - shown).max() < 0.55  # nearest pixel, 0.05 for an old OpenCV
        assert np.ptp(target) > 1000

    @given(st.integers(0, 10_000))
    def test_equal_the_slow_twin_mirrored_outside(self, seed):
        draw = np.random.default_rng(seed)
        image = draw.random((30, 41, 3), dtype=np.float32)
        labels = draw.integers(-1, 9, (30, 41), dtype=np.int32)
        augmentation = Augmentation(WARP_ONLY, patch_size=68, output_size=40)
        patch, target = augmentation(image, labels, (12, 30), seed)
        warp = seed_all(augmentation, seed)[0]
        positions = positions_of(warp, (12, 30))
        np.testing.assert_allclose(patch, oracles.cubic_at(image, positions), atol=4e-2 if old_opencv() else 1e-4)
        expected = oracles.nearest_at(labels, positions[:, 14:54, 14:54])
        assert (target != expected).mean() < 0.001  # a position between two pixels may go either way

    def test_deformed_patches_stay_sharp(self):
        image = np.random.default_rng(0).normal(0, 1, (300, 300, 1)).astype(np.float32)
        augmentation = Augmentation(AugmentationSettings(intensity=0), patch_size=188, output_size=4)
        patch, _ = augmentation(image, numbered(300, 300), (150, 150), 0)
        assert patch.std() > 0.8  # read linearly, noise keeps two thirds of its deviation

    def test_ignored_pixels_stay_whole(self):
        labels = np.zeros((80, 80), np.int32)
        labels[20:60, 20:60] = -1
        _, target = Augmentation(WARP_ONLY, patch_size=64, output_size=64)(places(80, 80), labels, (40, 40), 3)
        assert set(np.unique(target)) == {-1, 0}

    def test_the_largest_ids_survive(self):
        labels = np.full((50, 50), 2**31 - 1, np.int32)
        labels[:, 25:] = 2**24 + 1
        _, target = Augmentation(WARP_ONLY, patch_size=40, output_size=40)(places(50, 50), labels, (25, 25), 1)
        assert set(np.unique(target)) == {2**24 + 1, 2**31 - 1}

    @pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
    def test_any_number_of_channels(self, channels):
        image = np.random.default_rng(1).random((40, 40, channels), dtype=np.float32)
        labels = numbered(40, 40)
        augmentation = Augmentation(WARP_ONLY, patch_size=32, output_size=16)
        patch, _ = augmentation(image, labels, (20, 20), 7)
        alone = [augmentation(image[:, :, c : c + 1].copy(), labels, (20, 20), 7)[0] for c in range(channels)]
        np.testing.assert_array_equal(patch, np.concatenate(alone, axis=-1))

    @pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
    def test_normalize_what_is_read(self, dtype):
        raw = (np.random.default_rng(2).random((50, 40, 3)) * 200).astype(dtype)
        intensity = intensity_range([raw], joint=False)
        augmentation = Augmentation(WARP_ONLY, patch_size=60, output_size=40)
        patch, target = augmentation(raw, numbered(50, 40), (20, 30), 3, intensity)
        before = augmentation(normalize(raw, intensity), numbered(50, 40), (20, 30), 3)
        np.testing.assert_array_equal(patch, before[0])
        np.testing.assert_array_equal(target, before[1])

    def test_only_the_needed_region_is_read(self):
        scan, labels = Scan(1), Scan(dtype=np.int32)
        Augmentation(WARP_ONLY, patch_size=188, output_size=4)(scan, labels, (19_990, 10_000), 0)
        assert 188 < scan.asked < 500
        assert 4 < labels.asked < 20

    def test_sources_are_not_changed(self):
        image, labels = places(60, 60), numbered(60, 60)
        Augmentation(AugmentationSettings(), patch_size=40, output_size=20)(image, labels, (30, 30), 0)
        np.testing.assert_array_equal(image, places(60, 60))
        np.testing.assert_array_equal(labels, numbered(60, 60))


class TestGrayValues:
    ramp = np.linspace(-1, 2, 600, dtype=np.float32).reshape(1, 20, 30)

    @given(st.integers(0, 10_000), st.sampled_from([0.1, 0.25, 0.9]))
    def test_keep_the_order_of_gray_values_without_clipping(self, seed, strength):
        vary = GrayValues(strength)
        vary.set_random_seed(seed)
        varied = vary(image=self.ramp)["image"]
        assert varied.dtype == np.float32
        assert (np.diff(varied.ravel()) > 0).all()
        assert np.isfinite(varied).all()

    def test_zero_strength_changes_nothing(self):
        np.testing.assert_allclose(GrayValues(0.0)(image=self.ramp)["image"], self.ramp, atol=1e-6)

    def test_follow_their_formula(self):
        values = np.array([[[-1.0, 0.5]], [[0.25, 2.0]]], np.float32)
        contrast, brightness, bend = np.array([2.0, 1.0]), np.array([0.1, 0.0]), np.array([0.5, 0.2])
        bent = np.array([[[-1 + 0.5 * -1, 0.5 + 0.5 * 0.25]], [[0.25 + 0.2 * 0.1875, 2 - 0.2]]])
        expected = (bent - 0.5) * contrast[:, None, None] + 0.5 + brightness[:, None, None]
        found = GrayValues(1.0).apply(values, contrast, brightness, bend)
        np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_vary_as_far_as_stated(self):
        vary, flat = GrayValues(0.4), np.full((1, 1, 1), 0.5, np.float32)
        found = []
        for seed in range(400):
            vary.set_random_seed(seed)
            params = vary.get_params_dependent_on_data({}, {"image": flat})
            found.append([float(np.log(params["contrast"][0])), float(params["brightness"][0])])
        reached = np.abs(found).max(axis=0)
        assert (reached <= [0.4, 0.2]).all()
        assert (reached > [0.3, 0.15]).all()

    def test_noise_is_independent_in_each_channel(self):
        noise = GrayNoise(0.05, p=1.0)
        noise.set_random_seed(4)
        found = noise(image=np.zeros((3, 200, 200), np.float32))["image"].reshape(3, -1).T
        assert 0 < found.std() <= 0.05
        standard = found / found.std()
        assert np.abs([standard.mean(), (standard**3).mean(), (standard**4).mean() - 3]).max() < 0.05  # Gaussian
        assert np.abs(np.corrcoef(found.T) - np.eye(3)).max() < 0.02

    def test_labels_are_left_alone(self):
        settings = dataclasses.replace(NO_AUGMENTATION, intensity=0.5)
        image, labels = places(30, 30) / 30, numbered(30, 30)
        patch, target = Augmentation(settings, patch_size=20, output_size=10)(image, labels, (15, 15), 2)
        np.testing.assert_array_equal(target, labels[10:20, 10:20])
        assert not np.allclose(patch, image[5:25, 5:25])


class Patches:
    """What a loader sees: a patch that is a function of (epoch, index), and its augmentation inside the worker."""

    def __init__(self, epoch):
        self.augmentation = Augmentation(AugmentationSettings(), patch_size=32, output_size=16)
        self.epoch = epoch

    def __len__(self):
        return 6

    def __getitem__(self, index):
        patch, target = self.augmentation(places(64, 64), numbered(64, 64), (32, 32), sample_seed(5, self.epoch, index))
        return patch, target


def drawn(epoch, workers):
    import torch

    torch.set_num_threads(1)
    loader = torch.utils.data.DataLoader(Patches(epoch), batch_size=None, num_workers=workers)
    return [(np.asarray(patch), np.asarray(target)) for patch, target in loader]


class TestDraws:
    def test_are_distinct_across_workers_and_epochs_and_the_same_without(self):
        with_workers = [drawn(epoch, workers=2) for epoch in (0, 1)]
        everything = [patch.tobytes() for epoch in with_workers for patch, _ in epoch]
        assert len(set(everything)) == 12
        assert len({target.tobytes() for epoch in with_workers for _, target in epoch}) == 12
        alone = [drawn(epoch, workers=0) for epoch in (0, 1)]
        assert everything == [patch.tobytes() for epoch in alone for patch, _ in epoch]

    def test_repeat_with_the_seed_whatever_came_before(self):
        augmentation = Augmentation(AugmentationSettings(), patch_size=32, output_size=16)
        image, labels = places(64, 64), numbered(64, 64)
        first = augmentation(image, labels, (32, 32), 1)
        other = augmentation(image, labels, (32, 32), 2)
        again = pickle.loads(pickle.dumps(augmentation))(image, labels, (32, 32), 1)
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
        assert not np.array_equal(first[1], other[1])

    def test_seeds_are_distinct(self):
        keys = itertools.product((0, 1, 2**32), range(30), range(30))
        seeds = {sample_seed(*key) for key in keys}
        assert len(seeds) == 2700
        assert sample_seed(3, 4, 5) == sample_seed(3, 4, 5)

    def test_transforms_draw_from_one_generator(self):
        # albumentations seeds every transform alike: the displacements would tell the brightness
        augmentation = Augmentation(AugmentationSettings(), patch_size=32, output_size=16)
        augmentation(places(64, 64), numbered(64, 64), (32, 32), 1)
        warp, gray, noise = augmentation.compose.transforms
        assert warp.random_generator is gray.random_generator is noise.random_generator

    @pytest.mark.parametrize("largest", [180, 30])
    def test_turn_by_any_angle_up_to_the_largest(self, largest):
        warp = Warp(33, 33, elastic=0, rotate=largest, flip=False, scale=0)
        warp.set_random_seed(0)
        angles = []
        for _ in range(200):
            y, x = positions_of(warp)
            assert np.hypot(y[16, 32] - y[16, 16], x[16, 32] - x[16, 16]) == pytest.approx(16)
            angles.append(np.rad2deg(np.arctan2(y[16, 32] - y[16, 16], x[16, 32] - x[16, 16])))
        assert np.abs(angles).max() <= largest + 1e-6
        assert np.histogram(angles, 4, (-largest, largest))[0].min() > 30

    def test_mirror_in_half_of_the_draws(self):
        warp = Warp(33, 33, elastic=0, rotate=0, flip=True, scale=0)
        warp.set_random_seed(0)
        corners = [tuple(positions_of(warp)[:, 0, 0]) for _ in range(200)]
        shares = [corners.count(corner) for corner in itertools.product((-16, 16), repeat=2)]
        assert min(shares) > 30
        assert sum(shares) == 200

    def test_scale_both_ways(self):
        warp = Warp(33, 33, elastic=0, rotate=0, flip=False, scale=0.25)
        warp.set_random_seed(0)
        widths = np.array([np.ptp(positions_of(warp)[1]) / 32 for _ in range(200)])
        assert 1 / 1.25 <= widths.min() < 0.83
        assert 1.2 < widths.max() <= 1.25


class TestSettings:
    def test_survive_json(self):
        settings = AugmentationSettings(elastic=5, flip=False)
        assert AugmentationSettings(**json.loads(json.dumps(dataclasses.asdict(settings)))) == settings

    @pytest.mark.parametrize(
        "wrong", [{"elastic": 30}, {"elastic": -1}, {"rotate": 181}, {"scale": -0.1}, {"intensity": float("nan")}]
    )
    def test_out_of_range_are_refused(self, wrong):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} .* is out of range"):
            AugmentationSettings(**wrong)

    def test_transforms_name_their_arguments(self):
        augmentation = Augmentation(AugmentationSettings(), patch_size=32, output_size=16)
        warp = A.to_dict(augmentation.compose)["transform"]["transforms"][0]
        assert (warp["patch_size"], warp["output_size"], warp["elastic"]) == (32, 16, 10.0)


class TestImport:
    def test_opens_no_socket(self):
        code = (
            "import socket\n"
            "def refuse(*a, **k): raise SystemExit('a socket was opened')\n"
            "socket.socket.connect = refuse; socket.getaddrinfo = refuse; socket.create_connection = refuse\n"
            "import unetcli.dataset.augmentation\n"
        )
        run = subprocess.run([sys.executable, "-W", "error::UserWarning", "-c", code], capture_output=True, text=True)
        assert (run.returncode, run.stderr) == (0, "")

    def test_nothing_else_imports_albumentations(self):
        users = [path.name for path in PACKAGE.rglob("*.py") if "import albumentations" in path.read_text()]
        assert users == ["augmentation.py"]


ALONE = """
import os
from pathlib import Path
import numpy as np
import torch
from unetcli.dataset.augmentation import Augmentation, AugmentationSettings

torch.set_num_threads(1)
augmentation = Augmentation(AugmentationSettings(), patch_size=572, output_size=388)
image, labels = np.zeros((600, 600, 1), np.uint8), np.zeros((600, 600), np.int32)

def others():
    threads = [path for path in Path("/proc/self/task").iterdir() if path.name != str(os.getpid())]
    return sum(sum(map(int, (path / "stat").read_text().rpartition(")")[2].split()[11:13])) for path in threads)

before = others()
for seed in range(40):
    augmentation(image, labels, (300, 300), seed)
print(others() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="no /proc to count the time of threads")
def test_a_patch_keeps_one_core_busy():
    """Threads that wait for a product of matrices took half the time of all cores where many workers make patches."""
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 1  # hundredths of a second

"""Normalization: percentiles against sorting, and what must not depend on depth, order or bad pixels."""

import math

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from unetcli.errors import InputError, UnetWarning
from unetcli.images import IntensityRange, intensity_range, normalize, open_image

DTYPES = ["uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


def nearest_rank(values, percent):
    """The value at a percentile, by sorting."""
    ordered = np.sort(values, axis=None)
    return ordered[max(1, math.ceil(percent / 100 * ordered.size)) - 1]


def expected(values):
    low, high = nearest_rank(values, 1), nearest_rank(values, 99.8)
    return (values.min(), values.max()) if low == high else (low, high)


@pytest.mark.filterwarnings("ignore:.*constant")
@given(st.data())
def test_equal_to_sorting(data):
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    shape = data.draw(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3)))
    elements = arrays.from_dtype(dtype, **({"allow_nan": False, "allow_infinity": False} if dtype.kind == "f" else {}))
    pages = [data.draw(arrays.arrays(dtype, shape, elements=elements)) for _ in range(data.draw(st.integers(1, 3)))]
    found = intensity_range(pages)
    joint = intensity_range(pages, joint=True)
    stack = np.stack(pages)
    for channel in range(shape[2]):
        assert (found.low[channel], found.high[channel]) == tuple(map(float, expected(stack[..., channel])))
        assert found.median[channel] == float(nearest_rank(stack[..., channel], 50))
        assert (joint.low[channel], joint.high[channel]) == tuple(map(float, expected(stack)))
    scaled = normalize(pages[0], found)
    assert scaled.dtype == np.float32
    assert np.isfinite(scaled).all()


@given(arrays.arrays(np.uint8, (9, 11, 2)), st.sampled_from([np.uint16, np.int32, np.float32, np.float64]))
@pytest.mark.filterwarnings("ignore:.*constant")
def test_depth_does_not_matter(pixels, dtype):
    """x and 257 * x, in any type, are the same image."""
    deep = pixels.astype(dtype) * dtype(257)
    one = normalize(pixels, intensity_range([pixels]))
    other = normalize(deep, intensity_range([deep]))
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_low_becomes_0_and_high_1_without_clipping():
    pixels = np.arange(1000, dtype=np.uint16).reshape(20, 50, 1)
    scaled = normalize(pixels, intensity_range([pixels]))
    assert scaled[pixels == 9] == 0  # the 10th of 1000 values
    assert scaled[pixels == 997] == 1
    assert scaled.min() < 0 < 1 < scaled.max()


def test_pixels_that_are_not_finite_take_the_median():
    pixels = np.arange(101, dtype=np.float32).reshape(1, 101, 1)
    clean = intensity_range([pixels])
    spoiled = np.concatenate([pixels, [[[np.nan], [np.inf], [-np.inf]]]], axis=1)
    with pytest.warns(UnetWarning, match=r"3 of 104 pixels \(2.9 %\) are not finite"):
        found = intensity_range([spoiled])
    assert found == clean
    scaled = normalize(spoiled, found)
    assert (scaled[0, :101] == normalize(pixels, clean)[0]).all()
    assert (scaled[0, 101:] == scaled[0, 50]).all()


def test_constant_image_becomes_zero_with_a_warning():
    pixels = np.full((5, 6, 1), 100, np.uint8)
    with pytest.warns(UnetWarning, match=r"constant image \(value 100\)"):
        found = intensity_range([pixels])
    assert (normalize(pixels, found) == 0).all()


def test_few_bright_spots_on_black_are_not_constant():
    pixels = np.zeros((100, 100, 1), np.uint16)
    pixels[3, 4] = 5000
    scaled = normalize(pixels, intensity_range([pixels]))
    assert scaled.max() == 1
    assert scaled.min() == 0


def test_nothing_finite_is_refused():
    with pytest.raises(InputError, match="all pixels of channel 1 are NaN or infinite"):
        intensity_range([np.stack([np.zeros((3, 3)), np.full((3, 3), np.nan)], -1)])


@pytest.mark.parametrize("value", [1e300, -1.7e308, 1e-310])
def test_absurd_values_stay_finite(value):
    pixels = np.zeros((10, 10, 1))
    pixels[:5] = value
    pixels[0, 0] = 1.7e308
    assert np.isfinite(normalize(pixels, intensity_range([pixels]))).all()


def test_large_integers_keep_their_differences():
    pixels = (2**57 + np.arange(0, 1 << 20, 1 << 10, dtype=np.uint64)).reshape(32, 32, 1)
    scaled = normalize(pixels, intensity_range([pixels]))
    assert len(np.unique(scaled)) > 900


def test_colors_share_a_range_and_channels_do_not(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 100, (20, 30, 3)).astype(np.uint8)
    pixels[:, :, 1] += 100
    tifffile.imwrite(tmp_path / "rgb.tif", pixels, photometric="rgb")
    tifffile.imwrite(tmp_path / "c.tif", np.moveaxis(pixels, 2, 0), photometric="minisblack", metadata={"axes": "CYX"})
    with open_image(tmp_path / "rgb.tif") as image:
        assert len(set(intensity_range(image).low)) == 1
    with open_image(tmp_path / "c.tif") as image:
        found = intensity_range(image)
        assert found.low[1] > found.high[0]


def test_channel_files_add_up():
    one, other = IntensityRange((0.0,), (1.0,), (0.5,)), IntensityRange((2.0,), (3.0,), (2.5,))
    assert one + other == IntensityRange((0.0, 2.0), (1.0, 3.0), (0.5, 2.5))


def test_bands_make_no_difference(monkeypatch):
    pixels = np.random.default_rng(0).normal(size=(3, 40, 50, 2)).astype(np.float32)
    whole = intensity_range(list(pixels))
    monkeypatch.setattr("unetcli.images.normalization._BAND", 130)
    assert intensity_range(list(pixels)) == whole

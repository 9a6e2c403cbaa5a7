"""Odd images that must work, by what comes out of them (FAULTS, B1): each says what another file says plainly."""

import io
import zlib

import numpy as np
import pytest
import tifffile
from faults.conftest import discs
from faults.harness import Case, file, perform
from images.bad_images import OME
from images.raw_tiff import raw_tiff
from PIL import Image as Picture

from unetcli.cli import run

IMAGE = discs(1)[0]
INFER = ["infer", "a.tif", "-o", "m.tif", "-m", "{gray}", "--tile", "92"]


def encoded(array, **options):
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **{"photometric": "minisblack", **options})
    return stream.getvalue()


def probabilities(place, models, data, name="a.tif", model="gray"):
    """Return what a model says about the image in these bytes."""
    (place / name).write_bytes(data)
    assert run(["infer", name, "-o", "p.tif", "-m", models[model], "--output-kind", "probabilities", "-q"]) == 0
    return tifffile.imread(place / "p.tif")


SCALED = {
    # the image, and the same on another scale
    "int32": (IMAGE, IMAGE.astype(np.int32) * 30_000 - 2**30),
    "float64": (IMAGE, IMAGE * 1e296),
    "uint64": (IMAGE, IMAGE.astype(np.uint64) << np.uint64(45)),
    "float16": (IMAGE // 4 * 4, (IMAGE // 4).astype(np.float16)),
    "257": (IMAGE // 256, (IMAGE // 256).astype(np.uint16) * 257),
}


@pytest.mark.parametrize("kind", SCALED)
def test_the_scale_of_the_values_does_not_matter(kind, place, models):
    """IMG28: no value wraps round, and the normalization takes any scale away."""
    usual, scaled = SCALED[kind]
    expected = probabilities(place, models, encoded(usual))
    assert expected.std() > 0.01
    np.testing.assert_allclose(probabilities(place, models, encoded(scaled)), expected, atol=2e-3)


@pytest.mark.parametrize("bits", [1, 4])
def test_few_bits_are_as_good_as_eight(bits, place, models):
    """IMG22: 1 bit is normalized as 0 and 255 are."""
    levels = (1 << bits) - 1
    values = np.rint((IMAGE - IMAGE.min()) / np.ptp(IMAGE) * levels).astype(np.uint8)
    rows = ["".join(format(value, f"0{bits}b") for value in row) for row in values]
    data = b"".join(int(row, 2).to_bytes(len(row) // 8, "big") for row in rows)
    height, width = values.shape
    odd = raw_tiff({"width": width, "height": height, "bits": bits, "rows": height, "data": data})
    plain = encoded(values * np.uint8(255 // levels))
    np.testing.assert_array_equal(probabilities(place, models, odd), probabilities(place, models, plain))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_pixel_that_is_not_finite_changes_little(value, place, models):
    """IMG23, IMG24: the mask is not empty, and farther than the margin of the network it is what it was."""
    pixels = IMAGE.astype(np.float32)
    expected = probabilities(place, models, encoded(pixels))
    pixels[3, 4] = value
    found = probabilities(place, models, encoded(pixels))
    assert np.isfinite(found).all()
    assert found.std() > 0.01
    np.testing.assert_allclose(found[..., 40:, 40:], expected[..., 40:, 40:], atol=1e-3)


def test_a_constant_image_gives_a_finite_answer_twice(place, models, capsys):
    """IMG25."""
    data = encoded(np.full((40, 50), 100, np.uint8))
    first = probabilities(place, models, data)
    assert np.isfinite(first).all()
    np.testing.assert_array_equal(probabilities(place, models, data), first)


def test_channels_and_pages_are_not_mixed_up(place, models):
    """IMG38: C are channels, T and Z are pages, in whatever order they are stored."""
    stack = np.random.default_rng(0).integers(0, 255, (2, 3, 2, 40, 44)).astype(np.uint8)  # TZCYX
    stack[1, 2, 1] //= 2
    expected = probabilities(place, models, encoded(stack, imagej=True, metadata={"axes": "TZCYX"}), model="two")
    ome = encoded(stack.swapaxes(1, 2), ome=True, metadata={"axes": "TCZYX"})
    found = probabilities(place, models, ome, "a.ome.tif", "two")
    assert found.size == expected.size == 2 * stack.size // 2
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(expected[1, 2], expected[1, 1])


def test_an_ome_set_that_is_in_the_file_itself(place, models, capsys):
    """IMG39: other names are no matter where all pages are in this file."""
    pages = np.random.default_rng(0).integers(0, 255, (2, 8, 8)).astype(np.uint8)
    description = OME.format(other="a.tif").encode()
    with tifffile.TiffWriter(place / "a.tif", ome=False) as tiff:
        for number, page in enumerate(pages):
            tiff.write(page, photometric="minisblack", metadata=None, description=description if not number else None)
    perform(Case("IMG39-own", lambda place: None, INFER), place, models, capsys)
    assert tifffile.imread("m.tif").shape == (2, 8, 8)


def bomb(side):
    """The bytes of a valid PNG of zeros."""
    rows = zlib.compressobj(1)
    data = b"".join(rows.compress(bytes(1 + side)) for _ in range(side)) + rows.flush()
    header = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    parts = (
        len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big") for kind, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_bomb_is_refused_by_its_size(place, models, capsys):
    """IMG11: 30000 x 30000 pixels in 4 MB, which nothing decodes, in our words."""
    words = r"error: a\.png: declares 30000x30000 pixels \(858 MiB\)"
    arguments = [part.replace("a.tif", "a.png") for part in INFER]
    error = perform(Case("IMG11", file("a.png", bomb(30000)), arguments, 3, [words]), place, models, capsys)
    assert "DOS" not in error
    assert "bomb" not in error.lower()


def test_alpha_is_dropped_with_one_warning(place, models, capsys):
    """IMG30: partial transparency changes nothing, and two images of a kind are each told once."""
    colors = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)
    stream = io.BytesIO()
    Picture.fromarray(colors).save(stream, "PNG")
    expected = probabilities(place, models, stream.getvalue(), "a.png", "rgb")
    for alpha in (0, 128):
        stream = io.BytesIO()
        Picture.fromarray(np.dstack([colors, np.full((40, 50), alpha, np.uint8)])).save(stream, "PNG")
        np.testing.assert_array_equal(probabilities(place, models, stream.getvalue(), "b.png", "rgb"), expected)
        capsys.readouterr()
        assert run(["infer", "b.png", "-o", "m.png", "-m", models["rgb"]]) == 0
        assert capsys.readouterr().err.count("alpha is dropped") == 1

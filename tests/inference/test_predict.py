"""The prediction does not depend on the tiles."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from oracles import whole_image_probabilities

from unetcli.errors import ResourceError, UnetWarning
from unetcli.images.mirror import mirrored_indices, read_mirrored
from unetcli.inference.predict import EIGHT_TURNS, UNTURNED, Ensemble, TileSize, predict_bands, turned, turned_back
from unetcli.models import build_network
from unetcli.models.device import Device

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Device("cpu", "fp32", "test")


def network_of(depth=2, features=4, channels=1, classes=2, seed=0):
    torch.manual_seed(seed)
    return build_network("unet", channels=channels, classes=classes, features=features, depth=depth).eval()


def random_image(height, width, channels=1, seed=0):
    """Noise in the range of normalized images, 0 to 1."""
    return np.random.default_rng(seed).random((height, width, channels), dtype=np.float32)


def prediction(network, image, *, tile, batch=1, turns=UNTURNED, prepare=lambda pixels: pixels, device=CPU):
    networks = network if isinstance(network, list) else [network]
    bands = list(
        predict_bands(Ensemble(networks, device, turns), image, prepare, TileSize(tile, batch), keep_probabilities=True)
    )
    assert [band.top for band in bands] == list(np.cumsum([0] + [len(band.classes) for band in bands])[:-1])
    return np.concatenate([b.probabilities for b in bands], axis=1), np.concatenate([b.classes for b in bands])


@given(
    height=st.integers(1, 90),
    width=st.integers(1, 130),
    tile=st.integers(1, 140),
    batch=st.integers(1, 3),
    depth=st.integers(1, 3),
)
@example(height=1, width=1, tile=1, batch=1, depth=2)
@example(height=1, width=200, tile=60, batch=2, depth=2)
@example(height=7, width=5, tile=572, batch=1, depth=3)
def test_tiled_equals_whole(height, width, tile, batch, depth):
    network = network_of(depth)
    image = random_image(height, width, seed=height * 1000 + width)
    whole = whole_image_probabilities(network, image)
    tiled, classes = prediction(network, image, tile=tile, batch=batch)
    assert tiled.shape == whole.shape == (2, height, width)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    clear = np.abs(whole[1] - 0.5) > 1e-5
    np.testing.assert_array_equal(classes[clear], (whole[1] > 0.5)[clear])


@pytest.mark.parametrize(("height", "width"), [(1000, 777), (513, 1)])
def test_large_images(height, width):
    network = network_of(depth=4, features=4)
    image = random_image(height, width)
    whole = whole_image_probabilities(network, image)
    assert whole.std() > 0.01  # the network does look at the image
    for tile in (252, 572):
        tiled, _ = prediction(network, image, tile=tile)
        np.testing.assert_allclose(tiled, whole, atol=1e-5)


def test_three_channels_and_classes():
    network = network_of(channels=3, classes=4)
    image = random_image(70, 61, channels=3)
    whole = whole_image_probabilities(network, image)
    tiled, classes = prediction(network, image, tile=60)
    np.testing.assert_allclose(tiled, whole, atol=1e-5)
    np.testing.assert_array_equal(classes, whole.argmax(axis=0))


def test_bf16_stays_close():
    network = network_of(depth=3, features=8)
    image = random_image(150, 170)
    device = Device("cpu", "bf16", "test")
    with device.arithmetic():
        whole = whole_image_probabilities(network, image)
    tiled, _ = prediction(network, image, tile=116, device=device)
    assert np.abs(tiled - whole).max() < 2e-2
    assert np.abs(whole - whole_image_probabilities(network, image)).max() > 1e-4  # bf16 it was


def test_turns_are_averaged_without_seams():
    network = network_of(depth=2)
    image = random_image(75, 64)
    expected = np.mean(
        [
            turned_back(
                torch.from_numpy(
                    whole_image_probabilities(
                        network, turned(torch.from_numpy(image).permute(2, 0, 1), turn).permute(1, 2, 0).numpy()
                    )
                ),
                turn,
            ).numpy()
            for turn in EIGHT_TURNS
            if turn == (0, False)
        ],
        axis=0,
    )
    once, _ = prediction(network, image, tile=60)
    np.testing.assert_allclose(once, expected, atol=1e-5)
    small, _ = prediction(network, image, tile=60, turns=EIGHT_TURNS)
    large, _ = prediction(network, image, tile=300, turns=EIGHT_TURNS)
    np.testing.assert_allclose(small, large, atol=1e-5)
    assert np.abs(small - once).max() > 1e-3
    assert len(set(EIGHT_TURNS)) == 8


@pytest.mark.parametrize("turn", EIGHT_TURNS)
def test_turning_back(turn):
    tiles = torch.arange(24.0).reshape(1, 1, 4, 6)
    assert torch.equal(turned_back(turned(tiles, turn), turn), tiles)


def test_eight_turns_differ():
    tile = torch.arange(9.0).reshape(1, 1, 3, 3)
    assert len({tuple(turned(tile, turn).flatten().tolist()) for turn in EIGHT_TURNS}) == 8


def test_the_threshold_must_be_exceeded():
    probabilities = torch.tensor([[[[0.75, 0.25, 0.125]], [[0.25, 0.75, 0.875]]]])
    for threshold, expected in ((0.5, [0, 1, 1]), (0.75, [0, 0, 1]), (0.125, [1, 1, 1])):
        classes = Ensemble([], CPU, threshold=threshold).classes(probabilities)
        assert classes[0, 0].tolist() == expected
    three = torch.tensor([0.4, 0.25, 0.35]).reshape(1, 3, 1, 1)
    assert Ensemble([], CPU, threshold=0.1).classes(three).item() == 0  # the likeliest, whatever the threshold


def test_padded_networks_are_cut_where_they_are_exact():
    """Far from its edges a whole image, padded with zeros, is predicted as its tiles are."""
    torch.manual_seed(0)
    network = build_network("unet", channels=1, classes=2, features=4, depth=1, padding="same").eval()
    image = random_image(96, 80)
    context = network.geometry.context
    with torch.inference_mode():
        whole = network(torch.from_numpy(image).permute(2, 0, 1)[None])[0].softmax(dim=0).numpy()
    tiled, _ = prediction(network, image, tile=2 * context + 16)
    inner = np.s_[:, context:-context, context:-context]
    assert tiled[inner].size > 1000
    np.testing.assert_allclose(tiled[inner], whole[inner], atol=1e-5)


def test_ensembles_of_different_depths_are_averaged():
    networks = [network_of(2, seed=1), network_of(3, seed=2)]
    image = random_image(66, 59)
    expected = np.mean([whole_image_probabilities(network, image) for network in networks], axis=0)
    averaged, _ = prediction(networks, image, tile=100)
    np.testing.assert_allclose(averaged, expected, atol=1e-5)


def test_lack_of_memory_changes_the_tiles_but_not_the_result():
    network = network_of()
    image = random_image(120, 100)
    expected, _ = prediction(network, image, tile=100)

    def forward(tiles, inner=network.forward):
        if tiles.shape[0] * tiles.shape[2] * tiles.shape[3] > 60 * 60:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return inner(tiles)

    network.forward = forward
    size = TileSize(100, batch=2)
    with pytest.warns(UnetWarning, match="out of memory"):
        found = np.concatenate(
            [
                b.probabilities
                for b in predict_bands(Ensemble([network], CPU), image, lambda p: p, size, keep_probabilities=True)
            ],
            axis=1,
        )
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert size.tile < 100
    assert size.batch == 1


def test_no_memory_at_all_is_an_error():
    network = network_of()

    def forward(tiles):
        raise MemoryError

    network.forward = forward
    with pytest.warns(UnetWarning), pytest.raises(ResourceError, match="out of memory with one tile"):
        list(predict_bands(Ensemble([network], CPU), random_image(60, 60), lambda p: p, TileSize(100)))


@given(size=st.integers(1, 9), start=st.integers(-30, 30), length=st.integers(1, 40))
def test_mirroring_equals_reflection(size, start, length):
    values = np.arange(size)
    reflected = np.pad(values, 80, mode="reflect") if size > 1 else np.zeros(161, dtype=int)
    np.testing.assert_array_equal(
        values[mirrored_indices(start, start + length, size)], reflected[80 + start : 80 + start + length]
    )


def test_only_the_needed_region_is_read():
    class Watched:
        shape = (1000, 1000, 1)
        dtype = np.dtype(np.uint8)

        def __init__(self):
            self.asked = []

        def __getitem__(self, key):
            self.asked.append(key)
            return np.zeros(self.shape, self.dtype)[key]

    source = Watched()
    assert read_mirrored(source, -20, 80, 900, 1010).shape == (100, 110, 1)
    (rows, columns) = source.asked[0]
    assert (rows.start, rows.stop) == (0, 80)
    assert (columns.start, columns.stop) == (900, 1000)
    assert len(source.asked) == 1

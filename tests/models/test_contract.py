"""What every architecture of the registry promises to the rest of the program; a new entry is tested by itself."""

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from handmade import describe
from oracles import redraw
from torch import nn
from torch.nn import functional

from unetcli.inference.predict import Ensemble, TileSize, predict_bands
from unetcli.models import ARCHITECTURES, build_network, default_arguments, geometry_of
from unetcli.models.device import Device
from unetcli.models.modelfile import load_model, save_model

LEARNABLE = {  # (architecture, arguments, channels, classes) -> learnable parameters
    ("unet", (), 1, 2): 31_030_658,
    ("unet", (), 3, 2): 31_031_810,
    ("unet", (), 1, 1): 31_030_593,
    ("unet-2015", (), 1, 2): 31_100_354,
    ("mobilenet-unet", (), 3, 2): 6_298_882,
    ("mobilenet-unet", (("first_skip", False),), 3, 2): 6_298_882 - 9 * 64 * 64,
    ("fcn32s", (), 3, 21): 134_346_581,
    ("fcn16s", (), 3, 21): 134_357_354,
    ("fcn8s", (), 3, 21): 134_362_751,
    ("fcn32s", (), 3, 2): 134_268_738,
    ("fcn16s", (), 3, 2): 134_269_764,
    ("fcn8s", (), 3, 2): 134_270_278,
    ("fcn8s", (), 1, 2): 134_270_278 - 1_152,
    ("fcn32s", (("upsampling", "transposed"),), 3, 2): 134_268_738 + 2 * 4096,
    ("fcn16s", (("upsampling", "transposed"),), 3, 2): 134_269_764 + 2 * (16 + 1024),
    ("fcn8s", (("upsampling", "transposed"),), 3, 2): 134_270_278 + 2 * (16 + 16 + 256),
    ("segnet", (), 3, 11): 29_449_355,
    ("segnet", (), 1, 2): 29_443_010,
}

VARIANTS = {
    **{name: (name, {}) for name in ARCHITECTURES},
    **{
        f"unet {padding} {upsampling} depth {depth}": (
            "unet",
            {
                "padding": padding,
                "upsampling": upsampling,
                "depth": depth,
                "batch_norm": depth % 2 == 0,
                "temperature": 2.0,
            },
        )
        for padding in ("valid", "same", "valid-same")
        for upsampling in ("transposed", "bilinear")
        for depth in (1, 2, 3)
    },
    "unet with dropout in every block": ("unet", {"depth": 2, "block_dropout": 0.2}),
    "unet of depth 5": ("unet", {"depth": 5, "features": 1}),
    "mobilenet-unet without the first skip": ("mobilenet-unet", {"first_skip": False}),
    **{f"{name} learned": (name, {"upsampling": "transposed"}) for name in ("fcn32s", "fcn16s", "fcn8s")},
}

Case = tuple[str, dict]


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS.keys())
def case(request: pytest.FixtureRequest) -> Case:
    architecture, arguments = request.param
    small = {"features": 4} if "features" in default_arguments(architecture) else {}
    return architecture, small | arguments


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def build(case: Case, channels: int = 1, classes: int = 3) -> nn.Module:
    return build_network(case[0], channels=channels, classes=classes, **case[1])


def logits_of(network: nn.Module, image: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(image)


@pytest.mark.parametrize(("architecture", "arguments", "channels", "classes"), LEARNABLE)
def test_learnable_parameters(architecture: str, arguments: tuple, channels: int, classes: int):
    with torch.device("meta"):
        network = build_network(architecture, channels=channels, classes=classes, **dict(arguments))
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == LEARNABLE[architecture, arguments, channels, classes]


def test_mobilenet_unet_has_as_many_as_keras_counts_with_running_statistics():
    with torch.device("meta"):
        network = build_network("mobilenet-unet", channels=3, classes=2)
    tensors = [tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")]
    assert sum(tensor.numel() for tensor in tensors) == 6_315_522


def test_geometry_is_true_to_a_forward_pass(case: Case):
    network = build(case)
    geometry = geometry_of(network)
    for height, width in ((0, 0), (1, 3), (4, 2)):
        height, width = (geometry.smallest + steps * geometry.step for steps in (height, width))
        logits = logits_of(network, torch.randn(1, 1, height, width))
        assert logits.shape == (1, 3, geometry.output_size(height), geometry.output_size(width))
    assert geometry.context % geometry.step == 0
    assert geometry.step & (geometry.step - 1) == 0  # networks of an ensemble share the coarsest step


def test_a_training_patch_may_be_the_smallest_input(case: Case):
    network = build(case).train()
    size = geometry_of(network).smallest
    logits = network(torch.randn(1, 1, size, size))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize(("channels", "classes"), [(1, 1), (2, 255), (4, 2)])
def test_any_number_of_channels_and_classes(case: Case, channels: int, classes: int):
    network = build(case, channels, classes)
    size = geometry_of(network).smallest
    assert logits_of(network, torch.randn(2, channels, size, size)).shape[:2] == (2, classes)


@pytest.mark.usefixtures("deterministic")
def test_gradients_reach_every_parameter_after_two_steps(case: Case):
    """With algorithms that torch calls deterministic, so that `--deterministic` can train it."""
    network = build(case).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    geometry = geometry_of(network)
    size = geometry.smallest + 2 * geometry.step
    image = torch.randn(2, 1, size, size)
    target = torch.randint(3, (2, geometry.output_size(size), geometry.output_size(size)))
    for _ in range(3):
        optimizer.zero_grad()
        loss = functional.cross_entropy(network(image), target)
        loss.backward()
        optimizer.step()
        assert torch.isfinite(loss)
    unreached = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert unreached == []


def test_tiles_are_seam_free(case: Case):
    """Two windows that start a multiple of the step apart agree on the pixels that both write."""
    network = redraw(build(case))
    geometry = geometry_of(network)
    step, border, core = geometry.step, geometry.border, geometry.rounded_up(48)
    whole = geometry.input_for(core + 3 * step)
    image = torch.randn(1, 1, whole, whole)

    def written(top: int, left: int, size: int) -> torch.Tensor:
        """Return the logits of a window's write region in the image's coordinates, NaN elsewhere."""
        tile = logits_of(network, image[..., top : top + size, left : left + size])
        exact = geometry.output_size(size) - 2 * geometry.context
        inside = slice(geometry.context, geometry.context + exact)
        result = torch.full((1, 3, whole, whole), torch.nan)
        top, left = top + border, left + border
        result[..., top : top + exact, left : left + exact] = tile[..., inside, inside]
        return result

    reference = written(0, 0, whole)
    assert reference[~reference.isnan()].std() > 0.01  # redrawn weights: logits that all are zero would always agree
    size = geometry.input_for(core)
    for top, left in ((0, 0), (step, 0), (step, 2 * step), (3 * step, step)):
        tile = written(top, left, size)
        both = ~(tile.isnan() | reference.isnan())
        assert both.sum() >= 3 * core * core
        torch.testing.assert_close(tile[both], reference[both], atol=1e-4, rtol=1e-4)
    if step > 2:
        off_step = written(1, 0, geometry.input_for(core))
        both = ~(off_step.isnan() | reference.isnan())
        assert (off_step[both] - reference[both]).abs().max() > 1e-3  # and a seam would be seen


def test_a_far_pixel_changes_nothing_and_a_near_one_does(case: Case):
    network = redraw(build(case))
    geometry = geometry_of(network)
    size = geometry.input_for(geometry.step)
    room = 2 * geometry.step
    image = torch.randn(1, 1, size + room, size + room)
    rows = slice(geometry.context, geometry.context + geometry.step)

    def region(pixels: torch.Tensor) -> torch.Tensor:
        return logits_of(network, pixels)[..., rows, rows]

    before = region(image)
    far, near = image.clone(), image.clone()
    far[..., size:, :] += 10
    far[..., :, size:] += 10
    near[..., geometry.border, geometry.border] += 10
    torch.testing.assert_close(region(far), before, atol=1e-4, rtol=1e-4)
    assert (region(near) - before).abs().max() > 1e-3


def test_bf16(case: Case):
    network = redraw(build(case))
    size = geometry_of(network).smallest
    image = torch.randn(1, 1, size, size)
    exact = logits_of(network, image)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = logits_of(network, image)
        loss = network.train()(image.repeat(2, 1, 1, 1)).float().square().mean()
    loss.backward()
    assert torch.isfinite(rough).all()
    correlation = torch.corrcoef(torch.stack([rough.float().flatten(), exact.flatten()]))[0, 1]
    assert correlation > 0.98
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in network.parameters())


def test_channels_last(case: Case):
    network = redraw(build(case))
    size = geometry_of(network).smallest
    image = torch.randn(2, 1, size, size)
    expected = logits_of(network, image)
    network = network.to(memory_format=torch.channels_last)
    torch.testing.assert_close(
        logits_of(network, image.to(memory_format=torch.channels_last)), expected, atol=1e-4, rtol=1e-4
    )


def test_a_model_file_brings_the_network_back(case: Case, tmp_path: Path):
    saved = redraw(build(case))
    size = geometry_of(saved).smallest
    image = torch.randn(1, 1, size, size)
    expected = logits_of(saved, image)
    assert not torch.equal(logits_of(build(case), image), expected)
    description = describe({**default_arguments(case[0]), **case[1]}, architecture=case[0], classes=3)
    sha256 = save_model(tmp_path / "m.safetensors", saved, description)
    loaded, read, loaded_sha256 = load_model(tmp_path / "m.safetensors")
    assert torch.equal(logits_of(loaded, image), expected)
    assert geometry_of(loaded) == geometry_of(saved)
    assert (read, loaded_sha256) == (description, sha256)
    assert torch.equal(logits_of(copy.deepcopy(saved), image), expected)


def test_an_ensemble_with_the_classic_network(case: Case):
    """Probabilities are averaged although the two networks lose other margins and step otherwise."""
    classic = build_network("unet", channels=1, classes=3, features=2, depth=2)
    networks = [redraw(network).eval() for network in (build(case), classic)]
    device = Device("cpu", "fp32", "test")
    image = torch.randn(30, 45, 1).numpy()
    size = TileSize(max(geometry_of(network).input_for(48) for network in networks))

    def probabilities(members: list[nn.Module]) -> np.ndarray:
        bands = predict_bands(Ensemble(members, device), image, lambda p: p, size, keep_probabilities=True)
        return np.concatenate([band.probabilities for band in bands], axis=1)

    alone = [probabilities([network]) for network in networks]
    assert np.abs(alone[0] - alone[1]).max() > 0.01
    np.testing.assert_allclose(probabilities(networks), np.mean(alone, axis=0), atol=1e-5)


def test_the_seed_decides_how_weights_start(case: Case):
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([parameter.detach().flatten() for parameter in build(case).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_checking_arguments_draws_no_random_number(case: Case):
    torch.manual_seed(1)
    built = ARCHITECTURES[case[0]](1, 3, **case[1])
    torch.manual_seed(1)
    checked = build(case)
    for one, other in zip(built.parameters(), checked.parameters(), strict=True):
        assert torch.equal(one, other)


def test_an_image_in_a_batch_is_predicted_as_alone(case: Case):
    network = redraw(build(case))
    size = geometry_of(network).smallest
    images = torch.randn(3, 1, size, size)
    together = logits_of(network, images)
    for number in range(3):
        alone = logits_of(network, images[number : number + 1])[0]
        torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=1e-4)

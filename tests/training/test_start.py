"""Starting from what another network has learned, and keeping parts of it."""

from dataclasses import replace

import pytest
import torch
from handmade import describe
from torch import nn

from unetcli.errors import UnetWarning, UsageError
from unetcli.models import build_network, default_arguments
from unetcli.models.modelfile import save_model
from unetcli.training.loop import set_training
from unetcli.training.start import freeze, start_network

ARGUMENTS = {"features": 3, "depth": 2}
DESCRIPTION = describe({**default_arguments("unet"), **ARGUMENTS, "dropout": 0.1}, channels=2)


@pytest.fixture
def learned(tmp_path):
    torch.manual_seed(7)
    network = build_network("unet", channels=2, classes=2, **DESCRIPTION.arguments)
    save_model(tmp_path / "m.safetensors", network, DESCRIPTION)
    return tmp_path / "m.safetensors", network.state_dict()


def test_a_new_network_has_what_was_asked_for():
    network, architecture, arguments = start_network(None, ARGUMENTS, channels=1, classes=2, dropout=0.3)
    assert architecture == "unet"
    assert arguments == {**default_arguments("unet"), **ARGUMENTS, "dropout": 0.3}
    assert start_network("segnet", {"features": 2}, channels=1, classes=2, dropout=0.3)[1] == "segnet"
    assert isinstance(network, nn.Module)


def test_the_weights_of_a_model(learned):
    path, weights = learned
    network, architecture, arguments = start_network(None, {}, channels=2, classes=2, dropout=0.3, init=path)
    assert (architecture, arguments) == ("unet", DESCRIPTION.arguments)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[name])


def test_dropout_may_differ_and_other_options_may_not(learned):
    path, _ = learned
    arguments = start_network("unet", {"dropout": 0.7, "depth": 2}, channels=2, classes=2, dropout=0.3, init=path)[2]
    assert arguments["dropout"] == 0.7
    for architecture, asked, said in (
        ("segnet", {}, "--arch segnet"),
        (None, {"features": 4, "depth": 2}, "leave out --features 4,"),
        (None, {"batch_norm": True}, "--batch-norm True"),
    ):
        with pytest.raises(UsageError, match="is another network") as raised:
            start_network(architecture, asked, channels=2, classes=2, dropout=0.3, init=path)
        assert said in raised.value.hint


def test_other_channels_take_the_mean_and_other_classes_start_anew(learned):
    path, weights = learned
    with pytest.warns(UnetWarning, match="these layers were adapted or start anew") as warned:
        network, *_ = start_network(None, {}, channels=3, classes=4, dropout=0.3, init=path)
    tensors = network.state_dict()
    changed = {name for name, tensor in tensors.items() if tensor.shape != weights[name].shape}
    first = next(name for name, tensor in weights.items() if tensor.ndim == 4 and tensor.shape[1] == 2)
    assert changed == {first, "classifier.weight", "classifier.bias"}
    for name in changed:
        assert name in str(warned[0].message)
    gray = torch.ones(1, 3, 5, 5) * torch.rand(1, 1, 5, 5)  # all channels alike: as before
    torch.testing.assert_close(
        nn.functional.conv2d(gray, tensors[first]), nn.functional.conv2d(gray[:, :2], weights[first])
    )
    for name in weights.keys() - changed:
        assert torch.equal(tensors[name], weights[name])


def test_frozen_parts_keep_their_weights_and_statistics():
    network = build_network("unet", channels=1, classes=2, **ARGUMENTS, padding="same", batch_norm=True)
    freeze(network, ["contracting", "bottom"])
    set_training(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(learned, 0.1)
    network(torch.rand(2, 1, 32, 32)).square().mean().backward()
    optimizer.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert not [name for name in changed if name.startswith(("contracting", "bottom"))]


@pytest.mark.parametrize(("parts", "said"), [
    (["encoder"], "no part 'encoder'"), ([""], "no part ''"),
    (["contracting", "bottom", "up_samplings", "expanding", "classifier"], "nothing to train"),
])  # fmt: skip
def test_parts_that_cannot_be_frozen(parts, said):
    with pytest.raises(UsageError, match=said):
        freeze(build_network("unet", channels=1, classes=2, **ARGUMENTS), parts)


def test_every_architecture_starts_from_itself(tmp_path):
    from unetcli.models import ARCHITECTURES

    for architecture in ARCHITECTURES:
        network = build_network(architecture, channels=1, classes=2, features=2)
        arguments = {**default_arguments(architecture), "features": 2}
        description = replace(DESCRIPTION, architecture=architecture, arguments=arguments, channels=1)
        save_model(tmp_path / "m.safetensors", network, description)
        with pytest.warns(UnetWarning, match="adapted or start anew"):
            other, *_ = start_network(
                architecture, {}, channels=2, classes=3, dropout=0.3, init=tmp_path / "m.safetensors"
            )
        assert sum(p.numel() for p in other.parameters()) > sum(p.numel() for p in network.parameters())

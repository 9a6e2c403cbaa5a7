"""The network that a training starts from: a new one, or one that has learned before."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unetcli.errors import UsageError, warn
from unetcli.models import build_network, default_arguments
from unetcli.models.modelfile import load_model

ARCHITECTURE = "unet"
CHANGEABLE = ("dropout", "block_dropout", "temperature")  # arguments that need no other weights


def start_network(
    architecture: str | None,
    arguments: Mapping[str, Any],
    *,
    channels: int,
    classes: int,
    dropout: float,
    init: Path | None = None,
) -> tuple[nn.Module, str, dict[str, Any]]:
    """Return a network to train, its entry of the registry, and all its arguments.

    Parameters
    ----------
    architecture, arguments : as asked for; what is left open is as usual, or as in the model to start from.
    dropout : where the arguments do not say, and the network has it.
    init : a model file. Its weights are taken; a first layer for other channels gets the mean of its weights over the
        channels, a last layer for other classes starts anew.

    Raises
    ------
    UsageError : the model to start from is another network than what is asked for.
    """
    usual: dict[str, Any] = {}
    weights: dict[str, Tensor] = {}
    if init is not None:
        learned, description, _ = load_model(init)
        differing = [] if architecture in (None, description.architecture) else [f"--arch {architecture}"]
        differing += [
            f"--{name.replace('_', '-')} {value}"
            for name, value in arguments.items()
            if name not in CHANGEABLE and description.arguments.get(name) != value
        ]
        if differing:
            raise UsageError(
                f"is another network ({description.architecture}, {description.arguments})",
                path=init,
                hint=f"leave out {', '.join(differing)}, or start without --init",
            )
        architecture, usual = description.architecture, description.arguments
        weights = learned.state_dict()
    architecture = architecture or ARCHITECTURE
    chosen = default_arguments(architecture)
    if "dropout" in chosen:
        chosen["dropout"] = dropout
    chosen |= {**usual, **arguments}
    network = build_network(architecture, channels=channels, classes=classes, **chosen)
    if init is not None:
        take_weights(network, weights, init)
    return network, architecture, chosen


@torch.no_grad()
def take_weights(network: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Copy weights into a network of the same architecture; layers of another size are named in a warning.

    Parameters
    ----------
    path : of the model they come from, for the message.
    """
    adapted = []
    for name, tensor in network.state_dict().items():
        learned = weights[name]
        if learned.shape == tensor.shape:
            tensor.copy_(learned)
            continue
        adapted.append(f"{name} {tuple(learned.shape)} -> {tuple(tensor.shape)}")
        if tensor.ndim == 4 and learned.shape[0] == tensor.shape[0] and learned.shape[2:] == tensor.shape[2:]:
            share = learned.shape[1] / tensor.shape[1]  # so that the sum over the channels stays
            tensor.copy_(learned.mean(dim=1, keepdim=True).expand_as(tensor) * share)
    if adapted:
        warn(f"other channels or classes: these layers were adapted or start anew: {', '.join(adapted)}", path=path)


def freeze(network: nn.Module, parts: Sequence[str]) -> None:
    """Let parts of a network keep their weights.

    Parameters
    ----------
    parts : names of its modules, such as "contracting" or "contracting.0".

    Raises
    ------
    UsageError : the network has no such part, or nothing is left to train.
    """
    known = dict(network.named_modules())
    for part in parts:
        if part not in known or not part:
            names = ", ".join(name for name, child in network.named_children() if list(child.parameters()))
            raise UsageError(f"the network has no part {part!r} to freeze", hint=f"--freeze takes {names}")
        known[part].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise UsageError("--freeze leaves nothing to train", hint="name fewer parts")

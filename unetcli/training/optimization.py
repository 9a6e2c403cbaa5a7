"""The optimizers, and how the learning rate moves from the first step to the last."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

Schedule = Callable[[float], float]  # progress 0..1 -> factor of the learning rate, 0..1
WARM_UP = 0.03  # share of the run in which the learning rate rises to its full value


def cosine(progress: float) -> float:
    """Rise linearly during the warm-up, then fall along half a cosine to zero."""
    if progress < WARM_UP:
        return max(progress / WARM_UP, 0.01)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - WARM_UP) / (1 - WARM_UP))))


def polynomial(progress: float) -> float:
    """Fall as ``(1 - progress) ** 0.9``."""
    return math.pow(1 - min(1.0, progress), 0.9)


def constant(progress: float) -> float:
    """Stay."""
    return 1.0


SCHEDULES: dict[str, Schedule] = {"cosine": cosine, "polynomial": polynomial, "constant": constant}


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with its usual moments and a small weight decay."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4, fused=True)


def sgd(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with the paper's momentum (section 3: 0.99, for batches of one tile)."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.99)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {"adamw": adamw, "sgd": sgd}


class AveragedWeights:
    """An exponential moving average of a network's weights, which validates and predicts better than the last step.

    Parameters
    ----------
    network : the network that is trained.
    average : a copy of it that holds the average; buffers are copied as they are.
    decay : share of the old average that stays at each step; smaller during the first steps.
    """

    def __init__(self, network: nn.Module, average: nn.Module, decay: float) -> None:
        self.network = network
        self.average = average
        self.decay = decay
        self.steps = 0

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's present weights."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages: list[torch.Tensor] = list(self.average.parameters())
        weights: list[torch.Tensor] = list(self.network.parameters())
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for buffer, current in zip(self.average.buffers(), self.network.buffers(), strict=True):
            buffer.copy_(current)

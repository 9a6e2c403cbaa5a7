"""The optimizers, and how the learning rate moves from the first step to the last."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional

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


class Muon(torch.optim.Optimizer):
    """Moves the weights of each layer, as a matrix, equally far in all the directions that its gradients point to.

    Without normalization, a few directions of a layer's gradient outshine all others. Muon (Jordan et al., 2024,
    https://kellerjordan.github.io/posts/muon) steps along the orthogonal matrix nearest to the momentum, scaled to
    entries with a root mean square of 0.2 (Liu et al., 2025, arXiv 2502.16982, section 2.2). ``torch.optim.Muon`` does
    so for parameters that are matrices, in bf16 whatever the processor. Here a kernel is the matrix of its first
    dimension and all others, a vector one of a single column, and products have the precision of the autocast around.

    Parameters
    ----------
    parameters : of any shape; those without a gradient stay.
    lr : five times the root mean square of a step.
    momentum : share of the gradients of earlier steps in a step (Nesterov's).
    weight_decay : times `lr`, the share of the weights that each step takes away, which in long trainings on few images
        keeps them from growing.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, momentum: float = 0.95, weight_decay: float = 1.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Make a step along the gradients."""
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not moving:
                continue
            gradients = [parameter.grad for parameter in moving]
            for parameter in moving:
                if not self.state[parameter]:
                    self.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
            momenta = [self.state[parameter]["momentum_buffer"] for parameter in moving]
            torch._foreach_lerp_(momenta, gradients, 1 - group["momentum"])
            aheads = torch._foreach_lerp(gradients, momenta, group["momentum"])
            torch._foreach_mul_(moving, 1 - group["lr"] * group["weight_decay"])
            for parameter, ahead in zip(moving, aheads, strict=True):
                longest = max(len(ahead), ahead[0].numel())
                parameter.sub_(_direction(ahead), alpha=0.2 * math.sqrt(longest) * group["lr"])


def _direction(gradient: torch.Tensor) -> torch.Tensor:
    if gradient.ndim == 1:
        return functional.normalize(gradient, dim=0)
    kernel = gradient.movedim(1, -1)  # as it lies in memory
    return orthogonal(kernel.flatten(1)).view(kernel.shape).movedim(-1, 1)


def orthogonal(matrix: torch.Tensor) -> torch.Tensor:
    """Return about the orthogonal matrix nearest to one: singular values of 0.7 to 1.2, and less where they were small.

    Three steps of the Newton-Schulz iteration with the coefficients of Jordan et al. (2024), who make five: these bring
    singular values of less than 3 % of the matrix norm nearer to the others as well, and train no better in the time.
    """
    if len(matrix) > matrix.shape[1]:
        return orthogonal(matrix.mT).mT
    found: torch.Tensor = matrix / (torch.linalg.matrix_norm(matrix) + 1e-7)
    if torch.is_autocast_enabled(matrix.device.type):  # once, where each product would else convert it anew
        found = found.to(torch.get_autocast_dtype(matrix.device.type))
    for _ in range(3):
        gram = found @ found.mT
        found = torch.addmm(found, torch.addmm(gram, gram, gram, beta=-4.7750, alpha=2.0315), found, beta=3.4445)
    return found


def adamw(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """AdamW with its usual moments and a small weight decay."""
    return torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=1e-4, fused=True)


def sgd(parameters: Iterable[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """Stochastic gradient descent with the paper's momentum (section 3: 0.99, for batches of one tile)."""
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.99)


OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer]] = {
    "muon": Muon,
    "adamw": adamw,
    "sgd": sgd,
}
LEARNING_RATES = {"muon": 3e-3, "adamw": 1e-3, "sgd": 1e-4}  # at their highest, where nothing else is asked for


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

"""Everything that is decided before the first step of a training."""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from unetcli.dataset.augmentation import Augmentation
from unetcli.dataset.labels import IGNORE, class_indices
from unetcli.dataset.patches import PatchDataset, Sample, Weighting
from unetcli.dataset.samples import SampleCache
from unetcli.dataset.survey import Survey
from unetcli.dataset.weightmap import class_balance
from unetcli.errors import InputError, UsageError, warn
from unetcli.images.memory import held_memory, keep_freed_memory
from unetcli.inference.predict import is_out_of_memory
from unetcli.inference.tilesize import bytes_per_pixel, choose_tile
from unetcli.models import geometry_of
from unetcli.models.device import Device, choose_device, make_deterministic, move_network, training_layout
from unetcli.training.config import PAPER_PATCH, TrainConfig
from unetcli.training.loop import Trainer
from unetcli.training.processes import own_cores, own_device, processes_of_environment
from unetcli.training.records import Limits
from unetcli.training.split import Split, hold_out_region, split_fold, split_pairs
from unetcli.training.start import freeze, start_network

FEWEST_PATCHES = 64  # of an epoch
LARGEST_BATCH = 16
FEWEST_TO_NORMALIZE = 4  # patches of a batch; a batch of one gave MobileNet-U-Net a Dice of 0.14 in place of 0.63
TRAINING_COPIES = 3.0  # values kept for the way back, and their gradients, beside those of the forward pass


@dataclass(frozen=True)
class Plan:
    """Everything that was decided before the first step.

    Parameters
    ----------
    patch_size, output_size : sides of what the network reads and shows, in pixels.
    patches_per_epoch : as many as cover the training pixels once, and at least 64; on CUDA at least 64 batches, so that
        validating and saving do not take longer than the steps.
    epochs : None where the time alone decides.
    class_weights : of the loss.
    estimate_seconds : how long the training will take, measured on a few steps; estimate_memory in bytes of
        the device, which for a CPU are those of the whole process.
    """

    device: Device
    architecture: str
    arguments: dict[str, Any]
    parameters: int
    channels: int
    classes: tuple[str, ...]
    split: Split
    patch_size: int
    output_size: int
    batch_size: int
    patches_per_epoch: int
    epochs: int | None
    max_seconds: float | None
    class_weights: tuple[float, ...]
    workers: int
    estimate_seconds: float
    estimate_memory: int


def plan(config: TrainConfig, survey: Survey) -> tuple[Plan, Trainer]:
    """Return all decisions and a trainer that is ready to run.

    Raises
    ------
    UnetError : anything that keeps the training from starting.
    """
    coding = survey.coding
    classes = coding.classes
    split = _split(config, survey)
    processes = processes_of_environment()
    device = choose_device(own_device(config.device), config.precision)
    if device.kind == "cuda":
        torch.cuda.set_device(device.torch)
    if config.deterministic:
        make_deterministic()
    keep_freed_memory()  # also in the processes that make patches
    recipe = config.steps_recipe
    network, architecture, arguments = _network(config, survey, recipe.dropout)
    geometry = geometry_of(network)

    patch_size = _patch_size(config, survey, network)
    output_size = geometry.output_size(patch_size)
    training, held_out = _samples(config, survey, split, gap=geometry.border)
    counts = _class_counts(training, coding.task, len(classes))
    if not counts[1:].any():
        raise InputError(
            "no foreground in the images to train on", hint="annotate more, or another --seed or --validation"
        )
    if not any((sample.labels != IGNORE).any() for sample in held_out):
        raise InputError(
            f"nothing is labelled in what is held out ({split.rule})", hint="another --seed, or name it by --validation"
        )
    weights = class_weights(counts, config.class_balance, recipe.smallest_share)
    batch_pixels = recipe.cuda_batch_pixels if device.kind == "cuda" else recipe.batch_pixels
    batch_size = config.batch_size or usual_batch_size(network, batch_pixels, output_size)
    fewest = FEWEST_PATCHES * (batch_size * processes.count if device.kind == "cuda" else 1)
    patches = config.patches_per_epoch or max(fewest, math.ceil(int(counts.sum()) / output_size**2))
    if processes.count > 1:  # every batch is full, so that all processes always have something to compute
        patches += -patches % (batch_size * processes.count)
    workers = config.workers if config.workers is not None else default_workers(device)

    settings = config.augmentation
    network = move_network(network, device, training_layout(device))
    dataset = PatchDataset(
        training,
        task=coding.task,
        augmentation=Augmentation(settings, patch_size=patch_size, output_size=output_size),
        shift=settings.shift,
        weighting=Weighting(weights, config.border_weight, config.border_sigma, recipe.border_smoothing),
        seed=config.seed,
    )
    trainer = Trainer(
        network,
        dataset,
        held_out,
        classes=len(classes),
        device=device,
        recipe=recipe,
        patches_per_epoch=patches,
        batch_size=batch_size * processes.count,
        limits=Limits(config.last_epoch, config.max_seconds, config.patience),
        seed=config.seed,
        workers=workers,
        tile=choose_tile(network, survey.channels, device),
        processes=processes,
    )
    parameters = sum(parameter.numel() for parameter in network.parameters())
    memory = _memory(trainer, (survey.channels, patch_size), batch_size, parameters)
    decided = Plan(
        device=device,
        architecture=architecture,
        arguments=arguments,
        parameters=parameters,
        channels=survey.channels,
        classes=classes,
        split=split,
        patch_size=patch_size,
        output_size=output_size,
        batch_size=batch_size,
        patches_per_epoch=patches,
        epochs=config.last_epoch,
        max_seconds=config.max_seconds,
        class_weights=weights,
        workers=workers,
        estimate_seconds=_estimate(config, trainer, (survey.channels, patch_size, patch_size), output_size),
        estimate_memory=memory,
    )
    return decided, trainer


def _split(config: TrainConfig, survey: Survey) -> Split:
    if config.fold is None:
        return split_pairs(survey.pairs, config.validation, seed=config.seed)
    return split_fold(survey.pairs, *config.fold, seed=config.seed)


def _network(config: TrainConfig, survey: Survey, dropout: float) -> tuple[nn.Module, str, dict[str, Any]]:
    """Return the network before its first step, its entry of the registry and its arguments."""
    torch.manual_seed(config.seed)
    network, architecture, arguments = start_network(
        config.architecture,
        config.arguments,
        channels=survey.channels,
        classes=len(survey.coding.classes),
        dropout=dropout,
        init=None if config.resume else config.init,  # the state has the weights
    )
    if config.freeze and config.init is None:
        warn("--freeze without --init keeps random weights")
    freeze(network, config.freeze)
    return network, architecture, arguments


def usual_batch_size(network: nn.Module, batch_pixels: int, output_size: int) -> int:
    """Return how many patches of `output_size` pixels show `batch_pixels` together, more for batch normalization.

    Statistics of a single patch are not those of the data, with which a network with batch normalization predicts.
    """
    normalized = any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    fewest = FEWEST_TO_NORMALIZE if normalized else 1
    return max(fewest, min(LARGEST_BATCH, -(-batch_pixels // output_size**2)))


def class_weights(counts: NDArray[np.int64], rule: str, smallest_share: float) -> tuple[float, ...]:
    """Return the class balance w_c (paper, equation 2), with a mean of 1 over the training pixels.

    Parameters
    ----------
    counts : training pixels of each class.
    rule : "auto", "inverse" frequency, "none", or the weights themselves: "1,4,2".
    smallest_share : for "auto", the share of the pixels up to which rarer classes are raised.

    Raises
    ------
    UsageError : an unknown rule, or not one weight per class.
    """
    if rule not in ("auto", "inverse", "none"):
        try:
            given = tuple(float(part) for part in rule.split(","))
        except ValueError:
            given = ()
        if len(given) != len(counts) or not all(weight > 0 for weight in given):
            raise UsageError(
                f"--class-balance {rule} for {len(counts)} classes",
                hint="it takes auto, inverse, none, or one positive weight per class: 1,4,2",
            )
        return given
    raised = {"auto": smallest_share, "inverse": 1.0, "none": 0.0}[rule]
    return tuple(class_balance(counts, smallest_share=raised).tolist())


def default_workers(device: Device) -> int:
    """Return the data loader processes to use: none where the CPU's few cores are busy computing anyway."""
    number = own_cores()
    return min(16, number - 1) if device.kind != "cpu" else (0 if number < 4 else number // 4)


def _patch_size(config: TrainConfig, survey: Survey, network: nn.Module) -> int:
    """Return the legal size nearest to what was asked for, else the paper's 572, less where images are smaller."""
    geometry = geometry_of(network)
    if config.patch_size is not None:
        legal = geometry.nearest_legal(config.patch_size)
        if legal != config.patch_size:
            warn(f"this network takes no patches of {config.patch_size} pixels: {legal} is taken")
        return legal
    usual_side = int(np.median([max(shape[:2]) for shape in survey.shapes]))
    return min(geometry.nearest_legal(PAPER_PATCH), geometry.smallest + geometry.rounded_up(usual_side))


def _samples(config: TrainConfig, survey: Survey, split: Split, gap: int) -> tuple[Sequence[Sample], Sequence[Sample]]:
    def cache(indices: Sequence[int], apart: Sequence[int] = ()) -> SampleCache:
        pairs, held_apart = ([survey.pairs[index] for index in chosen] for chosen in (indices, apart))
        return SampleCache(pairs, survey.coding, survey.axes_override, held_apart)

    if not split.by_region:
        others = set(range(len(survey.pairs))) - set(split.training)
        return cache(split.training, apart=sorted(others)), cache(split.validation)
    parts = [hold_out_region(sample, gap) for sample in cache(split.training)]
    return [training for training, _ in parts], [held_out for _, held_out in parts]


def _class_counts(samples: Sequence[Sample], task: str, classes: int) -> NDArray[np.int64]:
    """Return the labelled training pixels of each class."""
    counts = np.zeros(classes, dtype=np.int64)
    for sample in samples:
        labels = class_indices(sample.labels, task)
        counts += np.bincount(labels[labels != IGNORE], minlength=classes)
    return counts


def _estimate(config: TrainConfig, trainer: Trainer, patch: tuple[int, int, int], output_size: int) -> float:
    """Return the seconds that the training will take, from the fastest of a few steps on a copy without data."""
    if config.max_seconds is not None and config.epochs is None:
        return config.max_seconds
    assert trainer.limits.epochs is not None
    seconds = _seconds_per_step(trainer, (trainer.batch_size // trainer.processes.count, *patch))
    validation_pixels = sum(sample.labels.size for sample in trainer.held_out)
    per_pixel = seconds / 3 / (trainer.batch_size * output_size**2)  # the way forward is a third of a step
    estimate = trainer.limits.epochs * (trainer.steps_per_epoch * seconds + validation_pixels * per_pixel)
    return min(estimate, config.max_seconds or math.inf)


def _seconds_per_step(trainer: Trainer, shape: tuple[int, ...]) -> float:
    """Return the time that a batch (N, C, n, n) takes there and back, in parts where the memory holds no more."""
    rehearsal = copy.deepcopy(trainer.network).train()
    parts = 1
    while True:
        patches = -(-shape[0] // parts)
        try:
            return parts * min(_seconds(trainer.device, rehearsal, (patches, *shape[1:])) for _ in range(3))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or patches == 1:
                raise
        parts *= 2


def _seconds(device: Device, network: nn.Module, shape: tuple[int, ...]) -> float:
    """Return the time of one batch; the first one also prepares the convolutions, and any may be disturbed."""
    began = time.monotonic()
    image = torch.zeros(shape, device=device.torch).contiguous(memory_format=training_layout(device))
    with device.arithmetic():
        logits = network(image)
    logits.float().mean().backward()
    if device.kind == "cuda":
        torch.cuda.synchronize()
    return time.monotonic() - began


def _memory(trainer: Trainer, patch: tuple[int, int], batch_size: int, parameters: int) -> int:
    """Return the bytes that the training will take at most; `patch` has channels and a side."""
    channels, side = patch
    device = trainer.device
    held = held_memory() if device.kind == "cpu" else 0  # libraries and images; elsewhere they are not on the device
    values = bytes_per_pixel(trainer.network, channels, device) * side**2 * batch_size
    return held + int(TRAINING_COPIES * values) + 16 * parameters

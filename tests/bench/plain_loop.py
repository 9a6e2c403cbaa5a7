"""The yardstick of `unet train`: a plain training loop with the same network, in the same time.

    python tests/bench/plain_loop.py DATA... --validation 20-23 --seconds 2400 --seed 0 -o plain.safetensors

AdamW at 1e-3, a cosine schedule over the time, gradients clipped to 1, averaged weights, cross-entropy; random crops,
mirrored where they leave the image, in one of the eight turns and flips. No weight map, no ridges, no class balance, no
elastic deformation, no validation: the averaged weights of the last step are the model, for `unet infer`.
"""

import argparse
import copy
import math
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from unetcli.dataset.labels import IGNORE
from unetcli.dataset.pairs import collect_pairs
from unetcli.dataset.survey import survey
from unetcli.images import normalize
from unetcli.models.device import set_threads
from unetcli.models.modelfile import save_model
from unetcli.training.config import TrainConfig
from unetcli.training.plan import plan
from unetcli.training.train import describe

LEARNING_RATE, LARGEST_GRADIENT, AVERAGING, DROPOUT = 1e-3, 1.0, 0.99, 0.2


def crop(image, labels, size, output_size, rng):
    """A random patch (C, size, size) of an image (H, W, C) and the middle of its labels, turned and flipped."""
    border = (size - output_size) // 2
    wanted = [max(output_size - side, 0) for side in labels.shape]  # of images smaller than the output
    pad = [(border + extra // 2, border + extra - extra // 2) for extra in wanted]
    image = np.pad(image, [*pad, (0, 0)], mode="reflect")
    labels = np.pad(labels, pad, mode="reflect")
    y, x = (int(rng.integers(side - size + 1)) for side in labels.shape)
    image, labels = image[y : y + size, x : x + size], labels[y : y + size, x : x + size]
    turns, flip = int(rng.integers(4)), bool(rng.integers(2))
    image, labels = np.rot90(image, turns), np.rot90(labels, turns)
    if flip:
        image, labels = image[::-1], labels[::-1]
    inner = slice(border, border + output_size)
    return np.ascontiguousarray(image.transpose(2, 0, 1)), np.ascontiguousarray(labels[inner, inner])


def plain_loop(options):
    """Train, save the averaged network, and return the number of patches."""
    surveyed = survey(collect_pairs(options.data))
    surveyed.check()
    config = TrainConfig(
        output=options.output,
        epochs=1,
        validation=options.validation,
        arguments={"features": options.features, "dropout": DROPOUT},
        seed=options.seed,
    )
    decided, trainer = plan(config, surveyed)
    samples = [(normalize(sample.image, sample.intensity), sample.labels) for sample in trainer.dataset.samples]
    if surveyed.coding.task == "instances":
        samples = [(image, np.minimum(labels, 1)) for image, labels in samples]
    rng = np.random.default_rng(options.seed)
    network, device = trainer.network.train(), trainer.device
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE)
    began, steps = time.monotonic(), 0
    while (passed := time.monotonic() - began) < options.seconds:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * 0.5 * (1 + math.cos(math.pi * passed / options.seconds))
        chosen = [samples[number] for number in rng.integers(len(samples), size=decided.batch_size)]
        patches = [crop(*sample, decided.patch_size, decided.output_size, rng) for sample in chosen]
        images, labels = (torch.from_numpy(np.stack(part)).to(device.torch) for part in zip(*patches, strict=True))
        optimizer.zero_grad()
        with device.arithmetic():
            logits = network(images.contiguous(memory_format=torch.channels_last))
        cross_entropy(logits.float(), labels.long(), ignore_index=IGNORE).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        steps += 1
        decay = min(AVERAGING, (1 + steps) / (10 + steps))
        for kept, weights in zip(average.parameters(), network.parameters(), strict=True):
            kept.data.lerp_(weights.data, 1 - decay)
    save_model(options.output, average.eval(), describe(config, surveyed, decided, None))
    return steps * decided.batch_size


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", type=Path)
    parser.add_argument("--validation", default="auto")
    parser.add_argument("--seconds", type=float, default=2400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", type=int, default=24)
    parser.add_argument("-o", dest="output", type=Path, required=True)
    set_threads(None)
    print(plain_loop(parser.parse_args()), "patches")

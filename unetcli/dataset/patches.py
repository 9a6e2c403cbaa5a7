"""Training patches: where they are cut, and what the network is shown of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unetcli.dataset.augmentation import Augmentation, sample_seed
from unetcli.dataset.labels import IGNORE, class_indices
from unetcli.dataset.weightmap import SMOOTHING, insert_ridges, weight_map
from unetcli.images import IntensityRange

CENTRES_PER_CLASS = 4096  # places remembered per image and class
CLASS_BIASED = 0.5  # share of the patches whose centre is drawn class by class, so that rare classes are seen


@dataclass(frozen=True)
class Sample:
    """A decoded pair.

    Parameters
    ----------
    name : of the pair, for messages.
    image : raw pixels (H, W, C).
    intensity : how to normalize them.
    labels : int32 (H, W): class index or instance id, 0 background, -1 ignored.
    """

    name: str
    image: NDArray[Any]
    intensity: IntensityRange
    labels: NDArray[np.int32]


def target_of(labels: NDArray[np.int32], task: str) -> tuple[NDArray[np.int32], NDArray[np.int32] | None]:
    """Return class indices (H, W) for the loss, and the instances (H, W) they come from, if they do.

    Semantic labels are class indices already; of instances, cells (1) are parted by ridges of background (0).
    """
    if task == "semantic":
        return labels, None
    ridged = insert_ridges(labels)
    return class_indices(ridged, task), ridged


@dataclass(frozen=True)
class Weighting:
    """How pixels count in the loss (paper, equation 2).

    Parameters
    ----------
    class_balance : weight of each class.
    border_weight, border_sigma : w0 and sigma, in pixels; a border weight of 0 leaves the class balance alone.
    border_smoothing : in pixels, of the weights between components of masks without instances.
    """

    class_balance: tuple[float, ...]
    border_weight: float = 10.0
    border_sigma: float = 5.0
    border_smoothing: float = SMOOTHING

    def __call__(self, labels: NDArray[np.int32], task: str) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the target (H, W) and the weight (H, W) of each of its pixels."""
        target, instances = target_of(labels, task)
        weights = weight_map(
            target,
            instances,
            np.asarray(self.class_balance, dtype=np.float32),
            border_weight=self.border_weight,
            border_sigma=self.border_sigma,
            border_smoothing=self.border_smoothing,
        )
        return target, weights


class Centres:
    """Where patches of one image may be centred: labelled pixels, remembered class by class."""

    def __init__(self, labels: NDArray[np.int32], task: str, generator: np.random.Generator) -> None:
        flat = class_indices(labels, task).ravel()
        self.shape = labels.shape
        self.labelled = int((flat != IGNORE).sum())
        self.by_class = []
        for present in np.unique(flat[flat != IGNORE]):
            places = np.flatnonzero(flat == present)
            if len(places) > CENTRES_PER_CLASS:
                places = generator.choice(places, CENTRES_PER_CLASS, replace=False)
            self.by_class.append((places, int((flat == present).sum())))

    def draw(self, output_size: int, generator: np.random.Generator) -> tuple[float, float]:
        """Return a centre (y, x) for a patch that shows `output_size` pixels.

        Half of the centres fall on a labelled pixel, the other half on one of a class drawn first. The patch then
        moves inwards until it hardly reaches outside the image.
        """
        shares = np.array([count for _, count in self.by_class], dtype=float) / self.labelled
        biased = generator.random() < CLASS_BIASED
        places, _ = self.by_class[generator.choice(len(shares), p=None if biased else shares)]
        position = np.unravel_index(int(generator.choice(places)), self.shape)
        slack = output_size / 8
        centre = []
        for place, size in zip(position, self.shape, strict=True):
            low, high = sorted((output_size / 2 - 0.5, size - output_size / 2 - 0.5))
            if size < output_size:
                low = high = (size - 1) / 2
            shifted = float(place) + generator.uniform(-slack, slack)
            centre.append(min(max(shifted, low - slack), high + slack))
        return centre[0], centre[1]

    def on_grid(self, output_size: int, generator: np.random.Generator) -> tuple[float, float]:
        """Return the centre of one of the patches that cover the image side by side."""
        centre = []
        for size in self.shape:
            parts = -(-size // output_size)
            centre.append((int(generator.integers(parts)) + 0.5) * size / parts - 0.5)
        return centre[0], centre[1]


class PatchDataset(torch.utils.data.Dataset[tuple[Tensor, Tensor, Tensor]]):
    """Random patches, each a function of (seed, epoch, index) alone.

    Images of at least the size of a patch are drawn alike, as they count in scores, others by their labelled pixels.

    ``dataset[epoch, index]`` is the image (C, n, n) float32, the target (m, m) uint8 and the weights (m, m) float32
    of one patch, where an ignored pixel is class 0 with weight 0; every worker returns the same for the same key.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        *,
        task: str,
        augmentation: Augmentation,
        shift: bool,
        weighting: Weighting,
        seed: int,
    ) -> None:
        self.samples = samples
        self.task = task
        self.augmentation = augmentation
        self.shift = shift
        self.weighting = weighting
        self.seed = seed
        places = np.random.default_rng(sample_seed(seed, 0, 0))
        self.centres = [Centres(sample.labels, task, places) for sample in samples]
        shown = np.array([min(centre.labelled, augmentation.output_size**2) for centre in self.centres], dtype=float)
        self.share = shown / shown.sum()  # not by size: a few large images would drown the many small ones

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        epoch, index = key
        seed = sample_seed(self.seed, epoch, index)
        generator = np.random.default_rng(seed)
        number = int(generator.choice(len(self.samples), p=self.share))
        sample = self.samples[number]
        centres, output_size = self.centres[number], self.augmentation.output_size
        centre = centres.draw(output_size, generator) if self.shift else centres.on_grid(output_size, generator)
        image, labels = self.augmentation(
            sample.image, sample.labels, centre, int(generator.integers(2**63)), sample.intensity
        )
        target, weights = self.weighting(labels, self.task)
        return (
            torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            torch.from_numpy(np.maximum(target, 0).astype(np.uint8)),
            torch.from_numpy(weights),
        )


def epoch_keys(epoch: int, patches: int, batch_size: int) -> Iterator[list[tuple[int, int]]]:
    """Yield the keys of each batch of an epoch."""
    for first in range(0, patches, batch_size):
        yield [(epoch, index) for index in range(first, min(first + batch_size, patches))]

"""The loop: batches in, better weights out, one record per step and per epoch."""

import copy
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from unetcli.dataset.augmentation import sample_seed
from unetcli.dataset.patches import PatchDataset, Sample, epoch_keys
from unetcli.errors import DivergedError, ResourceError, warn
from unetcli.inference.predict import TileSize, is_out_of_memory
from unetcli.models.device import Device
from unetcli.training.config import Recipe
from unetcli.training.loss import weighted_cross_entropy
from unetcli.training.optimization import OPTIMIZERS, SCHEDULES, AveragedWeights
from unetcli.training.validation import ValidationScore, validate

BAD_STEPS_IN_A_ROW = 5  # steps whose gradient is not finite before training counts as diverged


@dataclass(frozen=True)
class StepRecord:
    """One step of the optimizer, for the progress display.

    Parameters
    ----------
    epoch, step : counted from 1; `steps` in an epoch.
    progress : of the whole training, 0 to 1.
    seconds : since the training began.
    """

    epoch: int
    step: int
    steps: int
    loss: float
    progress: float
    seconds: float


@dataclass(frozen=True)
class EpochRecord:
    """One epoch and its validation; a line of the history.

    Parameters
    ----------
    dice : mean foreground Dice on validation; `dice_per_class` of each foreground class (nan: nowhere defined).
    foreground : share of the held-out pixels that are predicted as foreground.
    best : whether this is the best epoch so far.
    patches_per_second : training speed.
    """

    epoch: int
    seconds: float
    learning_rate: float
    train_loss: float
    validation_loss: float
    dice: float
    dice_per_class: tuple[float, ...]
    foreground: float
    best: bool
    patches_per_second: float


@dataclass(frozen=True)
class Limits:
    """When a training ends: whichever comes first.

    Parameters
    ----------
    epochs : None where the time alone decides.
    seconds : None where the epochs alone decide.
    patience : epochs without a better one, None for no early stopping.
    """

    epochs: int | None
    seconds: float | None
    patience: int | None


class Trainer:
    """A network in training.

    Parameters
    ----------
    network : on the device; trained in place.
    dataset : the patches.
    held_out : decoded images to validate on.
    clock : returns seconds; monotonic.
    stop : returns whether to stop after the present step.
    """

    def __init__(
        self,
        network: nn.Module,
        dataset: PatchDataset,
        held_out: Sequence[Sample],
        *,
        classes: int,
        device: Device,
        recipe: Recipe,
        patches_per_epoch: int,
        batch_size: int,
        limits: Limits,
        seed: int,
        workers: int,
        tile: TileSize,
        stop: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.network = network
        self.dataset = dataset
        self.held_out = held_out
        self.classes = classes
        self.device = device
        self.recipe = recipe
        self.patches_per_epoch = patches_per_epoch
        self.batch_size = batch_size
        self.limits = limits
        self.seed = seed
        self.workers = workers
        self.tile = tile
        self.stop = stop
        self.clock = clock
        self.optimizer = OPTIMIZERS[recipe.optimizer](network.parameters(), recipe.learning_rate)
        self.average = AveragedWeights(network, copy.deepcopy(network), recipe.averaging)
        self.scaler = torch.amp.GradScaler(device.kind, enabled=device.precision == "fp16")
        self.schedule = SCHEDULES[recipe.schedule]
        self.parts = 1  # pieces in which a batch is computed, more where memory ran out
        self.bad_steps = 0
        self.validation_seconds = 0.0
        self.history: list[EpochRecord] = []

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self.patches_per_epoch // self.batch_size)

    @property
    def best(self) -> EpochRecord | None:
        """The best epoch so far."""
        return max((record for record in self.history if record.best), key=lambda record: record.epoch, default=None)

    def run(self) -> Iterator[StepRecord | EpochRecord]:
        """Train until a limit is reached or `stop` says so, yielding a record for each step and each epoch.

        Raises
        ------
        DivergedError : the loss stays not finite; the weights of the best epoch are unharmed.
        ResourceError : a single patch does not fit the memory.
        """
        began = self.clock()
        batches = self._batches()
        try:
            epoch = len(self.history)
            while not self._finished(epoch, began):
                epoch += 1
                yield from self._epoch(epoch, batches, began)
        finally:
            batches.close()

    def _finished(self, epoch: int, began: float) -> bool:
        limits = self.limits
        if self.stop() or (limits.epochs is not None and epoch >= limits.epochs):
            return True
        if limits.seconds is not None and epoch and self._out_of_time(began):
            return True
        return limits.patience is not None and self.best is not None and epoch - self.best.epoch >= limits.patience

    def _out_of_time(self, began: float) -> bool:
        assert self.limits.seconds is not None
        return self.clock() - began + self.validation_seconds >= self.limits.seconds

    def _progress(self, epoch: int, step: int, began: float) -> float:
        done = 0.0
        if self.limits.epochs is not None:
            done = (epoch - 1 + step / self.steps_per_epoch) / self.limits.epochs
        if self.limits.seconds is not None:
            available = max(1e-9, self.limits.seconds - self.validation_seconds)
            done = max(done, (self.clock() - began) / available)
        return min(1.0, done)

    def _batches(self) -> Generator[Sequence[Tensor]]:
        def keys() -> Iterator[list[tuple[int, int]]]:
            epoch = len(self.history)
            while self.limits.epochs is None or epoch < self.limits.epochs:
                epoch += 1
                yield from epoch_keys(epoch, self.patches_per_epoch, self.batch_size)

        loader: torch.utils.data.DataLoader[Any] = torch.utils.data.DataLoader(
            self.dataset,
            batch_sampler=_Keys(keys),
            num_workers=self.workers,
            worker_init_fn=_quiet_worker if self.workers else None,
            pin_memory=self.device.kind == "cuda",
        )
        yield from loader

    def _epoch(
        self, epoch: int, batches: Iterator[Sequence[Tensor]], began: float
    ) -> Iterator[StepRecord | EpochRecord]:
        started = self.clock()
        losses = []
        self.network.train()
        for step in range(1, self.steps_per_epoch + 1):
            rate = self.recipe.learning_rate * self.schedule(self._progress(epoch, step - 1, began))
            torch.manual_seed(
                sample_seed(self.seed, epoch, self.patches_per_epoch + step)
            )  # dropout depends on the step alone
            losses.append(self._step(next(batches), rate, epoch, step))
            seconds = self.clock() - began
            yield StepRecord(epoch, step, self.steps_per_epoch, losses[-1], self._progress(epoch, step, began), seconds)
            if self.stop() or (self.limits.seconds is not None and self._out_of_time(began)):
                break
        speed = len(losses) * self.batch_size / max(1e-9, self.clock() - started)
        score = self._validate()
        finite = [loss for loss in losses if math.isfinite(loss)]
        record = EpochRecord(
            epoch=epoch,
            seconds=self.clock() - began,
            learning_rate=rate,
            train_loss=sum(finite) / len(finite) if finite else math.nan,
            validation_loss=score.loss,
            dice=score.dice,
            dice_per_class=score.dice_per_class,
            foreground=sum(image.foreground for image in score.images) / len(score.images),
            best=self._is_best(score),
            patches_per_second=speed,
        )
        self.history.append(record)
        yield record

    def _validate(self) -> ValidationScore:
        started = self.clock()
        network = self.average.average.eval()
        score = validate(
            network,
            self.held_out,
            task=self.dataset.task,
            classes=self.classes,
            device=self.device,
            size=self.tile,
        )
        self.validation_seconds = self.clock() - started
        return score

    def _is_best(self, score: ValidationScore) -> bool:
        best = self.best
        if not math.isfinite(score.loss):
            return False
        return best is None or (score.dice, -score.loss) > (best.dice, -best.validation_loss)

    def _step(self, batch: Sequence[Tensor], rate: float, epoch: int, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(batch)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.parts >= len(batch[0]):
                    raise ResourceError(
                        f"out of memory with one patch of {batch[0].shape[-1]} pixels",
                        hint="a smaller --patch-size or fewer --features",
                    ) from None
                self.parts *= 2
                warn(f"out of memory: a batch of {len(batch[0])} patches is now computed in {self.parts} parts")
        self.scaler.unscale_(self.optimizer)
        largest = self.recipe.largest_gradient or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), largest)
        if not bool(torch.isfinite(norm)):
            self._count_bad_step(epoch, step)
        else:
            self.bad_steps = 0
            self.scaler.step(self.optimizer)
            self.average.update()
        self.scaler.update()
        return loss

    def _gradients(self, batch: Sequence[Tensor]) -> float:
        """Return the loss of a batch, its gradients added up over `parts` pieces of it."""
        total = 0.0
        for image, target, weights in zip(*(tensor.chunk(self.parts) for tensor in batch), strict=True):
            image = image.to(self.device.torch, non_blocking=True, memory_format=torch.channels_last)
            target = target.to(self.device.torch, non_blocking=True)
            weights = weights.to(self.device.torch, non_blocking=True)
            with self.device.arithmetic():
                logits = self.network(image)
            loss = weighted_cross_entropy(logits, target, weights) * (len(image) / len(batch[0]))
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        return total

    def _count_bad_step(self, epoch: int, step: int) -> None:
        self.bad_steps += 1
        if self.bad_steps >= BAD_STEPS_IN_A_ROW and self.device.precision != "fp16":
            raise DivergedError(
                f"the loss is not finite at epoch {epoch}, step {step}",
                hint="lower --learning-rate, or use --precision fp32; the best finite model is kept",
            )


class _Keys:
    """A batch sampler over keys made by a function; iterated once."""

    def __init__(self, make: Callable[[], Iterator[list[tuple[int, int]]]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self.make()


def _quiet_worker(number: int) -> None:
    """Leave signals to the main process, and its cores to it too."""
    import signal

    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(0)

"""The loop: batches in, better weights out, one record per step and per epoch."""

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import islice

import torch
from torch import Tensor, nn

from unetcli.dataset.augmentation import sample_seed
from unetcli.dataset.patches import PatchDataset, Sample, epoch_keys
from unetcli.errors import DivergedError, ResourceError, warn
from unetcli.inference.predict import TileSize, is_out_of_memory
from unetcli.models.device import PRECISIONS, Device, training_layout
from unetcli.training.batches import Batch, Key, batches
from unetcli.training.config import Recipe
from unetcli.training.loss import soft_dice_loss, weighted_cross_entropy
from unetcli.training.optimization import OPTIMIZERS, SCHEDULES, AveragedWeights
from unetcli.training.processes import ALONE, Processes
from unetcli.training.records import EpochRecord, Limits, StepRecord
from unetcli.training.validation import ValidationScore, validate

BAD_STEPS_IN_A_ROW = 5  # steps whose gradient is not finite before training counts as diverged
BAD_STEPS_TO_SCALE = 40  # the same in fp16, whose scale is halved by each


class Trainer:
    """A network in training.

    Every step is a function of the weights, the seed and its position, so a training that is put back to a position
    (`unetcli.training.state`) goes on as if it had never stopped.

    Parameters
    ----------
    network : on the device; trained in place, but for parameters that need no gradient.
    dataset : the patches.
    held_out : decoded images to validate on.
    batch_size : patches of a step, of all processes together.
    processes : those that train this network together.
    stop : returns whether this process is to stop after the present step; `stopped` says whether all of them did.
    clock : returns seconds; monotonic.
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
        processes: Processes = ALONE,
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
        self.processes = processes
        self.stop = stop
        self.clock = clock
        learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = OPTIMIZERS[recipe.optimizer](learned, recipe.learning_rate)
        self.average = AveragedWeights(network, copy.deepcopy(network), recipe.averaging)
        self.scaler = torch.amp.GradScaler(device.kind, enabled=device.precision == "fp16")
        self.schedule = SCHEDULES[recipe.schedule]
        self.dice_weight = recipe.dice_weight if dataset.task == "instances" else 0.0
        self.parts = 1  # pieces in which a batch is computed, more where memory ran out
        self.bad_steps = 0
        self.stopped = False  # whether a process was told to, so that all of them did
        self.validation_seconds = 0.0
        self.seconds = 0.0  # that the training has run, until it was last looked at
        self.rate = 0.0  # learning rate of the last step
        self.phase_start = 0.0  # epochs, with their fraction, at which the present run of the schedule began
        self.losses: list[float] = []  # of the steps of the epoch that is not done
        self.history: list[EpochRecord] = []
        self.score: ValidationScore | None = None  # of the last epoch, in the first process

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch."""
        return -(-self.patches_per_epoch // self.batch_size)

    @property
    def epochs_done(self) -> float:
        """Epochs that are done, with the fraction of the present one."""
        return len(self.history) + len(self.losses) / self.steps_per_epoch

    @property
    def best(self) -> EpochRecord | None:
        """The best epoch so far."""
        return max((record for record in self.history if record.best), key=lambda record: record.epoch, default=None)

    @property
    def ending(self) -> str | None:
        """Which limit is reached, in words."""
        limits, epoch = self.limits, len(self.history)
        if limits.epochs is not None and epoch >= limits.epochs:
            return "those are all"
        if limits.seconds is not None and epoch and not self.losses and self._out_of_time():
            return "its time is over"
        if limits.patience is None or self.best is None:
            return None
        waited = epoch - max(self.best.epoch, self.phase_start)
        return f"the last {limits.patience} were no better" if waited >= limits.patience else None

    def run(self) -> Iterator[StepRecord | EpochRecord]:
        """Train until a limit is reached or `stop` says so, yielding a record for each step and each epoch.

        An epoch that `stop` cuts short is not validated; its steps are not lost to a training that is continued.

        Raises
        ------
        DivergedError : the loss stays not finite; the weights of the best epoch are unharmed.
        ResourceError : a single patch does not fit the memory.
        RuntimeError : a process that made patches was killed; torch raises it wherever the program just is.
        """
        began = self.clock() - self.seconds
        keys = partial(self._keys, len(self.history), len(self.losses))
        made = batches(
            self.dataset,
            keys,
            workers=self.workers,
            pinned=self.device.kind == "cuda",
            precision=PRECISIONS[self.device.precision],
        )
        model = self.processes.wrap(self.network)
        self.stopped = False
        self._look(began)
        try:
            while not self.stopped and self.ending is None:
                yield from self._epoch(model, made, began)
        finally:
            made.close()

    def _look(self, began: float) -> None:
        """Look at the clock and whether to stop, both as all processes see them."""
        self.seconds, stop = self.processes.largest([self.clock() - began, float(self.stop())], self.device)
        self.stopped = self.stopped or bool(stop)

    def _out_of_time(self) -> bool:
        return self.limits.seconds is not None and self.seconds + self.validation_seconds >= self.limits.seconds

    @property
    def share_left(self) -> float:
        """Share of the epochs, or of the time, that is still to come."""
        limits = self.limits
        epochs = 1 - self.epochs_done / limits.epochs if limits.epochs else 1.0
        return max(0.0, min(epochs, 1 - self.seconds / limits.seconds if limits.seconds else 1.0))

    def _validates_last(self) -> bool:
        """Whether the next validation leaves no time for steps and one more, so that steps may take what it leaves."""
        if self.limits.seconds is None or len(self.history) + 1 == self.limits.epochs:
            return False
        return self.validation_seconds > 0 and self.seconds + 2 * self.validation_seconds >= self.limits.seconds

    def _progress(self) -> float:
        done = 0.0
        if self.limits.epochs is not None:
            done = (self.epochs_done - self.phase_start) / max(1e-9, self.limits.epochs - self.phase_start)
        if self.limits.seconds is not None:
            done = max(done, self.seconds / max(1e-9, self.limits.seconds - self.validation_seconds))
        return min(1.0, done)

    def _keys(self, epoch: int, skipped: int) -> Iterator[list[Key]]:
        """Yield the keys of this process's part of each batch after so many epochs and so many steps of the next.

        With a limit of time they do not end: an epoch may take those of the following ones (`_validates_last`).
        """
        while self.limits.epochs is None or self.limits.seconds is not None or epoch < self.limits.epochs:
            epoch += 1
            for keys in islice(epoch_keys(epoch, self.patches_per_epoch, self.batch_size), skipped, None):
                yield keys[self.processes.rank :: self.processes.count]
            skipped = 0

    def _epoch(self, model: nn.Module, made: Iterator[Batch], began: float) -> Iterator[StepRecord | EpochRecord]:
        """Train for what is left of an epoch."""
        epoch, first = len(self.history) + 1, len(self.losses)
        started = self.clock()
        set_training(self.network)
        step = first
        while step < self.steps_per_epoch or self._validates_last():
            step += 1
            self.rate = self.recipe.learning_rate * self.schedule(self._progress())
            offset = self.patches_per_epoch + step * self.processes.count + self.processes.rank
            batch = next(made)  # a loader that begins draws from torch's generator
            torch.manual_seed(sample_seed(self.seed, epoch, offset))  # dropout depends on the step alone
            self.losses.append(self._step(model, batch, epoch, step))
            self.seconds = self.clock() - began
            steps = max(step, self.steps_per_epoch)
            yield StepRecord(epoch, step, steps, self.losses[-1], self._progress(), self.seconds)
            self._look(began)
            if self.stopped:
                return
            if self._out_of_time():
                break
        speed = (len(self.losses) - first) * self.batch_size / max(1e-9, self.clock() - started)
        record = self._validate(epoch, speed, began)
        if record is None:
            self.stopped = True
            return
        self.losses = []
        self.history.append(record)
        yield record
        self._look(began)

    def _validate(self, epoch: int, speed: float, began: float) -> EpochRecord | None:
        """Return the record of an epoch after its last step; None where `stop` came before all images were seen."""
        started = self.clock()
        measured = [0.0] * (self.classes + 3)
        if self.processes.first:
            try:
                self.score = validate(
                    self.average.average.eval(),
                    self._until_stopped(),
                    task=self.dataset.task,
                    classes=self.classes,
                    device=self.device,
                    size=self.tile,
                )
                score = self.score
                measured = [1.0, score.loss, score.dice, score.foreground, *score.dice_per_class]
            except _Stopped:
                pass
        complete, loss, dice, foreground, *dice_per_class = self.processes.from_first(measured, self.device)
        if not complete:
            return None
        (self.validation_seconds,) = self.processes.largest([self.clock() - started], self.device)
        self._look(began)
        finite = [loss for loss in self.losses if math.isfinite(loss)]
        return EpochRecord(
            epoch=epoch,
            seconds=self.seconds,
            learning_rate=self.rate,
            train_loss=sum(finite) / len(finite) if finite else math.nan,
            validation_loss=loss,
            dice=dice,
            dice_per_class=tuple(dice_per_class),
            foreground=foreground,
            best=self._is_best(loss, dice),
            patches_per_second=speed,
        )

    def _until_stopped(self) -> Iterator[Sample]:
        for sample in self.held_out:
            if self.stop():
                raise _Stopped
            yield sample

    def _is_best(self, loss: float, dice: float) -> bool:
        best = self.best
        return math.isfinite(loss) and (best is None or (dice, -loss) > (best.dice, -best.validation_loss))

    def _step(self, model: nn.Module, batch: Batch, epoch: int, step: int) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        while True:
            self.optimizer.zero_grad(set_to_none=True)
            try:
                loss = self._gradients(model, batch)
                break
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.parts >= len(batch[0]) or self.processes.count > 1:
                    left = -(-len(batch[0]) // self.parts)
                    raise ResourceError(
                        f"out of memory with {left} patch{'es' if left > 1 else ''} of {batch[0].shape[-1]} pixels",
                        hint="a smaller --patch-size or --batch-size, or fewer --features",
                    ) from None
                self.parts *= 2
                warn(
                    f"out of memory: a batch of {len(batch[0])} patches is now computed in {self.parts} parts; "
                    "another run may give other weights"
                )
        self.scaler.unscale_(self.optimizer)
        norm = self._clip()
        with self.device.arithmetic():
            self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update()
        value, length = torch.stack([loss, norm]).tolist()  # here alone the device is waited for
        self._count_bad_steps(length, epoch, step)
        return float(value)

    def _clip(self) -> Tensor:
        """Clip the gradients and return their norm; where it is not finite, they become zero.

        The step is then one along the momentum. To leave it out, one would have to wait for the device, which meanwhile
        has nothing to do.
        """
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        finite = torch.isfinite(norm)
        for gradient in gradients:
            gradient.masked_fill_(~finite, 0)
        if self.recipe.largest_gradient:
            usable = norm.where(finite, 1)
            torch.nn.utils.clip_grads_with_norm_(self.network.parameters(), self.recipe.largest_gradient, usable)
        return norm

    def _gradients(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the loss of a batch, a scalar, its gradients added up over `parts` pieces of it."""
        total = torch.zeros((), device=self.device.torch)
        pieces = list(zip(*(tensor.chunk(self.parts) for tensor in batch), strict=True))
        for number, (image, target, weights) in enumerate(pieces, start=1):
            image = image.to(self.device.torch, non_blocking=True, memory_format=training_layout(self.device))
            target = target.to(self.device.torch, non_blocking=True)
            weights = weights.to(self.device.torch, non_blocking=True)
            with self.processes.alone(model) if number < len(pieces) else nullcontext():
                with self.device.arithmetic():
                    logits = model(image)
                loss = weighted_cross_entropy(logits, target, weights)
                if self.dice_weight:
                    loss = loss + self.dice_weight * soft_dice_loss(logits, target, weights)
                loss = loss * (len(image) / len(batch[0]))
                self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        return total

    def _count_bad_steps(self, norm: float, epoch: int, step: int) -> None:
        self.bad_steps = 0 if math.isfinite(norm) else self.bad_steps + 1
        if self.bad_steps >= (BAD_STEPS_TO_SCALE if self.device.precision == "fp16" else BAD_STEPS_IN_A_ROW):
            exact = "" if self.device.precision == "fp32" else ", or use --precision fp32"
            kept = "; the best finite model is kept" if self.best else ""
            raise DivergedError(
                f"the loss is not finite at epoch {epoch}, step {step}", hint=f"lower --learning-rate{exact}{kept}"
            )


class _Stopped(Exception):
    """Validation was told to stop."""


def set_training(network: nn.Module) -> None:
    """Put a network into training mode, but for layers all of whose parameters are frozen: they keep what they know."""
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()

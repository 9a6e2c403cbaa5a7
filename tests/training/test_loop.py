"""The loop: learns, repeats, ends in time, stops when it diverges."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unetcli.dataset.augmentation import Augmentation, AugmentationSettings
from unetcli.dataset.patches import PatchDataset, Sample, Weighting
from unetcli.errors import DivergedError, ResourceError, UnetWarning
from unetcli.images import intensity_range
from unetcli.inference.predict import TileSize
from unetcli.models import build_network, geometry_of
from unetcli.models.container import tensors_sha256
from unetcli.models.device import Device
from unetcli.training import loop
from unetcli.training.config import RECIPES
from unetcli.training.loop import Trainer
from unetcli.training.processes import Processes
from unetcli.training.records import EpochRecord, Limits, StepRecord

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = Device("cpu", "fp32", "test")


def discs(seed, size=72):
    """Bright discs on a dark ground, and their ids."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    y, x = np.mgrid[:size, :size]
    for number in range(1, 7):
        cy, cx, radius = *rng.uniform(8, size - 8, 2), rng.uniform(5, 9)
        labels[((y - cy) ** 2 + (x - cx) ** 2 < radius**2) & (labels == 0)] = number
    pixels = 100 + 80 * (labels > 0) + rng.normal(0, 10, labels.shape)
    image = pixels.clip(0, 255).astype(np.uint8)[..., None]
    return Sample(f"discs {seed}", image, intensity_range([image]), labels)


def trainer_of(
    *, epochs=2, workers=0, seed=0, batch_size=2, patches=8, features=4, dropout=0.5, task="instances", **options
):
    torch.manual_seed(seed)
    network = build_network("unet", channels=1, classes=2, features=features, depth=2, dropout=dropout)
    patch = geometry_of(network).nearest_legal(84)
    samples = [discs(number) for number in (1, 2, 3)]
    if task == "semantic":
        samples = [replace(sample, labels=np.minimum(sample.labels, 1)) for sample in samples]
    dataset = PatchDataset(
        samples[:2],
        task=task,
        augmentation=Augmentation(
            AugmentationSettings(), patch_size=patch, output_size=geometry_of(network).output_size(patch)
        ),
        shift=True,
        weighting=Weighting((0.7, 1.8)),
        seed=seed,
    )
    arguments = {
        "classes": 2,
        "device": CPU,
        "recipe": replace(RECIPES["default"], learning_rate=5e-3, averaging=0.9),
        "patches_per_epoch": patches,
        "batch_size": batch_size,
        "limits": Limits(epochs, None, None),
        "seed": seed,
        "workers": workers,
        "tile": TileSize(100),
        **options,
    }
    return Trainer(network, dataset, samples[2:], **arguments)


def hash_after(trainer):
    for _ in trainer.run():
        pass
    return tensors_sha256(trainer.average.average.state_dict())


def test_it_learns():
    recipe = replace(RECIPES["default"], learning_rate=1e-2, averaging=0.9)
    trainer = trainer_of(epochs=8, patches=32, dropout=0.0, features=8, batch_size=1, recipe=recipe)
    records = list(trainer.run())
    epochs = [record for record in records if isinstance(record, EpochRecord)]
    assert len(epochs) == 8
    assert len(records) == 8 * (32 + 1)
    assert epochs[0].dice < 0.88 < trainer.best.dice
    assert trainer.best.dice == max(record.dice for record in epochs)
    assert epochs[-1].train_loss < epochs[0].train_loss
    assert [record.best for record in epochs if record.epoch == trainer.best.epoch] == [True]


def test_soft_dice_counts_for_instances_only():
    def first_loss(task, dice_weight):
        return next(trainer_of(task=task, recipe=replace(RECIPES["default"], dice_weight=dice_weight)).run()).loss

    assert RECIPES["default"].dice_weight > 0 == RECIPES["paper"].dice_weight
    term = first_loss("instances", 1.0) - first_loss("instances", 0.0)
    assert 0 < term < 1
    assert first_loss("instances", 2.0) == pytest.approx(first_loss("instances", 0.0) + 2 * term, rel=1e-5)
    assert first_loss("semantic", 1.0) == first_loss("semantic", 0.0)


def test_the_seed_alone_decides():
    first = hash_after(trainer_of())
    assert hash_after(trainer_of()) == first
    assert hash_after(trainer_of(workers=2)) == first
    assert hash_after(trainer_of(seed=1)) != first


def test_progress_runs_from_zero_to_one():
    progress = [record.progress for record in trainer_of().run() if isinstance(record, StepRecord)]
    assert progress == sorted(progress)
    assert progress[-1] == 1
    assert progress[0] == pytest.approx(1 / 8)


class Clock:
    """A clock that goes on by a second whenever somebody looks."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def test_time_ends_the_training_and_the_schedule():
    trainer = trainer_of(limits=Limits(None, 200.0, None), clock=Clock())
    rates = [record.learning_rate for record in trainer.run() if isinstance(record, EpochRecord)]
    assert len(rates) > 1
    assert rates[-1] < 0.05 * trainer.recipe.learning_rate
    assert trainer.history[-1].seconds <= 210


@pytest.fixture
def clock_of(monkeypatch):
    """Return a clock on which every validation takes so many seconds more."""

    def made(seconds):
        clock, validate = Clock(), loop.validate

        def long_validation(*arguments, **options):
            clock.now += seconds
            return validate(*arguments, **options)

        monkeypatch.setattr(loop, "validate", long_validation)
        return clock

    return made


def test_time_that_is_too_short_for_two_validations_goes_to_steps(clock_of):
    trainer = trainer_of(limits=Limits(None, 100.0, None), clock=clock_of(30))
    records = list(trainer.run())
    assert [record.epoch for record in records if isinstance(record, EpochRecord)] == [1, 2]
    assert trainer.history[-1].learning_rate < 0.05 * trainer.recipe.learning_rate
    assert 95 <= trainer.history[-1].seconds <= 105
    assert all(record.step <= record.steps for record in records if isinstance(record, StepRecord))


def test_steps_in_the_time_of_a_validation_may_be_those_of_epochs_that_do_not_come(clock_of):
    """The second of three epochs goes on while the time lasts, with more patches than the third one has."""
    trainer = trainer_of(limits=Limits(3, 200.0, None), clock=clock_of(60))
    records = list(trainer.run())
    assert [record.epoch for record in records if isinstance(record, EpochRecord)] == [1, 2]
    assert sum(isinstance(record, StepRecord) for record in records) > 3 * trainer.steps_per_epoch
    assert 195 <= trainer.history[-1].seconds <= 205


def test_a_time_too_short_for_an_epoch_still_gives_a_model():
    trainer = trainer_of(limits=Limits(None, 3.0, None), clock=Clock())
    list(trainer.run())
    assert len(trainer.history) == 1
    assert trainer.best is not None


def test_patience():
    trainer = trainer_of(epochs=50, limits=Limits(50, None, 2), recipe=replace(RECIPES["default"], learning_rate=0.0))
    list(trainer.run())
    assert len(trainer.history) == trainer.best.epoch + 2


def test_stopping_ends_after_the_step():
    trainer = trainer_of(epochs=5)
    steps = 0
    for record in trainer.run():
        if isinstance(record, StepRecord):
            steps += 1
            if steps == 2:
                trainer.stop = lambda: True
    assert steps == 2
    assert trainer.history == []  # what is left of the epoch is for the training that continues it
    assert len(trainer.losses) == 2


def test_divergence_is_noticed():
    trainer = trainer_of(recipe=replace(RECIPES["default"], learning_rate=1e30, largest_gradient=0.0), epochs=20)
    with pytest.raises(DivergedError, match=r"not finite at epoch \d+, step \d+") as caught:
        list(trainer.run())
    assert ("the best finite model is kept" in caught.value.hint) == (trainer.best is not None)
    assert all(np.isfinite(record.validation_loss) for record in trainer.history if record.best)


def short_of_memory(network, largest_batch):
    inner = network.forward

    def forward(images):
        if network.training and len(images) > largest_batch:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return inner(images)

    network.forward = forward


def test_lack_of_memory_divides_the_batch_and_not_the_result():
    expected = trainer_of(batch_size=4, dropout=0.0)
    hash_after(expected)
    trainer = trainer_of(batch_size=4, dropout=0.0)
    short_of_memory(trainer.network, 1)
    with pytest.warns(UnetWarning, match="out of memory: a batch of 4 patches") as warned:
        hash_after(trainer)
    assert len(warned) == 2  # halves, then quarters
    for name, tensor in expected.network.state_dict().items():
        # four steps move weights by up to 2e-2; AdamW's first step turns the rounding of a gradient near 0 into more
        torch.testing.assert_close(trainer.network.state_dict()[name], tensor, rtol=1e-3, atol=1e-3)


def test_no_memory_at_all_is_an_error():
    trainer = trainer_of()
    short_of_memory(trainer.network, 0)
    with pytest.warns(UnetWarning), pytest.raises(ResourceError, match="with 1 patch of 84 pixels"):
        list(trainer.run())


def test_a_stop_that_another_process_was_told_is_known_here():
    class Others(Processes):
        def largest(self, values, device):
            return [values[0], 1.0]  # seconds, and whether to stop

    trainer = trainer_of(processes=Others())
    assert not trainer.stopped
    assert not list(trainer.run())
    assert trainer.stopped


def test_a_scale_that_cannot_be_found_is_divergence_too():
    """In fp16 the first gradients may overflow until the scale is small enough."""
    trainer = trainer_of()
    trainer.device = replace(CPU, precision="fp16")
    for step in range(39):
        trainer._count_bad_steps(np.inf, 1, step)
    with pytest.raises(DivergedError):
        trainer._count_bad_steps(np.inf, 1, 40)


def test_a_gradient_that_is_not_finite_counts_as_none():
    trainer = trainer_of(patches=4, epochs=1, recipe=replace(RECIPES["default"], averaging=0.0))
    gradients = trainer._gradients
    number = 0

    def second_is_infinite(model, batch):
        nonlocal number
        number += 1
        loss = gradients(model, batch)
        if number == 2:
            next(iter(trainer.network.parameters())).grad[0] = torch.inf
            assert trainer._clip() == torch.inf
            assert not any(parameter.grad.any() for parameter in trainer.network.parameters())
            next(iter(trainer.network.parameters())).grad[0] = torch.nan
        return loss

    trainer._gradients = second_is_infinite
    list(trainer.run())
    assert number == 2
    assert trainer.bad_steps == 1
    assert all(parameter.isfinite().all() for parameter in trainer.network.parameters())
    assert trainer.best is not None

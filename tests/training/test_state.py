"""A training that is stopped anywhere and continued gives the weights it would have given."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from training.test_loop import trainer_of

from unetcli.errors import ModelFileError, UnetWarning
from unetcli.inference.predict import TileSize
from unetcli.models.container import tensors_sha256
from unetcli.training.config import RECIPES
from unetcli.training.records import EpochRecord, Limits, StepRecord
from unetcli.training.state import (
    PREVIOUS,
    STATE,
    TrainingState,
    has_state,
    load_state,
    restore,
    save_state,
    tensors_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")

EMPTY = TrainingState({}, {}, {}, {}, {})


def run_until(trainer, steps):
    """Train for so many steps and stop."""
    trainer.stop = lambda: steps <= 0
    for record in trainer.run():
        steps -= isinstance(record, StepRecord)


def without_time(history):
    return [replace(record, seconds=0, patches_per_second=0) for record in history]


@pytest.mark.parametrize(
    ("steps", "workers", "recipe"),
    [(1, 0, "default"), (4, 0, "default"), (5, 0, "default"), (11, 0, "default"), (3, 2, "default"), (6, 0, "paper")],
)
def test_resumed_is_uninterrupted(tmp_path, steps, workers, recipe):
    options = {"epochs": 3, "recipe": replace(RECIPES[recipe], learning_rate=5e-3)}
    expected = trainer_of(**options)
    run_until(expected, 1000)
    stopped = trainer_of(workers=workers, **options)
    run_until(stopped, steps)
    assert len(stopped.history) * 4 + len(stopped.losses) == steps
    save_state(tmp_path, EMPTY.at(stopped))
    assert tensors_sha256(stopped.network.state_dict()) != tensors_sha256(expected.network.state_dict())
    resumed = trainer_of(workers=workers, tile=TileSize(84), **options)  # another machine has less memory
    restore(resumed, load_state(tmp_path), tmp_path)
    assert resumed.tile == stopped.tile
    run_until(resumed, 1000)
    assert tensors_sha256(tensors_of(resumed)) == tensors_sha256(tensors_of(expected))
    assert repr(without_time(resumed.history)) == repr(without_time(expected.history))


def test_a_stop_during_validation_comes_again(tmp_path):
    expected = trainer_of(epochs=2)
    run_until(expected, 1000)
    stopped = trainer_of(epochs=2)
    asked = iter([False] * 5 + [True] * 100)  # at the start, after each of four steps, then before the first image
    stopped.stop = lambda: next(asked)
    assert not any(isinstance(record, EpochRecord) for record in stopped.run())
    assert len(stopped.losses) == 4
    save_state(tmp_path, EMPTY.at(stopped))
    resumed = trainer_of(epochs=2)
    restore(resumed, load_state(tmp_path), tmp_path)
    run_until(resumed, 1000)
    assert repr(without_time(resumed.history)) == repr(without_time(expected.history))


def test_moments_keep_the_memory_layout_of_their_weights(tmp_path):
    """Fused optimizers go through weights and moments in the order of memory."""
    trainer = trainer_of()
    trainer.network.to(memory_format=torch.channels_last)
    run_until(trainer, 2)
    save_state(tmp_path, EMPTY.at(trainer))
    other = trainer_of()
    other.network.to(memory_format=torch.channels_last)
    restore(other, load_state(tmp_path), tmp_path)
    for parameter in other.network.parameters():
        for moment in other.optimizer.state[parameter].values():
            assert moment.ndim == 0 or moment.stride() == parameter.stride()


def test_a_larger_number_of_epochs_is_a_new_phase(tmp_path):
    trainer = trainer_of(epochs=2)
    run_until(trainer, 1000)
    save_state(tmp_path, EMPTY.at(trainer))
    longer = trainer_of(epochs=4)
    restore(longer, load_state(tmp_path), tmp_path)
    run_until(longer, 1000)
    rates = [record.learning_rate for record in longer.history]
    assert len(rates) == 4
    assert rates[2] > 3 * rates[1]  # it rises again
    assert rates[2] > 0.5 * longer.recipe.learning_rate  # the schedule begins anew: the old one would be at a quarter
    assert rates[3] < rates[2]


def test_patience_begins_anew_with_the_phase(tmp_path):
    recipe = replace(RECIPES["default"], learning_rate=1e-30)  # no epoch is better than the first
    trainer = trainer_of(limits=Limits(10, None, 2), recipe=recipe)
    run_until(trainer, 1000)
    assert (len(trainer.history), trainer.ending) == (3, "the last 2 were no better")
    save_state(tmp_path, EMPTY.at(trainer))
    longer = trainer_of(limits=Limits(20, None, 2), recipe=recipe)
    restore(longer, load_state(tmp_path), tmp_path)
    assert longer.share_left == pytest.approx(1 - 3 / 20)
    run_until(longer, 1000)
    assert len(longer.history) == 5


def saved(folder, steps=(2, 4)):
    trainer = trainer_of()
    for number in steps:
        run_until(trainer, number)
        save_state(folder, EMPTY.at(trainer))
    return trainer


def test_the_state_before_is_kept(tmp_path):
    assert not has_state(tmp_path)
    assert load_state(tmp_path) is None
    saved(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {STATE, PREVIOUS}
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-1])
    with pytest.warns(UnetWarning, match="the training continues from the state before"):
        state = load_state(tmp_path)
    assert len(state.position["losses"]) == 2


def test_a_damaged_state_does_not_take_the_place_of_the_one_before(tmp_path):
    trainer = saved(tmp_path)
    (tmp_path / STATE).write_bytes((tmp_path / STATE).read_bytes()[:-1])
    save_state(tmp_path, EMPTY.at(trainer))
    (tmp_path / STATE).unlink()
    assert len(load_state(tmp_path).position["losses"]) == 2


def test_two_damaged_states_are_an_error(tmp_path):
    saved(tmp_path)
    for name in (STATE, PREVIOUS):
        (tmp_path / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(ModelFileError) as raised:
        load_state(tmp_path)
    assert "--overwrite" in raised.value.hint


def changed(state, **changes):
    tensors = {**state.tensors, **changes}
    return replace(state, tensors={name: tensor for name, tensor in tensors.items() if tensor is not None})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"network.classifier.weight": torch.zeros(3)}, r"network.classifier.weight \(3,\)"),
        ({"network.classifier.weight": None}, "absent"),
        ({"average.classifier.weight": None}, "average.classifier.weight absent"),
        ({"network.more": torch.zeros(3)}, "network.more, which the network lacks"),
        ({"optimizer.0.momentum_buffer": None}, "lacks the moments"),
    ],
)
def test_a_state_of_another_network(tmp_path, change, said):
    """CK15, first half: without the optimizer's moments it is no state."""
    trainer = saved(tmp_path)
    state = EMPTY.at(trainer)
    with pytest.raises(ModelFileError, match=said):
        restore(trainer_of(), changed(state, **change), tmp_path)


def test_a_training_whose_steps_were_all_left_out_goes_on(tmp_path):
    """In fp16 the first gradients may overflow, and an optimizer that has not stepped has no moments."""
    trainer = trainer_of()
    trainer.scaler.step = lambda optimizer: None
    run_until(trainer, 2)
    save_state(tmp_path, EMPTY.at(trainer))
    other = trainer_of()
    restore(other, load_state(tmp_path), tmp_path)
    assert not other.optimizer.state
    assert len(other.losses) == other.average.steps == 2


def test_another_torch_is_a_warning(tmp_path):
    """CK15, second half."""
    state = replace(EMPTY.at(saved(tmp_path)), torch_version="2.0.0")
    with pytest.warns(UnetWarning, match=r"began with torch 2\.0\.0"):
        restore(trainer_of(), state, tmp_path)


def test_history_survives_not_a_number(tmp_path):
    trainer = trainer_of(limits=Limits(1, None, None))
    run_until(trainer, 1000)
    trainer.history = [replace(trainer.history[0], dice_per_class=(np.nan,), validation_loss=np.nan)]
    save_state(tmp_path, EMPTY.at(trainer))
    other = trainer_of()
    restore(other, load_state(tmp_path), tmp_path)
    assert np.isnan(other.history[0].dice_per_class[0])

"""The state of a training, from which `--resume` continues it as if it had never stopped."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unetcli.dataset.survey import Survey
from unetcli.errors import InputError, ModelFileError, UsageError, warn
from unetcli.inference.predict import TileSize
from unetcli.models.container import read_container, read_header, write_container
from unetcli.training.loop import Trainer
from unetcli.training.plan import Plan
from unetcli.training.processes import processes_of_environment
from unetcli.training.records import EpochRecord
from unetcli.training.runfolder import CONFIG, HISTORY, PREVIOUS, STATE

FORMAT = 4
HEADER_KEY = "unet-state"
SHOWN = 5  # names of changed images


@dataclass(frozen=True)
class TrainingState:
    """Where a training stands.

    Parameters
    ----------
    options : of the command that began it.
    chosen : what was chosen for it then and holds on: the network, precision, sizes of patches, batches (of how many
        processes) and epochs, and which images are held out.
    data : for each pair its name and the hashes of its image and its mask.
    position : steps and epochs that are done, and what else the next step depends on.
    tensors : weights, their average, and the optimizer's moments.
    torch_version : of the program that wrote it.
    """

    options: dict[str, Any]
    chosen: dict[str, Any]
    data: dict[str, list[str]]
    position: dict[str, Any]
    tensors: Mapping[str, Tensor]
    torch_version: str = str(torch.__version__)

    def at(self, trainer: Trainer) -> "TrainingState":
        """Return the state with the position and the tensors of a trainer."""
        return replace(self, position=position_of(trainer), tensors=tensors_of(trainer))

    @property
    def epochs_asked(self) -> int | None:
        """Epochs that the training was to have; None where the time alone decides."""
        epochs: int | None = self.position["epochs"]
        return epochs

    def check(self, survey: Survey, path: Path) -> None:
        """Raise unless the data are those that the training began with.

        Parameters
        ----------
        path : of the run folder, for messages.

        Raises
        ------
        UsageError : another number of processes trains.
        ModelFileError : they have other channels or classes.
        InputError : they differ; names the pairs.
        """
        processes = processes_of_environment().count
        if self.chosen["processes"] != processes:
            raise UsageError(
                f"the training began with {self.chosen['processes']} processes, now there are {processes}",
                path=path,
                hint=f"torchrun with {self.chosen['processes']} processes in all, or begin anew from the model: --init",
            )
        for what, now in (("channels", survey.channels), ("classes", len(survey.coding.classes))):
            if self.chosen[what] != now:
                raise ModelFileError(
                    f"the training began with {self.chosen[what]} {what}, the data have {now}",
                    path=path,
                    hint="put the data back, or begin anew with --overwrite",
                )
        data = survey.as_json()["images"]
        changed = sorted(name for name in self.data.keys() | data.keys() if self.data.get(name) != data.get(name))
        if changed:
            pairs = len(self.data.keys() | data.keys())
            more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
            raise InputError(
                f"{len(changed)} of {pairs} pairs differ from those the training began with: "
                f"{', '.join(changed[:SHOWN])}{more}",
                path=path,
                hint="put the data back, or begin anew with --overwrite",
            )

    def check_plan(self, decided: Plan, survey: Survey, path: Path) -> None:
        """Raise unless the images that are held out, and those that are not, are those that the training began with.

        Parameters
        ----------
        path : of the run folder, for messages.

        Raises
        ------
        InputError : others are; names some.
        """
        for part, words in (("validation", "held out"), ("training", "trained on")):
            now = set(_names_of(part, decided, survey))
            before = set(self.chosen.get(part, now))  # older states do not say what they train on
            if before != now:
                raise InputError(
                    f"{words} are other images than when the training began: "
                    f"{', '.join(sorted(before ^ now)[:SHOWN])} ({len(before)} then, {len(now)} now)",
                    path=path,
                    hint="put the list of --validation back, or begin anew with --overwrite",
                )


def begin(options: dict[str, Any], decided: Plan, survey: Survey) -> TrainingState:
    """Return the state of a training before its first step."""
    chosen = {
        "architecture": decided.architecture,
        "arguments": decided.arguments,
        "processes": processes_of_environment().count,
        "precision": decided.device.precision,
        "patch_size": decided.patch_size,
        "batch_size": decided.batch_size,
        "patches_per_epoch": decided.patches_per_epoch,
        "channels": decided.channels,
        "classes": len(decided.classes),
        **{part: _names_of(part, decided, survey) for part in ("validation", "training")},
    }
    return TrainingState(options, chosen, survey.as_json()["images"], {}, {})


def _names_of(part: str, decided: Plan, survey: Survey) -> list[str]:
    return [survey.pairs[index].name for index in getattr(decided.split, part)]


def save_state(folder: Path, state: TrainingState) -> None:
    """Write a state into a run folder; the one before is kept beside it, if it is whole.

    Raises
    ------
    OutputError : it cannot be written; the one before is still there.
    """
    if _is_whole(folder / STATE):
        (folder / STATE).replace(folder / PREVIOUS)
    header = {key: value for key, value in vars(state).items() if key != "tensors"}
    write_container(folder / STATE, HEADER_KEY, {"format": FORMAT, **header}, state.tensors)


def _is_whole(path: Path) -> bool:
    try:
        read_header(path, HEADER_KEY)
    except (UsageError, ModelFileError):
        return False
    return True


def load_state(folder: Path) -> TrainingState | None:
    """Return the state in a run folder, the one before where the last is damaged; None where there is none.

    Raises
    ------
    ModelFileError : no state can be read.
    """
    damaged: ModelFileError | None = None
    for name in (STATE, PREVIOUS):
        if not (folder / name).exists():
            continue
        try:
            state = _read(folder / name)
        except ModelFileError as error:
            damaged = damaged or error
            continue
        if damaged is not None:
            warn(f"{damaged}; the training continues from the state before", path=None)
        return state
    if damaged is not None:
        raise ModelFileError(damaged.message, path=damaged.path, hint="begin anew with --overwrite")
    return None


def has_state(folder: Path) -> bool:
    """Return whether a run folder holds a training that can be continued."""
    return any((folder / name).exists() for name in (STATE, PREVIOUS))


def may_continue(folder: Path) -> bool:
    """Return whether `--resume` may replace the model: there is a state, or the first epoch was killed before it.

    The model of an epoch is written first, then its state, then the history.
    """
    return has_state(folder) or ((folder / CONFIG).exists() and not (folder / HISTORY[0]).exists())


def _read(path: Path) -> TrainingState:
    header, tensors = read_container(path, HEADER_KEY)
    kinds = {"options": dict, "chosen": dict, "data": dict, "position": dict, "torch_version": str}
    if header.get("format") != FORMAT or not all(isinstance(header.get(name), kind) for name, kind in kinds.items()):
        raise ModelFileError("is no state that this version continues", path=path, hint="begin anew with --overwrite")
    return TrainingState(**{name: header[name] for name in kinds}, tensors=tensors)


def tensors_of(trainer: Trainer) -> dict[str, Tensor]:
    """Return all tensors that the next step depends on."""
    tensors = {f"network.{name}": tensor for name, tensor in trainer.network.state_dict().items()}
    tensors |= {f"average.{name}": tensor for name, tensor in trainer.average.average.state_dict().items()}
    for number, moments in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{number}.{name}": tensor for name, tensor in moments.items()}
    return tensors


def position_of(trainer: Trainer) -> dict[str, Any]:
    """Return all numbers that the next step depends on."""
    return {
        "epochs": trainer.limits.epochs,
        "history": [asdict(record) for record in trainer.history],
        "losses": trainer.losses,
        "rate": trainer.rate,
        "seconds": trainer.seconds,
        "validation_seconds": trainer.validation_seconds,
        "phase_start": trainer.phase_start,
        "parts": trainer.parts,
        "bad_steps": trainer.bad_steps,
        "averaged_steps": trainer.average.steps,
        "moments": bool(trainer.optimizer.state),  # none before the first step that fp16 does not leave out
        "scaler": trainer.scaler.state_dict(),
        "tile": [trainer.tile.tile, trainer.tile.batch],  # of validation, whose last digits depend on it in bf16
    }


def restore(trainer: Trainer, state: TrainingState, path: Path) -> None:
    """Put a trainer where a state says; if it is to have another number of epochs, its schedule begins anew there.

    Parameters
    ----------
    path : of the run folder, for messages.

    Raises
    ------
    ModelFileError : the state belongs to another network, or lacks a part.
    """
    if state.torch_version != str(torch.__version__):
        warn(f"the training began with torch {state.torch_version}, this is {torch.__version__}", path=path)
    tensors = dict(state.tensors)
    for prefix, network in (("network.", trainer.network), ("average.", trainer.average.average)):
        with torch.no_grad():
            for name, tensor in network.state_dict().items():
                tensor.copy_(_taken(tensors, prefix + name, tensor.shape, path))
    position = state.position
    moments: dict[int, dict[str, Tensor]] = {}
    if position.get("moments", position["averaged_steps"]):  # older states do not say it
        _restore_moments(trainer, tensors, moments, path)
    if tensors:
        raise _unfit(f"holds {sorted(tensors)[0]}, which the network lacks", path)
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": moments, "param_groups": groups})
    trainer.history = [
        EpochRecord(**{**record, "dice_per_class": tuple(record["dice_per_class"])}) for record in position["history"]
    ]
    trainer.losses = list(position["losses"])
    for name in ("rate", "seconds", "validation_seconds", "phase_start", "parts", "bad_steps"):
        setattr(trainer, name, position[name])
    if state.epochs_asked != trainer.limits.epochs:
        trainer.phase_start = trainer.epochs_done
    trainer.average.steps = position["averaged_steps"]
    trainer.scaler.load_state_dict(position["scaler"])
    trainer.tile = TileSize(*position["tile"])


def _restore_moments(
    trainer: Trainer, tensors: dict[str, Tensor], moments: dict[int, dict[str, Tensor]], path: Path
) -> None:
    """Move the optimizer's moments out of `tensors`, in the memory layout of their parameters."""
    parameters = [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]
    for number, parameter in enumerate(parameters):
        prefix = f"optimizer.{number}."
        names = [name for name in tensors if name.startswith(prefix)]
        if not names:
            raise _unfit("lacks the moments of the optimizer", path)
        moments[number] = {}
        for name in names:
            saved = tensors.pop(name)
            like = torch.empty_like(parameter) if saved.shape == parameter.shape else torch.empty_like(saved)
            moments[number][name.removeprefix(prefix)] = like.copy_(saved).detach()


def _taken(tensors: dict[str, Tensor], name: str, shape: torch.Size, path: Path) -> Tensor:
    if name not in tensors or tensors[name].shape != shape:
        found = tuple(tensors[name].shape) if name in tensors else "absent"
        raise _unfit(f"has {name} {found}, the network needs {tuple(shape)}", path)
    return tensors.pop(name)


def _unfit(what: str, path: Path) -> ModelFileError:
    return ModelFileError(f"the state {what}", path=path, hint="begin anew with --overwrite")

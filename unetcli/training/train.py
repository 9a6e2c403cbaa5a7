"""From a surveyed data set to a model file."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from unetcli.dataset.survey import Survey
from unetcli.errors import DivergedError, OutputError, UsageError
from unetcli.images.atomic import check_writable
from unetcli.models.modelfile import ModelDescription, save_model
from unetcli.training.config import TrainConfig
from unetcli.training.loop import EpochRecord, StepRecord, Trainer
from unetcli.training.page import training_page
from unetcli.training.plan import Plan
from unetcli.training.runfolder import RunFolder


@dataclass(frozen=True)
class Trained:
    """The result: the model file of the best epoch."""

    model: Path
    run_folder: Path
    weights_sha256: str
    best: EpochRecord
    history: tuple[EpochRecord, ...]
    stopped: bool


Event = StepRecord | EpochRecord | Trained


def check_outputs(config: TrainConfig) -> None:
    """Raise unless the model and its run folder can be written, and replace nothing unasked.

    Raises
    ------
    UsageError : the output is no `.safetensors` file.
    OutputError : it exists already, or its folder cannot be written.
    """
    if config.output.suffix != ".safetensors":
        raise UsageError(
            f"{config.output.name} is no .safetensors file", path=config.output, hint="-o unet.safetensors"
        )
    if config.output.exists() and not config.overwrite:
        raise OutputError("exists already", path=config.output, hint="--overwrite replaces it, -o names another")
    check_writable(config.output)


def train(config: TrainConfig, survey: Survey, decided: Plan, trainer: Trainer) -> Iterator[Event]:
    """Train, keep the best model, and yield a record for every step and epoch, `Trained` at the end.

    The model file is written whenever an epoch is better than those before, so a usable one is there early.

    Raises
    ------
    DivergedError : the loss is not finite; the model file of the best epoch stays.
    OutputError : a file cannot be written.
    """
    folder = RunFolder(config.run_folder)
    sha256 = ""
    with folder.lock():
        folder.write_config({"options": config.as_json(), "plan": asdict(decided), "data": survey.as_json()})
        for record in trainer.run():
            if isinstance(record, EpochRecord):
                folder.write_history(trainer.history)
                folder.write_page(training_page(survey, decided, trainer.history, config.output.name))
                if record.best:
                    description = describe(config, survey, decided, record)
                    sha256 = save_model(config.output, trainer.average.average, description)
            yield record
    if trainer.best is None:
        raise DivergedError(
            "no epoch gave a finite validation loss", hint="lower --learning-rate, or use --precision fp32"
        )
    yield Trained(config.output, config.run_folder, sha256, trainer.best, tuple(trainer.history), trainer.stop())


def describe(config: TrainConfig, survey: Survey, decided: Plan, best: EpochRecord) -> ModelDescription:
    """Return what the model file says about a network at an epoch."""
    return ModelDescription(
        architecture=decided.architecture,
        arguments=decided.arguments,
        channels=decided.channels,
        classes=len(decided.classes),
        normalization=survey.normalization,
        axes=survey.axes,
        coding=survey.coding.to_json(),
        pixel_size=survey.pixel_size,
        patch_size=decided.patch_size,
        training={
            "layout": survey.layout,
            "rule": survey.rule,
            "fingerprint": survey.fingerprint,
            "images": survey.image_hashes,
            "train": len(decided.split.training),
            "validation": len(decided.split.validation),
            "epoch": best.epoch,
            "score": best.dice,
            "recipe": config.recipe,
            "seed": config.seed,
        },
    )

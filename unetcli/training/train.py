"""From a surveyed data set to a model file."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from unetcli.dataset.survey import Survey
from unetcli.errors import DivergedError, ModelFileError, OutputError, ResourceError, UsageError, warn
from unetcli.images.atomic import check_writable
from unetcli.models.device import move_network
from unetcli.models.modelfile import ModelDescription, load_model, save_model
from unetcli.training.config import TrainConfig
from unetcli.training.loop import Trainer
from unetcli.training.page import TrainingPage
from unetcli.training.plan import Plan
from unetcli.training.records import EpochRecord, StepRecord
from unetcli.training.runfolder import RunFolder
from unetcli.training.state import TrainingState, has_state, may_continue, save_state

COLLAPSED_EPOCHS = 3  # in a row, after which a network that predicts one class only is named
LOST_PROCESS = ("connection closed", "connection reset", "socket", "nccl", "gloo")


@dataclass(frozen=True)
class Trained:
    """The result: the model file of the best epoch.

    Parameters
    ----------
    weights_sha256 : empty where `best` is None and a model was there before, which stays.
    best : None where the training was stopped before its first validation; a new model then holds the last weights.
    stopped : whether it was told to stop, in whichever process, and can be resumed.
    """

    model: Path
    run_folder: Path
    weights_sha256: str
    best: EpochRecord | None
    history: tuple[EpochRecord, ...]
    stopped: bool


Event = StepRecord | EpochRecord | Trained


def check_outputs(config: TrainConfig, *, dry_run: bool = False) -> None:
    """Raise unless the model and its run folder can be written, and replace nothing unasked; makes the folder.

    Parameters
    ----------
    dry_run : whether to leave a folder that is absent.

    Raises
    ------
    UsageError : the output is no `.safetensors` file, or the model to start from is lost by it.
    OutputError : it exists already, or its folder cannot be written.
    """
    if config.output.suffix != ".safetensors":
        raise UsageError(
            f"{config.output.name} is no .safetensors file", path=config.output, hint="-o unet.safetensors"
        )
    if config.init is not None:
        start = config.init.resolve()
        if start == config.output.resolve():
            raise UsageError("is the model to start from", path=config.output, hint="-o names another model to write")
        if config.run_folder.resolve() in start.parents and not config.resume:
            raise UsageError(
                "the model to start from lies in the run folder, which begins anew",
                path=config.init,
                hint="copy it to another place, or name another model with -o",
            )
    if not (config.overwrite or config.resume):
        if config.output.exists():
            raise OutputError(
                "exists already",
                path=config.output,
                hint="--overwrite replaces it, --resume continues it, or -o names another",
            )
        if has_state(config.run_folder):
            raise OutputError(
                "holds a training that was interrupted",
                path=config.run_folder,
                hint="--resume continues it, --overwrite begins anew",
            )
    elif config.resume and config.output.exists() and not may_continue(config.run_folder):
        raise OutputError(
            f"exists, but {config.run_folder} holds no state to continue",
            path=config.output,
            hint="--overwrite begins anew, --init starts from its weights, -o names another",
        )
    check_writable(config.output, dry_run=dry_run)


def train(
    config: TrainConfig, survey: Survey, decided: Plan, trainer: Trainer, state: TrainingState
) -> Iterator[Event]:
    """Train, keep the best model, and yield a record for every step and epoch, `Trained` at the end.

    The model file is written whenever an epoch is better than those before, so a usable one is there early; the state
    is written after every epoch and when the training is told to stop. Without room for anything but the model, the
    training goes on.

    Parameters
    ----------
    state : where the training stands; what it says of options, choices and data stays.

    Raises
    ------
    DivergedError : the loss is not finite; the model file of the best epoch stays.
    OutputError : a file cannot be written.
    ResourceError : another process of the same training ended.
    UsageError : the processes continue from different states.
    """
    trainer.processes.join(decided.device)  # until `leave`, which is for the caller after all trainings
    try:
        _check_position(config, trainer)
        if trainer.processes.first:
            yield from _train(config, survey, decided, trainer, state)
        else:
            yield from trainer.run()
            yield Trained(config.output, config.run_folder, "", trainer.best, tuple(trainer.history), trainer.stopped)
    except RuntimeError as error:
        if trainer.processes.count > 1 and any(word in str(error).lower() for word in LOST_PROCESS):
            raise ResourceError(
                "another process of this training ended", path=config.run_folder, hint="continue it with --resume"
            ) from None
        raise


def _check_position(config: TrainConfig, trainer: Trainer) -> None:
    """Raise unless all processes stand at the same place; else they would wait for each other."""
    done = trainer.epochs_done
    most, fewest = trainer.processes.largest([done, -done], trainer.device)
    if most != -fewest:
        raise UsageError(
            f"of the processes that train together, some continue after {most:.4g} epochs, some after {-fewest:.4g}",
            path=config.run_folder,
            hint="--resume needs the run folder in the same state on every machine: use a shared disk, or copy it",
        )


def _train(
    config: TrainConfig, survey: Survey, decided: Plan, trainer: Trainer, state: TrainingState
) -> Iterator[Event]:
    folder = RunFolder(config.run_folder)
    with folder.lock():
        check_outputs(config)  # once more: another training may have ended since
        sha256 = _begin(folder, config, survey, decided, trainer)
        extra = Tolerated()
        page = TrainingPage(folder, config, survey, decided, trainer)
        if trainer.best is not None:
            page.look_back(move_network(load_model(config.output)[0], decided.device))
        with extra:
            page.update(sha256)
        try:
            for record in trainer.run():
                if isinstance(record, EpochRecord):
                    if record.best:
                        threshold = trainer.score.threshold if trainer.score else None
                        description = describe(config, survey, decided, record, threshold)
                        sha256 = save_model(config.output, trainer.average.average, description)
                        with extra:
                            folder.keep(config.output)
                    with extra:
                        save_state(folder.path, state.at(trainer))
                    with extra:
                        folder.write_history(trainer.history)
                        page.update(sha256)
                    warn_of_collapse(trainer.history)
                yield record
            if trainer.losses or not trainer.history:  # stopped in the middle of an epoch, or before its first step
                with extra:
                    save_state(folder.path, state.at(trainer))
        finally:
            with extra:
                page.finish(sha256)
        if trainer.best is None and not trainer.stopped:
            raise DivergedError(
                "no epoch gave a finite validation loss", hint="lower --learning-rate, or use --precision fp32"
            )
        if trainer.best is None and not config.output.exists():
            sha256 = save_model(config.output, trainer.average.average, describe(config, survey, decided, None))
            with extra:
                page.finish(sha256)
        yield Trained(config.output, config.run_folder, sha256, trainer.best, tuple(trainer.history), trainer.stopped)
        extra.check()


def forget(path: Path) -> None:
    """Forget the training of a model that will be replaced, so that `--resume` does not take it for the one to come.

    Parameters
    ----------
    path : of its run folder, which then says no more than that a training is to begin.

    Raises
    ------
    OutputError : another training owns the run folder, or it cannot be written.
    """
    folder = RunFolder(path)
    with folder.lock():
        folder.clear()
        folder.write_config({})


def _begin(folder: RunFolder, config: TrainConfig, survey: Survey, decided: Plan, trainer: Trainer) -> str:
    """Make the run folder ready and return the SHA-256 of the best model so far, if there is one.

    Raises
    ------
    ModelFileError : the best model of a training that is continued is gone.
    """
    if not config.resume:
        folder.clear()
    folder.write_config({"options": config.as_json(), "plan": asdict(decided), "data": survey.as_json()})
    if trainer.best is None:
        return ""
    if not config.output.exists() and not folder.give_back(config.output):
        raise ModelFileError(
            f"the model of epoch {trainer.best.epoch} is gone", path=config.output, hint="begin anew with --overwrite"
        )
    return str(load_model(config.output)[2])


class Tolerated:
    """A context for files that a training can do without: a failure is said once, and raised at the end."""

    failed: OutputError | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, OutputError):
            return False
        if self.failed is None:
            warn(f"{error}; the training goes on as long as its model can be written")
        self.failed = error
        return True

    def check(self) -> None:
        """Raise the last failure.

        Raises
        ------
        OutputError : if there was one.
        """
        if self.failed is not None:
            raise self.failed


def warn_of_collapse(history: Sequence[EpochRecord]) -> None:
    """Warn where a network has just predicted one class only, everywhere, for some epochs."""
    shares = [record.foreground for record in history[-COLLAPSED_EPOCHS - 1 :]]
    for what, share in (("background", 0), ("foreground", 1)):
        collapsed = [found == share for found in shares]
        if all(collapsed[-COLLAPSED_EPOCHS:]) and collapsed.count(True) == COLLAPSED_EPOCHS:
            warn(
                f"epochs {history[-1].epoch - COLLAPSED_EPOCHS + 1} to {history[-1].epoch} predict nothing but {what}: "
                "if that stays, lower --learning-rate or use --class-balance inverse"
            )


def describe(
    config: TrainConfig, survey: Survey, decided: Plan, best: EpochRecord | None, threshold: float | None = None
) -> ModelDescription:
    """Return what the model file says about a network at an epoch.

    Parameters
    ----------
    threshold : of the foreground's probability, best on validation; None where there is none.
    """
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
            "epoch": best.epoch if best else None,
            "score": best.dice if best else None,
            "threshold": threshold,
            "recipe": config.recipe,
            "seed": config.seed,
        },
    )

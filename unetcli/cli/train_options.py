"""The options of ``unet train`` as a whole: what they ask for, and what a training that is continued began with."""

import glob
import os
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from unetcli.cli import options
from unetcli.errors import UsageError

if TYPE_CHECKING:
    from unetcli.training.config import TrainConfig

Options = dict[str, Any]  # names and values as the command's parameters have them

NETWORK = (
    "features", "depth", "padding", "upsampling", "batch_norm", "dropout", "block_dropout", "temperature", "first_skip",
)  # fmt: skip
DATA = ("data", "images", "masks")  # may have moved; their content is compared instead
UNKEPT = ("output", "resume", "overwrite", "json_file", "preview", "dry_run", "quiet", "verbose", "debug")
AUGMENTATION = ("elastic", "rotate", "shift", "flip", "scale", "intensity")


def configs_of(given: Mapping[str, Any]) -> "list[TrainConfig]":
    """Return what to train: one network, or one for each fold.

    Raises
    ------
    UsageError : options that contradict each other, or values out of range.
    """
    from unetcli.dataset.augmentation import NO_AUGMENTATION, AugmentationSettings
    from unetcli.training.config import TrainConfig

    if given["folds"] and given["validation"] != "auto":
        raise UsageError("--folds holds every image out once, --validation names others", hint="leave one of them out")
    augmentation = AugmentationSettings(**{name: given[name] for name in AUGMENTATION})
    output = Path(given["output"])
    same = (
        "epochs", "patience", "validation", "patch_size", "batch_size", "recipe", "optimizer", "learning_rate",
        "schedule", "border_weight", "border_sigma", "class_balance", "seed", "workers", "device", "precision",
        "overwrite", "resume", "deterministic",
    )  # fmt: skip
    config = TrainConfig(
        output=output,
        max_seconds=options.parse_duration(given["max_time"]) if given["max_time"] else None,
        architecture=given["arch"],
        arguments={name: given[name] for name in NETWORK if given[name] is not None},
        augmentation=NO_AUGMENTATION if given["no_augment"] else augmentation,
        init=Path(given["init"]) if given["init"] else None,
        freeze=tuple(part.strip() for part in given["freeze"].split(",")) if given["freeze"] else (),
        commands=tuple(given["commands"]),
        **{name: given[name] for name in same},
    )
    if not given["folds"]:
        return [config]
    return [config.for_fold(fold, given["folds"]) for fold in range(1, given["folds"] + 1)]


def stored(given: Mapping[str, Any]) -> Options:
    """Return the options that a training keeps, as plain data; paths to the data are made absolute."""
    kept = {name: value for name, value in given.items() if name not in UNKEPT}
    kept["data"] = [str(Path(path).absolute()) for path in given["data"] or ()]
    if Path(given["validation"]).exists():
        kept["validation"] = str(Path(given["validation"]).absolute())
    for name in ("images", "masks", "init"):
        kept[name] = str(Path(given[name]).absolute()) if given[name] else None
    return kept


def resumed(context: typer.Context) -> Options:
    """Return the options that the training of the run folder began with, and those that may be said anew.

    More epochs than it was to have, or than fitted its time, lift its limit of time unless that is said again. Where
    there is no state to continue, the options are as given. Folds are continued where they are asked for, or where
    nothing is named.

    Raises
    ------
    UsageError : an option has another value than the training began with; all of them are named.
    ModelFileError : the state is damaged.
    """
    from unetcli.training.config import EPOCHS
    from unetcli.training.state import load_state

    given = dict(context.params)
    output = Path(given["output"])
    folders = [] if given["folds"] else [output.with_suffix(".run")]
    if given["folds"] or not (given["data"] or given["images"]):
        folders += run_folders(given)
    states = (load_state(folder) for folder in folders)
    state = next((state for state in states if state is not None), None)
    if state is None:
        return given
    sources = {name: context.get_parameter_source(name) for name in given}
    explicit = {name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"}
    before = state.options
    plain = stored(given)
    conflicts = []
    done = len(state.position["history"])
    epochs = before["epochs"] or (EPOCHS if before["max_time"] is None else done + 1)
    for name in sorted(explicit & before.keys()):
        if name in (*DATA, "workers") or plain[name] == before[name]:
            continue
        if name == "epochs" and given["epochs"] >= epochs:
            continue
        began = "the default" if before[name] is None else before[name]
        conflicts.append(f"--{name.replace('_', '-')} {plain[name]} (it began with {began})")
    if conflicts:
        raise UsageError(
            f"the training began with other options: {', '.join(conflicts)}",
            path=output.with_suffix(".run"),
            hint="leave them out (only a larger --epochs may be given), or begin anew with --overwrite",
        )
    kept = {name: value for name, value in before.items() if name not in explicit}
    if "epochs" in explicit and given["epochs"] != before["epochs"] and "max_time" not in explicit:
        kept["max_time"] = None
    return {**given, **kept}


def run_folders(given: Mapping[str, Any]) -> list[Path]:
    """Return the run folders of the folds of an output that there are."""
    output = Path(given["output"])
    found = output.parent.glob(f"{glob.escape(output.stem)}.fold*.run")
    return sorted(folder for folder in found if folder.stem.removeprefix(f"{output.stem}.fold").isdecimal())


def resume_command(given: Mapping[str, Any]) -> str:
    """Return the command that continues a training."""
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    local = os.environ.get("LOCAL_WORLD_SIZE", "1")
    words = ["torchrun", "--nproc-per-node", local, "-m", "unetcli", "train"] if several else ["unet", "train"]
    words += [*map(str, given["data"] or ()), "--resume"]
    if given["folds"]:
        words += ["--folds", str(given["folds"])]
    if str(given["output"]) != "unet.safetensors":
        words += ["-o", str(given["output"])]
    return shlex.join(words)


def is_first_process() -> bool:
    """Return whether this is the process of a training that speaks; `torchrun` starts several."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"

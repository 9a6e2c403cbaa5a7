"""What is said of a data set, a plan and a result of ``unet train``, in tables and as documents."""

import shlex
import statistics
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from unetcli.cli.console import Console, readable_seconds
from unetcli.errors import warn

if TYPE_CHECKING:
    from unetcli.dataset.survey import Survey
    from unetcli.training.config import TrainConfig
    from unetcli.training.loop import Trainer
    from unetcli.training.plan import Plan
    from unetcli.training.state import TrainingState
    from unetcli.training.train import Trained

LONG_ON_CPU = 3600  # seconds above which a hint names a smaller network
QUICK_FEATURES = 24  # of that network


def show_position(shown: Console, trainer: "Trainer", config: "TrainConfig", saved: "TrainingState") -> None:
    """Say where a training that is continued stands."""
    done, of = len(trainer.history), f"/{config.last_epoch}" if config.last_epoch else ""
    if saved.epochs_asked != config.last_epoch:
        asked = f"{saved.epochs_asked} epochs" if saved.epochs_asked else "as many epochs as fit its time"
        then = f"the schedule begins anew for those up to {config.last_epoch}"
        shown.say(f"the training was to have {asked}, {done} of them done: {then}")
    elif trainer.ending is not None:
        shown.say(f"already {done}{of} epochs, {trainer.ending}: nothing is left to do")
    else:
        shown.say(f"continues after epoch {done}{of}, step {len(trainer.losses)} of {trainer.steps_per_epoch}")


def show_folds(shown: Console, documents: "list[dict[str, Any]]") -> None:
    """Say how well the networks of all folds did."""
    scores = [document["score"] for document in documents]
    mean, deviation = statistics.mean(scores), statistics.stdev(scores)
    rows = [(document["model"], document["best_epoch"], f"{document['score']:.4f}") for document in documents]
    shown.table(("model", "epoch", "Dice on validation"), rows)
    shown.say(f"Dice {mean:.4f} ± {deviation:.4f} (mean and SD over {len(scores)} folds)")
    models = [part for document in documents for part in ("-m", document["model"])]
    shown.say(f"average them with: unet infer IMAGE -o MASK {shlex.join(models)}")
    shown.write_json(
        {"model": [document["model"] for document in documents], "score": mean, "sd": deviation, "folds": documents}
    )


def show_survey(shown: Console, found: "Survey") -> None:
    """Say how the data set was understood."""
    from unetcli.dataset.table import class_rows, summary_rows

    shown.table(("data", ""), summary_rows(found))
    if found.detected is not None:
        rows = [(name, value, f"{share:.1%}") for name, value, share in class_rows(found)]
        shown.table(("class", "mask value", "share of pixels"), rows)
    for note in found.notes:
        shown.say(f"note: {note}")


def warn_of_leakage(found: "Survey", decided: "Plan") -> None:
    """Name images that are in training and, byte for byte alike, in validation."""
    training, held_out = set(decided.split.training), set(decided.split.validation)
    if decided.split.by_region:
        return
    leaked = [group for group in found.duplicates if training & set(group) and held_out & set(group)]
    for group in leaked:
        names = ", ".join(found.pairs[index].name for index in group)
        warn(f"identical images in training and validation, whose score is then too good: {names}")


def show_plan(shown: Console, decided: "Plan", config: "TrainConfig", later: float) -> None:
    """Say what will be done and how long it will take.

    Parameters
    ----------
    later : seconds that the folds take which follow.
    """
    from unetcli.images import readable_size

    split = decided.split
    images = [count(len(part), "image") for part in (split.training, split.validation)]
    epochs = count(decided.epochs, "epoch") if decided.epochs else "as many epochs as fit"
    limit = f"at most {readable_seconds(decided.max_seconds)}" if decided.max_seconds else "no time limit"
    balance = ", ".join(f"{weight:.2f}" for weight in decided.class_weights)
    shown.table(
        ("plan", ""),
        [
            ("device", f"{decided.device.name} ({decided.device.reason})"),
            ("network", f"{decided.architecture}, {decided.parameters:,} parameters, {_arguments(decided)}"),
            ("training", f"{images[0]}; validation: {images[1]}, {split.rule}"),
            ("patches", f"{decided.patch_size} -> {decided.output_size} pixels, {decided.batch_size} in a batch"),
            ("epoch", f"{decided.patches_per_epoch} patches; {epochs}, {limit}"),
            ("recipe", config.recipe_line),
            ("class balance", balance),
        ],
    )
    seconds = decided.estimate_seconds + later
    memory = f"{readable_size(decided.estimate_memory)} of memory"
    fold = f"this fold will take about {readable_seconds(decided.estimate_seconds)}, with those that follow"
    shown.say(f"{fold if later else 'this will take'} about {readable_seconds(seconds)} and {memory}")
    if seconds > LONG_ON_CPU and decided.device.kind == "cpu":
        smaller = [f"--features {QUICK_FEATURES}"] if decided.arguments.get("features", 0) > QUICK_FEATURES else []
        shorter = [] if decided.max_seconds else ["--max-time 20m"]
        if smaller or shorter:
            shown.say(f"hint: {' '.join(smaller + shorter)} is far quicker on a CPU")


def count(number: int, what: str) -> str:
    """Return how many there are of something, in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def _arguments(decided: "Plan") -> str:
    """Return the size of the network, and what differs from the architecture's own arguments."""
    from unetcli.models import default_arguments

    usual = default_arguments(decided.architecture)
    return ", ".join(
        f"{name} {value}"
        for name, value in decided.arguments.items()
        if name in ("features", "depth", "dropout") or value != usual[name]
    )


def dry_run_document(found: "Survey", decided: "Plan", later: float) -> dict[str, Any]:
    """Return what a dry run found and decided, as plain data; `later` seconds are those of the folds that follow."""
    return {
        **found.as_json(),
        "patch_size": decided.patch_size,
        "batch_size": decided.batch_size,
        "patches_per_epoch": decided.patches_per_epoch,
        "train": len(decided.split.training),
        "validation": len(decided.split.validation),
        "device": decided.device.name,
        "precision": decided.device.precision,
        "estimate_seconds": decided.estimate_seconds + later,
        "estimate_memory": decided.estimate_memory,
    }


def train_document(result: "Trained", decided: "Plan", found: "Survey") -> dict[str, Any]:
    """Return the result of a training as plain data."""
    return {
        "model": str(result.model),
        "run_folder": str(result.run_folder),
        "device": decided.device.name,
        "precision": decided.device.precision,
        "pairs": len(found.pairs),
        "train": len(decided.split.training),
        "validation": len(decided.split.validation),
        "patches_per_epoch": decided.patches_per_epoch,
        "epochs": len(result.history),
        "best_epoch": result.best.epoch if result.best else None,
        "score": result.best.dice if result.best else None,
        "weights_sha256": result.weights_sha256,
        "history": [asdict(record) for record in result.history],
    }

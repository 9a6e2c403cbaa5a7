"""``unet train DATA...``: learn from images and their masks."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetcli.cli import options
from unetcli.cli.console import SIGNALS, Console, Interrupted, console, readable_seconds, write_line
from unetcli.cli.progress import progress_bar
from unetcli.errors import UsageError, warn

if TYPE_CHECKING:
    from unetcli.dataset.survey import Survey
    from unetcli.training.plan import Plan
    from unetcli.training.train import Event, Trained

LONG_ON_CPU = 3600  # seconds above which a hint names a smaller network


def train(
    data: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="DATA...",
            readable=False,
            help="A folder of images and masks, or an image stack and its mask stack.",
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="MODEL", help="The model file.")] = Path(
        "unet.safetensors"
    ),
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="[default: 100, or as --max-time allows]")
    ] = None,
    max_time: Annotated[str | None, typer.Option("--max-time", help="90s, 20m or 2h.")] = None,
    patience: Annotated[
        int | None, typer.Option("--patience", min=1, help="Stop after so many epochs without a better one.")
    ] = None,
    validation: Annotated[
        str, typer.Option("--validation", help="auto, a fraction, a folder, a glob, pages (20-23), or a list file.")
    ] = "auto",
    images: Annotated[str | None, typer.Option("--images", metavar="GLOB", help="The images, with --masks.")] = None,
    masks: Annotated[str | None, typer.Option("--masks", metavar="GLOB", help="The masks, with --images.")] = None,
    pair_by_order: Annotated[bool, typer.Option("--pair-by-order", help="Pair sorted names one by one.")] = False,
    allow_unpaired: Annotated[bool, typer.Option("--allow-unpaired", help="Leave images without masks out.")] = False,
    task: Annotated[str, typer.Option("--task", help="auto, semantic or instances.")] = "auto",
    classes: Annotated[str | None, typer.Option("--classes", help="Names of the classes: a,b,c.")] = None,
    arch: Annotated[str, typer.Option("--arch", help="The network; unet is the paper's.")] = "unet",
    features: Annotated[
        int | None, typer.Option("--features", help="Channels of the first level.  [default: 64, the paper's]")
    ] = None,
    depth: Annotated[int | None, typer.Option("--depth", help="Poolings.  [default: 4, the paper's]")] = None,
    padding: Annotated[
        str | None, typer.Option("--padding", help="valid, same or valid-same.  [default: valid, the paper's]")
    ] = None,
    upsampling: Annotated[
        str | None, typer.Option("--upsampling", help="transposed or bilinear.  [default: transposed, the paper's]")
    ] = None,
    batch_norm: Annotated[bool | None, typer.Option("--batch-norm", help="After every convolution.")] = None,
    dropout: Annotated[
        float | None, typer.Option("--dropout", help="At the end of the contracting path.  [default: the recipe's]")
    ] = None,
    block_dropout: Annotated[float | None, typer.Option("--block-dropout", help="After every level.")] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Logits are divided by it.")] = None,
    first_skip: Annotated[bool | None, typer.Option("--first-skip/--no-first-skip", help="Of mobilenet-unet.")] = None,
    patch_size: Annotated[
        int | None, typer.Option("--patch-size", min=1, help="[default: 572, less for small images]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="[default: by the patch size]")] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="default, or paper (section 3 to the letter).")] = "default",
    optimizer: Annotated[str | None, typer.Option("--optimizer", help="adamw or sgd.  [default: the recipe's]")] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="[default: the recipe's]")] = None,
    schedule: Annotated[
        str | None, typer.Option("--schedule", help="cosine, polynomial or constant.  [default: the recipe's]")
    ] = None,
    border_weight: Annotated[float, typer.Option("--border-weight", min=0, help="w0 of the weight map.")] = 10.0,
    border_sigma: Annotated[float, typer.Option("--border-sigma", help="sigma of the weight map, in pixels.")] = 5.0,
    class_balance: Annotated[
        str, typer.Option("--class-balance", help="auto, inverse, none, or a weight per class: 1,4,2.")
    ] = "auto",
    elastic: Annotated[
        float, typer.Option("--elastic", help="Displacement sigma in pixels, for a patch of 572.")
    ] = 10.0,
    rotate: Annotated[float, typer.Option("--rotate", help="Largest angle in degrees.")] = 180.0,
    shift: Annotated[bool, typer.Option("--shift/--no-shift", help="Patches from anywhere.")] = True,
    flip: Annotated[bool, typer.Option("--flip/--no-flip", help="Mirrored patches too.")] = True,
    scale: Annotated[float, typer.Option("--scale", help="Largest enlargement, as a fraction.")] = 0.0,
    intensity: Annotated[float, typer.Option("--intensity", help="Gray-value variation, as a fraction.")] = 0.25,
    no_augment: Annotated[bool, typer.Option("--no-augment", help="Switch all augmentation off.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model.")] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    workers: options.Workers = None,
    threads: options.Threads = None,
    pages: options.Pages = None,
    axes: options.Axes = None,
    ignore: options.Ignore = None,
    json_file: options.JsonFile = None,
    preview: Annotated[
        Path | None,
        typer.Option(
            "--preview",
            metavar="PNG",
            help="Draw some patches: outlines, weights, augmentation. The one thing that --dry-run writes.",
        ),
    ] = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Learn from a few images and their masks; writes unet.safetensors.

    Example: unet train ./cells --epochs 50
    """
    with console("train", quiet=quiet, verbose=verbose, debug=debug, json_target=json_file) as shown:
        max_seconds = options.parse_duration(max_time) if max_time else None
        page_range = options.parse_pages(pages)
        if not data and not images:
            raise UsageError("no data named", hint="unet train FOLDER, or unet train images.tif masks.tif")

        from unetcli.dataset.augmentation import NO_AUGMENTATION, AugmentationSettings
        from unetcli.dataset.pairs import collect_pairs
        from unetcli.dataset.survey import survey
        from unetcli.models.device import set_threads
        from unetcli.training.config import TrainConfig
        from unetcli.training.plan import plan
        from unetcli.training.preview import check_picture, write_picture
        from unetcli.training.preview import preview as draw_preview
        from unetcli.training.train import check_outputs
        from unetcli.training.train import train as run_training

        asked = {
            "features": features,
            "depth": depth,
            "padding": padding,
            "upsampling": upsampling,
            "batch_norm": batch_norm,
            "dropout": dropout,
            "block_dropout": block_dropout,
            "temperature": temperature,
            "first_skip": first_skip,
        }
        config = TrainConfig(
            output=output,
            epochs=epochs,
            max_seconds=max_seconds,
            patience=patience,
            validation=validation,
            architecture=arch,
            arguments={name: value for name, value in asked.items() if value is not None},
            patch_size=patch_size,
            batch_size=batch_size,
            recipe=recipe,
            optimizer=optimizer,
            learning_rate=learning_rate,
            schedule=schedule,
            border_weight=border_weight,
            border_sigma=border_sigma,
            class_balance=class_balance,
            augmentation=NO_AUGMENTATION
            if no_augment
            else AugmentationSettings(elastic, rotate, shift, flip, scale, intensity),
            seed=seed,
            workers=workers,
            device=device,
            precision=precision,
            overwrite=overwrite,
        )
        if not dry_run:
            check_outputs(config)
        set_threads(threads)
        pairing = collect_pairs(
            data or [], images=images, masks=masks, pair_by_order=pair_by_order, allow_unpaired=allow_unpaired
        )
        if preview is not None:
            check_picture(preview, [path for pair in pairing.pairs for path in (*pair.images, *pair.masks)])
        names = [name.strip() for name in classes.split(",")] if classes else None
        with progress_bar(shown, "checking") as bar:
            found = survey(
                pairing,
                task=task,
                ignore=ignore,
                classes=names,
                axes=axes,
                pages=page_range,
                progress=lambda done, total: bar(done / total, f"checking image {done} of {total}"),
            )
        show_survey(shown, found)
        if dry_run and found.problems:
            shown.write_json(found.as_json())
        found.check()
        decided, trainer = plan(config, found)
        warn_of_leakage(found, decided)
        show_plan(shown, decided)
        if preview is not None:
            write_picture(preview, draw_preview(found, decided, trainer.dataset))
            shown.say(f"drew {preview}")
        if dry_run:
            shown.write_json(dry_run_document(found, decided))
            return
        with stopping_on_signals() as stop:
            trainer.stop = lambda: stop.number is not None
            result = follow(shown, run_training(config, found, decided, trainer), decided)
        shown.say(
            f"wrote {result.model}: epoch {result.best.epoch}, Dice {result.best.dice:.4f} on validation, "
            f"weights {result.weights_sha256[:12]}"
        )
        shown.write_json(train_document(result, decided, found))
        if stop.number is not None:
            raise Interrupted(stop.number)


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


def show_plan(shown: Console, decided: "Plan") -> None:
    """Say what will be done and how long it will take."""
    split = decided.split
    epochs = f"{decided.epochs} epochs" if decided.epochs else "as many epochs as fit"
    limit = f"at most {readable_seconds(decided.max_seconds)}" if decided.max_seconds else "no time limit"
    balance = ", ".join(f"{weight:.2f}" for weight in decided.class_weights)
    shown.table(
        ("plan", ""),
        [
            ("device", f"{decided.device.name} ({decided.device.reason})"),
            ("network", f"{decided.architecture}, {decided.parameters:,} parameters, {_arguments(decided)}"),
            ("training", f"{len(split.training)} images; validation: {len(split.validation)} images, {split.rule}"),
            ("patches", f"{decided.patch_size} -> {decided.output_size} pixels, {decided.batch_size} in a batch"),
            ("epoch", f"{decided.patches_per_epoch} patches; {epochs}, {limit}"),
            ("class balance", balance),
        ],
    )
    seconds = decided.estimate_seconds
    shown.say(f"this will take about {readable_seconds(seconds)}")
    if seconds > LONG_ON_CPU and decided.device.kind == "cpu":
        shown.say("hint: --features 24 --max-time 20m is far quicker on a CPU")


def _arguments(decided: "Plan") -> str:
    """Return the size of the network, and what differs from the architecture's own arguments."""
    from unetcli.models import default_arguments

    usual = default_arguments(decided.architecture)
    return ", ".join(
        f"{name} {value}"
        for name, value in decided.arguments.items()
        if name in ("features", "depth", "dropout") or value != usual[name]
    )


def follow(shown: Console, events: "Iterator[Event]", decided: "Plan") -> "Trained":
    """Show a training as it goes: a bar on a terminal, a line per epoch everywhere; return its result."""
    from unetcli.training.loop import EpochRecord, StepRecord
    from unetcli.training.train import Trained

    best = 0.0
    with progress_bar(shown, "training") as bar:
        for event in events:
            if isinstance(event, StepRecord):
                label = (
                    f"epoch {event.epoch} step {event.step}/{event.steps} loss {event.loss:.4f} best Dice {best:.4f}"
                )
                bar(event.progress, label)
            elif isinstance(event, EpochRecord):
                best = max(best, event.dice)
                of = f"/{decided.epochs}" if decided.epochs else ""
                shown.say(
                    f"epoch {event.epoch}{of}  {readable_seconds(event.seconds)}  loss {event.train_loss:.4f}  "
                    f"validation loss {event.validation_loss:.4f}  Dice {event.dice:.4f}{' *' if event.best else ''}  "
                    f"{event.patches_per_second:.1f} patches/s"
                )
    assert isinstance(event, Trained)
    return event


class Stop:
    """Whether a signal has asked to stop, and which."""

    number: int | None = None


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Let a first signal end the training after the present step; a second one ends it at once."""
    asked = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.number is not None:
            raise Interrupted(number)
        asked.number = number
        write_line(sys.stderr, "stopping after this step; Ctrl-C again to quit now")

    previous = {number: signal.signal(number, ask) for number in SIGNALS.values()}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def dry_run_document(found: "Survey", decided: "Plan") -> dict[str, Any]:
    """Return what a dry run found and decided, as plain data."""
    return {
        **found.as_json(),
        "patch_size": decided.patch_size,
        "batch_size": decided.batch_size,
        "patches_per_epoch": decided.patches_per_epoch,
        "train": len(decided.split.training),
        "validation": len(decided.split.validation),
        "device": decided.device.name,
        "precision": decided.device.precision,
        "estimate_seconds": decided.estimate_seconds,
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
        "best_epoch": result.best.epoch,
        "score": result.best.dice,
        "weights_sha256": result.weights_sha256,
        "history": [asdict(record) for record in result.history],
    }

"""``unet train DATA...``: learn from images and their masks."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetcli.cli import options
from unetcli.cli.console import SIGNALS, Console, Interrupted, console, readable_seconds
from unetcli.cli.progress import progress_bar
from unetcli.errors import UsageError

if TYPE_CHECKING:
    from unetcli.dataset.survey import Survey
    from unetcli.training.plan import Plan
    from unetcli.training.train import Trained

LONG_ON_CPU = 3600  # seconds above which a hint names a smaller network


def train(
    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="DATA...", help="A folder of images and masks, or an image stack and its mask stack."),
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
    features: Annotated[int, typer.Option("--features", min=1, help="Channels of the first level.")] = 64,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Poolings.")] = 4,
    dropout: Annotated[float | None, typer.Option("--dropout", help="[default: the recipe's]")] = None,
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
        from unetcli.dataset.pairs import find_pairs
        from unetcli.dataset.survey import survey
        from unetcli.models.device import set_threads
        from unetcli.training.config import TrainConfig
        from unetcli.training.plan import plan
        from unetcli.training.train import check_outputs
        from unetcli.training.train import train as run_training

        arguments: dict[str, Any] = {"features": features, "depth": depth}
        if dropout is not None:
            arguments["dropout"] = dropout
        config = TrainConfig(
            output=output,
            epochs=epochs,
            max_seconds=max_seconds,
            patience=patience,
            validation=validation,
            architecture=arch,
            arguments=arguments,
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

"""``unet train DATA...``: learn from images and their masks."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetcli.cli import options
from unetcli.cli.console import Console, Interrupted, console, heeded_signals, raise_if_signaled, write_line
from unetcli.cli.following import follow
from unetcli.cli.places import check_distinct
from unetcli.cli.progress import progress_bar
from unetcli.cli.train_display import (
    dry_run_document,
    show_folds,
    show_plan,
    show_position,
    show_survey,
    train_document,
    warn_of_leakage,
)
from unetcli.cli.train_options import (
    Options,
    configs_of,
    is_first_process,
    resume_command,
    resumed,
    run_folders,
    stored,
)
from unetcli.errors import UsageError

if TYPE_CHECKING:
    from unetcli.dataset.survey import Survey
    from unetcli.training.config import TrainConfig


def train(
    context: typer.Context,
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
    max_time: Annotated[str | None, typer.Option("--max-time", help="90s, 20m or 2h; of each fold.")] = None,
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
    arch: Annotated[
        str | None, typer.Option("--arch", help="The network.  [default: unet, the paper's; with --init the model's]")
    ] = None,
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
    block_dropout: Annotated[
        float | None, typer.Option("--block-dropout", help="In every block, between its convolutions.")
    ] = None,
    temperature: Annotated[float | None, typer.Option("--temperature", help="Logits are divided by it.")] = None,
    first_skip: Annotated[bool | None, typer.Option("--first-skip/--no-first-skip", help="Of mobilenet-unet.")] = None,
    patch_size: Annotated[
        int | None, typer.Option("--patch-size", min=1, help="[default: 572, less for small images]")
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1, help="[default: by the patch size]")] = None,
    recipe: Annotated[str, typer.Option("--recipe", help="default, or paper (section 3 to the letter).")] = "default",
    optimizer: Annotated[
        str | None, typer.Option("--optimizer", help="muon, adamw or sgd.  [default: the recipe's]")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate", help="[default: the optimizer's]")] = None,
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
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Cross-validation: a model for each of so many folds.")
    ] = None,
    init: Annotated[
        Path | None, typer.Option("--init", metavar="MODEL", help="Start from this model's network and weights.")
    ] = None,
    freeze: Annotated[
        str | None, typer.Option("--freeze", help="Parts that keep their weights: contracting, bottom ...")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a training that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing model.")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Repeatable on CUDA too, at some cost; a CPU always is.")
    ] = False,
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
    first = is_first_process()
    with console(
        "train", quiet=quiet or not first, verbose=verbose, debug=debug, json_target=json_file if first else None
    ) as shown:
        if resume and overwrite:
            raise UsageError("--resume continues a training, --overwrite begins anew", hint="leave one of them out")
        if not output.name:
            raise UsageError("is no name of a file", path=output, hint="-o unet.safetensors")
        given = resumed(context) if resume else dict(context.params)
        given["commands"] = [*given.get("commands", ()), context.obj]
        page_range = options.parse_pages(given["pages"])
        if max_time is not None:
            options.parse_duration(max_time)
        if not given["data"] and not given["images"]:
            raise UsageError("no data named", hint="unet train FOLDER, or unet train images.tif masks.tif")

        from unetcli.models.device import set_threads
        from unetcli.training.processes import leave
        from unetcli.training.train import check_outputs

        configs = configs_of(given)
        check_distinct([*(config.output for config in configs), *([preview] if preview else [])], json_file)
        if not dry_run:
            for config in configs:
                check_outputs(config)
        given["threads"] = set_threads(given["threads"])
        found = examine(shown, given, page_range, preview)
        results = []
        for number, config in enumerate(configs, start=1):
            result = train_one(shown, config, found, given, following=configs[number:])
            if result is None:  # a dry run
                for other in configs[1:]:
                    check_outputs(other, dry_run=True)
                return
            results.append(result)
        leave()
        if len(results) == 1:
            shown.write_json(results[0])
        else:
            show_folds(shown, results)


def examine(shown: Console, given: Options, pages: range | None, preview: Path | None) -> "Survey":
    """Find the pairs, look at all of them, and say what they are."""
    from unetcli.dataset.pairs import collect_pairs
    from unetcli.dataset.survey import survey
    from unetcli.training.preview import check_picture

    pairing = collect_pairs(
        [Path(path) for path in given["data"] or ()],
        images=given["images"],
        masks=given["masks"],
        pair_by_order=given["pair_by_order"],
        allow_unpaired=given["allow_unpaired"],
    )
    if preview is not None:
        check_picture(preview, [path for pair in pairing.pairs for path in (*pair.images, *pair.masks)])
    with progress_bar(shown, "checking") as bar:
        found = survey(
            pairing,
            task=given["task"],
            ignore=given["ignore"],
            classes=[name.strip() for name in given["classes"].split(",")] if given["classes"] else None,
            axes=given["axes"],
            pages=pages,
            progress=lambda done, total: bar(done / total, f"checking image {done} of {total}"),
        )
    show_survey(shown, found)
    if given["dry_run"] and found.problems:
        shown.write_json(found.as_json())
    found.check()
    return found


def train_one(
    shown: Console, config: "TrainConfig", found: "Survey", given: Options, following: "Sequence[TrainConfig]" = ()
) -> dict[str, Any] | None:
    """Train one network and return its document; in a dry run only plan it, and return nothing.

    Parameters
    ----------
    following : the folds that come after it.
    """
    from unetcli.training.plan import plan
    from unetcli.training.preview import preview, write_picture
    from unetcli.training.processes import leave
    from unetcli.training.state import begin, load_state, restore
    from unetcli.training.train import check_outputs, forget
    from unetcli.training.train import train as run_training

    asked = config
    saved = load_state(config.run_folder) if config.resume else None
    if saved is not None:
        config = config.continuing(saved.chosen)
        saved.check(found, config.run_folder)
    elif config.resume:
        shown.say(f"nothing to continue in {config.run_folder} yet: a training begins")
        config = replace(config, resume=False, overwrite=True)  # of what it may have left behind
    decided, trainer = plan(config, found)
    if saved is not None:
        saved.check_plan(decided, found, config.run_folder)
    state = begin(stored(given), decided, found)
    later = len(following) * decided.estimate_seconds
    if saved is not None:
        restore(trainer, saved, config.run_folder)
        decided = replace(decided, estimate_seconds=decided.estimate_seconds * trainer.share_left)
    warn_of_leakage(found, decided)
    show_plan(shown, decided, config, later)
    if given["preview"] is not None:
        write_picture(Path(given["preview"]), preview(found, decided, trainer.dataset))
        shown.say(f"drew {given['preview']}")
    if given["dry_run"]:
        check_outputs(asked, dry_run=True)  # last, so that everything else is seen
        shown.write_json(dry_run_document(found, decided, later))
        return None
    if saved is not None:
        show_position(shown, trainer, config, saved)
    if given["overwrite"] and config.fold is not None and config.fold[0] == 1 and is_first_process():
        for folder in {*run_folders(given), config.run_folder, *(other.run_folder for other in following)}:
            forget(folder)
    with stopping_on_signals() as stop:
        trainer.stop = lambda: stop.number is not None
        events = run_training(config, found, decided, trainer, state)
        result = follow(shown, events, decided, trainer.best, processes=trainer.processes.count)
    reached = (
        f"epoch {result.best.epoch}, Dice {result.best.dice:.4f} on validation" if result.best else "not validated"
    )
    if result.weights_sha256:
        shown.say(f"wrote {result.model}: {reached}, weights {result.weights_sha256[:12]}")
    else:
        shown.say(f"left {result.model} as it was: this training was {reached} yet")
    document = train_document(result, decided, found)
    if result.stopped or stop.number is not None:  # asked in whichever process, or here and too late for the others
        shown.say(f"resume with: {resume_command(given)}")
        shown.write_json(document)
        if result.stopped:
            leave()
        raise Interrupted(stop.number or signal.SIGTERM)
    return document


class Stop:
    """Whether a signal has asked to stop, and which."""

    number: int | None = None


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Let a signal end the training after the present step; Ctrl-C after another one ends it at once.

    Launchers and clusters may send several signals where one is meant, so the others do not count twice.
    """
    raise_if_signaled()
    asked = Stop()

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.number is not None:
            if number == signal.SIGINT:
                raise Interrupted(number)
            return
        asked.number = number
        write_line(sys.stderr, "stopping after this step; Ctrl-C again to quit now")

    previous = {number: signal.signal(number, ask) for number in heeded_signals()}
    try:
        yield asked
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

"""``unet infer IMAGE... -o OUT``: segment images of any size."""

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unetcli.cli import options
from unetcli.cli.console import Console, as_unet_error, console, one_line
from unetcli.cli.jobs import STREAM, Job, check_cluster, check_streams, find_inputs, group_channels, plan_outputs
from unetcli.cli.progress import progress_bar
from unetcli.errors import PartialFailure, UsageError, warn

if TYPE_CHECKING:
    from unetcli.images import ImageInfo
    from unetcli.inference.infer import Cluster, Segmenter
    from unetcli.inference.records import Destinations, InferConfig

SMALL_CORE = 0.2  # share of a tile's side that it writes, below which most arithmetic is for its surroundings
DEFAULT_MODEL = "unet.safetensors"


def infer(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, or - for stdin.")],
    output: Annotated[str, typer.Option("-o", "--output", help="A file, a folder, or - for stdout.")],
    models: Annotated[
        list[Path] | None,
        typer.Option(
            "-m",
            "--model",
            envvar="UNET_MODEL",
            readable=False,
            help=f"Several are averaged.  [default: {DEFAULT_MODEL}]",
        ),
    ] = None,
    output_kind: Annotated[
        str, typer.Option("--output-kind", help="mask (as the training masks), classes, instances or probabilities.")
    ] = "mask",
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="Write the probabilities of the classes here too.")
    ] = None,
    overlay: Annotated[Path | None, typer.Option("--overlay", help="Write a picture with outlines here too.")] = None,
    objects: Annotated[Path | None, typer.Option("--objects", help="Write a table of objects here too.")] = None,
    tile: Annotated[str, typer.Option("--tile", help="Side of the largest tile in pixels, or auto.")] = "auto",
    batch: Annotated[str, typer.Option("--batch", help="Tiles at once, or auto.")] = "auto",
    tta: Annotated[bool, typer.Option("--tta", help="Average over the eight flips and turns.")] = False,
    threshold: Annotated[
        str, typer.Option("--threshold", help="Of the foreground's probability; auto: the best on validation.")
    ] = "0.5",
    probability_type: Annotated[
        str, typer.Option("--probability-type", help="float32 or float16, for files of probabilities.")
    ] = "float32",
    min_size: Annotated[int, typer.Option("--min-size", min=0, help="Leave out objects of fewer pixels.")] = 0,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Fill holes in objects.")] = False,
    ngff: Annotated[str, typer.Option("--ngff", help="Version of OME-Zarr to write: 0.4 or 0.5.")] = "0.4",
    cluster: Annotated[
        str | None, typer.Option("--cluster", help="A dask scheduler's HOST:PORT, or local for processes here.")
    ] = None,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Skip images whose outputs all exist.")
    ] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers", min=0, help="Processes that --cluster local starts; else unused.  [default: from the cores]"
        ),
    ] = None,
    threads: options.Threads = None,
    pages: options.Pages = None,
    axes: options.Axes = None,
    json_file: options.JsonFile = None,
    dry_run: options.DryRun = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Segment images: the mask has the size, pages, axes and pixel size of the image.

    Example: unet infer scan.tif -o mask.tif
    """
    with console("infer", quiet=quiet, verbose=verbose, debug=debug, json_target=json_file) as shown:
        page_range = options.parse_pages(pages)
        sizes = {name: _auto_or_number(name, text) for name, text in (("tile", tile), ("batch", batch))}
        model_paths = models or [Path(DEFAULT_MODEL)]
        check_streams(images, output, json_file)
        check_cluster(cluster, images)
        inputs = find_inputs(images)
        cases = group_channels(inputs, model_paths, axes)
        extras = {"probabilities": probabilities, "overlay": overlay, "objects": objects}
        jobs = plan_outputs(cases, output, extras, model_paths, json_file, output_kind=output_kind, dry_run=dry_run)
        if skip_existing:
            jobs = [job for job in jobs if not job[1].exist]
            shown.say_more(f"{len(cases) - len(jobs)} of {len(cases)} outputs exist already")

        from unetcli.inference.infer import Segmenter
        from unetcli.inference.records import InferConfig
        from unetcli.models.device import choose_device, set_threads

        config = InferConfig(
            output_kind=output_kind,
            pages=page_range,
            axes=axes,
            tile=sizes["tile"],
            batch=sizes["batch"],
            turns=tta,
            threshold=0.5 if threshold == "auto" else _probability(threshold),
            min_size=min_size,
            fill_holes=fill_holes,
            ngff=ngff,
            probability_type=probability_type,
        )
        set_threads(threads)
        chosen = choose_device(device, precision)
        shown.say(f"device: {chosen.name} ({chosen.reason})")
        segmenter = Segmenter(model_paths, chosen)
        if threshold == "auto":
            config = replace(config, threshold=segmenter.learned_threshold())
            shown.say(f"threshold: {config.threshold:g} (the best on validation)")
        warn_of_idle_options(config, segmenter.description.classes, objects=overlay is not None or objects is not None)
        with ExitStack() as stack:
            processes = None
            if cluster is not None and not dry_run:
                from unetcli.inference.cluster import open_cluster

                processes = stack.enter_context(open_cluster(cluster, device=device, workers=workers, threads=threads))
                shown.say(f"cluster: {processes.workers} workers at {cluster}")
            done, failures = segment_all(shown, segmenter, jobs, config, processes, dry_run=dry_run)
        shown.write_json(
            {
                "model": [str(path) for path in model_paths],
                "device": chosen.name,
                "precision": chosen.precision,
                "outputs": done,
                "failures": failures,
            }
        )
        if failures and not done:
            raise typer.Exit(failures[0]["exit"])
        if failures:
            names = ", ".join(one_line(failure["input"]) for failure in failures[:10])
            raise PartialFailure(
                f"{len(done)} of {len(jobs)} images done; failed: {names}", hint="the errors above say why"
            )


def warn_of_idle_options(config: "InferConfig", classes: int, *, objects: bool) -> None:
    """Warn of options that change nothing of what was asked for.

    Parameters
    ----------
    classes : of the model.
    objects : whether a table or an overlay is written.
    """
    if config.changes_objects and config.output_kind == "probabilities" and not objects:
        warn("--min-size and --fill-holes are for objects: probabilities stay as they are")
    if config.threshold != 0.5 and classes > 2:
        warn(f"--threshold is for two classes, the model has {classes}: each pixel gets its likeliest class")


def segment_all(
    shown: Console,
    segmenter: "Segmenter",
    jobs: list[Job],
    config: "InferConfig",
    cluster: "Cluster | None",
    *,
    dry_run: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Segment every input, going on after a failure; return what was done and what failed, as plain data."""
    from dataclasses import asdict

    from unetcli.cli.console import show_failure
    from unetcli.inference.records import Segmented

    size = segmenter.size_for(config)
    core = segmenter.geometry.core_of(size.tile)
    if config.tile and core < size.tile * SMALL_CORE:
        shown.say(f"hint: tiles of {size.tile} pixels write only {core} of them; --tile auto is many times faster")
    done: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    with progress_bar(shown, "images") as bar:
        for number, (files, destinations) in enumerate(jobs):
            try:
                sources = [sys.stdin.buffer if file == STREAM else Path(file) for file in files]
                if dry_run:
                    done.append(inspected(segmenter.inspect(sources, destinations, config), destinations))
                    say_done(shown, done[-1])
                    bar((number + 1) / len(jobs), files[0])
                    continue
                for event in segmenter.segment(sources, destinations, config, size, cluster):
                    if isinstance(event, Segmented):
                        done.append(asdict(event))
                    else:
                        bar((number + event.share) / len(jobs), files[0])
                say_done(shown, done[-1])
            except Exception as error:
                failure = as_unet_error(error)
                if failure.exit_code == 1:
                    raise
                failure.path = failure.path or files[0]
                if len(jobs) == 1:
                    raise failure from error
                show_failure(failure)
                failures.append(
                    {"input": files[0], "error": str(failure), "hint": failure.hint, "exit": failure.exit_code}
                )
    return done, failures


def inspected(info: "ImageInfo", destinations: "Destinations") -> dict[str, Any]:
    """Return what a dry run knows of an output: its place, shape and axes, and how the image is read."""
    shape = (info.pages, info.height, info.width)
    return {
        "input": str(info.path),
        "output": str(destinations.name),
        "shape": shape,
        "axes": info.axes,
        "notes": info.notes,
    }


def say_done(shown: Console, done: dict[str, Any]) -> None:
    """Say how an input was read, and what became of it."""
    for note in done["notes"]:
        shown.say(f"note: {done['input']}: {note}")
    shown.say(describe(done))


def describe(done: dict[str, Any]) -> str:
    """Return one line about an input."""
    pages, height, width = done["shape"]
    text = f"{done['input']} -> {done['output']}: {height} x {width} pixels"
    text += f", {pages} pages" if pages > 1 else ""
    text += f", axes {done['axes']}"
    if "foreground" in done:
        text += f", {done['foreground']:.1%} foreground"
        text += "" if done["objects"] is None else f", {done['objects']} objects"
        text += f", {done['seconds']:.1f} s"
    return one_line(text)


def _auto_or_number(name: str, text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--{name} {text}: auto or a number above 0", hint=f"--{name} auto")
    return int(text)


def _probability(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UsageError(f"--threshold {text}: auto or a probability", hint="--threshold 0.5") from None

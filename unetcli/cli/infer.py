"""``unet infer IMAGE... -o OUT``: segment images of any size."""

import glob
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from unetcli.cli import options
from unetcli.cli.console import Console, as_unet_error, console, one_line
from unetcli.cli.progress import progress_bar
from unetcli.errors import OutputError, PartialFailure, UsageError

if TYPE_CHECKING:
    from unetcli.images import ImageInfo
    from unetcli.inference.infer import Destinations, InferConfig, Segmenter

STREAM = "-"
DEFAULT_MODEL = "unet.safetensors"
ENDINGS = {"probabilities": ".tif", "overlay": ".png", "objects": ".csv"}
READABLE = {
    ".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp", ".gif", ".lsm", ".svs", ".ndpi", ".nii", ".gz", ".dcm",
}  # fmt: skip


def infer(
    images: Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files, folders, globs, or - for stdin.")],
    output: Annotated[str, typer.Option("-o", "--output", help="A file, a folder, or - for stdout.")],
    models: Annotated[
        list[Path] | None,
        typer.Option("-m", "--model", envvar="UNET_MODEL", help=f"Several are averaged.  [default: {DEFAULT_MODEL}]"),
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
    threshold: Annotated[float, typer.Option("--threshold", help="Of the foreground's probability.")] = 0.5,
    min_size: Annotated[int, typer.Option("--min-size", min=0, help="Leave out objects of fewer pixels.")] = 0,
    fill_holes: Annotated[bool, typer.Option("--fill-holes", help="Fill holes in objects.")] = False,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave outputs that exist.")] = False,
    device: options.Device = "auto",
    precision: options.Precision = "auto",
    seed: options.Seed = 0,
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
        inputs = find_inputs(images)
        extras = {"probabilities": probabilities, "overlay": overlay, "objects": objects}
        jobs = plan_outputs(inputs, output, extras, model_paths, dry_run=dry_run)
        if skip_existing:
            jobs = [job for job in jobs if not (isinstance(job[1].main, Path) and job[1].main.exists())]
            shown.say_more(f"{len(inputs) - len(jobs)} of {len(inputs)} outputs exist already")

        from unetcli.inference.infer import InferConfig, Segmenter
        from unetcli.models.device import choose_device, set_threads

        config = InferConfig(
            output_kind=output_kind,
            pages=page_range,
            axes=axes,
            tile=sizes["tile"],
            batch=sizes["batch"],
            turns=tta,
            threshold=threshold,
            min_size=min_size,
            fill_holes=fill_holes,
        )
        set_threads(threads)
        chosen = choose_device(device, precision)
        segmenter = Segmenter(model_paths, chosen)
        shown.say(f"device: {chosen.name} ({chosen.reason})")
        done, failures = segment_all(shown, segmenter, jobs, config, dry_run=dry_run)
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


def segment_all(
    shown: Console,
    segmenter: "Segmenter",
    jobs: list[tuple[str, "Destinations"]],
    config: "InferConfig",
    *,
    dry_run: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Segment every input, going on after a failure; return what was done and what failed, as plain data."""
    from dataclasses import asdict

    from unetcli.cli.console import show_failure
    from unetcli.inference.infer import Segmented

    size = segmenter.size_for(config)
    done: list[dict[str, Any]] = []
    failures: list[dict[str, Any]] = []
    with progress_bar(shown, "images", enabled=not dry_run) as bar:
        for number, (source, destinations) in enumerate(jobs):
            try:
                stream: Path | BinaryIO = sys.stdin.buffer if source == STREAM else Path(source)
                if dry_run:
                    done.append(inspected(segmenter.inspect(stream, config), destinations))
                    shown.say(describe(done[-1]))
                    continue
                for event in segmenter.segment(stream, destinations, config, size):
                    if isinstance(event, Segmented):
                        done.append(asdict(event))
                    else:
                        bar((number + event.share) / len(jobs), source)
                shown.say(describe(done[-1]))
            except Exception as error:
                failure = as_unet_error(error)
                if failure.exit_code == 1:
                    raise
                if len(jobs) == 1:
                    raise
                show_failure(failure)
                failures.append(
                    {"input": source, "error": str(failure), "hint": failure.hint, "exit": failure.exit_code}
                )
    return done, failures


def inspected(info: "ImageInfo", destinations: "Destinations") -> dict[str, Any]:
    """Return what a dry run knows of an output: its place, shape and axes."""
    output = str(destinations.main) if isinstance(destinations.main, Path) else STREAM
    shape = (info.pages, info.height, info.width)
    return {"input": str(info.path), "output": output, "shape": shape, "axes": info.axes}


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


def check_streams(images: list[str], output: str, json_file: str | None) -> None:
    """Raise where binary data would go to a terminal or come from one.

    Raises
    ------
    UsageError : says what to do instead.
    """
    if STREAM in images and (sys.stdin is None or sys.stdin.isatty()):
        raise UsageError("- reads an image from stdin, which is a terminal", hint="unet infer - -o mask.tif < scan.tif")
    if output == STREAM:
        if json_file == STREAM:
            raise UsageError("-o - and --json - both want stdout", hint="name a file for one of them")
        if sys.stdout is None:
            raise OutputError("stdout is closed", hint="name a file with -o")
        if sys.stdout.isatty():
            raise UsageError("refusing to write binary data to a terminal", hint="unet infer scan.tif -o - > mask.tif")


def find_inputs(images: list[str]) -> list[str]:
    """Return the files that the arguments name: files as they are, images of folders, matches of globs.

    Raises
    ------
    UsageError : something is absent or matches nothing.
    """
    found: list[str] = []
    for argument in images:
        path = Path(argument)
        if argument == STREAM or path.is_file():
            found.append(argument)
        elif path.is_dir():
            inside = sorted(
                str(entry)
                for entry in path.iterdir()
                if entry.suffix.lower() in READABLE and not entry.name.startswith((".", "~$")) and entry.is_file()
            )
            if not inside:
                raise UsageError("no image in this folder", path=path, hint="name the files, or a glob in quotes")
            found += inside
        elif path.exists():
            found.append(argument)  # a pipe or a device: the reader says what is wrong with it
        elif glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  absolute and relative patterns alike
            if not matches:
                raise UsageError(f"no file matches {argument}", hint="check the folder and the quotes around the glob")
            found += matches
        else:
            raise UsageError("no such file", path=argument, hint="check the name")
    return list(dict.fromkeys(found))


def plan_outputs(
    inputs: list[str], output: str, extras: dict[str, Path | None], models: list[Path], *, dry_run: bool
) -> list[tuple[str, "Destinations"]]:
    """Return where the results of each input go; all places are checked for writing.

    Raises
    ------
    UsageError : a file for several inputs, two inputs of one name, an extension that cannot hold labels.
    OutputError : a place cannot be written.
    """
    from unetcli.images import check_format, check_writable
    from unetcli.inference.infer import Destinations

    target = Path(output)
    read = [Path(path) for path in inputs if path != STREAM] + models
    several = (
        len(inputs) > 1 or output.endswith(("/", os.sep)) or target.is_dir() or any(Path(i).is_dir() for i in inputs)
    )
    if output == STREAM:
        if len(inputs) > 1:
            raise UsageError(f"{len(inputs)} images do not fit one stdout", hint="name a folder with -o")
        return [(inputs[0], Destinations(sys.stdout.buffer, **extras))]
    if several and target.suffix and not target.is_dir() and len(inputs) > 1:
        raise UsageError(f"{len(inputs)} images, but -o names one file", path=output, hint="name a folder: -o masks/")
    jobs = []
    for source in inputs:
        main, places = target, dict(extras)
        if several:
            stem = "stdin" if source == STREAM else stem_of(source)
            main = target / (stem + (".png" if source.lower().endswith(".png") else ".tif"))
            places = {name: path / (stem + ENDINGS[name]) if path else None for name, path in extras.items()}
        jobs.append((source, Destinations(main, **places)))
    mains = [job[1].main for job in jobs]
    for place in mains:
        if mains.count(place) > 1:
            clashing = ", ".join(source for source, destinations in jobs if destinations.main == place)
            raise UsageError(f"{clashing} would write the same {place}", hint="segment them into different folders")
    for _, destinations in jobs:
        for path in destinations.images:
            check_format(path)
        for path in destinations.files:
            if not (dry_run and not path.parent.is_dir()):
                check_writable(path, inputs=read)
    return jobs


def stem_of(source: str) -> str:
    """Return a file's name without the extensions of its format."""
    name = Path(source).name
    for ending in (".ome.tif", ".ome.tiff", ".nii.gz"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return Path(name).stem


def _auto_or_number(name: str, text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) < 1:
        raise UsageError(f"--{name} {text}: auto or a number above 0", hint=f"--{name} auto")
    return int(text)

"""What ``unet infer`` reads and where it writes: decided, and checked, before any work."""

import contextlib
import glob
import importlib.util
import os
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from unetcli.cli.places import check_distinct
from unetcli.dataset.names import is_hidden, split_extension
from unetcli.errors import InputError, OutputError, UnetError, UsageError

if TYPE_CHECKING:
    from unetcli.inference.records import Destinations

STREAM = "-"
ENDINGS = {"probabilities": ".tif", "overlay": ".png", "objects": ".csv"}
CHANNEL_FILE = re.compile(r"(.+)_(\d{4})")  # case_0000.png, case_0001.png: one file per channel, as nnU-Net names them

Job: TypeAlias = "tuple[tuple[str, ...], Destinations]"  # the file of an image, or one per channel, and its outputs


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


def check_cluster(address: str | None, images: list[str]) -> None:
    """Raise where a cluster cannot take part.

    Raises
    ------
    UsageError : its package is absent, or it would have to read a pipe.
    """
    if address is None:
        return
    if STREAM in images:
        raise UsageError("--cluster reads files, not stdin", hint="save the image where all workers see it")
    if importlib.util.find_spec("distributed") is None:
        raise UsageError("--cluster needs dask", hint="pip install 'unetcli[cluster]'")


def find_inputs(images: list[str]) -> list[str]:
    """Return the files that the arguments name: files as they are, images of folders, matches of globs.

    Raises
    ------
    UsageError : something is absent or matches nothing.
    InputError : a folder without an image.
    """
    from unetcli.images.files import is_there

    found: list[str] = []
    for argument in images:
        path = Path(argument)
        if argument == STREAM:
            found.append(argument)
        elif is_there(path):
            inside = _images_at(argument)
            if not inside:
                raise InputError(
                    "holds no image (its sub-folders are not searched)",
                    path=path,
                    hint=f"name the files, or a glob in quotes: '{path}/*/*.tif'",
                )
            found += inside
        elif glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  absolute and relative patterns alike
            inside = [image for match in matches for image in _images_at(match)]
            if not inside:
                raise UsageError(f"no file matches {argument}", hint="check the folder and the quotes around the glob")
            found += inside
        else:
            raise UsageError("no such file", path=argument, hint="check the name")
    return list(dict.fromkeys(found))


def _images_at(argument: str) -> list[str]:
    """Return what a path names: the images in a folder that is none itself, anything else as it is."""
    from unetcli.images.files import is_there
    from unetcli.images.reader import is_image_folder

    path = Path(argument)
    if not is_there(path) or not path.is_dir() or is_image_folder(path):
        return [argument]  # the reader says what is wrong with a pipe, a device, or a link to nothing
    return sorted(
        str(entry)
        for entry in path.iterdir()
        if not is_hidden(entry.name)
        and (is_image_folder(entry) or (split_extension(entry.name)[1] and entry.is_file()))
    )


def group_channels(inputs: Sequence[str], models: Sequence[Path], axes: str | None = None) -> list[tuple[str, ...]]:
    """Return the files of each image: one, or one per channel where the model wants several and the names say so.

    Files are grouped if all of them are called ``NAME_0000``, ``NAME_0001`` and so on, exactly as many for each name as
    the model has channels, and the first one does not have these channels by itself.
    """
    single: list[tuple[str, ...]] = [(source,) for source in inputs]
    cases: dict[str, list[str]] = {}
    for source in inputs:
        match = CHANNEL_FILE.fullmatch(stem_of(source))
        if match is None:
            return single
        cases.setdefault(str(Path(source).with_name(match[1])), []).append(source)
    groups = [tuple(sorted(files)) for files in cases.values()]
    numbers = [f"{number:04d}" for number in range(len(groups[0]))]
    if len(numbers) < 2 or any([stem_of(file)[-4:] for file in files] != numbers for files in groups):
        return single
    from unetcli.images import open_image
    from unetcli.models.modelfile import read_description

    channels = read_description(models[0]).channels
    if len(numbers) != channels:
        return single
    with contextlib.suppress(UnetError), open_image(groups[0][0], axes) as image:  # what is wrong is told later
        if image.info.channels == channels:
            return single
    return groups


def plan_outputs(
    cases: Sequence[tuple[str, ...]],
    output: str,
    extras: dict[str, Any],
    models: list[Path],
    document: str | None,
    *,
    output_kind: str,
    dry_run: bool,
) -> "list[Job]":
    """Return where the results of each image go; all places are checked for writing.

    Parameters
    ----------
    extras : the outputs beside the main one, by the names that `Destinations` gives them.
    document : the JSON document, a result of all images.
    output_kind : of the main output.
    dry_run : whether to make no folder.

    Raises
    ------
    UsageError : a file for several images, two results in one file, an extension that cannot hold labels.
    OutputError : a place cannot be written.
    """
    from unetcli.images import check_format, check_writable
    from unetcli.images.atomic import InputPaths
    from unetcli.inference.records import place_of

    read = [Path(path) for files in cases for path in files if path != STREAM] + models
    inputs = InputPaths(read)
    jobs = _name_outputs(cases, output, extras, output_kind)
    for _, destinations in jobs:
        for path in destinations.images:
            check_format(path)
        for path in destinations.files:
            check_writable(path, inputs=inputs, dry_run=dry_run)
    taken = check_distinct((path for _, destinations in jobs for path in destinations.files), document)
    every = frozenset(taken | {place for path in read for place in (place_of(path), path.resolve())})
    return [(files, replace(destinations, taken=every)) for files, destinations in jobs]


def _name_outputs(
    cases: Sequence[tuple[str, ...]], output: str, extras: dict[str, Any], output_kind: str
) -> "list[Job]":
    """Return where the results of each image go, a file of its own for each: PNG for PNG that can hold it, or TIFF."""
    from unetcli.inference.records import Destinations

    target = Path(output)
    if output == STREAM:
        if len(cases) > 1:
            raise UsageError(f"{len(cases)} images do not fit one stdout", hint="name a folder with -o")
        return [(cases[0], Destinations(sys.stdout.buffer, **extras))]
    is_folder = (output.endswith(("/", os.sep)) or target.is_dir()) and target.suffix.lower() != ".zarr"
    into_folder = len(cases) > 1 or is_folder or not target.suffix
    if len(cases) > 1 and target.suffix and not is_folder:
        raise UsageError(f"{len(cases)} images, but -o names one file", path=output, hint="name a folder: -o masks/")
    jobs = []
    for files in cases:
        main, places = target, dict(extras)
        if into_folder:
            stem, as_png = name_of(files), files[0].lower().endswith(".png") and output_kind != "probabilities"
            main = target / (stem + (".png" if as_png else ".tif"))
            for name, path in extras.items():
                if path is not None and (len(cases) > 1 or path.is_dir() or not path.suffix):
                    places[name] = path / (stem + ENDINGS[name])
        jobs.append((files, Destinations(main, **places)))
    for stem, number in Counter(name_of(files) for files in cases).items():
        if number > 1:
            clashing = ", ".join(files[0] for files in cases if name_of(files) == stem)
            raise UsageError(f"{clashing} would write results of one name", hint="segment them into different folders")
    return jobs


def name_of(files: Sequence[str]) -> str:
    """Return the name that the outputs of an image get."""
    if files[0] == STREAM:
        return "stdin"
    stem = stem_of(files[0])
    match = CHANNEL_FILE.fullmatch(stem) if len(files) > 1 else None
    return match[1] if match else stem


def stem_of(source: str) -> str:
    """Return a file's name without the extensions of its format."""
    path = Path(os.path.abspath(source))  # noqa: PTH100  of "." and "..", too, and links are not followed
    stem, extension = split_extension(path.name)
    return stem if extension else path.stem

"""From an image file and model files to a mask file, and what else was asked for in the same pass."""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from torch import nn

from unetcli.dataset.labels import LabelCoding
from unetcli.errors import InputError, ModelFileError, warn
from unetcli.geometry import Geometry
from unetcli.images import ImageInfo, IntensityRange, PixelSize, normalize
from unetcli.images.atomic import scratch_file
from unetcli.images.mirror import Source
from unetcli.images.normalization import rule
from unetcli.images.omezarr_encoder import Store
from unetcli.inference.instances import FileRows, ObjectFinder, Rows
from unetcli.inference.outputs import Output, OutputPlan, PageResult
from unetcli.inference.predict import EIGHT_TURNS, UNTURNED, Band, Ensemble, Prepare, TileSize, predict_bands
from unetcli.inference.records import Destinations, InferConfig, PageDone, Segmented
from unetcli.inference.scan import Scan, open_scan
from unetcli.inference.tilesize import choose_tile
from unetcli.models.device import Device
from unetcli.models.fusion import ready
from unetcli.models.modelfile import ModelDescription, load_model

SAME_PIXEL_SIZE = 0.1  # relative difference up to which a scan counts as like the training data


class Spread(Protocol):
    """An image that other processes predict.

    Parameters
    ----------
    store : how the main output is stored, if it is an OME-Zarr.
    """

    store: Store

    def begin(self, outputs: Sequence[Output]) -> None:
        """Take note of who writes what, before the first band."""

    def bands(self) -> Iterator[Band]:
        """Yield the bands of the next page, from top to bottom."""


class Cluster(Protocol):
    """Processes that predict an image together."""

    def spread(
        self,
        segmenter: "Segmenter",
        image: Scan,
        intensity: IntensityRange,
        destinations: Destinations,
        config: InferConfig,
        size: TileSize,
    ) -> AbstractContextManager[Spread]:
        """Return an image that is being predicted."""


class Segmenter:
    """Loaded models that segment one image after the other.

    Parameters
    ----------
    models : model files; the probabilities of several are averaged.

    Raises
    ------
    ModelFileError : a file is damaged, or the models do not fit each other.
    """

    def __init__(self, models: Sequence[Path], device: Device) -> None:
        loaded = [(path, *load_model(path)) for path in models]
        self.files = [(path, sha256) for path, _, _, sha256 in loaded]
        self.device = device
        self.networks: list[nn.Module] = [ready(network, device) for _, network, _, _ in loaded]
        self.description: ModelDescription = loaded[0][2]
        self.thresholds = [(path, description.training.get("threshold")) for path, _, description, _ in loaded]
        self.trained_images = [digits for _, _, each, _ in loaded for digits in each.training.get("images", ())]
        self.coding = coding_of(models[0], self.description)
        check_normalization(models[0], self.description)
        for path, _, other, _ in loaded[1:]:
            for name in ("channels", "classes", "coding", "normalization"):
                if getattr(other, name) != getattr(self.description, name):
                    raise ModelFileError(
                        f"its {name} differ from those of {models[0]}",
                        path=path,
                        hint="average only models of the same data",
                    )

    def learned_threshold(self) -> float:
        """Return the threshold that was best on validation, the mean of several models.

        Raises
        ------
        ModelFileError : a model holds none.
        """
        found = []
        for path, threshold in self.thresholds:
            if not isinstance(threshold, float) or not 0 < threshold < 1:
                why = "was not validated on images with foreground, or was made by an older version"
                if self.description.classes > 2:
                    why = "has more than two classes"
                raise ModelFileError(
                    f"holds no learned threshold: it {why}",
                    path=path,
                    hint="--threshold 0.5, or train a new model",
                )
            found.append(threshold)
        return sum(found) / len(found)

    def size_for(self, config: InferConfig) -> TileSize:
        """Return the tile and batch to begin with."""
        largest = max(self.networks, key=lambda network: sum(p.numel() for p in network.parameters()))
        return choose_tile(largest, self.description.channels, self.device, tile=config.tile, batch=config.batch)

    @property
    def geometry(self) -> Geometry:
        """The geometry that decides where tiles may start."""
        return self.ensemble(InferConfig()).geometry

    def ensemble(self, config: InferConfig) -> Ensemble:
        """Return the networks, and how to feed them."""
        turns = EIGHT_TURNS if config.turns else UNTURNED
        return Ensemble(self.networks, self.device, turns, config.threshold)

    def segment(
        self,
        sources: Sequence[Path | BinaryIO],
        destinations: Destinations,
        config: InferConfig,
        size: TileSize,
        cluster: Cluster | None = None,
    ) -> Iterator[PageDone | Segmented]:
        """Segment one image, yielding progress and, at the end, what became of it.

        Parameters
        ----------
        sources : the file of the image, or one for each channel.
        cluster : the processes that predict; None is this one.

        Raises
        ------
        InputError : the image cannot be read, or has other channels than the model expects.
        UsageError : an output cannot hold the result, or would replace what it must not.
        OutputError : a result cannot be written; none is left half-written.
        """
        began = time.monotonic()
        ensemble = self.ensemble(config)
        with ExitStack() as stack:
            image = stack.enter_context(open_scan(sources, axes=config.axes, pages=config.pages))
            plan = self.check(image.info, destinations, config)
            intensity = image.intensity()
            prepare = partial(normalize, intensity=intensity)
            store, spread = Store(config.ngff), None
            if cluster is not None:
                spread = stack.enter_context(cluster.spread(self, image, intensity, destinations, config, size))
                store = spread.store
            scratch = stack.enter_context(scratch_file(destinations.folder))
            outputs = stack.enter_context(plan.open(store))
            if spread is not None:
                spread.begin(outputs)
            foreground, objects = 0, 0
            keep_probabilities = any(output.wants_probabilities for output in outputs)
            wants_objects = any(output.wants_objects for output in outputs)
            keep_objects = any(output.keeps_objects for output in outputs)
            shape = (image.info.height, image.info.width)
            for page in range(image.info.pages):
                pixels = image.page(page)
                finder = None
                if wants_objects:
                    rows = FileRows(scratch, shape, page if keep_objects else 0, destinations.name)
                    finder = self.object_finder(rows, config)
                bands = (
                    predict_bands(ensemble, pixels, prepare, size, keep_probabilities=keep_probabilities)
                    if spread is None
                    else spread.bands()
                )
                seen, found = yield from _page(bands, page, image.info, pixels, prepare, finder, outputs)
                foreground += seen
                objects += found
        info = image.info
        yield Segmented(
            input=str(info.path),
            output=str(destinations.name),
            shape=(info.pages, info.height, info.width),
            axes=info.axes,
            tile=size.tile,
            foreground=foreground / (info.pages * info.height * info.width),
            objects=objects if wants_objects else None,
            notes=info.notes,
            seconds=time.monotonic() - began,
        )

    def object_finder(self, rows: Rows, config: InferConfig) -> ObjectFinder:
        """Return what finds the objects of a page as these models and options want them."""
        return ObjectFinder(
            rows,
            min_size=config.min_size,
            fill_holes=config.fill_holes,
            give_back_ridges=self.coding.task == "instances",
        )

    def inspect(self, sources: Sequence[Path | BinaryIO], destinations: Destinations, config: InferConfig) -> ImageInfo:
        """Return what an image is, after all checks that need no network; reads it once.

        Raises
        ------
        InputError : the image cannot be read, or has other channels than the model expects.
        UsageError : an output cannot hold the result, or would replace what it must not.
        """
        with open_scan(sources, axes=config.axes, pages=config.pages) as image:
            self.check(image.info, destinations, config)
            image.intensity()
            return image.info

    def check(self, info: ImageInfo, destinations: Destinations, config: InferConfig) -> OutputPlan:
        """Return what is to be written of an image; warn where its pixel size differs from the training data's.

        Raises
        ------
        InputError : another number of channels than the model's.
        UsageError : an output cannot hold the result, or would replace what it must not.
        """
        if info.channels != self.description.channels:
            raise InputError(
                f"{info.channels} channels, the model expects {self.description.channels}",
                path=info.path,
                hint=f"convert it, name its axes with --axes (now {info.axes}), or train on such images",
            )
        trained = None if self.description.pixel_size is None else PixelSize(*self.description.pixel_size)
        if trained is not None and info.pixel_size is not None and differ(info.pixel_size, trained):
            its, theirs = (f"{size.y:g} x {size.x:g} {size.unit}" for size in (info.pixel_size, trained))
            warn(
                f"its pixels are {its}, the model was trained on {theirs}: objects appear in another size",
                path=info.path,
            )
        plan = OutputPlan(destinations, info, self.coding, self.description.classes, config)
        plan.check()
        return plan


def _page(
    bands: Iterable[Band],
    page: int,
    info: ImageInfo,
    pixels: Source,
    prepare: Prepare,
    finder: ObjectFinder | None,
    outputs: Sequence[Output],
) -> Generator[PageDone, None, tuple[int, int]]:
    """Hand the bands of a page to all outputs, and return the foreground pixels of the main one and the objects."""
    foreground = 0
    for band in bands:
        foreground += int(np.count_nonzero(band.classes))
        for output in outputs:
            output.write_band(band)
        if finder is not None:
            finder.add(band.classes)
        bottom = band.top + len(band.classes)
        yield PageDone(page, info.pages, (page + bottom / info.height) / info.pages)
    if finder is None:
        return foreground, 0
    found = finder.finish()
    for output in outputs:
        output.write_page(PageResult(page, found, pixels, prepare))
    return int(found.measures.area.sum()) if outputs[0].wants_objects else foreground, len(found)


def differ(one: PixelSize, other: PixelSize) -> bool:
    """Whether pixels differ by more than `SAME_PIXEL_SIZE`; not where their units cannot be compared."""
    one, other = one.in_micrometers() or one, other.in_micrometers() or other
    return one.unit == other.unit and any(
        max(sides) > (1 + SAME_PIXEL_SIZE) * min(sides) for sides in ((one.y, other.y), (one.x, other.x))
    )


def coding_of(path: Path, description: ModelDescription) -> LabelCoding:
    """Return the label coding that a model file describes.

    Raises
    ------
    ModelFileError : it describes none, or one of another number of classes.
    """
    try:
        coding = LabelCoding.from_json(description.coding)
    except ModelFileError as error:
        raise ModelFileError(error.message, path=path, hint=error.hint) from None
    if len(coding.classes) != description.classes:
        raise ModelFileError(
            f"its label coding has {len(coding.classes)} classes, its network {description.classes}",
            path=path,
            hint="train a new model",
        )
    return coding


def check_normalization(path: Path, description: ModelDescription) -> None:
    """Raise unless a model was trained on intensities that were scaled as this program scales them.

    Raises
    ------
    ModelFileError : its rule is another one.
    """
    if description.normalization != rule():
        raise ModelFileError(
            f"its normalization {description.normalization.get('name')!r} is not this program's",
            path=path,
            hint="use the version of unet that made the model, or train a new one",
        )

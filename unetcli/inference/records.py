"""What is asked of an inference, and what it tells, as values."""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from unetcli.dataset.names import split_extension
from unetcli.errors import UsageError
from unetcli.images.omezarr_metadata import ZARR_FORMATS

OUTPUT_KINDS = ("mask", "classes", "instances", "probabilities")
PROBABILITY_TYPES = ("float32", "float16")


@dataclass(frozen=True)
class InferConfig:
    """What to predict and how.

    Parameters
    ----------
    output_kind : an entry of `OUTPUT_KINDS`; "mask" is the coding of the training masks.
    pages, axes : which pages of the input, and how to read its axes.
    tile, batch : 0 chooses by memory and measured waste.
    turns : whether to average over the eight turns and flips.
    threshold : probability above which the foreground of two classes is taken.
    min_size, fill_holes : for objects, in pixels.
    probability_type : an entry of `PROBABILITY_TYPES`, for files of probabilities.
    ngff : version of OME-Zarr to write.
    """

    output_kind: str = "mask"
    pages: range | None = None
    axes: str | None = None
    tile: int = 0
    batch: int = 0
    turns: bool = False
    threshold: float = 0.5
    min_size: int = 0
    fill_holes: bool = False
    probability_type: str = "float32"
    ngff: str = "0.4"

    def __post_init__(self) -> None:
        if self.output_kind not in OUTPUT_KINDS:
            raise UsageError(
                f"unknown output kind {self.output_kind!r}", hint=f"--output-kind takes {', '.join(OUTPUT_KINDS)}"
            )
        if self.ngff not in ZARR_FORMATS:
            raise UsageError(f"unknown version of OME-Zarr {self.ngff!r}", hint="--ngff 0.4 or --ngff 0.5")
        if self.probability_type not in PROBABILITY_TYPES:
            raise UsageError(
                f"unknown type of probabilities {self.probability_type!r}",
                hint=f"--probability-type takes {' or '.join(PROBABILITY_TYPES)}",
            )
        if not 0 < self.threshold < 1:
            raise UsageError(f"--threshold {self.threshold:g} is no probability", hint="--threshold 0.5")

    @property
    def changes_objects(self) -> bool:
        """Whether objects leave what was predicted, or are filled."""
        return self.min_size > 0 or self.fill_holes


@dataclass(frozen=True)
class Destinations:
    """Where the results of one input go.

    Parameters
    ----------
    main : a path or an open binary stream.
    overlay : of a single page; those of several are called after it, see `overlays`.
    taken : places of the inputs and of all outputs of the command, which no page of an overlay may take.
    """

    main: Path | BinaryIO
    probabilities: Path | None = None
    overlay: Path | None = None
    objects: Path | None = None
    taken: frozenset[Path] = frozenset()

    @property
    def name(self) -> Path:
        """What messages call the main result: its path, or "-" for a stream."""
        return self.main if isinstance(self.main, Path) else Path("-")

    @property
    def folder(self) -> Path | None:
        """Where the main result goes; None for a stream."""
        return self.main.parent if isinstance(self.main, Path) else None

    @property
    def images(self) -> list[Path]:
        """The files that are images."""
        return [path for path in (self.main, self.probabilities, self.overlay) if isinstance(path, Path)]

    @property
    def files(self) -> list[Path]:
        """All files, where the image has a single page."""
        return self.images + [path for path in (self.objects,) if path is not None]

    @property
    def exist(self) -> bool:
        """Whether everything is there already; of the overlay of a stack its first page."""
        if not isinstance(self.main, Path):
            return False
        absent = [path for path in self.files if not path.exists()]
        if absent == [self.overlay]:
            absent = [path for path in self.overlays(2)[:1] if not path.exists() or place_of(path) in self.taken]
        return not absent

    def overlays(self, pages: int) -> list[Path]:
        """Return the file of each page's overlay."""
        if self.overlay is None:
            return []
        path = self.overlay
        stem, extension = split_extension(path.name)
        names = [path.name] if pages == 1 else [f"{stem}_{page:04d}{extension}" for page in range(pages)]
        return [path.with_name(name) for name in names]


def place_of(path: Path) -> Path:
    """Return where a file lies that is written to a path: a link is replaced, wherever it leads."""
    return path.parent.resolve() / path.name


@dataclass(frozen=True)
class PageDone:
    """Progress: rows of a page that are done, over all pages of the input."""

    page: int
    pages: int
    share: float


@dataclass(frozen=True)
class Segmented:
    """What became of one input.

    Parameters
    ----------
    shape : pages, height and width of the output; `axes` of the input, as understood.
    tile : side of the largest tile at the end; it began larger where memory ran out.
    foreground : share of the pixels that are not background, in what was written.
    objects : number of objects over all pages, None where none were looked for.
    notes : what was done to read the image, such as inverting it.
    """

    input: str
    output: str
    shape: tuple[int, int, int]
    axes: str
    tile: int
    foreground: float
    objects: int | None
    notes: tuple[str, ...]
    seconds: float

"""Decoded pairs, kept in memory as far as they fit."""

from collections.abc import Sequence
from pathlib import Path
from typing import overload

from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.loading import files_at_once, load_pair
from unetcli.dataset.pairs import Pair
from unetcli.dataset.patches import Sample
from unetcli.images.memory import usable_memory
from unetcli.images.threads import processes_here
from unetcli.images.volumes import OpenVolumes

CACHE_SHARE = 0.4  # of the memory that the processes of a training on this machine may use


class SampleCache(Sequence[Sample]):
    """The samples of a list of pairs, decoded when asked for and kept while there is room.

    What does not fit is decoded again each time it is drawn, so a data set may be larger than the memory.

    Parameters
    ----------
    pairs : in order.
    coding : of their masks.
    axes : an interpretation that overrides the files'.
    apart : pairs whose pages do not count in the normalization of the others.
    """

    def __init__(
        self, pairs: Sequence[Pair], coding: LabelCoding, axes: str | None = None, apart: Sequence[Pair] = ()
    ) -> None:
        self.pairs = pairs
        self.coding = coding
        self.axes = axes
        pages: dict[Path, set[int]] = {}
        for pair in apart:
            for path in pair.images:
                pages.setdefault(path, set()).add(pair.page or 0)
        self.apart = {path: frozenset(numbers) for path, numbers in pages.items()}
        self.kept: dict[int, Sample] = {}
        self.volumes = OpenVolumes(files_at_once(pairs))
        self.room = usable_memory() * CACHE_SHARE / processes_here()

    def __len__(self) -> int:
        return len(self.pairs)

    @overload
    def __getitem__(self, index: int) -> Sample: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...

    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if index >= len(self):
            raise IndexError(index)
        if index in self.kept:
            return self.kept[index]
        sample = self._decode(self.pairs[index])
        size = sample.image.nbytes + sample.labels.nbytes
        if size < self.room:
            self.room -= size
            self.kept[index] = sample
        if len(self.kept) == len(self):
            self.volumes.close()
        return sample

    def _decode(self, pair: Pair) -> Sample:
        image, intensity, labels = load_pair(pair, self.coding, self.axes, self.apart, self.volumes)
        return Sample(pair.name, image, intensity, labels)

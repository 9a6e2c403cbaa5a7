"""Decoded pairs, kept in memory as far as they fit."""

from collections.abc import Sequence
from typing import overload

from unetcli.dataset.labels import LabelCoding
from unetcli.dataset.pairs import Pair
from unetcli.dataset.patches import Sample
from unetcli.dataset.survey import load_pair
from unetcli.images.memory import usable_memory

CACHE_SHARE = 0.4  # of the memory this process may use


class SampleCache(Sequence[Sample]):
    """The samples of a list of pairs, decoded when asked for and kept while there is room.

    What does not fit is decoded again each time it is drawn, so a data set may be larger than the memory.

    Parameters
    ----------
    pairs : in order.
    coding : of their masks.
    axes : an interpretation that overrides the files'.
    """

    def __init__(self, pairs: Sequence[Pair], coding: LabelCoding, axes: str | None = None) -> None:
        self.pairs = pairs
        self.coding = coding
        self.axes = axes
        self.kept: dict[int, Sample] = {}
        self.room = usable_memory() * CACHE_SHARE

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
        self.room -= sample.image.nbytes + sample.labels.nbytes
        if self.room > 0:
            self.kept[index] = sample
        return sample

    def _decode(self, pair: Pair) -> Sample:
        image, intensity, labels = load_pair(pair, self.coding, axes=self.axes)
        return Sample(pair.name, image, intensity, labels)

"""What a network does to sizes, in integers only.

A valid convolution sees only whole neighbourhoods, so a network of them returns less than it was given: the classic
U-Net loses 92 pixels on each side (572 -> 388; paper, figure 1). Patches, tiles and messages all follow from the
`Geometry` that a network states about itself.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Geometry:
    """Sizes along one axis; both image axes are alike.

    Parameters
    ----------
    step : the shift, in pixels, under which the network is equivariant: 2 to the power of its poolings.
    smallest : the smallest legal input; legal inputs are ``smallest + k * step``. Of a padded network it may be
        smaller than what the context cuts off: it can be trained on, but writes nothing.
    margin : pixels the forward pass loses on each side (0 for a padded network).
    context : pixels to cut off each side of the output at inference because they saw padding (0 for a valid network).
    """

    step: int
    smallest: int
    margin: int
    context: int = 0

    def __post_init__(self) -> None:
        assert self.step >= 1
        assert self.smallest > 2 * self.margin

    @property
    def border(self) -> int:
        """Pixels between an input's edge and the first pixel of its exact output, on each side."""
        return self.margin + self.context

    def is_legal(self, size: int) -> bool:
        """Whether the network accepts inputs of `size` pixels."""
        return size >= self.smallest and (size - self.smallest) % self.step == 0

    def nearest_legal(self, size: int) -> int:
        """Return the legal input size nearest to `size`, the larger of two equally near ones."""
        steps = max(0, (2 * (size - self.smallest) + self.step) // (2 * self.step))
        return self.smallest + steps * self.step

    def output_size(self, size: int) -> int:
        """Return what the forward pass makes of a legal input of `size` pixels.

        Raises
        ------
        ValueError : `size` is not legal.
        """
        if not self.is_legal(size):
            raise ValueError(f"{size} is not a legal input size ({self.smallest} + k x {self.step})")
        return size - 2 * self.margin

    def input_for(self, core: int) -> int:
        """Return the smallest legal input whose exact output covers `core` pixels."""
        missing = max(0, core + 2 * self.border - self.smallest)
        return self.smallest + self.rounded_up(missing)

    def core_of(self, size: int) -> int:
        """Return the largest multiple of `step` that a tile of `size` pixels can write exactly; 0 when too small.

        A write region must start at a multiple of `step`, and 388 is not one: a 572 tile of the classic net
        writes 384 pixels.
        """
        if size < self.smallest:
            return 0
        legal = size - (size - self.smallest) % self.step
        return max(0, (legal - 2 * self.border) // self.step * self.step)

    def rounded_up(self, size: int) -> int:
        """Return the smallest multiple of `step` that is at least `size`."""
        return -(-size // self.step) * self.step
